//! M1: when a client has seen the end of an answer, its event is in the journal.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use orbit_meter::event::Flags;
use tokio::io::AsyncWriteExt;

use crate::harness::{Bench, dead_address, read_until, scripted};

const GET: &str = "GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
const GATEWAY: Flags = Flags::GATEWAY_MADE;

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
async fn m1_http2_clients_see_no_end_without_its_record_with_a_body_and_without() {
    let bench = Bench::new("").await;
    let client: Client<_, Full<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut expected = 0;
    for round in 0..30 {
        for (method, path, body) in [
            ("GET", "/fixed", ""),
            ("GET", "/chunked", ""),
            ("GET", "/204", ""),
            ("GET", "/304", ""),
            ("GET", "/empty", ""),
            ("HEAD", "/fixed", ""),
            ("POST", "/fixed", "a body that is not read"),
            ("POST", "/echo", "a body that is"),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{}{path}", bench.address))
                .header("x-api-key", bench.key.reveal())
                .body(Full::from(body))
                .unwrap();
            client.request(request).await.unwrap().into_body().collect().await.unwrap();
            expected += 1;
            // An upstream that does not read the body may answer before it has all arrived.
            let counted = bench.rows().iter().filter(|row| row.requests == 1).count();
            assert_eq!(counted, expected, "{method} {path} in round {round}");
        }
    }
    assert!(bench.rows().iter().all(|row| !row.flags.contains(Flags::ABORTED)));
}

/// What an upstream writes, what of it the client waits for, and the bytes of the body.
const FRAMINGS: [(&str, &[&str], &str, u64); 9] = [
    ("a known length", &["HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"], "hello", 5),
    ("in two pieces", &["HTTP/1.1 200 OK\nContent-Length: 5\n\n", "hello"], "hello", 5),
    ("no length, spelt long", &["HTTP/1.1 200 OK\nContent-Length: 000\n\n"], "\r\n\r\n", 0),
    (
        "chunked, with a trailer",
        &["HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n", "0\nX-After: y\n\n"],
        "\r\n0\r\n\r\n",
        5,
    ),
    ("ended by close", &["HTTP/1.1 200 OK\n\nhel", "lo"], "\r\n0\r\n\r\n", 5),
    ("HTTP/1.0, ended by close", &["HTTP/1.0 200 OK\n\nhello"], "\r\n0\r\n\r\n", 5),
    ("ended by close at once", &["HTTP/1.1 205 Reset Content\n\n"], "\r\n0\r\n\r\n", 0),
    (
        "after early hints",
        &[
            "HTTP/1.1 103 Early Hints\nLink: </x>\n\n",
            "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        ],
        "hello",
        5,
    ),
    ("not modified, with a length", &["HTTP/1.1 304 OK\nContent-Length: 5\n\n"], "5\r\n", 0),
];

#[tokio::test]
async fn m1_however_an_upstream_frames_its_answer() {
    for (name, pieces, end, bytes) in FRAMINGS {
        let (upstream, go) = scripted(pieces.to_vec()).await;
        let bench = Bench::before(upstream, "", |_| {});
        for round in 1..=20 {
            let mut stream = bench.raw(GET).await;
            go.add_permits(pieces.len() - 1);
            let answer = read_until(&mut stream, end).await;
            assert!(answer.contains(end), "{name}: {answer}");
            assert_eq!(bench.events(), round, "{name}");
        }
        for row in bench.rows() {
            let (_, flags, _, response_bytes) = row.brief();
            assert_eq!((flags, response_bytes), (Flags::NONE, bytes), "{name}");
        }
    }
}

#[tokio::test]
async fn m1_answers_the_gateway_makes_for_an_upstream_are_recorded_too() {
    let bench = Bench::new("").await;
    let key = bench.key.reveal().to_owned();
    let mut stream =
        bench.raw(&format!("GET /never HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n")).await;
    let answer = read_until(&mut stream, "upstream-timeout").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert_eq!(bench.rows()[0].brief(), (504, GATEWAY, 0, 0));

    let nobody = Bench::before(dead_address().await, "", |_| {});
    let mut stream = nobody.raw(GET).await;
    let answer = read_until(&mut stream, "upstream-failed").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(nobody.rows()[0].brief(), (502, GATEWAY, 0, 0));

    let (upstream, _) = scripted(vec!["HTTP/1.1 101 Switching Protocols\n\n"]).await;
    let uninvited = Bench::before(upstream, "", |_| {});
    let mut stream = uninvited.raw(GET).await;
    let answer = read_until(&mut stream, "upstream-failed").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "a 101 nobody asked for: {answer}");
    assert_eq!(uninvited.rows()[0].brief(), (502, GATEWAY, 0, 0));
}

#[tokio::test]
async fn m1_a_body_over_the_limit_in_mid_stream_is_recorded_as_the_413_it_gets() {
    let bench = Bench::with("", |server| server.limits.max_body_bytes = 1_000).await;
    let piece = format!("258\n{}\n", "z".repeat(600));
    let text = format!(
        "POST /echo HTTP/1.1\nHost: x\nX-Api-Key: {{key}}\nTransfer-Encoding: chunked\n\n{piece}{piece}"
    );
    let mut stream = bench.raw(&text).await;
    let answer = read_until(&mut stream, "body-too-large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let (status, flags, request_bytes, _) = bench.rows()[0].brief();
    assert_eq!((status, flags), (413, GATEWAY));
    assert!((1_001..=1_200).contains(&request_bytes), "{request_bytes}");
}

#[tokio::test]
async fn m1_an_answer_that_comes_before_the_request_is_whole_is_counted_once_with_all_its_bytes() {
    let early = vec!["HTTP/1.1 200 OK\nContent-Length: 5\nConnection: close\n\nhello"];
    let (upstream, _) = scripted(early).await;
    let bench = Bench::before(upstream, "", |_| {});
    let begun = "POST / HTTP/1.1\nHost: x\nX-Api-Key: {key}\nContent-Length: 10\n\n12345";
    for round in 1..=10 {
        let mut stream = bench.raw(begun).await;
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.ends_with("hello"), "{answer}");
        let counted = bench.rows().into_iter().filter(|row| row.requests == 1);
        assert_eq!(counted.count(), round);
        stream.write_all(b"67890").await.unwrap();
        bench.rows_when(2 * round as u64).await;
    }
    let rows = bench.rows();
    for row in &rows {
        let (status, flags, ..) = row.brief();
        assert_eq!(status, 200);
        assert!([Flags::OPEN, Flags::PART].contains(&flags), "{flags:?}");
        let same = rows.iter().filter(|other| other.request_id == row.request_id);
        assert_eq!(same.map(|row| row.request_bytes).sum::<u64>(), 10);
    }
}

#[tokio::test]
async fn m1_pipelined_requests_have_an_event_each_before_their_answers_end() {
    let bench = Bench::new("").await;
    let get = "GET /fixed HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
    let last = "GET /500 HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
    let mut stream = bench.raw(&[get, get, last].concat()).await;
    let answers = read_until(&mut stream, "oh no").await;
    let ended = answers.matches("hello").count() + answers.matches("oh no").count();
    // Whether it answers them all or closes after the first: none without its event.
    assert!(ended >= 1, "{answers}");
    assert!(bench.events() >= ended as u64, "{answers}");
    let counted = bench.rows().iter().filter(|row| row.requests == 1).count();
    assert_eq!(counted, bench.seen.lock().unwrap().len());
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
    bench.rows_when(20).await;
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    assert_eq!(bench.events(), 21);
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_end_is_flagged() {
    let (upstream, go) = scripted(vec!["HTTP/1.1 200 OK\n\nhel", "lo"]).await;
    let bench = Bench::before(upstream, "", |_| {});
    let mut stream = bench.raw(GET).await;
    read_until(&mut stream, "hel").await;
    drop(stream);
    let rows = bench.rows_when(1).await;
    assert_eq!(rows[0].brief(), (200, Flags::ABORTED, 0, 3));
    drop(go);
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_recorded_once_and_shown_as_broken() {
    let bench = Bench::new("").await;
    let mut stream = bench.raw("GET /cut HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n").await;
    let answer = read_until(&mut stream, "\r\n0\r\n\r\n").await;
    assert!(!answer.contains("\r\n0\r\n\r\n"), "a broken answer must not look whole");
    let rows = bench.rows_when(1).await;
    assert!(rows[0].flags.contains(Flags::ABORTED));
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    assert_eq!(bench.events(), 2);
}
