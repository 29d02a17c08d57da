//! What tenants may ask about themselves, with their own keys, on the proxy's own listeners:
//! `/orbit/v1/usage`, `/orbit/v1/limits`, `/orbit/v1/refusals`, and the document that describes
//! them, `/orbit/v1/openapi.json` ([`document`]).
//!
//! Guarantees:
//!
//! - **S1** A key sees its tenant and what is below it. Any other tenant is answered like one that
//!   does not exist. Of what stands above it and holds it, a limit or a quota, a key sees the name
//!   and the level (`holding/requests`), how much is allowed and how much is left: that much the
//!   `RateLimit` fields of every answer must say. It never sees whose it is, and of what others
//!   used no more than follows from what is left. The same rule holds for every answer of the
//!   gateway to a tenant: here, in header fields, and in refusals
//!   ([`proxy::refusal`](crate::proxy)). Operators, by the admin API, see everything.
//! - Nothing is taken from a limit and nothing is metered; but one key can ask ten times a second
//!   only (`brake`), and the database is asked a few questions at a time, each for a few seconds,
//!   and fewer for each root of the tree (`desk`).
//! - Parameters are read strictly, and every error is a problem as the proxy's.
//! - A tenant that is not served may still ask why.

mod brake;
mod cursor;
mod desk;
pub mod document;
mod limits;
mod parameters;
mod quotas;
mod refusals;
mod span;
mod usage;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use metrics::counter;
use orbit_meter::clickhouse::Store;
use orbit_policy::snapshot::{Caller, Tenant};
use orbit_policy::{Policy, Snapshot};
use serde::Serialize;

use crate::clock::Reading;
use crate::proxy::problem::{Problem, QUOTA_EXCEEDED, REDUCED_CAPACITY};
use crate::proxy::refusal;
use brake::Brake;
use desk::{Desk, Unanswered};
use parameters::Parameters;

/// Below this everything here is.
const BASE: &str = "/orbit/v1/";
/// Seconds after which it is worth asking the database again.
const RETRY_AFTER: &str = "1";

/// What answers the tenants; shared by the proxy's threads.
pub struct TenantApi {
    policy: Arc<Policy>,
    store: Store,
    desk: Desk,
    brake: Brake,
}

/// A request, as far as it matters here.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path.
    pub path: &'a str,
    /// Its query, without the `?`.
    pub query: Option<&'a str>,
    /// The API key it brings.
    pub key: Option<&'a [u8]>,
    /// When it arrived.
    pub at: Reading,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Usage,
    Limits,
    Refusals,
    Document,
}

const ENDPOINTS: [Endpoint; 4] =
    [Endpoint::Usage, Endpoint::Limits, Endpoint::Refusals, Endpoint::Document];

impl Endpoint {
    /// Its path below [`BASE`].
    fn path(self) -> &'static str {
        match self {
            Endpoint::Usage => "usage",
            Endpoint::Limits => "limits",
            Endpoint::Refusals => "refusals",
            Endpoint::Document => "openapi.json",
        }
    }

    /// The parameters it understands.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Endpoint::Usage => &["tenant", "from", "to", "per", "by", "limit", "cursor"],
            Endpoint::Limits => &["tenant"],
            Endpoint::Refusals => &["tenant", "from", "to", "per", "limit", "cursor"],
            Endpoint::Document => &[],
        }
    }

    fn of(path: &str) -> Option<Endpoint> {
        let name = path.strip_prefix(BASE)?;
        ENDPOINTS.into_iter().find(|endpoint| endpoint.path() == name)
    }
}

/// Who asks about whom.
struct View {
    snapshot: Arc<Snapshot>,
    caller: Caller,
    /// The chosen tenant's id: the key's own, or one below it.
    tenant: String,
    at: Reading,
}

impl View {
    /// The key's own tenant.
    fn own(&self) -> &Tenant {
        self.snapshot.tenant_of(self.caller)
    }

    /// The chosen tenant.
    fn chosen(&self) -> &Tenant {
        self.snapshot.tenant(&self.tenant).expect("it was found in this snapshot")
    }

    /// The chosen tenant's path from the key's own on.
    fn path(&self) -> String {
        self.own().relative(&self.chosen().path).unwrap_or_default().to_owned()
    }
}

impl TenantApi {
    /// Answers from `policy`, and with a client of its own from the usage database.
    pub fn start(policy: Arc<Policy>, store: Store) -> io::Result<TenantApi> {
        metrics::describe_counter!(
            "orbit_tenant_api_requests_total",
            "Requests of tenants about themselves, by what they asked for and how it ended"
        );
        Ok(TenantApi { policy, store, desk: Desk::start()?, brake: Brake::default() })
    }

    /// The JSON answer to a request below `/orbit`, or why there is none.
    pub async fn answer(&self, asked: &Asked<'_>) -> Result<Bytes, Box<Problem>> {
        let endpoint = Endpoint::of(asked.path);
        let answer = self.find(endpoint, asked).await;
        let status = answer.as_ref().map_or_else(|problem| problem.status(), |_| StatusCode::OK);
        let endpoint = endpoint.map_or("none", Endpoint::path);
        let status = status.as_str().to_owned();
        counter!("orbit_tenant_api_requests_total", "endpoint" => endpoint, "status" => status)
            .increment(1);
        answer
    }

    async fn find(
        &self,
        endpoint: Option<Endpoint>,
        asked: &Asked<'_>,
    ) -> Result<Bytes, Box<Problem>> {
        if endpoint == Some(Endpoint::Document) {
            check_method(asked.method)?;
            Parameters::read(asked.query, &[])?;
            return Ok(Bytes::from_static(document::TEXT.as_bytes()));
        }
        let snapshot = self.policy.load();
        let caller =
            snapshot.identify(asked.key).map_err(|why| Box::new(refusal::unauthorized(why)))?;
        self.slow_down(snapshot.key_id_of(caller), asked.at)?;
        let endpoint = endpoint.ok_or_else(|| {
            let detail = format!("Nothing is at this path; see {BASE}openapi.json.");
            Box::new(Problem::new(StatusCode::NOT_FOUND, "not-found", detail))
        })?;
        check_method(asked.method)?;
        let parameters = Parameters::read(asked.query, endpoint.parameters())?;
        let own = snapshot.tenant_of(caller);
        let chosen = match parameters.get("tenant") {
            Some(id) => snapshot.within(own, id).ok_or_else(no_tenant)?,
            None => own,
        };
        let tenant = chosen.id.to_string();
        let view = View { snapshot, caller, tenant, at: asked.at };
        match endpoint {
            Endpoint::Usage => self.usage(view, &parameters).await,
            Endpoint::Limits => Ok(limits::answer(&view)),
            Endpoint::Refusals => self.refusals(view, &parameters).await,
            Endpoint::Document => unreachable!("it was answered without a key"),
        }
    }

    fn slow_down(&self, key_id: &str, at: Reading) -> Result<(), Box<Problem>> {
        self.brake.take(key_id, at.mono).map_err(|seconds| {
            let detail = format!("A key may ask ten times a second; again in {seconds} s.");
            let problem = Problem::of_type(StatusCode::TOO_MANY_REQUESTS, QUOTA_EXCEEDED, detail);
            Box::new(problem.header("Retry-After", seconds.to_string()))
        })
    }
}

fn check_method(method: &str) -> Result<(), Box<Problem>> {
    if matches!(method, "GET" | "HEAD") {
        return Ok(());
    }
    let detail = "This can be read only: GET or HEAD.";
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
    Err(Box::new(problem.header("Allow", "GET, HEAD")))
}

/// The one answer for every tenant that a key does not see, whether it exists or not.
fn no_tenant() -> Box<Problem> {
    let detail = "No tenant with this id is the key's own or below it.";
    Box::new(Problem::new(StatusCode::NOT_FOUND, "tenant-not-found", detail))
}

/// Why the database gave no answer, without its own words: they may name what is not the tenant's.
fn unanswered(error: &Unanswered) -> Box<Problem> {
    let detail = match error {
        Unanswered::Busy => "Too many questions are being answered; ask again.",
        Unanswered::Late => "The usage database did not answer in time; ask again, or for less.",
        Unanswered::Store(_) | Unanswered::Stopping => {
            "The usage database does not answer at the moment."
        }
    };
    tracing::debug!(error = error as &dyn std::error::Error, "a tenant's question had no answer");
    let problem = Problem::of_type(StatusCode::SERVICE_UNAVAILABLE, REDUCED_CAPACITY, detail);
    Box::new(problem.header("Retry-After", RETRY_AFTER))
}

fn json(answer: &impl Serialize) -> Bytes {
    serde_json::to_vec(answer).expect("texts and numbers are always JSON").into()
}
