//! Pools: rotation, weights, retries, and health.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use orbit_policy::ApiKey;

use crate::harness::{Bench, Seen, dead_address, policy_text, read_until, upstream};

fn with_peers(peers: &str, more: &str, seen: Seen) -> Bench {
    let key = ApiKey::generate("test").unwrap();
    let nobody = "127.0.0.1:1".parse().unwrap();
    let text = policy_text(nobody, &key, "").replacen(
        "peers = [{ address = \"127.0.0.1:1\" }]",
        &format!("peers = [{peers}]\n{more}"),
        1,
    );
    Bench::of_policy(text, key, nobody, seen, |_| {})
}

#[tokio::test]
async fn requests_are_spread_by_weight() {
    let (first, first_seen) = upstream().await;
    let (second, second_seen) = upstream().await;
    let peers =
        format!(r#"{{ address = "{first}", weight = 3 }}, {{ address = "{second}", weight = 1 }}"#);
    let bench = with_peers(&peers, "", Seen::default());
    for _ in 0..40 {
        assert_eq!(bench.get("/").await.0, StatusCode::OK);
    }
    let counts = (first_seen.lock().unwrap().len(), second_seen.lock().unwrap().len());
    assert_eq!(counts, (30, 10));
}

#[tokio::test]
async fn a_dead_server_costs_a_retry_whatever_the_method() {
    let (alive, alive_seen) = upstream().await;
    let dead = dead_address().await;
    let peers = format!(r#"{{ address = "{dead}" }}, {{ address = "{alive}" }}"#);
    let bench = with_peers(&peers, "retries = 1", Seen::default());
    for _ in 0..20 {
        assert_eq!(bench.get("/").await.0, StatusCode::OK);
        let with_body = |request: &mut Request<_>| {
            *request.body_mut() = Full::from("hello").boxed();
        };
        assert_eq!(bench.send("POST", "/", with_body).await.0, StatusCode::OK);
    }
    assert_eq!(alive_seen.lock().unwrap().len(), 40, "each came once");
    let sent: u64 = bench.rows().iter().map(|row| row.brief().2).sum();
    assert_eq!((bench.events(), sent), (40, 20 * 5));
}

#[tokio::test]
async fn a_dead_server_that_is_the_last_to_be_tried_is_a_502_with_its_event() {
    let dead = dead_address().await;
    let peers = format!(r#"{{ address = "{dead}" }}"#);
    let bench = with_peers(&peers, "retries = 1", Seen::default());
    for method in ["GET", "POST"] {
        assert_eq!(bench.send(method, "/", |_| {}).await.0, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(bench.events(), 2);
}

#[tokio::test]
async fn an_unhealthy_server_gets_no_requests() {
    let (alive, _) = upstream().await;
    let dead = dead_address().await;
    let peers = format!(r#"{{ address = "{dead}" }}, {{ address = "{alive}" }}"#);
    let health = "retries = 0\nhealth = { path = \"/healthz\", interval_ms = 50, timeout_ms = 500, healthy_after = 1, unhealthy_after = 1 }";
    let bench = with_peers(&peers, health, Seen::default());
    while bench.edge.pools.health().iter().filter(|server| server.healthy).count() != 1 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        assert_eq!(bench.send("POST", "/", |_| {}).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_upstream_nobody_serves_is_a_502_problem() {
    let dead = dead_address().await;
    let bench = with_peers(&format!(r#"{{ address = "{dead}" }}"#), "", Seen::default());
    let mut stream = bench.raw("GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n").await;
    let answer = read_until(&mut stream, "upstream-failed").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("x-request-id: "), "{answer}");
}
