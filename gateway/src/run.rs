//! The whole process, from settings to a clean end.
//!
//! Owns the order in which the parts start and stop. Guarantees that nothing listens before the
//! policy is in force with what its limits had spent, and the journal is open, and that at the end
//! what was recorded is shipped before the engine stops: listeners, requests in flight, ingestion,
//! limits, refusals, shipper, journal, engine, each within a bounded time. A part that fails to stop
//! is logged and does not keep the others from stopping.

mod checks;
mod signals;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orbit_meter::ingest::{IndexError, IndexSettings, IngestIndex};
use orbit_meter::journal::{Journal, JournalError, JournalSettings};
use orbit_meter::refusals::{Flusher, Refusals, RefusalsError};
use orbit_meter::ship::{AskOpen, ShipError, ShipSettings, Shipper, ShipperHandle};
use orbit_policy::{Diagnostics, Policy, PolicySettings};

use crate::admin::{self, AdminServer, AdminState, Readiness, Token, TokenError};
use crate::alerts::Alerts;
use crate::alerts::refusals::RefusalCounts;
use crate::audit::{Auditor, AuditorError};
use crate::clock::Clock;
use crate::ingest::{Bounds, IngestServer, IngestState};
use crate::limit_state::{LimitState, LimitStateError, Saver};
use crate::members::{MemberError, MemberKeeper};
use crate::proxy::{self, Edge};
use crate::quota_state::{QuotaState, QuotaStateError, Reconciler, ReconcilerError, Sources};
use crate::reload::{self, Reloader};
use crate::server::{ProxyServer, Running, ServerError};
use crate::settings::{self, Settings};
use crate::storage::{Storage, StorageError, StorageHandle};
use crate::telemetry::{Metrics, TelemetryError};
use crate::tenant_api::TenantApi;
use crate::upstreams::Pools;
use signals::Signals;
use upkeep::Upkeep;

/// How long the rest of the journal may take to reach the database at the end. What is not shipped
/// then stays in the journal and is shipped after the next start.
const SHIP_TIMEOUT: Duration = Duration::from_secs(20);
/// The same when the database does not answer anyway.
const SHIP_TIMEOUT_AWAY: Duration = Duration::from_secs(2);
/// How long the engine may take to stop: 5 s with an insert in flight.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(30);

/// The gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The policy documents are wrong in these places.
    #[error("the policy documents cannot be used")]
    Policy(#[source] Diagnostics),
    /// The metrics recorder could not be installed.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The token of the admin or the ingest API cannot be had.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What limits have spent cannot be kept.
    #[error(transparent)]
    LimitState(#[from] LimitStateError),
    /// Members of distinct meters cannot be kept.
    #[error(transparent)]
    Members(#[from] MemberError),
    /// What quotas have counted cannot be kept.
    #[error(transparent)]
    QuotaState(#[from] QuotaStateError),
    /// What quotas have counted cannot be compared with the usage database.
    #[error(transparent)]
    Reconciler(#[from] ReconcilerError),
    /// The journal could not be opened.
    #[error("the journal in {} cannot be opened", directory.display())]
    Journal {
        /// Its directory.
        directory: PathBuf,
        /// Why not.
        source: JournalError,
    },
    /// Counts that an earlier process left cannot be read.
    #[error(transparent)]
    Refusals(#[from] RefusalsError),
    /// What was ingested earlier cannot be told.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The usage database cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Shipping could not start.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// The audit could not start.
    #[error(transparent)]
    Audit(#[from] AuditorError),
    /// A thread of the gateway could not be started.
    #[error("cannot start the {thread} thread")]
    Thread {
        /// Which one.
        thread: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The admin listener could not be opened.
    #[error("the admin API cannot listen on {address}")]
    Admin {
        /// Where it should.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The ingest listener could not be opened.
    #[error("the ingest API cannot listen on {address}")]
    Ingest {
        /// Where it should.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy could not start.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Runs the gateway until SIGTERM, SIGINT or SIGQUIT, then stops every part in order.
///
/// `program` is the `orbit` binary, which an embedded engine runs in. `ready` is called once the
/// proxy serves. Fails when a part cannot start, with what was started stopped again.
pub fn run_gateway(
    settings: Settings,
    program: &Path,
    ready: impl FnOnce(&Addresses),
) -> Result<(), RunError> {
    let parts = Parts::start(settings, program)?;
    let signals_failed = |source| RunError::Thread { thread: "signals", source };
    let mut signals = Signals::register().map_err(signals_failed)?;
    let (running, addresses) = parts.serve()?;
    let Addresses { proxy, tls, admin, ingest, .. } = &addresses;
    let ingest = ingest.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let started_ms = parts.clock.now().0 / 1_000_000;
    tracing::info!(?proxy, ?tls, %admin, %ingest, started_ms, "serving");
    ready(&addresses);
    let (signal, _) = signals.wait();
    tracing::info!(signal, "stopping");
    parts.readiness.drain();
    signals.end_at_the_next().map_err(signals_failed)?;
    let cut_off = running.drain(parts.settings.server.grace_period());
    if cut_off > 0 {
        tracing::warn!(cut_off, "requests in flight did not end within the grace period");
    }
    parts.stop();
    Ok(())
}

/// Where a running gateway listens, with the ports that were taken for 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Cleartext listeners, in the order of the settings.
    pub proxy: Vec<SocketAddr>,
    /// TLS listeners, in the order of the settings.
    pub tls: Vec<SocketAddr>,
    /// The admin API.
    pub admin: SocketAddr,
    /// The ingest API, unless it is off.
    pub ingest: Option<SocketAddr>,
    /// The usage database's HTTP interface.
    pub database_url: String,
}

/// Everything that runs beside the proxy.
struct Parts {
    settings: Arc<Settings>,
    clock: Arc<Clock>,
    policy: Arc<Policy>,
    pools: Arc<Pools>,
    readiness: Arc<Readiness>,
    tenant_api: Arc<TenantApi>,
    admin: AdminServer,
    ingest: Option<IngestServer>,
    index: Arc<IngestIndex>,
    reloader: Reloader,
    refusals: Arc<Refusals>,
    refusal_counts: Arc<RefusalCounts>,
    alerts: Alerts,
    counts: Arc<proxy::metrics::Metrics>,
    flusher: Flusher,
    shipper: Arc<ShipperHandle>,
    journal: Arc<Journal>,
    storage: Storage,
    auditor: Option<Auditor>,
    upkeep: Upkeep,
    members: MemberKeeper,
    limits: Saver,
    quota_state: QuotaState,
    reconciler: Reconciler,
}

impl Parts {
    fn start(settings: Settings, program: &Path) -> Result<Parts, RunError> {
        let settings = Arc::new(settings);
        let clock = Arc::new(Clock::start());
        let metrics = Metrics::install()?;
        let token = Token::load_or_create(&settings.admin.token_file)?;
        let paths = settings.policy.paths.clone();
        let limit_state = LimitState::open(&settings.limits.directory)?;
        let quota_state = QuotaState::open(&settings.limits.directory, &clock)?;
        let kept = policy_settings(&settings, &limit_state, &quota_state);
        let (policy, loaded) =
            reload::start_policy(&paths, &kept, &clock).map_err(RunError::Policy)?;
        let after_crash = settings.limits.after_crash;
        let limits = limit_state.resume(Arc::clone(&policy), Arc::clone(&clock), after_crash)?;
        let state = &settings.limits.directory;
        let members = MemberKeeper::start(state, &policy, Arc::clone(&clock))?;
        // Before anything lets the window pass in which an earlier process was killed.
        let (alerts, refusal_counts) = start_alerts(&settings, &policy, &clock)?;

        let journal = open_journal(&settings.journal)?;
        // Before anything is shipped; and always, or what a kill left in doubt would be forgotten.
        let index = IndexSettings::new(settings.ingest.keep());
        let index = Arc::new(IngestIndex::open(&journal, &index, clock.unix_us())?);
        let thread = |thread| move |source| RunError::Thread { thread, source };
        let refusals = Arc::new(Refusals::open(Arc::clone(&journal))?);
        let flusher = refusals.start().map_err(thread("refusals"))?;
        let storage = Storage::start(&settings.clickhouse, program)?;
        let store = storage.handle().store()?;
        let counts = Arc::new(proxy::metrics::Metrics::new());
        let open = proxy::open::ask(Arc::clone(&counts), Arc::clone(&refusals), Arc::clone(&clock));
        let ship_settings = ship_settings(&settings.ship, open, Arc::clone(&index));
        let shipper = Arc::new(Shipper::start(Arc::clone(&journal), store, ship_settings)?);
        let auditor = start_audit(&settings.audit, storage.handle(), &clock)?;
        let reconciler = Reconciler::start(Sources {
            policy: Arc::clone(&policy),
            journal: Arc::clone(&journal),
            shipper: Arc::clone(&shipper),
            storage: storage.handle(),
            clock: Arc::clone(&clock),
        })?;
        let (of, watched) = (Arc::clone(&policy), settings.policy.watch);
        let reloader = Reloader::start(of, loaded, paths.clone(), watched, Arc::clone(&clock))
            .map_err(thread("reload"))?;

        let pools = Arc::new(Pools::default());
        let readiness = Arc::new(Readiness::new());
        readiness.register("policy", admin::policy_check(reloader.handle()));
        let parts = checks::Parts {
            journal: Arc::clone(&journal),
            refusals: Arc::clone(&refusals),
            on_full: settings.journal.on_full,
            members: members.status(),
            index: settings.ingest.listen.is_some().then(|| Arc::clone(&index)),
            storage: storage.handle(),
            shipper: Arc::downgrade(&shipper),
            pools: Arc::clone(&pools),
            alerts: alerts.handle(),
            clock: Arc::clone(&clock),
        };
        checks::register(&readiness, parts);

        let address = settings.admin.listen;
        let state = AdminState {
            token,
            metrics: metrics.clone(),
            readiness: Arc::clone(&readiness),
            policy: Arc::clone(&policy),
            policy_paths: paths,
            reloads: reloader.handle(),
            storage: storage.handle(),
            alerts: alerts.handle(),
            clock: Arc::clone(&clock),
        };
        let admin = AdminServer::start(address, state)
            .map_err(|source| RunError::Admin { address, source })?;
        let ingest = start_ingest(&settings, &policy, &journal, &index, &clock)?;
        let tenant_api = TenantApi::start(Arc::clone(&policy), storage.handle().store()?)
            .map_err(thread("tenant-api"))?;
        let upkeep = Upkeep::start(metrics, Arc::clone(&policy), Arc::clone(&clock))
            .map_err(thread("upkeep"))?;
        Ok(Parts {
            settings,
            clock,
            policy,
            pools,
            readiness,
            tenant_api: Arc::new(tenant_api),
            admin,
            ingest,
            index,
            reloader,
            refusals,
            refusal_counts,
            alerts,
            counts,
            flusher,
            shipper,
            journal,
            storage,
            auditor,
            upkeep,
            members,
            limits,
            quota_state,
            reconciler,
        })
    }

    /// Starts the proxy on them.
    fn serve(&self) -> Result<(Running, Addresses), RunError> {
        let settings = &self.settings;
        let edge = Edge {
            limits: settings.server.limits.clone(),
            trusted_proxies: settings.server.trusted_proxies.clone(),
            on_full: settings.journal.on_full,
            policy: Arc::clone(&self.policy),
            journal: Arc::clone(&self.journal),
            refusals: Arc::clone(&self.refusals),
            refusal_counts: Arc::clone(&self.refusal_counts),
            pools: Arc::clone(&self.pools),
            tenant_api: Arc::clone(&self.tenant_api),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.counts),
            long_answer: proxy::record::LONG_ANSWER,
            draining: false.into(),
        };
        let server = ProxyServer::bind(Arc::new(edge), &settings.server)?;
        let addresses = Addresses {
            proxy: server.addresses(),
            tls: server.tls_addresses(),
            admin: self.admin.address(),
            ingest: self.ingest.as_ref().map(IngestServer::address),
            database_url: self.storage.handle().url().to_owned(),
        };
        Ok((server.start()?, addresses))
    }

    /// Stops everything, after the proxy has drained.
    fn stop(self) {
        drop(self.upkeep);
        drop(self.alerts);
        drop(self.tenant_api);
        drop(self.auditor);
        drop(self.reloader);
        drop(self.ingest);
        // Nothing is admitted any more: this is the last state.
        drop(self.members);
        drop(self.limits);
        drop(self.reconciler);
        drop(self.quota_state);
        // The last refusals become events, so before the shipper's last round.
        drop(self.flusher);
        let reachable = self.storage.handle().status().reachable;
        let timeout = if reachable { SHIP_TIMEOUT } else { SHIP_TIMEOUT_AWAY };
        if let Err(error) = self.shipper.stop(timeout) {
            tracing::warn!(%error, "the rest is shipped after the next start");
        }
        // Ends its thread: the readiness check holds no more than a weak reference.
        drop(self.shipper);
        if let Err(error) = self.index.close() {
            tracing::warn!(%error, "the next start looks through what was ingested");
        }
        self.journal.close();
        // Operators can watch the end until here.
        drop(self.admin);
        if let Err(error) = self.storage.stop(ENGINE_TIMEOUT) {
            tracing::error!(%error, "the usage database did not stop cleanly");
        }
        tracing::info!("stopped");
    }
}

/// Alerts, and where refusals are counted for them.
fn start_alerts(
    settings: &Settings,
    policy: &Arc<Policy>,
    clock: &Arc<Clock>,
) -> Result<(Alerts, Arc<RefusalCounts>), RunError> {
    let counts = Arc::new(RefusalCounts::default());
    let (policy, clock) = (Arc::clone(policy), Arc::clone(clock));
    let directory = &settings.limits.directory;
    let started = Alerts::start(directory, &settings.alerts, policy, Arc::clone(&counts), clock);
    let alerts = started.map_err(|source| RunError::Thread { thread: "alerts", source })?;
    Ok((alerts, counts))
}

/// The audit beside the traffic, unless it is off.
fn start_audit(
    settings: &settings::Audit,
    storage: StorageHandle,
    clock: &Arc<Clock>,
) -> Result<Option<Auditor>, AuditorError> {
    let start = |interval| Auditor::start(storage, interval, Arc::clone(clock));
    settings.interval().map(start).transpose()
}

fn open_journal(settings: &settings::Journal) -> Result<Arc<Journal>, RunError> {
    let directory = settings.directory.clone();
    let opened = Journal::open(JournalSettings {
        directory: directory.clone(),
        segment_bytes: settings.segment_bytes,
        max_bytes: settings.max_bytes,
        sync_interval: Duration::from_millis(settings.sync_interval_ms),
        max_lanes: settings.max_lanes,
    });
    opened.map_err(|source| RunError::Journal { directory, source })
}

/// Starts the ingest API, unless it is off.
fn start_ingest(
    settings: &Settings,
    policy: &Arc<Policy>,
    journal: &Arc<Journal>,
    index: &Arc<IngestIndex>,
    clock: &Arc<Clock>,
) -> Result<Option<IngestServer>, RunError> {
    let settings::Ingest { max_body_bytes, max_age_days, max_future_s, .. } = settings.ingest;
    let Some(address) = settings.ingest.listen else { return Ok(None) };
    let state = IngestState {
        token: Token::load_or_create(&settings.ingest.token_file)?,
        policy: Arc::clone(policy),
        journal: Arc::clone(journal),
        index: Arc::clone(index),
        clock: Arc::clone(clock),
        bounds: Bounds { max_body_bytes, max_age_days, max_future_s },
    };
    let started = IngestServer::start(address, state);
    started.map(Some).map_err(|source| RunError::Ingest { address, source })
}

fn policy_settings(
    settings: &Settings,
    limits: &LimitState,
    quotas: &QuotaState,
) -> PolicySettings {
    PolicySettings {
        max_dynamic_keys: settings.policy.max_dynamic_keys,
        hash_key: limits.hash_key(),
        memory: quotas.memory(),
    }
}

fn ship_settings(
    settings: &settings::Ship,
    open: AskOpen,
    index: Arc<IngestIndex>,
) -> ShipSettings {
    ShipSettings {
        max_rows: settings.max_rows,
        max_delay: Duration::from_millis(settings.max_delay_ms),
        open: Some(open),
        before_forget: Some(Arc::new(move || index.sync())),
        ..ShipSettings::default()
    }
}
