//! One request and its answer: what is known of it, and its one event.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::utils::CachePadded;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use orbit_meter::event::{Event, Flags, Kind, Method};
use orbit_policy::{Admission, Nanos};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::metrics::Shard;
use super::{Edge, client_address, equipment};
use crate::clock::Reading;
use crate::proxy::trace::RequestId;
use crate::settings::OnFull;
use crate::upstreams::Pool;

/// One unit of quantity in the journal's fixed point.
const UNIT_NANO: i128 = 1_000_000_000;

/// The state of one request, from its header to its end.
pub struct Exchange {
    /// Its name.
    pub id: RequestId,
    /// When it arrived.
    pub started: Reading,
    /// Set once it is admitted; holds its concurrency permits.
    pub admission: Option<Admission>,
    /// Body bytes from the client.
    pub request_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
    /// Connection attempts that failed.
    pub tries: u32,
    /// Whether the body ran over the limit while it streamed.
    pub too_large: bool,
    pub(super) method: Method,
    pub(super) client_ip: Option<IpAddr>,
    /// Where the client's API key stood, so that it is not passed on.
    pub(super) key_field: Option<&'static str>,
    /// Whether the client sent fields of the gateway's own names.
    pub(super) has_forged_fields: bool,
    pub(super) shard: Arc<CachePadded<Shard>>,
    answered_at: Option<Nanos>,
    status: u16,
    flags: Flags,
    recorded: bool,
}

impl Exchange {
    pub(super) fn start(edge: &Edge) -> Exchange {
        let shard = Arc::clone(edge.metrics.shard());
        shard.in_flight.fetch_add(1, Ordering::Acquire);
        Exchange {
            id: RequestId::generate(),
            started: edge.clock.read(),
            admission: None,
            request_bytes: 0,
            response_bytes: 0,
            tries: 0,
            too_large: false,
            method: Method::Other,
            client_ip: None,
            key_field: None,
            has_forged_fields: false,
            shard,
            answered_at: None,
            status: 0,
            flags: Flags::NONE,
            recorded: false,
        }
    }

    pub(super) fn arrived(&mut self, session: &Session) {
        self.method = Method::from(session.req_header().method.as_str());
    }

    /// The client's address; worked out once.
    pub(super) fn client_ip(&mut self, edge: &Edge, session: &Session) -> IpAddr {
        *self.client_ip.get_or_insert_with(|| client_address(session, &edge.trusted_proxies))
    }

    /// The pool of the admitted route.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        let permit = &self.admission.as_ref()?.permit;
        equipment(permit.snapshot()).pools.get(permit.route().upstream as usize)
    }

    pub(super) fn upstream_answered(&mut self, edge: &Edge, response: &ResponseHeader) {
        self.status = response.status.as_u16();
        self.answered_at = Some(edge.clock.now());
    }

    pub(super) fn answered_here(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.flags = self.flags.with(Flags::GATEWAY_MADE);
    }

    /// Writes the event, once. The answer's end must not have left yet (**M1**).
    pub fn record(&mut self, edge: &Edge) {
        let Some(admission) = &self.admission else { return };
        if self.recorded {
            return;
        }
        self.recorded = true;
        let permit = &admission.permit;
        let (tenant, route) = (permit.tenant(), permit.route());
        let now = edge.clock.now();
        let micros = |until: Nanos| {
            u32::try_from(until.since(self.started.mono) / 1_000).unwrap_or(u32::MAX)
        };
        let duration_us = micros(now);
        let event = Event {
            ts_us: self.started.unix_us,
            request_id: self.id.0,
            kind: Kind::Request,
            method: self.method,
            status: self.status,
            flags: self.flags,
            requests: 1,
            quantity_nano: i128::from(route.cost) * UNIT_NANO,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            duration_us,
            upstream_us: self.answered_at.map_or(0, micros),
            tenant: &tenant.id,
            path: &tenant.path,
            plan: permit.plan_id(),
            key_id: permit.key_id(),
            app: permit.app_id(),
            route: &route.id,
            meter: &route.meter,
            reason: "",
        };
        if let Err(error) = edge.journal.append(&event) {
            edge.refusals.count_unmetered(&event);
            lost(edge, &error);
        }
        self.shard.answered(self.status, duration_us);
        // Before the end of the answer leaves: a client that has seen it may ask again at once.
        if let Some(admission) = &mut self.admission {
            admission.permit.release();
        }
    }

    /// The request is over. What has no event yet did not reach its end.
    pub(super) fn finish(&mut self, edge: &Edge, failed: bool) {
        if !self.recorded && self.admission.is_some() {
            if failed {
                self.flags = self.flags.with(Flags::ABORTED);
            }
            self.record(edge);
        }
        self.admission = None;
    }
}

/// An admitted request without an event: the operator chose so, or it is a fault worth a line.
fn lost(edge: &Edge, error: &orbit_meter::journal::AppendError) {
    edge.metrics.unrecorded.increment(1);
    match edge.on_full {
        OnFull::ServeUnmetered => tracing::debug!(%error, "a request was served unmetered"),
        OnFull::Refuse => tracing::error!(%error, "an admitted request could not be recorded"),
    }
}

/// Whether an answer ends with its header (RFC 9110, section 6.4.1).
pub fn has_no_body(method: &http::Method, response: &ResponseHeader) -> bool {
    method == http::Method::HEAD
        || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || response.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
}
