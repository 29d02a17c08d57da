//! The readiness checks of the parts that record, ship and forward.

use std::sync::{Arc, Weak};

use orbit_meter::ingest::IngestIndex;
use orbit_meter::journal::Journal;
use orbit_meter::members::MemberStatus;
use orbit_meter::refusals::Refusals;
use orbit_meter::ship::ShipperHandle;
use serde_json::json;

use crate::admin::{Check, Readiness};
use crate::alerts::AlertsHandle;
use crate::clock::Clock;
use crate::settings::OnFull;
use crate::storage::StorageHandle;
use crate::upstreams::Pools;

/// Most unhealthy servers that are listed.
const SHOWN_SERVERS: usize = 50;

/// What the checks read.
pub(super) struct Parts<M> {
    pub(super) journal: Arc<Journal>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) on_full: OnFull,
    /// Says how members are kept.
    pub(super) members: M,
    /// `None`: nothing is ingested.
    pub(super) index: Option<Arc<IngestIndex>>,
    pub(super) storage: StorageHandle,
    pub(super) shipper: Weak<ShipperHandle>,
    pub(super) pools: Arc<Pools>,
    pub(super) alerts: AlertsHandle,
    pub(super) clock: Arc<Clock>,
}

/// Adds the checks of this file.
pub(super) fn register<M: Fn() -> MemberStatus + Send + 'static>(
    readiness: &Readiness,
    parts: Parts<M>,
) {
    let clock = parts.clock;
    readiness.register("journal", journal(parts.journal, parts.refusals, parts.on_full));
    readiness.register("members", members(parts.members));
    if let Some(index) = parts.index {
        readiness.register("ingest", ingest(index));
    }
    readiness.register("clickhouse", clickhouse(parts.storage, parts.shipper, Arc::clone(&clock)));
    readiness.register("upstreams", upstreams(parts.pools));
    readiness.register("alerts", alerts(parts.alerts, clock));
}

/// A full journal takes the process out of rotation when it makes it refuse requests.
fn journal(
    journal: Arc<Journal>,
    refusals: Arc<Refusals>,
    on_full: OnFull,
) -> impl Fn() -> Check + Send + 'static {
    move || {
        let status = journal.status();
        let full = journal.is_full();
        let volatile = refusals.is_volatile();
        let ok = !full && !volatile && status.losses == 0;
        let detail = json!({
            "full": full,
            "bytes": status.bytes,
            "max_bytes": status.max_bytes,
            "pending_events": status.pending_events,
            "lost_events": status.lost_events,
            "losses": status.losses,
            "refusals_volatile": volatile,
            "uncounted": refusals.uncounted(),
            "sync_failures": status.sync_failures,
            "node": journal.node(),
            "epoch": journal.epoch(),
        });
        // Losses are told for ever; they are no reason to lose requests as well.
        Check { ok, required: full && on_full == OnFull::Refuse, detail }
    }
}

/// Members that a restart would not know make nothing wrong while the process runs.
fn members(
    status: impl Fn() -> MemberStatus + Send + 'static,
) -> impl Fn() -> Check + Send + 'static {
    move || {
        let MemberStatus { records, lost, has_spare } = status();
        let detail = json!({ "records": records, "unsaved": lost, "room": has_spare });
        Check::informing(lost == 0, detail)
    }
}

/// Without an index no event is taken; the proxy goes on.
fn ingest(index: Arc<IngestIndex>) -> impl Fn() -> Check + Send + 'static {
    move || {
        let is_there = index.is_there();
        Check::informing(is_there, json!({ "index": is_there, "entries": index.entries() }))
    }
}

/// The database may be away for as long as the journal has room.
fn clickhouse(
    storage: StorageHandle,
    shipper: Weak<ShipperHandle>,
    clock: Arc<Clock>,
) -> impl Fn() -> Check + Send + 'static {
    move || {
        let status = storage.status();
        let shipping = shipper.upgrade().map(|shipper| shipper.status());
        let seconds_ago = |at_us: i64| (clock.unix_us() - at_us).max(0) as f64 / 1e6;
        let shipped = shipping.as_ref().map(|shipping| {
            json!({
                "rows": shipping.rows,
                "failures": shipping.failures,
                "last_error": shipping.last_error,
                "waiting_events": shipping.lag_events,
                "lag_seconds": shipping.oldest_pending_ts_us.map_or(0.0, seconds_ago),
                "watermark_age_seconds": shipping.watermark_us.map(seconds_ago),
            })
        });
        let ok = status.reachable
            && status.migrated
            && shipping.is_some_and(|shipping| shipping.is_running);
        let detail = json!({
            "url": storage.url(),
            "reachable": status.reachable,
            "migrated": status.migrated,
            "engine_restarts": status.engine_restarts,
            "last_error": status.last_error,
            "shipping": shipped,
        });
        Check::informing(ok, detail)
    }
}

/// Servers that are down are told; whether a request can be served depends on its route.
fn upstreams(pools: Arc<Pools>) -> impl Fn() -> Check + Send + 'static {
    move || {
        let servers = pools.health();
        let healthy = servers.iter().filter(|server| server.healthy).count();
        let unhealthy: Vec<_> = servers
            .iter()
            .filter(|server| !server.healthy)
            .take(SHOWN_SERVERS)
            .map(|server| json!({ "upstream": server.upstream, "address": server.address }))
            .collect();
        let detail =
            json!({ "servers": servers.len(), "healthy": healthy, "unhealthy": unhealthy });
        Check::informing(healthy == servers.len(), detail)
    }
}

/// Alerts that cannot be recorded wait; no request has to.
fn alerts(alerts: AlertsHandle, clock: Arc<Clock>) -> impl Fn() -> Check + Send + 'static {
    move || {
        let status = alerts.status();
        let seconds_ago = |at_us: i64| (clock.unix_us() - at_us).max(0) as f64 / 1e6;
        let detail = json!({
            "pending": status.depth.pending,
            "dead": status.depth.dead,
            "oldest_pending_seconds": status.depth.oldest_us.map_or(0.0, seconds_ago),
            "error": status.error,
            "set_aside": status.set_aside,
        });
        Check::informing(status.error.is_none() && status.set_aside.is_none(), detail)
    }
}
