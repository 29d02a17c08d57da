//! Connections to the target: opened when needed, driven by the task that uses them.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::target::Target;

use super::exchange::exchange;
use super::prepare::Prepared;
use super::record::{Failure, Outcome};
use super::upgrade;

type Http1Connection = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;
type Http2Sender = http2::SendRequest<Full<Bytes>>;

/// A way to the target for one request at a time.
pub(super) enum Link {
    /// The connection is polled by the task that sends on it: no second task to wake.
    Http1 { target: Target, open: Option<Open> },
    /// One of several streams of a connection that a task of its own drives.
    Http2 { shared: Arc<Http2Connection> },
}

/// An HTTP/1.1 connection.
pub(super) struct Open {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended; it must then not be polled again.
    connection: Option<Pin<Box<Http1Connection>>>,
}

/// An HTTP/2 connection that several links share, reopened by whoever finds it closed.
pub(super) struct Http2Connection {
    target: Target,
    sender: Mutex<Option<Http2Sender>>,
}

impl Http2Connection {
    pub(super) fn new(target: Target) -> Http2Connection {
        Http2Connection { target, sender: Mutex::new(None) }
    }

    async fn sender(&self) -> Option<Http2Sender> {
        let mut sender = self.sender.lock().await;
        if let Some(open) = sender.as_ref().filter(|open| !open.is_closed()) {
            return Some(open.clone());
        }
        let stream = connect(&self.target).await?;
        let executor = TokioExecutor::new();
        let (fresh, connection) = http2::handshake(executor, TokioIo::new(stream)).await.ok()?;
        // Its end shows as a closed sender.
        tokio::spawn(async { drop(connection.await) });
        *sender = Some(fresh.clone());
        Some(fresh)
    }
}

pub(super) async fn connect(target: &Target) -> Option<TcpStream> {
    let stream = TcpStream::connect(target.address()).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

impl Open {
    async fn new(target: &Target) -> Option<Open> {
        let stream = connect(target).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        Some(Open { sender, connection: Some(Box::pin(connection)) })
    }

    /// Whether another request can be sent.
    async fn is_ready(&mut self) -> bool {
        if self.sender.is_ready() {
            return true;
        }
        let ready = self.sender.ready();
        drive(&mut self.connection, ready).await.is_ok()
    }
}

impl Link {
    pub(super) fn http1(target: Target) -> Link {
        Link::Http1 { target, open: None }
    }

    pub(super) fn http2(shared: Arc<Http2Connection>) -> Link {
        Link::Http2 { shared }
    }

    /// Opens the connection ahead of its first use. A failure will show when it is used.
    pub(super) async fn warm(&mut self) {
        match self {
            Link::Http1 { target, open } => *open = Open::new(target).await,
            Link::Http2 { shared } => drop(shared.sender().await),
        }
    }

    /// Awaits something else while the connection stays alive.
    pub(super) async fn idle<F: Future>(&mut self, other: F) -> F::Output {
        match self {
            Link::Http1 { open: Some(open), .. } => drive(&mut open.connection, other).await,
            _ => other.await,
        }
    }

    /// Sends a request and awaits its end, at most for `timeout`. Nothing is sent twice. A
    /// connection on which the answer did not end is closed (HTTP/2: the stream is reset).
    pub(super) async fn ask(&mut self, kind: &Prepared, timeout: Duration) -> Outcome {
        let ask = async {
            match self {
                Link::Http1 { target, .. } if kind.websocket => upgrade::ask(target, kind).await,
                Link::Http1 { target, open } => ask_http1(target, open, kind).await,
                Link::Http2 { shared } => match shared.sender().await {
                    None => Outcome::Failed(Failure::Connect),
                    Some(mut sender) => exchange(sender.send_request(kind.request()), kind).await,
                },
            }
        };
        let outcome =
            tokio::time::timeout(timeout, ask).await.unwrap_or(Outcome::Failed(Failure::Timeout));
        let broken = !kind.websocket && !matches!(outcome, Outcome::Whole(_));
        if let (Link::Http1 { open, .. }, true) = (self, broken) {
            *open = None;
        }
        outcome
    }
}

async fn ask_http1(target: &Target, open: &mut Option<Open>, kind: &Prepared) -> Outcome {
    let usable = match open {
        Some(open) => open.is_ready().await,
        None => false,
    };
    if !usable {
        *open = Open::new(target).await;
    }
    let Some(Open { sender, connection }) = open else {
        return Outcome::Failed(Failure::Connect);
    };
    drive(connection, exchange(sender.send_request(kind.request()), kind)).await
}

/// Polls a connection and the work that uses it in one task.
async fn drive<F: Future>(
    connection: &mut Option<Pin<Box<Http1Connection>>>,
    work: F,
) -> F::Output {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(output);
        }
        if let Some(open) = connection {
            if open.as_mut().poll(context).is_ready() {
                // Dropping it fails what it still owes, so that the work ends.
                *connection = None;
            }
            return work.as_mut().poll(context);
        }
        Poll::Pending
    })
    .await
}
