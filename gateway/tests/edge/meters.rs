//! Further meters: one row for each figure beside the row that counts the request, before the
//! client can have seen the end (M1).

use http_body_util::{BodyExt, Full};
use orbit_meter::event::{Flags, Kind, View};
use orbit_policy::{ApiKey, Nanos};
use tokio::io::AsyncWriteExt;

use crate::harness::{Bench, Seen, dead_address, policy_text, read_until, scripted, upstream};

const MEASURED: Flags = Flags::MEASURED;

/// What a row of a further meter says, and of the row it stands beside.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Figure {
    request_id: [u8; 16],
    meter: String,
    flags: Flags,
    nano: i128,
}

/// Rows that count requests, as (id, meter, sequence), and figures with theirs. Checks what every
/// figure has in common with its request.
fn figures(bench: &Bench) -> (usize, Vec<Figure>) {
    let (mut counted, mut figures) = (0, Vec::new());
    for lane in bench.journal.lanes() {
        let mut reader = bench.journal.reader(lane, None).unwrap();
        let mut before: Option<([u8; 16], i64, u16)> = None;
        while let Some(frame) = reader.read().unwrap() {
            let row = View::decode(frame.row).unwrap();
            assert_eq!(row.kind(), Kind::Request);
            if !row.flags().contains(MEASURED) {
                counted += row.requests() as usize;
                before = Some((row.request_id(), row.ts_us(), row.status()));
                continue;
            }
            // In the same lane right behind the row of its request, and dated like it; but a level
            // changes when its figure is written.
            let ts_us = match (row.meter(), before) {
                ("level", Some((_, ts_us, _))) => {
                    assert!(row.ts_us() > ts_us);
                    ts_us
                }
                _ => row.ts_us(),
            };
            assert_eq!(before, Some((row.request_id(), ts_us, row.status())));
            let bytes = row.request_bytes() + row.response_bytes();
            let times = row.duration_us() + row.upstream_us();
            assert_eq!((row.requests(), bytes, times), (0, 0, 0));
            assert_eq!((row.tenant(), row.path()), ("acme-web", "acme/acme-web"));
            assert_eq!((row.plan(), row.app()), ("business", "crm"));
            assert!(!row.flags().contains(Flags::OPEN) && !row.flags().contains(Flags::PART));
            figures.push(Figure {
                request_id: row.request_id(),
                meter: row.meter().to_owned(),
                flags: row.flags(),
                nano: row.quantity_nano(),
            });
        }
    }
    (counted, figures)
}

/// Meter and quantity of each figure, in the order of the journal.
fn brief(figures: &[Figure]) -> Vec<(&str, i128)> {
    figures.iter().map(|figure| (figure.meter.as_str(), figure.nano)).collect()
}

/// In front of `upstream`, with the meters.
fn bench(upstream: std::net::SocketAddr, meters: &str, long_answer: Option<Nanos>) -> Bench {
    let key = ApiKey::generate("test").unwrap();
    let text = policy_text(upstream, &key, "").replace("read_timeout_ms = 2_000", "") + meters;
    Bench::of_edge(
        text,
        key,
        upstream,
        Seen::default(),
        |_| {},
        |edge| {
            edge.long_answer = long_answer.unwrap_or(edge.long_answer);
        },
    )
}

const GET: &str = "GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
const HEAD: &str = "HEAD / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
const UPGRADE: &str =
    "GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\nConnection: Upgrade\nUpgrade: websocket\n\n";

/// A request, what the upstream answers, and what of it the client waits for.
const ANSWERS: [(&str, &str, &[&str], &str); 9] = [
    ("a length", GET, &["HTTP/1.1 200 OK\n{ms}Content-Length: 5\n\nhello"], "hello"),
    ("two pieces", GET, &["HTTP/1.1 200 OK\n{ms}Content-Length: 5\n\n", "hello"], "hello"),
    (
        "chunks",
        GET,
        &["HTTP/1.1 200 OK\n{ms}Transfer-Encoding: chunked\n\n5\nhello\n", "0\n\n"],
        "0\r\n\r\n",
    ),
    ("until it closes", GET, &["HTTP/1.1 200 OK\n{ms}\nhel", "lo"], "0\r\n\r\n"),
    ("204", GET, &["HTTP/1.1 204 No Content\n{ms}\n"], "\r\n\r\n"),
    ("304", GET, &["HTTP/1.1 304 Not Modified\n{ms}\n"], "\r\n\r\n"),
    ("HEAD", HEAD, &["HTTP/1.1 200 OK\n{ms}Content-Length: 5\n\n"], "\r\n\r\n"),
    (
        "upgraded",
        UPGRADE,
        &["HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n{ms}\n"],
        "\r\n\r\n",
    ),
    (
        "a stream of events",
        GET,
        &["HTTP/1.1 200 OK\n{ms}Content-Type: text/event-stream\n\ndata: x\n\n"],
        "data: x",
    ),
];

#[tokio::test]
async fn m1_processing_is_recorded_once_with_every_kind_of_answer() {
    for (name, request, pieces, end) in ANSWERS {
        let pieces: Vec<&'static str> = pieces
            .iter()
            .map(|piece| &*piece.replace("{ms}", "x-orbit-processing-ms: 12.5\n").leak())
            .collect();
        let (upstream, go) = scripted(pieces.clone()).await;
        let bench = bench(upstream, "", None);
        for round in 1..=10 {
            let mut stream = bench.raw(request).await;
            go.add_permits(pieces.len() - 1);
            let answer = read_until(&mut stream, end).await;
            assert!(answer.contains(end), "{name}: {answer}");
            assert!(!answer.to_ascii_lowercase().contains("x-orbit-"), "{name}: {answer}");
            let (counted, figures) = figures(&bench);
            assert_eq!((counted, figures.len()), (round, round), "{name}");
        }
        let (_, mut all) = figures(&bench);
        let flags: Vec<Flags> = all.iter().map(|figure| figure.flags).collect();
        assert!(flags.iter().all(|flags| *flags == MEASURED), "{name}: {flags:?}");
        assert!(brief(&all).iter().all(|one| *one == ("processing", 12_500_000_000)), "{name}");
        all.sort_by_key(|figure| figure.request_id);
        all.dedup_by_key(|figure| figure.request_id);
        assert_eq!(all.len(), 10, "{name}: one for each request");
    }
}

#[tokio::test]
async fn a_value_that_says_nothing_is_ignored() {
    for value in ["", "fast", "-1", "1e3", "0.0000000001", "1, 2", "1\nX-Orbit-Processing-Ms: 2"] {
        let text = format!(
            "HTTP/1.1 200 OK\nX-Orbit-Processing-Ms: {value}\nX-Other: kept\n\
             Content-Length: 5\n\nhello"
        );
        let (upstream, _) = scripted(vec![text.leak()]).await;
        let bench = bench(upstream, "", None);
        let mut stream = bench.raw(GET).await;
        let answer = read_until(&mut stream, "hello").await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("x-other: kept"), "{answer}");
        assert!(!answer.contains("x-orbit-"), "{answer}");
        assert_eq!(figures(&bench), (1, vec![]), "{value:?}");
    }
}

const CUSTOM: &str = r#"
[[meter]]
id = "weight"
aggregate = "sum"
value = "request_header:X-Weight"
apps = ["crm"]
[[meter]]
id = "imports"
aggregate = "count"
value = "request_header:X-Import"
[[meter]]
id = "level"
aggregate = "gauge"
value = "response_header:X-Level-Change"
[[meter]]
id = "premium"
aggregate = "sum"
value = "cost"
routes = ["crm"]
[[meter]]
id = "elsewhere"
aggregate = "sum"
value = "cost"
routes = ["ai"]
[[meter]]
id = "uploaded"
aggregate = "sum"
value = "request_bytes"
[[meter]]
id = "largest"
aggregate = "max"
value = "response_bytes"
[[meter]]
id = "jobs"
aggregate = "sum"
value = "event"
"#;

#[tokio::test]
async fn m1_custom_meters_over_headers_cost_and_bytes() {
    let text = "HTTP/1.1 200 OK\nX-Level-Change: -2.5\nContent-Length: 5\n\nhello";
    let (upstream, _) = scripted(vec![text]).await;
    let bench = bench(upstream, CUSTOM, None);
    let request = "POST / HTTP/1.1\nHost: x\nX-Api-Key: {key}\nX-Weight: 0.125\n\
                   X-Import: yes, all of it\nContent-Length: 3\n\nabc";
    let mut stream = bench.raw(request).await;
    let answer = read_until(&mut stream, "hello").await.to_ascii_lowercase();
    // What is not one of our names is the client's too.
    assert!(answer.contains("x-level-change: -2.5"), "{answer}");
    let (counted, all) = figures(&bench);
    assert_eq!(counted, 1);
    let unit = 1_000_000_000;
    let mut expected = vec![
        ("imports", unit),
        ("largest", 5 * unit),
        ("level", -5 * unit / 2),
        ("premium", unit),
        ("weight", unit / 8),
    ];
    // The upstream may answer before the body has passed; the rest is a part's then.
    let uploaded: i128 =
        all.iter().filter(|figure| figure.meter == "uploaded").map(|figure| figure.nano).sum();
    if uploaded == 3 * unit {
        expected.insert(4, ("uploaded", 3 * unit));
    }
    assert_eq!(brief(&all), expected);

    // Nothing said: what has no value has no row.
    let mut stream = bench.raw(GET).await;
    read_until(&mut stream, "hello").await;
    let (counted, all) = figures(&bench);
    let last: Vec<(&str, i128)> =
        brief(&all).into_iter().skip(expected.len()).filter(|one| one.0 != "uploaded").collect();
    assert_eq!(counted, 2);
    assert_eq!(last, [("largest", 5 * unit), ("level", -5 * unit / 2), ("premium", unit)]);
}

#[tokio::test]
async fn m1_bytes_of_long_answers_are_measured_as_they_flow() {
    let pieces = vec!["HTTP/1.1 200 OK\nX-Orbit-Processing-Ms: 1\n\nhello", " again", " and again"];
    let (upstream, go) = scripted(pieces).await;
    let meters = r#"
[[meter]]
id = "sent"
aggregate = "sum"
value = "response_bytes"
[[meter]]
id = "largest"
aggregate = "max"
value = "response_bytes"
"#;
    let bench = bench(upstream, meters, Some(Nanos(0)));
    let mut stream = bench.raw(GET).await;
    for end in ["hello", " again", "0\r\n\r\n"] {
        let answer = read_until(&mut stream, end).await;
        assert!(answer.contains(end), "{answer}");
        go.add_permits(1);
    }
    let (counted, all) = figures(&bench);
    assert_eq!(counted, 1);
    let of = |meter: &str| -> Vec<i128> {
        let mine = all.iter().filter(|figure| figure.meter == meter);
        mine.map(|figure| figure.nano / 1_000_000_000).collect()
    };
    assert_eq!(of("processing"), [1], "once, with the row that counts");
    assert_eq!(of("sent").iter().sum::<i128>(), 21);
    assert!(of("sent").len() > 1, "{:?}", of("sent"));
    assert_eq!(of("largest").iter().max(), Some(&21));
}

#[tokio::test]
async fn m1_what_the_request_says_counts_when_the_upstream_fails() {
    let bench = bench(dead_address().await, CUSTOM, None);
    let request = "GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\nX-Weight: 2\n\n";
    let mut stream = bench.raw(request).await;
    let answer = read_until(&mut stream, "upstream-failed").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let (counted, all) = figures(&bench);
    assert_eq!(counted, 1);
    assert_eq!(brief(&all), [("premium", 1_000_000_000), ("weight", 2_000_000_000)]);
    assert!(all.iter().all(|figure| figure.flags == MEASURED.with(Flags::GATEWAY_MADE)));
}

#[tokio::test]
async fn refused_requests_are_not_measured() {
    let (address, _) = upstream().await;
    let limit = r#"{ name = "requests", rate = 1, per = "day", burst = 1 }"#;
    let key = ApiKey::generate("test").unwrap();
    let text = policy_text(address, &key, limit) + CUSTOM;
    let bench = Bench::of_policy(text, key, address, Seen::default(), |_| {});
    for status in [200, 429, 429] {
        assert_eq!(bench.get("/fixed").await.0, status);
    }
    let (counted, all) = figures(&bench);
    assert_eq!(counted, 1);
    assert_eq!(brief(&all), [("largest", 5_000_000_000), ("premium", 1_000_000_000)]);
}

#[tokio::test]
async fn m1_http2_clients_have_their_figures_too() {
    let (upstream, _) =
        scripted(vec!["HTTP/1.1 200 OK\nX-Orbit-Processing-Ms: 7\nContent-Length: 5\n\nhello"])
            .await;
    let bench = bench(upstream, "", None);
    let client: hyper_util::client::legacy::Client<_, Full<bytes::Bytes>> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .http2_only(true)
            .build_http();
    for round in 1..=10 {
        let request = http::Request::get(format!("http://{}/", bench.address))
            .header("x-api-key", bench.key.reveal())
            .body(Full::default())
            .unwrap();
        let answer = client.request(request).await.unwrap();
        assert!(!answer.headers().contains_key("x-orbit-processing-ms"));
        answer.into_body().collect().await.unwrap();
        let (counted, all) = figures(&bench);
        assert_eq!((counted, all.len()), (round, round));
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_leaves_no_figure_without_its_request() {
    let (upstream, go) =
        scripted(vec!["HTTP/1.1 200 OK\nX-Orbit-Processing-Ms: 3\n\nhel", "lo"]).await;
    let bench = bench(upstream, "", None);
    let mut stream = bench.raw(GET).await;
    read_until(&mut stream, "hel").await;
    stream.shutdown().await.unwrap();
    drop(stream);
    bench.rows_when(2).await;
    let (counted, all) = figures(&bench);
    assert_eq!((counted, brief(&all)), (1, vec![("processing", 3_000_000_000)]));
    assert_eq!(all[0].flags, MEASURED.with(Flags::ABORTED));
    drop(go);
}

/// What the quotas of the tenant that asks have counted.
fn used(bench: &Bench) -> Vec<(String, u64)> {
    let snapshot = bench.policy.load();
    let quotas = snapshot.quotas_of("acme-web", bench.edge.clock.unix_us()).unwrap();
    quotas.iter().map(|quota| (quota.meter.to_owned(), quota.used)).collect()
}

#[tokio::test]
async fn quotas_are_charged_in_whole_units_as_the_answer_ends_and_refuse_the_next_request() {
    let text = "HTTP/1.1 200 OK\nX-Orbit-Processing-Ms: 12.5\nX-Level-Change: 3\n\
                Content-Length: 5\n\nhello";
    let (upstream, _) = scripted(vec![text]).await;
    let key = ApiKey::generate("test").unwrap();
    let quotas = r#"
quotas = [
    { name = "work", meter = "processing", limit = 39, per = "year" },
    { name = "out", meter = "data_out", limit = 1_000, per = "year" },
    { name = "level", meter = "level", limit = 1_000 },
]"#;
    let text = policy_text(upstream, &key, "").replace("limits = []", quotas) + CUSTOM;
    let bench = Bench::of_policy(text, key, upstream, Seen::default(), |_| {});
    for requests in 1..=3 {
        let (status, ..) = bench.get("/").await;
        assert_eq!(status, 200);
        let all = used(&bench);
        let of = |meter: &str| all.iter().find(|(found, _)| found == meter).unwrap().1;
        assert_eq!((of("processing"), of("data_out")), (13 * requests, 5 * requests));
        assert_eq!(of("level"), 3 * requests);
    }
    assert_eq!(bench.get("/").await.0, 429, "39 of 39 are used");
    let (counted, all) = figures(&bench);
    assert_eq!(counted, 3);
    assert_eq!(all.iter().filter(|figure| figure.meter == "processing").count(), 3);
}

#[tokio::test]
async fn quotas_of_data_in_are_charged_with_what_flowed() {
    let (address, seen) = upstream().await;
    let key = ApiKey::generate("test").unwrap();
    let quota = r#"quotas = [{ name = "in", meter = "data_in", limit = 10, per = "year" }]"#;
    let text = policy_text(address, &key, "").replace("limits = []", quota);
    let bench = Bench::of_policy(text, key, address, seen, |_| {});
    let post = || {
        bench.send("POST", "/echo", |request| {
            *request.body_mut() = Full::new(bytes::Bytes::from_static(b"1234567")).boxed();
        })
    };
    assert_eq!(post().await.0, 200);
    assert_eq!(used(&bench), [("data_in".to_owned(), 7)]);
    assert_eq!(post().await.0, 200, "the amount is known only once it flows");
    assert_eq!(used(&bench), [("data_in".to_owned(), 14)]);
    assert_eq!(post().await.0, 429);
}
