//! How long a client may take to send its header.
//!
//! pingora bounds the pause between two reads, not the whole: a client that sends a byte now and
//! then could hold a connection for hours. Here the first bytes of a connection, and each whole
//! header after it, have a deadline.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::time::{sleep, timeout};

use crate::proxy::Proxy;
use crate::settings::LimitSettings;

/// As many bytes as pingora waits for, without a deadline, to tell HTTP/2 from HTTP/1: the
/// preface. A request of HTTP/1.1 is never shorter.
const PREFACE: usize = 24;
/// pingora asks for its options twice before it shakes hands for HTTP/2, and once after.
const OPTIONS_BEFORE_HANDSHAKE: u8 = 2;

tokio::task_local! {
    static HEADER_READ: Cell<bool>;
    /// Whether the connection has come to its first request, and how often options were asked.
    static BEGUN: (Cell<bool>, Cell<u8>);
}

/// The proxy calls this when a request's header is complete: its deadline is met.
pub fn header_has_been_read() {
    // Outside of a served connection (a test of one phase) there is no deadline to meet.
    let _no_deadline = HEADER_READ.try_with(|read| read.set(true));
}

/// The proxy, with deadlines.
pub(super) struct Patient {
    inner: Arc<Deadline>,
    first_bytes: Duration,
}

struct Deadline {
    proxy: Arc<HttpProxy<Proxy>>,
    header: Duration,
}

impl Patient {
    pub(super) fn new(proxy: HttpProxy<Proxy>, limits: &LimitSettings) -> Self {
        let first_bytes = Duration::from_millis(limits.header_timeout_ms);
        // A connection kept alive may first be idle for its whole time.
        let header = first_bytes + Duration::from_secs(limits.keepalive_timeout_s);
        Patient { inner: Arc::new(Deadline { proxy: Arc::new(proxy), header }), first_bytes }
    }
}

#[async_trait]
impl ServerApp for Patient {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        if self.inner.proxy.server_options().is_some_and(|options| options.h2c) {
            // A stream that cannot be peeked into is TLS, which pingora does not peek into either.
            let mut preface = [0; PREFACE];
            timeout(self.first_bytes, stream.try_peek(&mut preface)).await.ok()?.ok()?;
        }
        // What is left is the handshake of HTTP/2.
        let begun = || BEGUN.with(|(begun, _)| begun.get());
        let serve = self.inner.process_new(stream, shutdown);
        let state = (Cell::new(false), Cell::new(0));
        BEGUN.scope(state, within(self.first_bytes, begun, serve)).await
    }

    async fn cleanup(&self) {
        self.inner.proxy.http_cleanup().await;
    }
}

#[async_trait]
impl HttpServerApp for Deadline {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.is_http2() {
            session.set_read_timeout(Some(self.header));
        }
        // Requests of HTTP/2 are tasks of their own: there the handshake has set it.
        let _other_task = BEGUN.try_with(|(begun, _)| begun.set(true));
        let serve = self.proxy.process_new_http(session, shutdown);
        let read = || HEADER_READ.with(Cell::get);
        HEADER_READ.scope(Cell::new(false), within(self.header, read, serve)).await
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        let _other_task = BEGUN.try_with(|(begun, asked)| {
            asked.set(asked.get().saturating_add(1));
            begun.set(begun.get() || asked.get() > OPTIONS_BEFORE_HANDSHAKE);
        });
        self.proxy.server_options()
    }
}

/// Runs `serve`, but gives up when it has not `met` its deadline in time.
async fn within<T>(
    limit: Duration,
    met: impl Fn() -> bool,
    serve: impl Future<Output = Option<T>>,
) -> Option<T> {
    let mut serve = pin!(serve);
    let mut deadline = pin!(sleep(limit));
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = serve.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if met() {
            return Poll::Pending;
        }
        // Polled only until it is met, so a long answer costs no timer wake-ups.
        deadline.as_mut().poll(context).map(|()| None)
    })
    .await
}
