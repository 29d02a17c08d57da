//! A TCP proxy before ClickHouse that can do to one insert what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What befalls the next insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is cut after so many bytes of the request.
    CutRequest(usize),
    /// The server gets it all; its answer is dropped and the connection stays silent.
    DropAnswer,
    /// The server gets it all; its answer is dropped and the connection cut.
    CutAnswer,
    /// Nothing: the test only wants to know when the server has got it all.
    Watch,
    /// The connection is cut when all of the request is here; the server gets it when released.
    Hold,
}

/// What the proxy tells the test.
#[derive(Debug)]
pub(crate) enum Note {
    /// The answer of an insert was dropped.
    AnswerDropped,
    /// The connection was cut.
    Cut,
    /// A whole request went to the server.
    Sent,
    /// A whole request is held back.
    Held(Vec<u8>),
}

struct State {
    target: Mutex<Option<SocketAddr>>,
    /// What befalls the next insert into which table.
    fault: Mutex<Option<(&'static str, Fault)>>,
    notes: Mutex<Sender<Note>>,
}

/// Runs until the test program ends.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    notes: Receiver<Note>,
}

impl Proxy {
    /// A proxy without a server behind it: connections are closed at once.
    pub(crate) fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, notes) = mpsc::channel();
        let state = Arc::new(State {
            target: Mutex::new(None),
            fault: Mutex::new(None),
            notes: Mutex::new(sender),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(&client));
            }
        });
        Proxy { address, state, notes }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn forward_to(&self, http_port: u16) {
        *lock(&self.state.target) = Some(SocketAddr::from(([127, 0, 0, 1], http_port)));
    }

    /// For the next batch of events.
    pub(crate) fn arm(&self, fault: Fault) {
        self.arm_at("usage_events", fault);
    }

    /// For the next insert into `table`.
    pub(crate) fn arm_at(&self, table: &'static str, fault: Fault) {
        *lock(&self.state.fault) = Some((table, fault));
    }

    /// Waits until a fault has happened.
    pub(crate) fn note(&self) -> Note {
        self.notes.recv().expect("the proxy lives as long as the test")
    }

    /// Sends a held request to the server at last, and waits for its answer.
    pub(crate) fn release(&self, request: &[u8]) -> String {
        let target = lock(&self.state.target).expect("a server");
        let mut server = TcpStream::connect(target).expect("the server listens");
        server.write_all(request).expect("the server reads");
        server.shutdown(Shutdown::Write).expect("connected");
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).expect("the server answers");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl State {
    fn note(&self, note: Note) {
        // The test may be over.
        drop(lock(&self.notes).send(note));
    }

    fn serve(self: &Arc<State>, client: &TcpStream) {
        let Some(target) = *lock(&self.target) else { return };
        let Ok(server) = TcpStream::connect(target) else { return };
        let swallow = Arc::new(AtomicBool::new(false));
        let cut_after = Arc::new(AtomicBool::new(false));
        let back = {
            let (state, swallow, cut) = (Arc::clone(self), swallow.clone(), cut_after.clone());
            let (client, server) = (twin(client), twin(&server));
            thread::spawn(move || state.answers(&client, &server, &swallow, &cut))
        };
        self.requests(client, &server, &swallow, &cut_after);
        close(&server);
        back.join().expect("the answers' pump does not panic");
        close(client);
    }

    fn answers(
        &self,
        client: &TcpStream,
        server: &TcpStream,
        swallow: &AtomicBool,
        cut: &AtomicBool,
    ) {
        pump(server, |bytes| {
            if !swallow.load(Ordering::Acquire) {
                return write(client, bytes);
            }
            self.note(Note::AnswerDropped);
            if cut.load(Ordering::Acquire) {
                close(client);
                return false;
            }
            true
        });
        if !swallow.load(Ordering::Acquire) {
            close(client);
        }
    }

    fn requests(
        &self,
        client: &TcpStream,
        server: &TcpStream,
        swallow: &AtomicBool,
        cut: &AtomicBool,
    ) {
        let mut fault = None;
        let mut held = Vec::new();
        pump(client, |bytes| {
            if fault.is_none() && contains(bytes, b"INSERT") {
                let mut armed = lock(&self.fault);
                fault =
                    armed.take_if(|(table, _)| contains(bytes, table.as_bytes())).map(|it| it.1);
                swallow.store(
                    matches!(fault, Some(Fault::DropAnswer | Fault::CutAnswer)),
                    Ordering::Release,
                );
                cut.store(fault == Some(Fault::CutAnswer), Ordering::Release);
            }
            match fault {
                None | Some(Fault::DropAnswer | Fault::CutAnswer) => write(server, bytes),
                Some(Fault::Watch) => {
                    let goes_on = write(server, bytes);
                    if bytes.ends_with(b"0\r\n\r\n") {
                        fault = None;
                        self.note(Note::Sent);
                    }
                    goes_on
                }
                Some(Fault::CutRequest(limit)) => {
                    let rest = limit - held.len().min(limit);
                    held.extend_from_slice(bytes);
                    let goes_on = write(server, &bytes[..rest.min(bytes.len())]);
                    if held.len() >= limit || held.ends_with(b"0\r\n\r\n") {
                        close(server);
                        close(client);
                        self.note(Note::Cut);
                        return false;
                    }
                    goes_on
                }
                Some(Fault::Hold) => {
                    held.extend_from_slice(bytes);
                    if held.ends_with(b"\r\n0\r\n\r\n") {
                        close(client);
                        self.note(Note::Held(std::mem::take(&mut held)));
                        return false;
                    }
                    true
                }
            }
        });
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Reads until the end, an error, or `take` says no.
fn pump(mut from: &TcpStream, mut take: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !take(&buffer[..count]) {
            return;
        }
    }
}

fn write(mut to: &TcpStream, bytes: &[u8]) -> bool {
    to.write_all(bytes).is_ok()
}

fn close(stream: &TcpStream) {
    // It may be closed already.
    drop(stream.shutdown(Shutdown::Both));
}

fn twin(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
