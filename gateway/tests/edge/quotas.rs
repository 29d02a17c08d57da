//! Quotas on the wire: what a client is told before, at and beyond the limit (P1, P3).

use http::StatusCode;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use orbit_policy::ApiKey;
use serde_json::{Value, json};

use crate::harness::{Bench, policy_text, sources, upstream};

const ZONE: &str = "America/Sao_Paulo";

fn with_quotas(text: &str, quotas: &str) -> String {
    text.replace("limits = []", &format!("zone = \"{ZONE}\"\nquotas = [{quotas}]"))
}

/// An edge with quotas at the team `acme-web`.
async fn bench(quotas: &str) -> Bench {
    let (upstream, seen) = upstream().await;
    let key = ApiKey::generate("test").unwrap();
    let text = with_quotas(&policy_text(upstream, &key, ""), quotas);
    Bench::of_policy(text, key, upstream, seen, |_| {})
}

/// The first instant of the next year in the zone.
fn next_year(now_us: i64) -> Timestamp {
    let zone = TimeZone::get(ZONE).unwrap();
    let now = Timestamp::from_microsecond(now_us).unwrap();
    let year = zone.to_datetime(now).year() + 1;
    jiff::civil::date(year, 1, 1).to_zoned(zone).unwrap().timestamp()
}

#[tokio::test]
async fn p1_a_used_up_quota_says_what_is_used_and_when_it_starts_anew() {
    let quota = r#"{ name = "api-calls", meter = "api_calls", limit = 2, per = "year" }"#;
    let bench = bench(quota).await;
    let before_us = bench.edge.clock.unix_us();
    let policy = "\"team/api-calls\";q=2;w=31536000, \"plan/requests\";q=100000;w=1";
    for left in [1, 0] {
        let (status, headers, _) = bench.get("/").await;
        assert_eq!(status, StatusCode::OK);
        let limit = headers["ratelimit"].to_str().unwrap();
        assert!(limit.starts_with(&format!("\"team/api-calls\";r={left};t=")), "{limit}");
        assert_eq!(headers["ratelimit-policy"], policy);
    }
    let (status, headers, body) = bench.get("/").await;
    let after_us = bench.edge.clock.unix_us();
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let resets_at = next_year(before_us);
    let told = format!("{resets_at:.3}");
    let seconds = |now_us: i64| (resets_at.as_microsecond() - now_us).div_euclid(1_000_000) + 1;
    let retry_s: i64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((seconds(after_us)..=seconds(before_us)).contains(&retry_s), "{retry_s}");
    assert_eq!(headers["ratelimit"], format!("\"team/api-calls\";r=0;t={retry_s}"));
    assert_eq!(headers["ratelimit-policy"], policy);
    let mut problem: Value = serde_json::from_slice(&body).unwrap();
    problem.as_object_mut().unwrap().remove("instance").unwrap();
    assert_eq!(
        problem,
        json!({
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Too Many Requests",
            "status": 429,
            "detail": format!(
                "`team/api-calls` of team `acme-web` is used up: 2 of 2 api_calls in this year. It starts anew at {told}."
            ),
            "quota": "team/api-calls",
            "meter": "api_calls",
            "level": "team",
            "tenant": "acme-web",
            "used": 2,
            "limit": 2,
            "period": "year",
            "resets-at": told,
            "violated-policies": ["team/api-calls"],
        })
    );
    assert_eq!(bench.seen.lock().unwrap().len(), 2, "nothing went to the upstream");
}

#[tokio::test]
async fn beyond_the_limit_a_client_is_billed_or_throttled() {
    let billed = r#"{ name = "billed", meter = "api_calls", limit = 1, per = "year", at_limit = "allow_and_bill" }"#;
    let throttled = r#"{ name = "slow", meter = "api_calls", limit = 2, per = "year", at_limit = "throttle_to", throttle = { rate = 1, per = "day", burst = 1 } }"#;
    let bench = bench(&format!("{billed}, {throttled}")).await;
    for _ in 0..3 {
        assert_eq!(bench.get("/").await.0, StatusCode::OK);
    }
    let (status, headers, body) = bench.get("/").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let limit = headers["ratelimit"].to_str().unwrap();
    assert!(limit.starts_with("\"team/slow\";r=0;t=86"), "a token of the throttle: {limit}");
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["limit"], "team/slow");
    let snapshot = bench.policy.load();
    let quotas = snapshot.quotas_of("acme-web", bench.edge.clock.unix_us()).unwrap();
    let seen: Vec<_> = quotas.iter().map(|quota| (quota.name, quota.overage())).collect();
    assert_eq!(seen, [("billed", 2), ("slow", 1)]);
}

#[tokio::test]
async fn what_costs_more_than_a_throttle_ever_has_is_told_its_burst() {
    let (upstream, seen) = upstream().await;
    let key = ApiKey::generate("test").unwrap();
    let throttled = r#"{ name = "slow", meter = "api_calls", limit = 1, per = "year", at_limit = "throttle_to", throttle = { rate = 1, per = "day", burst = 3 } }"#;
    let text = with_quotas(&policy_text(upstream, &key, ""), throttled);
    let dear = "[[route]]\nid = \"dear\"\npath = \"/dear\"\napp = \"crm\"\nupstream = \"apps\"\ncost = 4\n";
    let bench = Bench::of_policy(format!("{text}\n{dear}"), key, upstream, seen, |_| {});
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    let (status, headers, body) = bench.get("/dear").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(!headers.contains_key("retry-after"), "it never has as much");
    let problem: Value = serde_json::from_slice(&body).unwrap();
    let detail =
        "The request costs more than the burst of 3 that `team/slow` of team `acme-web` allows.";
    assert_eq!(problem["detail"], detail);
}

#[tokio::test]
async fn p3_a_reload_under_a_used_up_quota_forgives_nothing() {
    let quota = |limit: u32, per: &str| {
        format!(r#"{{ name = "calls", meter = "api_calls", limit = {limit}, per = "{per}" }}"#)
    };
    let bench = bench(&quota(1, "year")).await;
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    for (limit, per, status) in [
        (1, "year", StatusCode::TOO_MANY_REQUESTS),
        (2, "year", StatusCode::OK),
        (2, "month", StatusCode::TOO_MANY_REQUESTS),
        (3, "billing_period", StatusCode::OK),
        (3, "billing_period", StatusCode::TOO_MANY_REQUESTS),
    ] {
        let text = policy_text(bench.upstream, &bench.key, "");
        let text = with_quotas(&text, &quota(limit, per));
        bench.policy.apply(&sources(text), || bench.edge.clock.read()).unwrap();
        assert_eq!(bench.get("/").await.0, status, "{limit} per {per}");
    }
}
