//! A listener with a thread and a small runtime of its own.
//!
//! Guarantees that a client that sends slowly or not at all holds a connection for a few seconds
//! only, and that there are never more than [`Serving::max_connections`] of them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Longest time a client may take to send its header; also how long an idle connection lives.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers under way may take once the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no file descriptors left, say), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How an interface is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Serving {
    /// Its name, for its thread and the log.
    pub(crate) name: &'static str,
    /// Connections at a time; more wait in the listen queue.
    pub(crate) max_connections: usize,
    /// Whether traffic goes first where cores are short.
    pub(crate) yields_to_traffic: bool,
}

/// A running listener; dropping it stops it within two seconds.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Binds `address` (port 0 takes a free one) and serves on a thread of its own.
    pub(crate) fn start(
        address: SocketAddr,
        routes: Router,
        serving: Serving,
    ) -> io::Result<HttpServer> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = watch::channel(false);
        let name = serving.name.to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            if serving.yields_to_traffic {
                crate::background::yield_to_traffic();
            }
            runtime.block_on(accept(listener, routes, serving, stopped));
            // Blocking work that still runs ends with the process.
            runtime.shutdown_background();
        })?;
        Ok(HttpServer { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(address = %self.address, "a listener's thread panicked");
        }
    }
}

/// Accepts until told to stop, then lets answers under way finish.
async fn accept(
    listener: tokio::net::TcpListener,
    routes: Router,
    serving: Serving,
    mut stopped: watch::Receiver<bool>,
) {
    let Serving { name, max_connections, .. } = serving;
    let places = Arc::new(Semaphore::new(max_connections));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = next => match accepted {
                Ok((socket, _)) => {
                    let connection = connection(socket, routes.clone(), stopped.clone());
                    connections.spawn(async move {
                        let _place = place;
                        connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, name, "a listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, finish).await.is_err() {
        tracing::debug!(name, "connections were cut at stop");
    }
}

/// Serves one connection until it ends or the server stops.
async fn connection(socket: TcpStream, routes: Router, mut stopped: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(routes);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
