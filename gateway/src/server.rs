//! The listeners and the threads of the proxy, from bind to drain.
//!
//! One thread per core serves plain HTTP/1.1 and HTTP/2 and TLS. Each is a proxy of its own, with
//! its own scheduler, its own accept loop on the shared sockets and its own upstream connections,
//! so that a request never wakes another thread. (One pingora service over several threads accepts
//! on one of them and serves on any: every event of a connection then wakes two, which costs two
//! writes to an eventfd a request and a tenth of its CPU time.) [`ProxyServer::bind`] takes the
//! addresses, so that a port that is taken is an error before anything starts; [`Running::drain`]
//! stops accepting, lets requests in flight end, and then ends the threads.

mod patience;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use tokio::task::JoinHandle;

use crate::proxy::{Edge, Equipment, Proxy};
use crate::settings::{Server, TlsListener};
use crate::upstreams::HealthChecks;
use patience::Patient;
pub use patience::header_has_been_read;

/// Tries of one request over all its connections; a pool's own `retries` is the tighter bound.
const MAX_TRIES: usize = 11;
/// How often a drain looks whether it is done.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// The calling thread's number: small, and its own as long as the process lives.
pub fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

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
    tls: Vec<TcpListener>,
}

impl ProxyServer {
    /// Takes every address; port 0 takes any free port.
    pub fn bind(edge: Arc<Edge>, settings: &Server) -> Result<ProxyServer, ServerError> {
        edge.metrics.belong_to(&edge);
        let plain =
            settings.listen.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
        let mut tls = Vec::with_capacity(settings.tls.len());
        for listener in &settings.tls {
            tls_settings(listener)?;
            tls.push(listen(listener.listen)?);
        }
        Ok(ProxyServer { edge, settings: settings.clone(), plain, tls })
    }

    /// The cleartext addresses taken, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.plain.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The TLS addresses taken, in the order of the settings.
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Starts the threads and serves.
    pub fn start(self) -> Result<Running, ServerError> {
        let pools = Arc::clone(&self.edge.pools);
        self.edge.policy.equip(move |snapshot| Equipment::of(snapshot, &pools));
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for _ in 0..self.settings.worker_threads() {
            let (mut service, fds) = self.service()?;
            let stopped = stopped.clone();
            let runtime = Runtime::new_no_steal(1, "orbit-proxy");
            let serving = runtime.get_handle().spawn(async move {
                service.start_service(Some(fds), stopped, 1).await;
            });
            threads.push((runtime, serving));
        }
        let beside = Runtime::new_no_steal(1, "orbit-upkeep");
        beside.get_handle().spawn(HealthChecks::new(Arc::clone(&self.edge.pools)).run());
        let counted = Arc::clone(&self.edge);
        beside.get_handle().spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                counted.metrics.publish();
            }
        });
        Ok(Running { edge: self.edge, threads, beside, stop })
    }

    /// One thread's proxy, and the sockets it accepts on.
    fn service(&self) -> Result<(Service<Patient>, ListenFds), ServerError> {
        let limits = &self.settings.limits;
        let mut conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
        conf.max_retries = MAX_TRIES;
        let mut proxy = http_proxy(&Arc::new(conf), Proxy(Arc::clone(&self.edge)));
        let mut options = HttpServerOptions::default();
        options.h2c = self.settings.h2c;
        options.h2_idle_timeout = Some(Duration::from_secs(limits.keepalive_timeout_s));
        proxy.server_options = Some(options);
        let mut service = Service::new("orbit-proxy".to_owned(), Patient::new(proxy, limits));
        let mut fds = Fds::new();
        for listener in &self.plain {
            service.add_tcp(&inherit(&mut fds, listener)?);
        }
        for (listener, settings) in self.tls.iter().zip(&self.settings.tls) {
            let name = inherit(&mut fds, listener)?;
            service.add_tls_with_settings(&name, None, tls_settings(settings)?);
        }
        Ok((service, Arc::new(parking_lot::Mutex::new(fds))))
    }
}

/// Reads and checks certificate and key.
fn tls_settings(listener: &TlsListener) -> Result<TlsSettings, ServerError> {
    let files = [&listener.certificate_file, &listener.key_file];
    for path in files {
        File::open(path).map_err(|source| ServerError::TlsFile { path: path.clone(), source })?;
    }
    let [certificate, key] = files.map(|path| path.to_string_lossy().into_owned());
    let failed = |error: Box<pingora::Error>| ServerError::Tls {
        path: listener.certificate_file.clone(),
        reason: error.to_string(),
    };
    let mut settings = TlsSettings::intermediate(&certificate, &key).map_err(failed)?;
    settings.enable_h2();
    Ok(settings)
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Hands a socket to pingora the way a predecessor process would. Returns the name that pingora
/// finds it by.
fn inherit(fds: &mut Fds, listener: &TcpListener) -> Result<String, ServerError> {
    let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let own = listener.try_clone().map_err(|source| ServerError::Listen { address, source })?;
    fds.add(address.to_string(), own.into_raw_fd());
    Ok(address.to_string())
}

/// A proxy that serves.
pub struct Running {
    edge: Arc<Edge>,
    threads: Vec<(Runtime, JoinHandle<()>)>,
    beside: Runtime,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Requests being served.
    pub fn in_flight(&self) -> usize {
        self.edge.metrics.in_flight()
    }

    /// Stops accepting, waits until every request in flight has ended or `grace` is over, and
    /// ends the threads. Returns how many requests were cut off.
    pub fn drain(self, grace: Duration) -> usize {
        self.edge.draining.store(true, Ordering::Relaxed);
        // The receiver is gone only when serving ended by itself.
        let _ended = self.stop.send(true);
        let steps = grace.as_millis() / DRAIN_STEP.as_millis();
        let accepting = |(_, serving): &(Runtime, JoinHandle<()>)| !serving.is_finished();
        let busy = || self.in_flight() > 0 || self.threads.iter().any(accepting);
        for _ in 0..steps {
            if !busy() {
                break;
            }
            std::thread::sleep(DRAIN_STEP);
        }
        let cut_off = self.in_flight();
        self.edge.metrics.publish();
        let runtimes = self.threads.into_iter().map(|(runtime, _)| runtime).chain([self.beside]);
        runtimes.for_each(|runtime| runtime.shutdown_timeout(Duration::from_millis(100)));
        cut_off
    }
}
