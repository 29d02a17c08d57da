//! The proxy: what happens to a request in each of pingora's phases.
//!
//! identify -> route -> admit ([`intake`]) -> forward -> record ([`exchange`]). A refusal is
//! answered by [`refusal`]. The event of an admitted request is in the journal before the client
//! can have seen the end of its answer (**M1**): an answer without a body is recorded as its
//! header leaves, one with a body as its last piece or its trailers leave, one the gateway makes
//! itself before it is written. What never got that far is recorded when the request is over, as
//! aborted. What goes on for long is recorded while it does ([`record`]).

mod client;
pub mod exchange;
mod failure;
pub mod fields;
pub mod intake;
pub(crate) mod measure;
mod members;
pub mod metrics;
pub mod open;
mod own;
pub mod problem;
pub mod record;
pub mod refusal;
pub mod trace;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use orbit_meter::journal::Journal;
use orbit_meter::refusals::Refusals;
use orbit_policy::{Nanos, Policy, Snapshot};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::alerts::refusals::RefusalCounts;
use crate::clock::Clock;
use crate::settings::{Cidr, LimitSettings, OnFull};
use crate::tenant_api::TenantApi;
use crate::upstreams::{Pool, Pools};
use exchange::{Ending, Exchange};
use intake::Intake;

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
    /// Refusals of each tenant, for alerts.
    pub refusal_counts: Arc<RefusalCounts>,
    /// The upstream pools.
    pub pools: Arc<Pools>,
    /// What tenants may ask about themselves.
    pub tenant_api: Arc<TenantApi>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// What the proxy's threads count.
    pub metrics: Arc<metrics::Metrics>,
    /// How long an answer may take before it is recorded while it goes on:
    /// [`record::LONG_ANSWER`], and less only where a test cannot wait.
    pub long_answer: Nanos,
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
            Intake::Own => own::answer(edge, session, ctx).await.map(|()| true),
            Intake::Denied(denial) => {
                let problem = refusal::count(edge, ctx, &denial);
                ctx.leave_open();
                // A body that comes with a refused request is not read, however long it is.
                let keep = session.is_body_empty();
                problem.send(session, &ctx.id, keep).await?;
                Ok(true)
            }
            Intake::Unfit(problem, reason) => {
                refusal::count_unfit(edge, ctx, reason, problem.status());
                ctx.leave_open();
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
        ctx.request_ended = false;
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
        ctx.request_ended = end;
        let Some(piece) = body else { return Ok(()) };
        let request_bytes = ctx.request_bytes + piece.len() as u64;
        // A WebSocket has no body in this sense: what flows after the upgrade is not bounded.
        if !session.was_upgraded() {
            if request_bytes > self.0.limits.max_body_bytes {
                (ctx.request_bytes, ctx.too_large) = (request_bytes, true);
                return Error::e_explain(ErrorType::HTTPStatus(413), "the body is over the limit");
            }
            if ctx.has_no_room(request_bytes) {
                return Error::e_explain(ErrorType::HTTPStatus(429), "a quota has no room for it");
            }
        }
        ctx.request_bytes = request_bytes;
        ctx.request_flows(&self.0);
        // An HTTP/2 client may end with an empty DATA frame; passed on as it is, it would end an
        // HTTP/1 body twice and spoil the connection for the next request (pingora #935).
        if end && piece.is_empty() {
            *body = None;
        }
        Ok(())
    }

    /// Called with every header of an upstream just before [`ProxyHttp::response_filter`], and the
    /// only one that is told whether the header ends the answer. Written out, and not `async`, so
    /// that what it returns takes no memory: it is done when it returns.
    fn adjust_upstream_modules<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        _session: &'life1 mut Session,
        _response: &'life2 ResponseHeader,
        end: bool,
        ctx: &'life3 mut Exchange,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        ctx.header_ends = end;
        Box::pin(Done)
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
            if !session.is_upgrade_req() {
                let error = Error::explain(ErrorType::InvalidHTTPHeader, "101 without an upgrade");
                return Err(error.into_up());
            }
            // A WebSocket may be silent as long as it likes.
            session.set_read_timeout(None);
        }
        let ending = ctx.upstream_answered(&self.0, response);
        ctx.measure_answer(response);
        if let Some(admission) = &ctx.admission {
            let ready = &equipment(admission.permit.snapshot()).policy_fields;
            fields::add(response, admission, ready)?;
        }
        response.insert_header("X-Request-Id", ctx.id.hex().as_slice())?;
        match ending {
            Ending::Header => ctx.end(&self.0, is_arriving(session, ctx)),
            Ending::Never => ctx.begin(&self.0),
            Ending::Body => {}
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Exchange,
    ) -> Result<Option<Duration>> {
        let bytes = body.as_ref().map_or(0, |piece| piece.len() as u64);
        ctx.response_bytes += bytes;
        if end || ctx.is_whole() {
            ctx.end(&self.0, is_arriving(session, ctx));
        } else if bytes > 0 {
            ctx.keep_up(&self.0);
        }
        Ok(None)
    }

    /// The end of an HTTP/2 upstream's answer, where it has trailers (gRPC).
    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Exchange,
    ) -> Result<Option<Bytes>> {
        ctx.end(&self.0, is_arriving(session, ctx));
        Ok(None)
    }

    /// Whatever its method: nothing of the request has been sent.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.tries += 1;
        let retries = ctx.pool().map_or(0, |pool| pool.retries());
        error.set_retry(ctx.tries <= retries);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Exchange,
    ) -> FailToProxy {
        let edge = &*self.0;
        let Some(problem) = failure::answer(error, ctx) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let code = problem.status().as_u16();
        refusal::count_no_room(edge, ctx);
        if !is_answered(session) {
            ctx.answered_here(problem.status());
            ctx.end(edge, false);
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

/// Ready, and of no size: boxing it allocates nothing.
struct Done;

impl Future for Done {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether more of the request's body may come.
fn is_arriving(session: &mut Session, ctx: &Exchange) -> bool {
    !ctx.request_ended && !session.is_body_done()
}

/// Whether an answer has begun; an informational one is none.
fn is_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|written| {
        !written.status.is_informational() || written.status == StatusCode::SWITCHING_PROTOCOLS
    })
}
