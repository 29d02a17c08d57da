//! A running `orbit up`: started, its tour read, and ended with the test at the latest.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct Up {
    child: Child,
    /// Reads what is printed after the tour, so that the pipe stays empty.
    rest: Option<JoinHandle<String>>,
    /// What was printed until it was ready.
    pub(crate) tour: String,
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) ingest: SocketAddr,
    /// The engine's HTTP interface.
    pub(crate) database: SocketAddr,
}

impl Up {
    /// With these settings on free ports, and its data in this directory.
    pub(crate) fn start(config: &Path, data: &Path) -> Up {
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_orbit"));
        command.args(["up", "--listen", any, "--admin-listen", any, "--ingest-listen", any]);
        command.args(["--http-port", "0", "--tcp-port", "0", "--demo-listen", any]);
        command.arg("--config").arg(config).arg("--data").arg(data);
        Up::run(command)
    }

    /// By a command of one's own.
    pub(crate) fn run(mut command: Command) -> Up {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut tour = String::new();
        while !tour.contains("Ctrl-C stops everything.") {
            let read = stdout.read_line(&mut tour).expect("text");
            assert!(read > 0, "it ended before it was ready (its log is above): {tour}");
        }
        let rest = std::thread::spawn(move || {
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).expect("text");
            rest
        });
        let address = |before: &str| {
            let (_, rest) = tour.split_once(before).unwrap_or_else(|| panic!("{before}: {tour}"));
            let end = rest.find([',', ' ', '\n', '/']).expect("it goes on");
            rest[..end].parse().expect("an address")
        };
        // The engine's is the last address printed.
        let rows = tour.rfind("curl -s http://").expect("printed");
        let (_, of_rows) = tour[rows..].split_once("http://").expect("just found");
        let database = of_rows.split('/').next().and_then(|address| address.parse().ok());
        Up {
            child,
            rest: Some(rest),
            proxy: address("proxy http://"),
            admin: address("admin http://"),
            ingest: address("ingest http://"),
            database: database.expect("an address"),
            tour,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }

    /// Ends it with a signal; the exit code must be 0. What it printed after the tour.
    pub(crate) fn stop(mut self, signal: Signal) -> String {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        let status = self.child.wait().expect("it ended");
        assert!(status.success(), "{status}");
        let rest = self.rest.take().expect("read once");
        rest.join().expect("text")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where the repository is.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// The example configuration in a directory, with its upstream at `upstream`.
pub(crate) fn example(directory: &Path, upstream: &str) {
    let policy = directory.join("policy");
    std::fs::create_dir(&policy).expect("made");
    for entry in std::fs::read_dir(repository().join("config/policy")).expect("there") {
        let path = entry.expect("read").path();
        let text = std::fs::read_to_string(&path).expect("read");
        let text = text.replace("127.0.0.1:8090", upstream);
        std::fs::write(policy.join(path.file_name().expect("a file")), text).expect("written");
    }
    settings(directory);
}

/// The example settings in a directory.
pub(crate) fn settings(directory: &Path) {
    let settings = repository().join("config/orbit.toml");
    std::fs::copy(settings, directory.join("orbit.toml")).expect("copied");
}

/// The key that was made for a tenant of the demonstration, such as `ACME_WEB`.
pub(crate) fn demo_key(data: &Path, tenant: &str) -> String {
    let keys = std::fs::read_to_string(data.join("demo.env")).expect("made");
    let name = format!("ORBIT_KEY_{tenant}=");
    let line = keys.lines().find_map(|line| Some(line.split_once(&name)?.1.trim()));
    line.expect("there").trim_matches(['"', '\'']).to_owned()
}

/// A password or token of the data directory.
pub(crate) fn secret(data: &Path, name: &str) -> String {
    std::fs::read_to_string(data.join(name)).expect("made").trim().to_owned()
}
