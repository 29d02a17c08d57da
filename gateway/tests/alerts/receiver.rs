//! A receiver of webhooks that answers as it is told to and checks every signature, by the words of
//! the specification and not by the gateway's code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Queue, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// After this what should happen is not happening.
const BOUND: Duration = Duration::from_mins(1);

/// Tries until there is something.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < BOUND, "{what} did not come about");
        std::thread::yield_now();
    }
}

/// What it does with a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Answers with a status and further fields.
    Status(u16, String),
    /// Takes the connection and says nothing.
    Stall,
    /// Closes the connection.
    Close,
}

impl Answer {
    pub(crate) const OK: Answer = Answer::Status(204, String::new());

    pub(crate) fn status(status: u16) -> Answer {
        Answer::Status(status, String::new())
    }
}

/// One delivery as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) id: String,
    timestamp: String,
    signature: String,
    body: String,
    /// Whether it was answered 2xx.
    pub(crate) is_taken: bool,
}

impl Delivery {
    /// How many of its signatures are right for this secret.
    pub(crate) fn signatures_by(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.{}", self.id, self.timestamp, self.body).as_bytes());
        let right = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.signature.split(' ').filter(|signature| *signature == right).count()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

type Decide = Box<dyn FnMut(&str) -> Answer + Send>;

/// The receiver; serves as long as the test program.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    arrived: Queue<Delivery>,
    decide: Arc<Mutex<Decide>>,
}

impl Receiver {
    /// Answers each delivery as `decide` says of its id.
    pub(crate) fn start(decide: impl FnMut(&str) -> Answer + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, arrived) = channel();
        let decide: Arc<Mutex<Decide>> = Arc::new(Mutex::new(Box::new(decide)));
        let deciding = Arc::clone(&decide);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (sender, decide) = (sender.clone(), Arc::clone(&deciding));
                std::thread::spawn(move || serve(&socket, &sender, &decide));
            }
        });
        Receiver { address, arrived, decide }
    }

    /// From now on answers otherwise.
    pub(crate) fn now(&self, decide: impl FnMut(&str) -> Answer + Send + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    /// The next delivery.
    pub(crate) fn next(&self) -> Delivery {
        self.arrived.recv_timeout(BOUND).expect("a delivery arrives")
    }

    /// What arrived and was not looked at.
    pub(crate) fn rest(&self) -> Vec<Delivery> {
        self.arrived.try_iter().collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

fn serve(socket: &TcpStream, sender: &Sender<Delivery>, decide: &Mutex<Decide>) {
    let mut reader = BufReader::new(socket);
    while let Some(mut delivery) = read(&mut reader) {
        let answer = decide.lock().unwrap()(&delivery.id);
        delivery.is_taken = matches!(answer, Answer::Status(200..300, _));
        drop(sender.send(delivery));
        let (status, fields) = match answer {
            Answer::Status(status, fields) => (status, fields),
            // Until the other side gives up.
            Answer::Stall => {
                drop(reader.read(&mut [0]));
                return;
            }
            Answer::Close => return,
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{fields}\r\n");
        let mut socket = socket;
        if socket.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Delivery> {
    let mut fields = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => fields.push(line.to_ascii_lowercase().split_once(": ").map_or_else(
                || (String::new(), line.to_owned()),
                |(name, _)| (name.to_owned(), line[name.len() + 2..].to_owned()),
            )),
        }
    }
    let field = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let mut body = vec![0; field("content-length").parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Delivery {
        id: field("webhook-id"),
        timestamp: field("webhook-timestamp"),
        signature: field("webhook-signature"),
        body: String::from_utf8(body).ok()?,
        is_taken: false,
    })
}
