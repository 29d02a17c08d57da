//! The servers behind the gateway, and the receiver of its alerts: one listener for both.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;

/// What every answer says.
pub(crate) const HELLO: &str = "hello";
/// Milliseconds of work that every answer says it was.
pub(crate) const WORK_MS: &str = "2.5";

/// Says hello to everything; to paths that end in `/hold`, once it is released. Keeps what is sent
/// to `/hook`. For as long as the test program runs.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    changed: Condvar,
    alerts: Mutex<Vec<Value>>,
}

#[derive(Default)]
struct Held {
    waiting: usize,
    is_open: bool,
}

impl Upstream {
    pub(crate) fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that went away is nobody's loss.
                std::thread::spawn(move || drop(serve(&socket, &shared)));
            }
        });
        Upstream { address, shared }
    }

    /// Requests that are held back.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.held.lock().unwrap().waiting
    }

    /// Answers all that are held back, and holds back none any more.
    pub(crate) fn release(&self) {
        self.shared.held.lock().unwrap().is_open = true;
        self.shared.changed.notify_all();
    }

    /// The alerts of a tenant, in the order of arrival.
    pub(crate) fn told(&self, tenant: &str) -> Vec<Value> {
        let alerts = self.shared.alerts.lock().unwrap();
        alerts.iter().filter(|alert| alert["data"]["tenant"] == tenant).cloned().collect()
    }
}

fn serve(socket: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket);
    let (mut path, mut length, mut is_chunked) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.strip_prefix("content-length: ") {
            Some(digits) => length = digits.parse().unwrap(),
            None if line.is_empty() => break,
            None if line == "transfer-encoding: chunked" => is_chunked = true,
            None if path.is_empty() => line.split(' ').nth(1).unwrap().clone_into(&mut path),
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    while is_chunked {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let Ok(size) = u64::from_str_radix(size.trim(), 16) else { return Ok(()) };
        std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink())?;
        is_chunked = size > 0;
    }
    if path == "/hook" {
        shared.alerts.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    }
    if path.ends_with("/hold") {
        let mut held = shared.held.lock().unwrap();
        held.waiting += 1;
        drop(shared.changed.wait_while(held, |held| !held.is_open).unwrap());
    }
    let mut socket = socket;
    let length = HELLO.len();
    socket.write_all(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\
             X-Orbit-Processing-Ms: {WORK_MS}\r\n\r\n{HELLO}"
        )
        .as_bytes(),
    )
}
