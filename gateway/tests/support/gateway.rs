//! A running `orbit gateway`, ended with the test at the latest, and an upstream for it.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::print_stderr, reason = "the log of the gateways goes to that of the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// An upstream that answers everything, for as long as the test program runs.
pub(crate) fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(socket.try_clone().expect("cloned")).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
                drop(socket.write_all(answer.as_bytes()));
            });
        }
    });
    address
}

pub(crate) struct Gateway {
    child: Child,
    pub(crate) proxy: String,
    pub(crate) admin: String,
}

impl Gateway {
    /// With settings whose log is JSON.
    pub(crate) fn start(config: &Path) -> Gateway {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orbit"))
            .arg("gateway")
            .arg("--config")
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log =
            BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let serving = log.by_ref().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            eprintln!("{line}");
            (line["message"] == "serving").then_some(line)
        });
        let serving = serving.expect("it serves");
        let address = |field: &str| {
            serving[field].as_str().expect("told").trim_matches(['[', ']']).to_owned()
        };
        let (proxy, admin) = (address("proxy"), address("admin"));
        // Keeps the pipe open and empty.
        std::thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
        Gateway { child, proxy, admin }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        assert!(self.child.wait().expect("it ended").success());
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The whole answer to a request without a body; `fields` are lines.
pub(crate) fn ask(address: &str, line: &str, fields: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    let head = format!("{line} HTTP/1.1\r\nHost: orbit\r\nConnection: close\r\n{fields}\r\n");
    socket.write_all(head.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
