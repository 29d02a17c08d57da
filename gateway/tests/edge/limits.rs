//! Limits and reloads under real traffic (P1, P3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;

use crate::harness::{Bench, policy_text, read_until, sources};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_sixteen_clients_at_once_get_the_burst_and_no_more() {
    let bench =
        Arc::new(Bench::new(r#"{ name = "requests", rate = 1, per = "day", burst = 100 }"#).await);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let mut admitted = 0;
                for _ in 0..20 {
                    admitted += u32::from(bench.get("/").await.0 == StatusCode::OK);
                }
                admitted
            })
        })
        .collect();
    let mut admitted = 0;
    for client in clients {
        admitted += client.await.unwrap();
    }
    assert_eq!(admitted, 100);
}

#[tokio::test]
async fn a_concurrency_limit_is_given_back_when_the_answer_ends() {
    let bench = Bench::new(r#"{ name = "parallel", concurrent = 1 }"#).await;
    for _ in 0..10 {
        assert_eq!(bench.get("/chunked").await.0, StatusCode::OK);
    }
    let text = "GET /never HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
    let waiting = bench.raw(text).await;
    while bench.seen.lock().unwrap().len() < 11 {
        tokio::task::yield_now().await;
    }
    let (status, _, body) = bench.get("/").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(String::from_utf8_lossy(&body).contains("team/parallel"));
    drop(waiting);
    while bench.get("/").await.0 != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_two_hundred_reloads_under_traffic_fail_no_request_and_forgive_nothing() {
    let slow = |burst: u32| {
        format!(
            r#"{{ name = "slow", rate = 1, per = "day", burst = {burst}, routes = ["only-get"] }}"#
        )
    };
    let bench = Arc::new(Bench::new(&slow(5)).await);
    let spend = |bench: Arc<Bench>| async move {
        let host = |r: &mut http::Request<_>| {
            r.headers_mut().insert("host", "get.example.com".parse().unwrap());
        };
        bench.send("GET", "/x", host).await.0
    };
    for _ in 0..4 {
        assert_eq!(spend(Arc::clone(&bench)).await, StatusCode::OK);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn({
        let (bench, stop) = (Arc::clone(&bench), Arc::clone(&stop));
        async move {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(bench.get("/").await.0, StatusCode::OK);
                served += 1;
            }
            served
        }
    });
    for round in 0..200 {
        let text = policy_text(bench.upstream, &bench.key, &slow(5 + round % 2));
        bench.policy.apply(&sources(text), || bench.edge.clock.read()).unwrap();
        tokio::task::yield_now().await;
    }
    let after = [spend(Arc::clone(&bench)).await, spend(Arc::clone(&bench)).await];
    assert_eq!(after, [StatusCode::OK, StatusCode::OK], "burst 6, 4 of them were spent");
    assert_eq!(spend(Arc::clone(&bench)).await, StatusCode::TOO_MANY_REQUESTS);
    stop.store(true, Ordering::Relaxed);
    assert!(traffic.await.unwrap() > 0);
}

#[tokio::test]
async fn per_client_limits_follow_trusted_proxies_only() {
    let limit = r#"{ name = "address", rate = 1, per = "day", burst = 1, each = "client_ip" }"#;
    let trusting = Bench::with(limit, |server| {
        server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let ask = |bench: &Bench, client: &'static str| {
        let text = format!(
            "GET / HTTP/1.1\nHost: x\nX-Api-Key: {{key}}\nX-Forwarded-For: {client}\nConnection: close\n\n"
        );
        let raw = bench.address;
        let text = text.replace("{key}", bench.key.reveal()).replace('\n', "\r\n");
        async move {
            let mut stream = tokio::net::TcpStream::connect(raw).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await[9..12].to_owned()
        }
    };
    assert_eq!(ask(&trusting, "10.0.0.1").await, "200");
    assert_eq!(ask(&trusting, "10.0.0.2").await, "200");
    assert_eq!(ask(&trusting, "10.0.0.1").await, "429");
    assert_eq!(
        ask(&trusting, "10.0.0.3, 127.0.0.9").await,
        "200",
        "the proxy's own hop is skipped"
    );
    let wary = Bench::new(limit).await;
    assert_eq!(ask(&wary, "10.0.0.1").await, "200");
    assert_eq!(ask(&wary, "10.0.0.2").await, "429", "a stranger's field says nothing");
}
