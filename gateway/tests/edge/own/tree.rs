//! The tenants that ask about themselves, and who else there is.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use orbit_policy::ApiKey;
use serde_json::Value;

use crate::harness::{Bench, upstream};

/// acme > { acme-web > shop, stores, gone (suspended), poor (unpaid) }; globex beside it.
pub(super) struct Tree {
    pub(super) bench: Bench,
    pub(super) stores: ApiKey,
    pub(super) gone: ApiKey,
    pub(super) poor: ApiKey,
    pub(super) off: ApiKey,
    /// Of `acme-web` like the bench's.
    pub(super) more: Vec<ApiKey>,
}

impl Tree {
    pub(super) async fn new() -> Tree {
        let (upstream, seen) = upstream().await;
        let [web, stores, gone, poor, off] =
            std::array::from_fn(|_| ApiKey::generate("test").unwrap());
        let mut text = format!(
            r#"
[[plan]]
id = "business"
title = "Business"
users = 200
storage_gb = 500
api_tier = "complete"
support = "12/7"
apps = ["crm"]
limits = [
    {{ name = "requests", rate = 100_000, per = "second" }},
    {{ name = "address", rate = 50, per = "second", each = "client_ip" }},
]
[[app]]
id = "crm"
title = "CRM"
[[app]]
id = "ai"
[[upstream]]
id = "apps"
peers = [{{ address = "{upstream}" }}]
[[route]]
id = "all"
app = "crm"
upstream = "apps"
[[route]]
id = "report"
path = "/report"
app = "crm"
upstream = "apps"
meter = "reports"
[[tenant]]
id = "acme"
plan = "business"
limits = [{{ name = "requests", rate = 60, per = "minute", burst = 90 }}]
quotas = [
    {{ name = "calls", meter = "api_calls", limit = 1_000, per = "year" }},
    {{ name = "reports", meter = "reports", limit = 2, per = "year" }},
]
[[tenant]]
id = "acme-web"
level = "team"
parent = "acme"
limits = [
    {{ name = "requests", rate = 1, per = "day", burst = 50 }},
    {{ name = "parallel", concurrent = 7 }},
]
quotas = [
    {{ name = "calls", meter = "api_calls", limit = 100, per = "year", thresholds = [80], grace = 5 }},
]
[[tenant]]
id = "shop"
level = "project"
parent = "acme-web"
[[tenant]]
id = "stores"
level = "team"
parent = "acme"
[[tenant]]
id = "gone"
parent = "acme"
status = "suspended"
[[tenant]]
id = "poor"
parent = "acme"
status = "unpaid"
[[tenant]]
id = "globex"
plan = "business"
"#
        );
        for (key, tenant, more) in [
            (&web, "acme-web", "limits = [{ name = \"own\", rate = 1, per = \"day\", burst = 9 }]"),
            (&stores, "stores", ""),
            (&gone, "gone", ""),
            (&poor, "poor", ""),
            (&off, "stores", "disabled = true"),
        ] {
            let (id, hash) = (&key.id, &key.hash);
            text += &format!(
                "[[key]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nhash = \"{hash}\"\n{more}\n"
            );
        }
        let more: Vec<ApiKey> = (0..24).map(|_| ApiKey::generate("test").unwrap()).collect();
        for ApiKey { id, hash, .. } in &more {
            text += &format!("[[key]]\nid = \"{id}\"\ntenant = \"acme-web\"\nhash = \"{hash}\"\n");
        }
        let bench = Bench::of_policy(text, web, upstream, seen, |_| {});
        Tree { bench, stores, gone, poor, off, more }
    }

    pub(super) async fn ask(&self, path: &str) -> (StatusCode, HeaderMap, Value) {
        let (status, headers, body) = self.bench.get(&format!("/orbit/v1/{path}")).await;
        (status, headers, json(&body))
    }

    pub(super) async fn ask_as(&self, key: &ApiKey, path: &str) -> (StatusCode, HeaderMap, Value) {
        let (status, headers, body) = self.get_as(key, &format!("/orbit/v1/{path}")).await;
        (status, headers, json(&body))
    }

    /// Any request by a key.
    pub(super) async fn get_as(&self, key: &ApiKey, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        let bearer = format!("Bearer {}", key.reveal());
        let set = |request: &mut Request<BoxBody<Bytes, Infallible>>| {
            request.headers_mut().insert("authorization", bearer.parse().unwrap());
        };
        self.bench.send("GET", path, set).await
    }
}

pub(super) fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

/// A problem without what names this one request.
pub(super) fn anonymous(mut problem: Value) -> Value {
    problem.as_object_mut().unwrap().remove("instance").unwrap();
    problem
}

pub(super) fn limit<'l>(answer: &'l Value, level: &str, name: &str) -> &'l Value {
    let limits = answer["limits"].as_array().unwrap();
    let found = limits.iter().find(|limit| limit["level"] == level && limit["name"] == name);
    found.unwrap_or_else(|| panic!("no {level}/{name} in {answer:#}"))
}
