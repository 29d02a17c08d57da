//! Servers for the generator to talk to: the fake upstream, and small ones that say what a test
//! needs. Each has a thread of its own and ends with its value.

#![allow(dead_code, reason = "each test program uses some of them")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use orbit_loadtest::target::Target;
use orbit_loadtest::upstream::Upstream;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A server that runs until it is dropped.
pub(crate) struct Served {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Where it listens.
    pub(crate) fn target(&self) -> Target {
        format!("http://{}", self.address).parse().expect("a loopback address is a target")
    }

    fn start<F: Future<Output = ()>>(
        serve: impl FnOnce(mpsc::Sender<SocketAddr>) -> F + Send + 'static,
    ) -> Served {
        let (bound, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(bound) => {}
                    _ = stopped => {}
                }
            });
        });
        let address = address.recv().expect("the server binds");
        Served { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends without a panic");
        }
    }
}

/// The fake upstream.
pub(crate) fn upstream() -> Served {
    Served::start(|bound| async move {
        let upstream = Upstream::bind(0).await.expect("a port is free");
        bound.send(upstream.address()).expect("the test waits for the address");
        upstream.serve(std::future::pending()).await;
    })
}

/// A server that gives every request to `answer`, request bodies unread.
pub(crate) fn answering(
    answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> Served {
    let answer = Arc::new(answer);
    Served::start(|bound| async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        bound.send(listener.local_addr().expect("it is bound")).expect("the test waits");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection can be accepted");
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&request);
                    async { Ok::<_, Infallible>(response) }
                });
                // A client that leaves is part of the tests.
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    })
}
