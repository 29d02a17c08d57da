//! Answers that go on for long (M1): counted while they do, and no byte of theirs is lost.

use std::net::SocketAddr;

use http::StatusCode;
use orbit_meter::event::Flags;
use orbit_policy::Nanos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Bench, Row, read_until, scripted, upstream};

const GET: &str = "GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
const UPGRADE: &str = "GET /ws HTTP/1.1\nHost: x\nX-Api-Key: {key}\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Switches protocols and then sends everything back.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(SWITCHED.as_bytes()).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                let _gone = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

/// Every piece is written down at once.
fn at_once(edge: &mut orbit_gateway::proxy::Edge) {
    edge.long_answer = Nanos(0);
}

fn briefs(bench: &Bench) -> Vec<(u16, Flags, u64, u64)> {
    bench.rows().iter().map(Row::brief).collect()
}

/// One row counts, the others are later parts of the same request.
fn assert_one_request(rows: &[Row]) {
    assert_eq!(rows[0].requests, 1);
    assert!(rows[0].flags.contains(Flags::OPEN));
    for pair in rows.windows(2) {
        assert_eq!(pair[0].request_id, pair[1].request_id);
        assert!(pair[1].flags.contains(Flags::PART));
        assert!(pair[0].ts_us <= pair[1].ts_us && pair[0].duration_us <= pair[1].duration_us);
    }
}

#[tokio::test]
async fn m1_an_upgrade_is_counted_before_the_101_and_its_bytes_before_they_arrive() {
    let bench = Bench::before(echo().await, "", at_once);
    let mut stream = bench.raw(UPGRADE).await;
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let mut expected = vec![(101, Flags::OPEN, 0, 0)];
    assert_eq!(briefs(&bench), expected);
    for text in ["ping", "a longer one"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        read_until(&mut stream, text).await;
        expected.push((101, Flags::PART, text.len() as u64, 0));
        expected.push((101, Flags::PART, 0, text.len() as u64));
        assert_eq!(briefs(&bench), expected);
    }
    assert_one_request(&bench.rows());
}

#[tokio::test]
async fn m1_a_short_upgrade_has_one_part_at_its_end() {
    let limit = r#"{ name = "parallel", concurrent = 1 }"#;
    let bench = Bench::before(echo().await, limit, |_| {});
    let mut stream = bench.raw(UPGRADE).await;
    read_until(&mut stream, "\r\n\r\n").await;
    for _ in 0..10 {
        stream.write_all(b"ping").await.unwrap();
        read_until(&mut stream, "ping").await;
    }
    assert_eq!(briefs(&bench), [(101, Flags::OPEN, 0, 0)]);
    assert_eq!(bench.get("/").await.0, StatusCode::TOO_MANY_REQUESTS, "it still takes its place");
    drop(stream);
    let rows = bench.rows_when(2).await;
    assert_one_request(&rows);
    let (_, _, request_bytes, response_bytes) = rows[1].brief();
    assert_eq!((request_bytes, response_bytes), (40, 40));
    let mut next = bench.raw(UPGRADE).await;
    while !read_until(&mut next, "\r\n\r\n").await.starts_with("HTTP/1.1 101") {
        next = bench.raw(UPGRADE).await;
    }
}

#[tokio::test]
async fn m1_parts_of_an_upgrade_come_now_and_then_not_with_every_piece() {
    let bench = Bench::before(echo().await, "", |edge| edge.long_answer = Nanos(50_000_000));
    let mut stream = bench.raw(UPGRADE).await;
    read_until(&mut stream, "\r\n\r\n").await;
    let mut sent = 0;
    let mut buffer = [0; 1];
    while bench.events() < 4 {
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        sent += 1;
    }
    drop(stream);
    let rows = bench.rows_when(4).await;
    assert_one_request(&rows);
    for pair in rows.windows(2) {
        let apart_us = pair[1].duration_us - pair[0].duration_us;
        // The last part may follow at once: it is the end.
        assert!(apart_us >= 50_000 || pair[1] == rows[rows.len() - 1], "{apart_us} us apart");
    }
    assert!(sent > 4, "{sent} pieces");
    let sums = || {
        let sum = |of: fn(&Row) -> u64| bench.rows().iter().map(of).sum::<u64>();
        (sum(|row| row.request_bytes), sum(|row| row.response_bytes))
    };
    while sums().0 < sent || sums().1 < sent {
        tokio::task::yield_now().await;
    }
    assert_eq!(sums(), (sent, sent));
}

#[tokio::test]
async fn m1_a_stream_of_events_is_counted_with_its_header() {
    let header = "HTTP/1.1 200 OK\nContent-Type: text/Event-Stream; charset=utf-8\n\n";
    let (upstream, go) = scripted(vec![header, "data: 1\n\n", "data: 2\n\n"]).await;
    let bench = Bench::before(upstream, "", |_| {});
    let mut stream = bench.raw(GET).await;
    read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(briefs(&bench), [(200, Flags::OPEN, 0, 0)]);
    go.add_permits(1);
    read_until(&mut stream, "data: 1").await;
    assert_eq!(bench.events(), 1, "a part comes later, or at the end");
    go.add_permits(1);
    read_until(&mut stream, "\r\n0\r\n\r\n").await;
    assert_eq!(briefs(&bench), [(200, Flags::OPEN, 0, 0), (200, Flags::PART, 0, 22)]);
    assert_one_request(&bench.rows());
}

#[tokio::test]
async fn m1_an_answer_that_takes_long_is_counted_on_the_way_and_its_bytes_before_they_arrive() {
    let pieces = vec!["HTTP/1.1 200 OK\n\n", "first", "second", "last"];
    let (upstream, go) = scripted(pieces).await;
    let limit = r#"{ name = "parallel", concurrent = 1 }"#;
    let bench = Bench::before(upstream, limit, at_once);
    let mut stream = bench.raw(GET).await;
    let mut expected = Vec::new();
    for (piece, flags) in [("first", Flags::OPEN), ("second", Flags::PART), ("last", Flags::PART)] {
        go.add_permits(1);
        read_until(&mut stream, piece).await;
        expected.push((200, flags, 0, piece.len() as u64));
        assert_eq!(briefs(&bench), expected);
        if piece != "last" {
            assert_eq!(bench.get("/").await.0, StatusCode::TOO_MANY_REQUESTS);
        }
    }
    read_until(&mut stream, "0\r\n\r\n").await;
    assert_eq!(briefs(&bench), expected, "the end itself is no byte");
    assert_one_request(&bench.rows());
    go.add_permits(3);
    assert_eq!(bench.get("/").await.0, StatusCode::OK, "its place was free before its end left");
}

#[tokio::test]
async fn m1_a_client_that_leaves_in_mid_answer_has_its_last_bytes_in_a_flagged_part() {
    let pieces = vec!["HTTP/1.1 200 OK\n\n", "one", "two", "end"];
    let (slow, go) = scripted(pieces).await;
    let bench = Bench::before(slow, "", |_| {});
    let mut stream = bench.raw(GET).await;
    go.add_permits(2);
    read_until(&mut stream, "two").await;
    assert_eq!(bench.events(), 0);
    drop(stream);
    let rows = bench.rows_when(1).await;
    assert_eq!(rows[0].brief(), (200, Flags::ABORTED, 0, 6), "not long: one row");

    let events = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n";
    let (slow, go) = scripted(vec![events, "one", "two"]).await;
    let bench = Bench::before(slow, "", |_| {});
    let mut stream = bench.raw(GET).await;
    go.add_permits(1);
    read_until(&mut stream, "one").await;
    drop(stream);
    let rows = bench.rows_when(2).await;
    let aborted = Flags::PART.with(Flags::ABORTED);
    assert_eq!(
        [rows[0].brief(), rows[1].brief()],
        [(200, Flags::OPEN, 0, 0), (200, aborted, 0, 3)]
    );
}

#[tokio::test]
async fn m1_no_byte_of_an_answer_in_parts_is_lost_or_counted_twice() {
    let (chunked, _) = upstream().await;
    let bench = Bench::before(chunked, "", at_once);
    for round in 1..=20 {
        assert_eq!(bench.get("/chunked").await.0, StatusCode::OK);
        let rows = bench.rows();
        let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
        assert_eq!(
            (sum(|row| u64::from(row.requests)), sum(|row| row.response_bytes)),
            (round, round * 3_000)
        );
    }
}
