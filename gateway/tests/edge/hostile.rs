//! Clients that send too much, too slowly, or nonsense.

use std::fmt::Write;

use http::StatusCode;

use crate::harness::{Bench, read_until};

#[tokio::test]
async fn headers_over_the_limits_are_refused_with_431() {
    let bench = Bench::with("", |server| {
        server.limits.max_headers = 10;
        server.limits.max_header_bytes = 2_000;
    })
    .await;
    let many = (0..11).fold(String::new(), |mut text, index| {
        writeln!(text, "X-{index}: y").unwrap();
        text
    });
    for fields in [many, format!("X-Long: {}\n", "y".repeat(2_000))] {
        let mut stream = bench.raw(&format!("GET / HTTP/1.1\nHost: x\n{fields}\n")).await;
        let answer = read_until(&mut stream, "header-too-large").await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_whether_announced_or_not() {
    let bench = Bench::with("", |server| server.limits.max_body_bytes = 1_000).await;
    let announced = "POST /echo HTTP/1.1\nHost: x\nX-Api-Key: {key}\nContent-Length: 1001\n\n";
    let mut stream = bench.raw(announced).await;
    let answer = read_until(&mut stream, "body-too-large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(bench.seen.lock().unwrap().len(), 0, "refused before it is forwarded");
    let piece = format!("258\n{}\n", "z".repeat(600));
    let streamed = format!(
        "POST /echo HTTP/1.1\nHost: x\nX-Api-Key: {{key}}\nTransfer-Encoding: chunked\n\n{piece}{piece}0\n\n"
    );
    let mut stream = bench.raw(&streamed).await;
    let answer = read_until(&mut stream, "body-too-large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_client_that_dawdles_over_its_header_is_cut_off() {
    let bench = Bench::with("", |server| {
        server.limits.header_timeout_ms = 300;
        server.limits.keepalive_timeout_s = 1;
    })
    .await;
    // Nothing at all, a few bytes, and a header that never ends.
    for start in ["", "GET", "GET / HTTP/1.1\nHost", "GET / HTTP/1.1\nHost: x\nX-Slow: "] {
        let mut stream = bench.raw(start).await;
        let drip = async {
            use tokio::io::AsyncWriteExt;
            let (mut reader, mut writer) = stream.split();
            let dripping = async {
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    if start.ends_with(": ") && writer.write_all(b"y").await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let closed = async {
                use tokio::io::AsyncReadExt;
                let mut rest = Vec::new();
                let _either = reader.read_to_end(&mut rest).await;
            };
            tokio::select! { () = dripping => {}, () = closed => {} }
        };
        let bound = std::time::Duration::from_secs(30);
        assert!(tokio::time::timeout(bound, drip).await.is_ok(), "never closed after {start:?}");
    }
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn nonsense_is_answered_or_dropped_and_harms_nobody() {
    let bench = Bench::new("").await;
    for text in [
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        "GET / HTTP/9.9 and some more bytes\n\n",
        "GET / HTTP/1.1\nHost: x\nContent-Length: 1\nContent-Length: 2\n\n",
        "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nContent-Length: 2\n\nzz",
    ] {
        let mut stream = bench.raw(text).await;
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let answer = read_until(&mut stream, "\u{0}never").await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{text:?} was served: {answer}");
    }
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refused_request_with_a_body_is_answered_and_its_connection_closed() {
    let bench = Bench::new("").await;
    let endless = "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n5\nhello\n";
    let mut stream = bench.raw(endless).await;
    let answer = read_until(&mut stream, "\u{0}never").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}
