//! The readiness checks of the parts that record, ship and forward.

use std::sync::{Arc, Weak};

use orbit_meter::journal::Journal;
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
pub(super) struct Parts {
    pub(super) journal: Arc<Journal>,
    pub(super) on_full: OnFull,
    pub(super) storage: StorageHandle,
    pub(super) shipper: Weak<ShipperHandle>,
    pub(super) pools: Arc<Pools>,
    pub(super) alerts: AlertsHandle,
    pub(super) clock: Arc<Clock>,
}

/// Adds the checks of this file.
pub(super) fn register(readiness: &Readiness, parts: Parts) {
    let Parts { journal: events, on_full, storage, shipper, pools, alerts: told, clock } = parts;
    readiness.register("journal", journal(events, on_full));
    readiness.register("clickhouse", clickhouse(storage, shipper, Arc::clone(&clock)));
    readiness.register("upstreams", upstreams(pools));
    readiness.register("alerts", alerts(told, clock));
}

/// A full journal takes the process out of rotation when it makes it refuse requests.
fn journal(journal: Arc<Journal>, on_full: OnFull) -> impl Fn() -> Check + Send + 'static {
    move || {
        let status = journal.status();
        let full = journal.is_full();
        let ok = !full && status.lost_events == 0;
        let detail = json!({
            "full": full,
            "bytes": status.bytes,
            "max_bytes": status.max_bytes,
            "pending_events": status.pending_events,
            "lost_events": status.lost_events,
            "sync_failures": status.sync_failures,
            "node": journal.node(),
            "epoch": journal.epoch(),
        });
        // Lost events are told for ever; they are no reason to lose requests as well.
        Check { ok, required: full && on_full == OnFull::Refuse, detail }
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
