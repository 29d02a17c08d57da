//! A whole Orbit on loopback ports, made to be attacked: a fake upstream, ClickHouse as a process
//! of its own, a fault proxy in front of it, and the gateway.
//!
//! Everything it makes is below one directory, and everything it starts ends with it. The gateway
//! and ClickHouse keep their ports over any number of lives. The rows are read past the proxy.

pub mod disk;
mod ports;
pub mod process;
pub(crate) mod serving;
pub(crate) mod settings;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;
use crate::fault::FaultProxy;
use crate::fetch::{FetchError, fetch, get, text};
use crate::fresh_keys::{self, FreshKeysError};
use crate::keys::{Keys, KeysError, Secret};
use crate::ledger::table::Table;
use crate::reload::Admin;
use crate::target::Target;
use crate::upstream::Upstream;

use process::Daemon;
use serving::Serving;
pub use settings::StageSettings;

/// The policy of the load tests, and the upstream's address in it.
const POLICY: &str = include_str!("../policy/load.toml");
const POLICY_UPSTREAM: &str = "127.0.0.1:9900";
/// How long a server may take to start: a machine may be busy with much else.
const START_LIMIT: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stage could not be built, or a server did not do what it should.
#[derive(Debug, Error)]
pub enum StageError {
    /// A file.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something of the system's.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// A process could not be started or awaited.
    #[error("cannot run {name}")]
    Spawn {
        /// Which.
        name: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server that should run does not.
    #[error("{name} does not run; it said:\n{said}")]
    NotRunning {
        /// Which.
        name: &'static str,
        /// The end of its log.
        said: String,
    },
    /// A server took too long.
    #[error("{name} did not {what} within {} s", .limit.as_secs())]
    Slow {
        /// Which.
        name: &'static str,
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The keys could not be made.
    #[error("cannot make keys")]
    FreshKeys(#[from] FreshKeysError),
    /// Nor read.
    #[error("cannot read the keys")]
    Keys(#[from] KeysError),
    /// The gateway's admin API did not answer as it should.
    #[error("cannot ask the gateway")]
    Admin(#[from] FetchError),
    /// What it answered is not understood.
    #[error("/readyz says nothing of {0}")]
    Readiness(&'static str),
}

/// What the gateway says of its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Events that are not in ClickHouse yet.
    pub events: u64,
    /// Events that are known to be lost.
    pub lost: u64,
    /// Whether there is no room.
    pub full: bool,
}

/// Everything that runs.
pub struct Stage {
    /// The gateway.
    pub gateway: Daemon,
    /// ClickHouse.
    pub engine: Daemon,
    /// What is between them.
    pub faults: FaultProxy,
    /// Where load goes.
    pub target: Target,
    /// The gateway's admin API; its token is there once the gateway was started.
    pub admin: Target,
    /// Where events are taken that do not pass the proxy.
    pub ingest: Target,
    /// The rows.
    pub table: Table,
    /// The keys scenarios name.
    pub keys: Arc<Keys>,
    /// The gateway's settings.
    pub config: PathBuf,
    directory: PathBuf,
    orbit: PathBuf,
    proxy_address: SocketAddr,
    _upstream: Serving,
}

impl Stage {
    /// Builds it and starts everything; returns when the gateway serves.
    pub async fn build(settings: &StageSettings) -> Result<Stage, StageError> {
        let directory = &settings.directory;
        let system = |what| move |source| StageError::System { what, source };
        make(directory)?;
        let free = ports::free(6).map_err(system("find free ports"))?;
        let [proxy, admin, ingest, http, tcp, faulty] = free[..] else {
            return Err(system("find free ports")(std::io::ErrorKind::AddrInUse.into()));
        };
        let (upstream, upstream_address) = serve_upstream().map_err(system("serve upstreams"))?;
        let fresh = fresh_keys::write(directory)?;
        write(
            &directory.join("policy/load.toml"),
            &POLICY.replace(POLICY_UPSTREAM, &upstream_address.to_string()),
        )?;

        write(&directory.join("policy/more.toml"), &settings.policy)?;
        let data = directory.join("clickhouse");
        let log = |name: &str| directory.join(name);
        let arguments = [
            ["clickhouse".to_owned(), "--data".to_owned()].to_vec(),
            [data.display().to_string(), "--http-port".to_owned(), http.to_string()].to_vec(),
            ["--tcp-port".to_owned(), tcp.to_string()].to_vec(),
        ];
        let Launch { launcher, orbit } = &Launch::of(settings)?;
        let arguments = arguments.concat();
        let mut engine =
            Daemon::new("clickhouse", launcher, orbit, arguments, log("clickhouse.log"));
        // The engine's library aborts when a client goes away within the head of a request. A
        // gateway that embeds it starts it again; here the attacks do.
        engine.allow_aborts();
        engine.start()?;
        let server = loopback(http);
        let table_target = target(server);
        answers(&mut engine, &table_target, "/ping", START_LIMIT).await?;
        let table = Table {
            target: table_target,
            user: "orbit".to_owned(),
            password: Secret::read(&data.join("orbit.password"))?,
            database: "orbit".to_owned(),
        };
        let faults = FaultProxy::start(faulty, server).map_err(system("start the fault proxy"))?;

        let config = directory.join("orbit.toml");
        let listen = [proxy, admin, ingest].map(loopback);
        let toml = settings::toml(settings, listen, faults.address());
        write(&config, &toml)?;
        let arguments =
            ["gateway".to_owned(), "--config".to_owned(), config.display().to_string()].to_vec();
        let gateway = Daemon::new("gateway", launcher, orbit, arguments, log("gateway.log"));
        let mut stage = Stage {
            gateway,
            engine,
            faults,
            target: target(loopback(proxy)),
            admin: target(loopback(admin)),
            ingest: target(loopback(ingest)),
            table,
            keys: Arc::new(Keys::read(&fresh.keys_file)?),
            config,
            directory: directory.clone(),
            orbit: orbit.clone(),
            proxy_address: loopback(proxy),
            _upstream: upstream,
        };
        stage.gateway.start()?;
        stage.gateway_serves().await?;
        Ok(stage)
    }

    /// Where everything is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The `orbit` binary.
    pub fn orbit(&self) -> &Path {
        &self.orbit
    }

    /// Where the gateway listens.
    pub fn proxy_address(&self) -> SocketAddr {
        self.proxy_address
    }

    /// Waits until the gateway serves.
    pub async fn gateway_serves(&mut self) -> Result<(), StageError> {
        let clock = Clock::start();
        while tokio::net::TcpStream::connect(self.proxy_address).await.is_err() {
            patience(&mut self.gateway, &clock, "serve", START_LIMIT).await?;
        }
        Ok(())
    }

    /// Waits until ClickHouse answers.
    pub async fn engine_answers(&mut self) -> Result<(), StageError> {
        let target = self.table.target.clone();
        answers(&mut self.engine, &target, "/ping", START_LIMIT).await
    }

    /// The gateway's admin API, whose token is there once it was started.
    pub fn admin_api(&self) -> Result<Admin, StageError> {
        let token = Secret::read(&self.directory.join("admin.token"))?;
        Ok(Admin { target: self.admin.clone(), token })
    }

    /// What the gateway says of its journal.
    pub async fn backlog(&self) -> Result<Backlog, StageError> {
        let ready = self.admin_api()?.readiness().await?;
        let journal = &ready["checks"]["journal"];
        let number = |name| journal[name].as_u64().ok_or(StageError::Readiness(name));
        Ok(Backlog {
            events: number("pending_events")?,
            lost: number("lost_events")?,
            full: journal["full"].as_bool().ok_or(StageError::Readiness("full"))?,
        })
    }

    /// Waits until everything recorded is in ClickHouse, at most so long. `watch` is told how many
    /// events are left.
    pub async fn drained(
        &mut self,
        limit: Duration,
        mut watch: impl FnMut(u64),
    ) -> Result<(), StageError> {
        const QUIET: u32 = 3;
        let clock = Clock::start();
        // A count of refusals becomes an event only when its second is over.
        let mut quiet = 0;
        loop {
            self.engine.keep_running()?;
            let backlog = self.backlog().await?;
            watch(backlog.events);
            quiet = if backlog.events == 0 { quiet + 1 } else { 0 };
            if quiet >= QUIET {
                return self.engine_answers().await;
            }
            patience(&mut self.gateway, &clock, "ship its journal", limit).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Ends the gateway in good order.
    pub async fn stop_gateway(&mut self) -> Result<ExitStatus, StageError> {
        self.gateway.stop(Duration::from_mins(1)).await
    }
}

/// The programs, by absolute paths: they are run from anywhere.
struct Launch {
    launcher: PathBuf,
    orbit: PathBuf,
}

impl Launch {
    fn of(settings: &StageSettings) -> Result<Launch, StageError> {
        let found = |path: &Path| {
            let path = path.to_owned();
            path.canonicalize().map_err(|source| StageError::File { what: "find", path, source })
        };
        Ok(Launch { launcher: found(&settings.launcher)?, orbit: found(&settings.orbit)? })
    }
}

/// A port that is free now, and that no outgoing connection is given.
pub fn free_port() -> Result<u16, StageError> {
    let system = |source| StageError::System { what: "find a free port", source };
    let free = ports::free(1).map_err(system)?;
    free.first().copied().ok_or_else(|| system(std::io::ErrorKind::AddrInUse.into()))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn target(address: SocketAddr) -> Target {
    format!("http://{address}").parse().expect("an address of the loopback interface is a target")
}

fn make(directory: &Path) -> Result<(), StageError> {
    let unmade = |source| StageError::File { what: "make", path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(unmade)
}

fn write(path: &Path, text: &str) -> Result<(), StageError> {
    let unwritten = |source| StageError::File { what: "write", path: path.to_owned(), source };
    std::fs::write(path, text).map_err(unwritten)
}

fn serve_upstream() -> std::io::Result<(Serving, SocketAddr)> {
    Serving::start("upstream", |bound| async move {
        match Upstream::bind(0).await {
            Ok(upstream) => {
                // The starter waits for it.
                drop(bound.send(Ok(upstream.address())));
                upstream.serve(std::future::pending()).await;
            }
            Err(error) => drop(bound.send(Err(error))),
        }
    })
}

/// Waits until a server answers a GET with a success.
async fn answers(
    daemon: &mut Daemon,
    target: &Target,
    path: &str,
    limit: Duration,
) -> Result<(), StageError> {
    let clock = Clock::start();
    loop {
        let asked = fetch(target, get(target, path), ANSWER_TIMEOUT);
        if let Ok(response) = asked.await
            && text(target, response, ANSWER_TIMEOUT).await.is_ok()
        {
            return Ok(());
        }
        patience(daemon, &clock, "answer", limit).await?;
    }
}

/// A pause, unless waiting any longer makes no sense. A server that aborted as it may is started
/// again.
async fn patience(
    daemon: &mut Daemon,
    clock: &Clock,
    what: &'static str,
    limit: Duration,
) -> Result<(), StageError> {
    let name = daemon.name();
    if !daemon.keep_running()? {
        let said = daemon.ended_alone().last().cloned();
        return Err(StageError::NotRunning {
            name,
            said: said.unwrap_or_else(|| daemon.last_words()),
        });
    }
    if Duration::from_nanos(clock.now_ns()) >= limit {
        return Err(StageError::Slow { name, what, limit });
    }
    tokio::time::sleep(POLL_INTERVAL).await;
    Ok(())
}
