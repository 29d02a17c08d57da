//! The proxy: what happens to a request in each of pingora's phases.
//!
//! identify -> route -> admit ([`intake`]) -> forward -> record ([`exchange`]). A refusal is
//! answered by [`refusal`]. The event of an admitted request is in the journal before the client
//! can have seen the end of its answer (**M1**): an answer without a body is recorded as its
//! header leaves, one with a body as its last piece leaves, one the gateway makes itself before
//! it is written. What never got that far is recorded when the request is over, as aborted.

pub mod exchange;
pub mod fields;
pub mod intake;
pub mod metrics;
pub mod problem;
pub mod refusal;
pub mod trace;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use orbit_meter::journal::Journal;
use orbit_meter::refusals::Refusals;
use orbit_policy::{Policy, Snapshot};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::clock::Clock;
use crate::settings::{Cidr, LimitSettings, OnFull};
use crate::upstreams::{Pool, Pools};
use exchange::Exchange;
use intake::Intake;
use problem::Problem;

/// What the proxy works with; shared by all its threads.
pub struct Edge {
    /// What one client may send, and how slowly.
    pub limits: LimitSettings,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// What happens while the journal has no room.
    pub on_full: OnFull,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Where events go.
    pub journal: Arc<Journal>,
    /// Where refusals are counted.
    pub refusals: Arc<Refusals>,
    /// The upstream pools.
    pub pools: Arc<Pools>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Handles of the proxy's metrics.
    pub metrics: metrics::Metrics,
    /// Set when the proxy is to end: connections are not kept for another request.
    pub draining: AtomicBool,
}

/// What the proxy keeps beside each policy snapshot.
pub struct Equipment {
    pools: Vec<Arc<Pool>>,
    policy_fields: Vec<http::HeaderValue>,
}

impl Equipment {
    /// For a snapshot that is about to come into force.
    pub fn of(snapshot: &Snapshot, pools: &Pools) -> Equipment {
        Equipment { pools: pools.of(snapshot), policy_fields: fields::policy_values(snapshot) }
    }
}

fn equipment(snapshot: &Snapshot) -> &Equipment {
    snapshot.equipment().expect("the policy was equipped before the proxy was started")
}

/// The proxy as pingora sees it.
pub struct Proxy(pub Arc<Edge>);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::start(&self.0)
    }

    /// No modules: an answer is passed on as the upstream encoded it.
    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Exchange) -> Result<()> {
        crate::server::header_has_been_read();
        let limits = &self.0.limits;
        let body_timeout = Some(Duration::from_millis(limits.body_timeout_ms));
        session.set_read_timeout(body_timeout);
        session.set_write_timeout(body_timeout);
        if !session.is_http2() && !self.0.draining.load(Ordering::Relaxed) {
            // Without a timer of pingora's: `server` bounds the wait for the next request.
            session.set_keepalive(Some(0));
        }
        ctx.arrived(session);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Exchange) -> Result<bool> {
        let edge = &*self.0;
        match intake::take_in(edge, session, ctx) {
            Intake::Admitted => Ok(false),
            Intake::Denied(denial) => {
                let problem = refusal::count(edge, ctx, &denial);
                // A body that comes with a refused request is not read, however long it is.
                let keep = session.is_body_empty();
                problem.send(session, &ctx.id, keep).await?;
                Ok(true)
            }
            Intake::Unfit(problem, reason) => {
                refusal::count_unfit(edge, ctx, reason, problem.status());
                problem.send(session, &ctx.id, false).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        ctx: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        // A retried request's body passes the filters again.
        ctx.request_bytes = 0;
        let peer = ctx.pool().and_then(|pool| pool.pick());
        let no_peer = || Error::explain(ErrorType::ConnectNoRoute, "no server has an address");
        Ok(Box::new(peer.ok_or_else(no_peer)?.clone()))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        intake::prepare_upstream(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Exchange,
    ) -> Result<()> {
        let Some(piece) = body else { return Ok(()) };
        ctx.request_bytes += piece.len() as u64;
        // A WebSocket has no body in this sense: what flows after the upgrade is not bounded.
        if ctx.request_bytes > self.0.limits.max_body_bytes && !session.was_upgraded() {
            ctx.too_large = true;
            return Error::e_explain(ErrorType::HTTPStatus(413), "the body is over the limit");
        }
        // An HTTP/2 client may end with an empty DATA frame; passed on as it is, it would end an
        // HTTP/1 body twice and spoil the connection for the next request (pingora #935).
        if end && piece.is_empty() {
            *body = None;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        let informational = response.status.is_informational()
            && response.status != StatusCode::SWITCHING_PROTOCOLS;
        if informational {
            return Ok(());
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // A WebSocket may be silent as long as it likes.
            session.set_read_timeout(None);
        }
        ctx.upstream_answered(&self.0, response);
        if let Some(admission) = &ctx.admission {
            let ready = &equipment(admission.permit.snapshot()).policy_fields;
            fields::add(response, admission, ready)?;
        }
        response.insert_header("X-Request-Id", ctx.id.hex().as_slice())?;
        if exchange::has_no_body(&session.req_header().method, response) {
            ctx.record(&self.0);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Exchange,
    ) -> Result<Option<Duration>> {
        ctx.response_bytes += body.as_ref().map_or(0, |piece| piece.len() as u64);
        if end {
            ctx.record(&self.0);
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.tries += 1;
        let retries = ctx.pool().map_or(0, |pool| pool.retries());
        let again = ctx.tries <= retries && session.req_header().method.is_idempotent();
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Exchange,
    ) -> FailToProxy {
        let edge = &*self.0;
        let Some(problem) = failure(error, ctx) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let code = problem.status().as_u16();
        if !is_answered(session) {
            ctx.answered_here(problem.status());
            ctx.record(edge);
            if let Err(error) = problem.send(session, &ctx.id, false).await {
                tracing::debug!(%error, "the client went away before the error answer");
            }
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Exchange, error: &Error) -> bool {
        // Clients that go away are their own affair, and upstream failures are answered, counted
        // and recorded; a line for each would let anybody flood the log.
        tracing::debug!(%error, "a request failed");
        true
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, ctx: &mut Exchange) {
        ctx.finish(&self.0, error.is_some());
    }
}

/// The answer to a request that could not be forwarded; `None`: nobody is there to read it.
fn failure(error: &Error, ctx: &Exchange) -> Option<Problem> {
    use ErrorType::{ConnectTimedout, HTTPStatus, ReadTimedout, WriteTimedout};
    let timed_out = matches!(error.etype(), ConnectTimedout | ReadTimedout | WriteTimedout);
    let problem = match (error.etype(), error.esource()) {
        _ if ctx.too_large => intake::body_too_large(),
        (HTTPStatus(code), _) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_GATEWAY);
            Problem::new(status, "not-forwarded", "The request could not be forwarded.")
        }
        (_, ErrorSource::Upstream) if timed_out => {
            let detail = "The upstream did not answer in time.";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream-timeout", detail)
        }
        (_, ErrorSource::Downstream) if timed_out => {
            let detail = "The request did not arrive in time.";
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
        }
        (
            ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed,
            ErrorSource::Downstream,
        ) => return None,
        (_, ErrorSource::Downstream) => {
            let detail = "The request is not valid HTTP.";
            Problem::new(StatusCode::BAD_REQUEST, "bad-request", detail)
        }
        (_, ErrorSource::Upstream) => {
            let detail = "The upstream could not be reached or gave no valid answer.";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream-failed", detail)
        }
        (ErrorType::ConnectNoRoute, _) => {
            let detail = "No server of the upstream is known.";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream-failed", detail)
        }
        _ => {
            let detail = "The gateway failed to serve the request.";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        }
    };
    Some(problem)
}

/// `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1` or `[2001:db8::1]:5678`.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    hop.parse().ok().or_else(with_port).or_else(bracketed)
}

/// Whether an answer has begun; an informational one is none.
fn is_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|written| {
        !written.status.is_informational() || written.status == StatusCode::SWITCHING_PROTOCOLS
    })
}

/// The address of the client: the connection's, or behind trusted proxies the nearest one in
/// `X-Forwarded-For` that is not theirs.
fn client_address(session: &Session, trusted: &[Cidr]) -> IpAddr {
    let peer =
        session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip);
    let peer = peer.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if trusted.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let lines: Vec<_> = session.req_header().headers.get_all("x-forwarded-for").iter().collect();
    let mut nearest = peer;
    for hop in lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        // Beyond what cannot be read nothing can be believed: the client may have written it.
        let Some(address) = hop_address(hop) else { break };
        nearest = address;
        if !is_trusted(address) {
            break;
        }
    }
    nearest
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
        self.shard.in_flight.fetch_sub(1, Ordering::Release);
    }
}
