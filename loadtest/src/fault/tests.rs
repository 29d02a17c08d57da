//! Every fault over real sockets, against a server that answers every byte.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// After this what should come is not coming.
const BOUND: Duration = Duration::from_secs(10);
/// Long enough for bytes on loopback to have come, if they were on their way.
const SILENCE: Duration = Duration::from_millis(100);

/// A server that sends back what it gets and counts it.
struct Echo {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    _serving: Serving,
}

impl Echo {
    fn start() -> Echo {
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let (serving, address) = Serving::start("echo", move |bound| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            bound.send(listener.local_addr()).expect("the test waits");
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection comes");
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                        counted.fetch_add(bytes as u64, Ordering::Relaxed);
                        if stream.write_all(&buffer[..bytes]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        })
        .expect("the server starts");
        Echo { address, received, _serving: serving }
    }

    async fn has_received(&self, bytes: u64) {
        let received = async {
            while self.received.load(Ordering::Relaxed) < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(BOUND, received).await.expect("the bytes arrive");
        assert_eq!(self.received.load(Ordering::Relaxed), bytes);
    }
}

fn proxy(echo: &Echo) -> FaultProxy {
    FaultProxy::start(0, echo.address).expect("the proxy starts")
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("the proxy listens")
}

/// Sends and gets it back.
async fn exchange(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.expect("it can be sent");
    let mut back = vec![0; text.len()];
    timeout(BOUND, stream.read_exact(&mut back)).await.expect("in time").expect("it comes back");
    assert_eq!(back, text);
}

/// The connection is reset: neither closed in good order, nor an answer.
async fn is_reset(stream: &mut TcpStream) {
    let read = timeout(BOUND, stream.read(&mut [0; 16])).await.expect("in time");
    assert_eq!(read.expect_err("no answer").kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_pass_and_each_side_sees_the_others_end() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut stream = connect(&proxy).await;
    exchange(&mut stream, b"hello").await;
    stream.shutdown().await.expect("it can be ended");
    let read = timeout(BOUND, stream.read(&mut [0; 16])).await.expect("in time");
    assert_eq!(read.expect("the end, in good order"), 0);
    assert_eq!(proxy.tally(), FaultTally { connections: 1, ..FaultTally::default() });
}

#[tokio::test]
async fn a_reset_is_for_the_connections_there_are() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut before = connect(&proxy).await;
    exchange(&mut before, b"a").await;
    proxy.reset();
    is_reset(&mut before).await;
    exchange(&mut connect(&proxy).await, b"b").await;
    assert_eq!((proxy.tally().resets, proxy.tally().connections), (1, 2));
}

#[tokio::test]
async fn refused_means_nobody_listens() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut before = connect(&proxy).await;
    exchange(&mut before, b"a").await;
    proxy.set(Fault::Refuse);
    is_reset(&mut before).await;
    let refused = async {
        while TcpStream::connect(proxy.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, refused).await.expect("connections are refused");
    proxy.set(Fault::Pass);
    let accepted = async {
        loop {
            if let Ok(stream) = TcpStream::connect(proxy.address()).await {
                return stream;
            }
        }
    };
    let mut after = timeout(BOUND, accepted).await.expect("and accepted again");
    exchange(&mut after, b"b").await;
}

#[tokio::test]
async fn a_stalled_connection_goes_on_where_it_stood() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut stream = connect(&proxy).await;
    exchange(&mut stream, b"a").await;
    proxy.set(Fault::Stall);
    stream.write_all(b"waits").await.expect("the proxy's socket takes it");
    let mut back = [0; 5];
    assert!(timeout(SILENCE, stream.read(&mut back)).await.is_err(), "nothing moves");
    assert_eq!(echo.received.load(Ordering::Relaxed), 1);
    proxy.set(Fault::Pass);
    timeout(BOUND, stream.read_exact(&mut back)).await.expect("in time").expect("it comes");
    assert_eq!(&back, b"waits");
}

#[tokio::test]
async fn a_request_is_cut_to_the_byte_on_open_connections_and_new_ones() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut open = connect(&proxy).await;
    exchange(&mut open, b"abc").await;
    proxy.set(Fault::Cut { after_bytes: 4 });
    for (mut stream, before) in [(open, 3), (connect(&proxy).await, 7)] {
        stream.write_all(b"0123456789").await.expect("it can be sent");
        let ended = async {
            // The echo of what passed may come before the reset.
            while stream.read(&mut [0; 16]).await.is_ok_and(|bytes| bytes > 0) {}
        };
        timeout(BOUND, ended).await.expect("the connection ends");
        echo.has_received(before + 4).await;
    }
    assert_eq!((proxy.tally().cut, proxy.tally().resets), (2, 2));
}

#[tokio::test]
async fn a_swallowed_answer_was_made_and_never_comes() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut stream = connect(&proxy).await;
    proxy.set(Fault::Swallow);
    stream.write_all(b"done?").await.expect("it can be sent");
    is_reset(&mut stream).await;
    echo.has_received(5).await;
    assert_eq!(proxy.tally().swallowed, 1);
}

#[tokio::test]
async fn a_delay_delays() {
    let echo = Echo::start();
    let proxy = proxy(&echo);
    let mut stream = connect(&proxy).await;
    exchange(&mut stream, b"a").await;
    proxy.set(Fault::Delay(2 * SILENCE));
    stream.write_all(b"later").await.expect("it can be sent");
    let mut back = [0; 5];
    assert!(timeout(SILENCE, stream.read(&mut back)).await.is_err(), "not yet");
    timeout(BOUND, stream.read_exact(&mut back)).await.expect("in time").expect("it comes");
}
