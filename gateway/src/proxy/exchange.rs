//! One request and its answer: what is known of it while it goes on. What is written of it, and
//! when, is in [`super::record`].

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::utils::CachePadded;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use orbit_meter::event::{Flags, Method};
use orbit_policy::{Admission, Denial, Nanos};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::measure::Figures;
use super::metrics::Shard;
use super::open::Place;
use super::record::Written;
use super::{Edge, client, equipment};
use crate::clock::Reading;
use crate::proxy::trace::RequestId;
use crate::upstreams::Pool;

/// The type of answers that are meant never to end (server-sent events).
const EVENT_STREAM: &[u8] = b"text/event-stream";

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
    /// Of them, quotas of levels were asked for so many: all of a known length with its header.
    pub(super) asked_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
    /// Connection attempts that failed.
    pub tries: u32,
    /// Whether the body ran over the limit while it streamed.
    pub too_large: bool,
    /// The quota that a piece of the body did not fit into any more.
    pub no_room: Option<Box<Denial>>,
    /// Whether the request's body has arrived whole.
    pub request_ended: bool,
    /// Whether the upstream ended its answer with the latest header.
    pub header_ends: bool,
    pub(super) method: Method,
    pub(super) client_ip: Option<IpAddr>,
    /// Where the client's API key stood, so that it is not passed on.
    pub(super) key_field: Option<&'static str>,
    /// Whether the client sent fields of the gateway's own names.
    pub(super) has_forged_fields: bool,
    pub(super) shard: Arc<CachePadded<Shard>>,
    /// Its place among the open requests, until it has its row.
    pub(super) place: Option<Place>,
    pub(super) answered_at: Option<Nanos>,
    pub(super) status: u16,
    pub(super) flags: Flags,
    /// Bytes the answer says it has.
    length: Option<u64>,
    /// What headers said on further meters.
    pub(super) figures: Figures,
    /// Set once the request is counted.
    pub(super) written: Option<Written>,
    /// Whether the answer is over: its permits are given back and the metrics have it.
    pub(super) is_over: bool,
}

/// What is known of an answer's end from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It ends with its header.
    Header,
    /// It is meant to go on for as long as both sides like.
    Never,
    /// It has a body that ends some time.
    Body,
}

impl Exchange {
    pub(super) fn start(edge: &Edge) -> Exchange {
        let shard = Arc::clone(edge.metrics.shard());
        shard.in_flight.fetch_add(1, Ordering::Acquire);
        let (place, started) = shard.open.enter(|| edge.clock.read());
        Exchange {
            id: RequestId::generate(),
            started,
            admission: None,
            request_bytes: 0,
            asked_bytes: 0,
            response_bytes: 0,
            tries: 0,
            too_large: false,
            no_room: None,
            request_ended: false,
            header_ends: false,
            method: Method::Other,
            client_ip: None,
            key_field: None,
            has_forged_fields: false,
            shard,
            place: Some(place),
            answered_at: None,
            status: 0,
            flags: Flags::NONE,
            length: None,
            figures: Figures::default(),
            written: None,
            is_over: false,
        }
    }

    pub(super) fn arrived(&mut self, session: &Session) {
        self.method = Method::from(session.req_header().method.as_str());
    }

    /// The client's address; worked out once.
    pub(super) fn client_ip(&mut self, edge: &Edge, session: &Session) -> IpAddr {
        *self.client_ip.get_or_insert_with(|| client::address(session, &edge.trusted_proxies))
    }

    /// The pool of the admitted route.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        let permit = &self.admission.as_ref()?.permit;
        equipment(permit.snapshot()).pools.get(permit.route().upstream as usize)
    }

    /// So much of the request's body has come: whether quotas of levels have no room for it. Then what
    /// came last must not go on.
    pub(super) fn has_no_room(&mut self, request_bytes: u64) -> bool {
        // A retried request's body passes again.
        let more = request_bytes.saturating_sub(self.asked_bytes);
        if more == 0 {
            return false;
        }
        self.asked_bytes = request_bytes;
        let Some(admission) = &mut self.admission else { return false };
        let Err(denial) = admission.permit.reserve(more) else { return false };
        self.no_room = Some(Box::new(denial));
        true
    }

    /// Nothing of it is waited for any more: it has its row, or is counted elsewhere.
    pub(super) fn leave_open(&mut self) {
        if let Some(place) = self.place.take() {
            self.shard.open.leave(place);
        }
    }

    /// Takes note of the upstream's header. Returns how the answer will end.
    pub(super) fn upstream_answered(&mut self, edge: &Edge, response: &ResponseHeader) -> Ending {
        self.status = response.status.as_u16();
        self.answered_at = Some(edge.clock.now());
        self.length = announced_length(response);
        let no_body = self.method == Method::Head
            || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            Ending::Never
        } else if self.header_ends || no_body || self.length == Some(0) {
            Ending::Header
        } else if is_event_stream(response) {
            Ending::Never
        } else {
            Ending::Body
        }
    }

    /// Whether the client has, with the piece that leaves now, every byte that was announced: an
    /// HTTP/2 upstream may say later than that that it is done.
    pub(super) fn is_whole(&self) -> bool {
        self.length == Some(self.response_bytes)
    }

    pub(super) fn answered_here(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.flags = self.flags.with(Flags::GATEWAY_MADE);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Cut off with its task (at the end of a drain, by a panic): pingora's last phase never
        // ran.
        if self.admission.is_some()
            && let Some(edge) = self.shard.edge()
        {
            self.finish(&edge, true);
        }
        self.leave_open();
        self.shard.in_flight.fetch_sub(1, Ordering::Release);
    }
}

/// The length that frames the answer (RFC 9112, section 6.3): none beside a transfer coding.
fn announced_length(response: &ResponseHeader) -> Option<u64> {
    let length = response.headers.get(CONTENT_LENGTH)?;
    if response.headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    length.to_str().ok()?.parse().ok()
}

fn is_event_stream(response: &ResponseHeader) -> bool {
    let kind = response.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let start = kind.and_then(|kind| kind.get(..EVENT_STREAM.len()));
    start.is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
}
