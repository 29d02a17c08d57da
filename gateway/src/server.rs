//! The listeners and the threads of the proxy, from bind to drain.
//!
//! One thread per core, each with its own scheduler (pingora's runtime without work stealing),
//! serves plain HTTP/1.1 and HTTP/2 and TLS. [`ProxyServer::bind`] takes the addresses, so that a
//! port that is taken is an error before anything starts; [`Running::drain`] stops accepting,
//! lets requests in flight end, and then ends the threads.

mod patience;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pingora::apps::HttpServerOptions;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use pingora_runtime::Runtime;
use tokio::sync::watch;

use crate::proxy::{Edge, Equipment, Proxy};
use crate::settings::Server;
use crate::upstreams::HealthChecks;
use patience::Patient;
pub use patience::header_has_been_read;

/// Tries of one request over all its connections; a pool's own `retries` is the tighter bound.
const MAX_TRIES: usize = 11;
/// How often a drain looks whether it is done.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// The proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address could not be taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate or key file could not be read.
    #[error("cannot read {}", path.display())]
    TlsFile {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificate and key are not usable.
    #[error("the certificate {} and its key cannot be used: {reason}", path.display())]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls said.
        reason: String,
    },
}

/// A proxy that holds its addresses and does not serve yet.
pub struct ProxyServer {
    edge: Arc<Edge>,
    settings: Server,
    plain: Vec<TcpListener>,
    tls: Vec<(TcpListener, TlsSettings)>,
}

impl ProxyServer {
    /// Takes every address; port 0 takes any free port.
    pub fn bind(edge: Arc<Edge>, settings: &Server) -> Result<ProxyServer, ServerError> {
        let plain =
            settings.listen.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
        let mut tls = Vec::with_capacity(settings.tls.len());
        for listener in &settings.tls {
            let files = [&listener.certificate_file, &listener.key_file];
            for path in files {
                File::open(path)
                    .map_err(|source| ServerError::TlsFile { path: path.clone(), source })?;
            }
            let [certificate, key] = files.map(|path| path.to_string_lossy().into_owned());
            let failed = |error: Box<pingora::Error>| ServerError::Tls {
                path: listener.certificate_file.clone(),
                reason: error.to_string(),
            };
            let mut tls_settings = TlsSettings::intermediate(&certificate, &key).map_err(failed)?;
            tls_settings.enable_h2();
            tls.push((listen(listener.listen)?, tls_settings));
        }
        Ok(ProxyServer { edge, settings: settings.clone(), plain, tls })
    }

    /// The cleartext addresses taken, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.plain.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The TLS addresses taken, in the order of the settings.
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }

    /// Starts the threads and serves.
    pub fn start(self) -> Running {
        let ProxyServer { edge, settings, plain, tls } = self;
        let pools = Arc::clone(&edge.pools);
        edge.policy.equip(move |snapshot| Equipment::of(snapshot, &pools));

        let threads = settings.worker_threads();
        let mut conf = ServerConf { threads, work_stealing: false, ..ServerConf::default() };
        conf.max_retries = MAX_TRIES;
        let mut proxy = http_proxy(&Arc::new(conf), Proxy(Arc::clone(&edge)));
        let mut options = HttpServerOptions::default();
        options.h2c = settings.h2c;
        options.h2_idle_timeout = Some(Duration::from_secs(settings.limits.keepalive_timeout_s));
        proxy.server_options = Some(options);

        let front = Patient::new(proxy, &settings.limits);
        let mut service = Service::new("orbit-proxy".to_owned(), front);
        let mut fds = Fds::new();
        for listener in plain {
            service.add_tcp(&inherit(&mut fds, listener));
        }
        for (listener, tls_settings) in tls {
            service.add_tls_with_settings(&inherit(&mut fds, listener), None, tls_settings);
        }

        let runtime = Runtime::new_no_steal(threads, "orbit-proxy");
        let (stop, stopped) = watch::channel(false);
        let fds: ListenFds = Arc::new(parking_lot::Mutex::new(fds));
        let serving = runtime.get_handle().spawn(async move {
            service.start_service(Some(fds), stopped, 1).await;
        });
        runtime.get_handle().spawn(HealthChecks::new(Arc::clone(&edge.pools)).run());
        Running { edge, runtime, stop, serving }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Hands a socket over to pingora the way a predecessor process would. Returns the name that
/// pingora finds it by.
fn inherit(fds: &mut Fds, listener: TcpListener) -> String {
    let name = match listener.local_addr() {
        Ok(address) => address.to_string(),
        Err(_) => format!("fd:{}", listener.as_raw_fd()),
    };
    fds.add(name.clone(), listener.into_raw_fd());
    name
}

/// A proxy that serves.
pub struct Running {
    edge: Arc<Edge>,
    runtime: Runtime,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Requests being served.
    pub fn in_flight(&self) -> usize {
        self.edge.in_flight.load(Ordering::Acquire)
    }

    /// Stops accepting, waits until every request in flight has ended or `grace` is over, and
    /// ends the threads. Returns how many requests were cut off.
    pub fn drain(self, grace: Duration) -> usize {
        self.edge.draining.store(true, Ordering::Relaxed);
        // The receiver is gone only when serving ended by itself.
        let _ended = self.stop.send(true);
        let steps = grace.as_millis() / DRAIN_STEP.as_millis();
        let busy = || self.in_flight() > 0 || !self.serving.is_finished();
        for _ in 0..steps {
            if !busy() {
                break;
            }
            std::thread::sleep(DRAIN_STEP);
        }
        let cut_off = self.in_flight();
        self.runtime.shutdown_timeout(Duration::from_millis(100));
        cut_off
    }
}
