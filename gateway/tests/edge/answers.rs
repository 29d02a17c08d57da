//! What a client and an upstream see of an exchange.

use http::StatusCode;
use serde_json::Value;

use crate::harness::Bench;

fn problem(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn an_admitted_request_carries_limits_out_and_identity_in() {
    let bench = Bench::new(r#"{ name = "requests", rate = 10, per = "minute", burst = 5 }"#).await;
    let (status, headers, body) = bench
        .send("GET", "/contacts", |request| {
            let headers = request.headers_mut();
            headers.insert("x-orbit-tenant", "forged".parse().unwrap());
            headers.insert("x-orbit-anything", "forged".parse().unwrap());
            headers.insert("x_orbit_tenant", "forged".parse().unwrap());
            headers.insert("x_request-id", "forged".parse().unwrap());
            headers.insert("x-api-key", "orb_live_not_this_one".parse().unwrap());
            headers.insert("x-request-id", "forged".parse().unwrap());
            headers.insert("tracestate", "forged=1".parse().unwrap());
        })
        .await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"hello"[..]));
    assert_eq!(headers["ratelimit"], "\"team/requests\";r=4;t=6");
    assert_eq!(
        headers["ratelimit-policy"],
        "\"team/requests\";q=5;w=30, \"plan/requests\";q=100000;w=1"
    );
    let seen = bench.seen.lock().unwrap();
    let (_, _, sent) = &seen[0];
    assert_eq!(sent["x-orbit-tenant"], "acme-web");
    assert_eq!(sent["x-orbit-plan"], "business");
    assert_eq!(sent["x-request-id"], headers["x-request-id"]);
    assert_eq!(sent["x-request-id"].len(), 32);
    assert_eq!(sent["traceparent"].len(), 55);
    for stripped in [
        "authorization",
        "x-api-key",
        "x-orbit-anything",
        "x_orbit_tenant",
        "x_request-id",
        "tracestate",
    ] {
        assert!(!sent.contains_key(stripped), "{stripped} went to the upstream");
    }
}

#[tokio::test]
async fn a_trace_is_continued_and_a_foreign_token_is_passed_on() {
    let bench = Bench::new("").await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let key = bench.key.reveal().to_owned();
    bench
        .send("GET", "/", |request| {
            let headers = request.headers_mut();
            headers.insert("authorization", "Bearer somebody-elses".parse().unwrap());
            headers.insert("x-api-key", key.parse().unwrap());
            headers.insert("traceparent", trace.parse().unwrap());
            headers.insert("tracestate", "a=1".parse().unwrap());
        })
        .await;
    let seen = bench.seen.lock().unwrap();
    let (_, _, sent) = &seen[0];
    assert_eq!(sent["authorization"], "Bearer somebody-elses");
    assert!(!sent.contains_key("x-api-key"));
    assert_eq!(sent["tracestate"], "a=1");
    let continued = sent["traceparent"].to_str().unwrap();
    assert_eq!(continued[..36], trace[..36]);
    assert_ne!(continued, trace);
}

#[tokio::test]
async fn every_refusal_is_a_problem_that_says_what_to_do() {
    let bench = Bench::new("").await;
    let (status, headers, body) =
        bench.send("GET", "/", |r| drop(r.headers_mut().remove("authorization"))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(headers["www-authenticate"], "Bearer realm=\"orbit\"");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["cache-control"], "no-store");
    let body = problem(&body);
    assert_eq!(body["type"], "urn:orbit:problem:key-missing");
    assert_eq!(body["title"], "Unauthorized");
    assert_eq!(body["status"], 401);
    let id = headers["x-request-id"].to_str().unwrap();
    assert_eq!(body["instance"], format!("urn:orbit:request:{id}"));

    let wrong = |value: &'static str| {
        move |r: &mut http::Request<_>| {
            r.headers_mut().insert("authorization", value.parse().unwrap());
        }
    };
    let (status, headers, body) = bench.send("GET", "/", wrong("Bearer orb_live_x")).await;
    assert_eq!(
        (status, &problem(&body)["type"]),
        (StatusCode::UNAUTHORIZED, &Value::from("urn:orbit:problem:key-malformed"))
    );
    assert!(headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));

    let (status, _, body) = bench.get("/ai/chat").await;
    let body = problem(&body);
    assert_eq!((status, &body["app"]), (StatusCode::FORBIDDEN, &Value::from("ai")));
    assert_eq!(body["granted-by"], serde_json::json!({ "plans": [], "addons": [] }));

    let (status, ..) = bench.get("/a/../b").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let host = |r: &mut http::Request<_>| {
        r.headers_mut().insert("host", "get.example.com".parse().unwrap());
    };
    let (status, ..) = bench.send("GET", "/x", host).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(bench.seen.lock().unwrap().len(), 1, "refusals never reach the upstream");
}

#[tokio::test]
async fn a_429_names_the_level_and_when_to_come_back() {
    let bench = Bench::new(r#"{ name = "requests", rate = 2, per = "minute", burst = 1 }"#).await;
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    let (status, headers, body) = bench.get("/").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(headers["retry-after"], "30");
    assert_eq!(headers["ratelimit"], "\"team/requests\";r=0;t=30");
    let body = problem(&body);
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(body["violated-policies"], Value::from(vec!["team/requests"]));
    assert_eq!(body["level"], "team");
    assert_eq!(body["tenant"], "acme-web");
    let (status, _, body) = bench.send("HEAD", "/", |_| {}).await;
    assert_eq!((status, body.len()), (StatusCode::TOO_MANY_REQUESTS, 0));
}

#[tokio::test]
async fn an_upstreams_own_limits_are_never_loosened() {
    let bench = Bench::new("").await;
    let (status, headers, body) = bench.get("/own-limits").await;
    assert_eq!((status, &*body), (StatusCode::TOO_MANY_REQUESTS, &b"slow down"[..]));
    assert_eq!(headers["retry-after"], "9");
    let all = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("ratelimit"), ["\"theirs\";r=3;t=9", "\"plan/requests\";r=99999;t=1"]);
    assert_eq!(all("ratelimit-policy")[0], "\"theirs\";q=3;w=9");
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    use http_body_util::{BodyExt, Full};
    let bench = Bench::new("").await;
    let long = vec![b'y'; 300_000];
    let body = bytes::Bytes::from(long.clone());
    let (status, _, echoed) =
        bench.send("POST", "/echo", |r| *r.body_mut() = Full::new(body).boxed()).await;
    assert_eq!((status, echoed.len()), (StatusCode::OK, long.len()));
    assert_eq!(echoed, long);
}
