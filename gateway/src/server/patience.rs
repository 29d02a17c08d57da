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

/// The least a request can be: `GET / HTTP/1.1` and an empty line are longer, and so is the
/// preface of HTTP/2.
const FIRST_BYTES: usize = 18;

tokio::task_local! {
    static HEADER_READ: Cell<bool>;
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
        let mut first = [0; FIRST_BYTES];
        // A stream that cannot be peeked into (TLS) has shaken hands in time.
        let peek = timeout(self.first_bytes, stream.try_peek(&mut first)).await;
        peek.ok()?.ok()?;
        self.inner.process_new(stream, shutdown).await
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
        let serve = self.proxy.process_new_http(session, shutdown);
        HEADER_READ.scope(Cell::new(false), within(self.header, serve)).await
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}

/// Runs `serve`, but gives up when the header has not been read in time.
async fn within<T>(limit: Duration, serve: impl Future<Output = Option<T>>) -> Option<T> {
    let mut serve = pin!(serve);
    let mut deadline = pin!(sleep(limit));
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = serve.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if HEADER_READ.with(Cell::get) {
            return Poll::Pending;
        }
        // Polled only while the header is awaited, so a long answer costs no timer wake-ups.
        deadline.as_mut().poll(context).map(|()| None)
    })
    .await
}
