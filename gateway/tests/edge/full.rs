//! A journal without room (M4): what the operator chose, and nothing else, happens; and what was served
//! meanwhile is in sums, to the last byte (M1).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use http_body_util::{BodyExt, Full};
use orbit_gateway::proxy::Edge;
use orbit_gateway::settings::OnFull;
use orbit_meter::event::{Flags, Kind, View};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use orbit_policy::members::member_id;
use orbit_policy::{ApiKey, Nanos};
use tempfile::TempDir;

use crate::harness::{Bench, Seen, policy_text, read_until, scripted, upstream};

/// Every app names its users, and is measured by more than requests.
const METERS: &str = r#"
[[meter]]
id = "weight"
aggregate = "sum"
value = "request_header:X-Weight"
[[meter]]
id = "heaviest"
aggregate = "max"
value = "request_header:X-Weight"
"#;

/// Room for a few hundred events.
fn small_journal(directory: &TempDir) -> JournalSettings {
    let mut settings = JournalSettings::new(directory.path());
    (settings.segment_bytes, settings.max_bytes) = (16 * 1024, 64 * 1024);
    settings
}

/// A gateway with a small journal before `upstream`, and that journal's directory.
fn before(upstream: SocketAddr, on_full: OnFull, long_answer: Option<Nanos>) -> (Bench, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(small_journal(&directory)).unwrap();
    let adjust = |edge: &mut Edge| {
        edge.on_full = on_full;
        edge.long_answer = long_answer.unwrap_or(edge.long_answer);
        edge.refusals = Arc::new(Refusals::open(Arc::clone(&journal)).expect("a table"));
        edge.journal = journal;
    };
    let key = ApiKey::generate("test").unwrap();
    let text = policy_text(upstream, &key, "").replace("read_timeout_ms = 2_000", "");
    let text = text.replacen("id = \"crm\"\n", "id = \"crm\"\nend_user_header = \"X-User\"\n", 1);
    let bench = Bench::of_edge(text + METERS, key, upstream, Seen::default(), |_| {}, adjust);
    (bench, directory)
}

async fn small(on_full: OnFull) -> (Bench, TempDir) {
    let (upstream, _) = upstream().await;
    before(upstream, on_full, None)
}

/// What rows add up to, of the tenant that asks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    requests: u32,
    units_nano: i128,
    request_bytes: u64,
    response_bytes: u64,
    figures: BTreeMap<String, i128>,
    members: BTreeSet<[u8; 16]>,
    /// Of these requests, those without a row of their own.
    unmetered: u32,
}

impl Sums {
    fn add(&mut self, row: &View<'_>) {
        assert_eq!((row.kind(), row.path()), (Kind::Request, "acme/acme-web"));
        self.request_bytes += row.request_bytes();
        self.response_bytes += row.response_bytes();
        self.requests += row.requests();
        if row.flags().contains(Flags::MEMBER) {
            self.members.insert(row.request_id());
        } else if row.flags().contains(Flags::MEASURED) {
            let figure = self.figures.entry(row.meter().to_owned()).or_default();
            *figure = match row.meter() {
                "heaviest" => row.quantity_nano().max(*figure),
                _ => row.quantity_nano() + *figure,
            };
        } else {
            self.units_nano += row.quantity_nano();
            if row.flags().contains(Flags::UNMETERED) {
                self.unmetered += row.requests();
            }
        }
    }

    /// As the next process has it, with more room than `bench` had.
    fn afterwards(bench: &Bench, directory: &TempDir) -> Sums {
        bench.journal.close();
        let journal = Journal::open(JournalSettings::new(directory.path())).unwrap();
        let refusals = Refusals::open(Arc::clone(&journal)).unwrap();
        refusals.flush(i64::MAX).unwrap();
        assert_eq!((refusals.oldest_us(), refusals.uncounted()), (None, 0));
        let mut sums = Sums::default();
        for key in journal.lanes() {
            let mut reader = journal.reader(key, None).unwrap();
            while let Some(frame) = reader.read().unwrap() {
                sums.add(&View::decode(frame.row).unwrap());
            }
        }
        journal.close();
        sums
    }
}

#[tokio::test]
async fn m4_a_full_journal_refuses_and_says_for_how_long() {
    let (bench, _directory) = small(OnFull::Refuse).await;
    let mut served = 0;
    let (headers, body) = loop {
        match bench.get("/").await {
            (StatusCode::OK, ..) => served += 1,
            (StatusCode::SERVICE_UNAVAILABLE, headers, body) => break (headers, body),
            (other, ..) => panic!("{other}"),
        }
        assert!(served < 10_000, "never full");
    };
    assert!(served > 0);
    // And whoever does not say who it is, is one user.
    assert_eq!(bench.events(), served + 1, "what was served is recorded, to the last");
    assert!(headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(headers["content-type"], "application/problem+json");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let kind = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
    assert_eq!((&body["type"], &body["status"]), (&kind.into(), &503.into()));
    assert_eq!(bench.edge.metrics.oldest_open_us(), None, "what was refused is not open");
}

#[tokio::test]
async fn m1_what_is_served_with_a_full_journal_is_summed_to_the_last_byte() {
    // More than fit into the rest of the lanes' segments.
    const WHILE_FULL: u32 = 300;
    let (bench, directory) = small(OnFull::ServeUnmetered).await;
    let user_id = |user: &str| member_id("active_users", "acme", user.as_bytes());
    let (mut served, mut last, mut expected) = (0, u32::MAX, Sums::default());
    while served < last {
        let (weight, user) = (i128::from(served % 7), format!("user-{}", served % 5));
        let text = "x".repeat(served as usize % 100);
        let set = |request: &mut http::Request<_>| {
            request.headers_mut().insert("x-weight", weight.to_string().parse().unwrap());
            request.headers_mut().insert("x-user", user.parse().unwrap());
            *request.body_mut() = Full::new(text.clone().into()).boxed();
        };
        assert_eq!(bench.send("POST", "/echo", set).await.0, StatusCode::OK, "request {served}");
        assert_eq!(bench.edge.metrics.oldest_open_us(), None);
        served += 1;
        expected.request_bytes += text.len() as u64;
        expected.response_bytes += text.len() as u64;
        *expected.figures.entry("weight".to_owned()).or_default() += weight * 1_000_000_000;
        expected.figures.insert("heaviest".to_owned(), 6_000_000_000);
        expected.members.insert(user_id(&user));
        assert!(served < 10_000, "never full");
        if last == u32::MAX && bench.journal.is_full() {
            last = served + WHILE_FULL;
        }
    }
    // One of nobody seen before.
    let set = |request: &mut http::Request<_>| {
        request.headers_mut().insert("x-user", "late".parse().unwrap());
    };
    assert_eq!(bench.send("GET", "/", set).await.0, StatusCode::OK);
    expected.members.insert(user_id("late"));
    expected.response_bytes += "hello".len() as u64;
    expected.requests = served + 1;
    expected.units_nano = i128::from(expected.requests) * 1_000_000_000;
    let sums = Sums::afterwards(&bench, &directory);
    assert!(sums.unmetered > WHILE_FULL / 2, "{sums:?}");
    assert_eq!(Sums { unmetered: 0, ..sums }, expected);
}

#[tokio::test]
async fn m1_bytes_that_flow_when_the_journal_takes_no_more_are_summed() {
    let answer = vec!["HTTP/1.1 200 OK\n\none", "two", "end"];
    let (upstream, go) = scripted(answer).await;
    let (bench, directory) = before(upstream, OnFull::ServeUnmetered, Some(Nanos(0)));
    let mut stream = bench.raw("GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n").await;
    read_until(&mut stream, "one").await;
    // Not full, but as unwilling.
    bench.journal.close();
    for piece in ["two", "0\r\n\r\n"] {
        go.add_permits(1);
        read_until(&mut stream, piece).await;
    }
    let sums = Sums::afterwards(&bench, &directory);
    let expected = (1, 1_000_000_000, 9, 0);
    assert_eq!((sums.requests, sums.units_nano, sums.response_bytes, sums.unmetered), expected);
}
