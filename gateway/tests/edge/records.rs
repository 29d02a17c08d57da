//! M1: when a client has seen the end of an answer, its event is in the journal.

use http::StatusCode;
use tokio::io::AsyncWriteExt;

use crate::harness::{Bench, read_until};

#[tokio::test]
async fn m1_every_kind_of_answer_is_recorded_before_its_end_is_seen() {
    let bench = Bench::new("").await;
    let mut expected = 0;
    for round in 0..50 {
        for path in ["/fixed", "/chunked", "/204", "/304", "/empty", "/500", "/own-limits"] {
            bench.get(path).await;
            expected += 1;
            assert_eq!(bench.events(), expected, "{path} in round {round}");
        }
        bench.send("HEAD", "/fixed", |_| {}).await;
        expected += 1;
        assert_eq!(bench.events(), expected, "HEAD in round {round}");
    }
}

#[tokio::test]
async fn m1_answers_the_gateway_makes_for_an_upstream_are_recorded_too() {
    let bench = Bench::with("", |_| {}).await;
    let key = bench.key.reveal().to_owned();
    let mut stream =
        bench.raw(&format!("GET /never HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n")).await;
    let answer = read_until(&mut stream, "upstream-timeout").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert_eq!(bench.events(), 1);
}

#[tokio::test]
async fn refusals_are_not_one_event_each() {
    let bench = Bench::new(r#"{ name = "requests", rate = 1, per = "day", burst = 1 }"#).await;
    for _ in 0..100 {
        bench.get("/").await;
    }
    assert_eq!(bench.events(), 1, "the one that was admitted");
    bench.edge.refusals.flush(i64::MAX).unwrap();
    let groups = bench.events() - 1;
    assert!((1..=10).contains(&groups), "{groups} events for 99 refusals of a few seconds");
}

#[tokio::test]
async fn a_client_that_goes_away_has_one_event_as_well() {
    let bench = Bench::new("").await;
    for _ in 0..20 {
        let text = "GET /chunked HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
        let mut stream = bench.raw(text).await;
        read_until(&mut stream, "HTTP/1.1 200").await;
        stream.shutdown().await.unwrap();
        drop(stream);
    }
    // Its end is seen by nobody, so it may come a little later; it must come exactly once.
    while bench.events() < 20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    assert_eq!(bench.events(), 21);
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_recorded_once_and_shown_as_broken() {
    let bench = Bench::new("").await;
    let mut stream = bench.raw("GET /cut HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n").await;
    let answer = read_until(&mut stream, "\r\n0\r\n\r\n").await;
    assert!(!answer.contains("\r\n0\r\n\r\n"), "a broken answer must not look whole");
    while bench.events() < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    assert_eq!(bench.events(), 2);
}
