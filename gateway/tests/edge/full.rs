//! A journal without room (M4): what the operator chose, and nothing else, happens.

use std::sync::Arc;

use http::StatusCode;
use orbit_gateway::proxy::Edge;
use orbit_gateway::settings::OnFull;
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use tempfile::TempDir;

use crate::harness::{Bench, upstream};

/// A gateway with a journal for a few hundred events, and that journal's directory.
async fn small(on_full: OnFull) -> (Bench, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = JournalSettings::new(directory.path());
    (settings.segment_bytes, settings.max_bytes) = (16 * 1024, 64 * 1024);
    let journal = Journal::open(settings).unwrap();
    let adjust = |edge: &mut Edge| {
        edge.on_full = on_full;
        edge.refusals = Arc::new(Refusals::open(Arc::clone(&journal)).expect("a table"));
        edge.journal = journal;
    };
    let (upstream, _) = upstream().await;
    (Bench::before(upstream, "", adjust), directory)
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
    assert_eq!(bench.events(), served, "what was served is recorded, to the last");
    assert!(headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(headers["content-type"], "application/problem+json");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let kind = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
    assert_eq!((&body["type"], &body["status"]), (&kind.into(), &503.into()));
    assert_eq!(bench.edge.metrics.oldest_open_us(), None, "what was refused is not open");
}

#[tokio::test]
async fn m4_serve_unmetered_serves_on_with_a_full_journal() {
    let (bench, _directory) = small(OnFull::ServeUnmetered).await;
    let mut served = 0;
    while !bench.journal.is_full() || bench.events() == served {
        assert_eq!(bench.get("/").await.0, StatusCode::OK);
        served += 1;
        assert!(served < 10_000, "never full");
    }
    for path in ["/fixed", "/chunked", "/204", "/500"] {
        assert_ne!(bench.get(path).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(bench.events() < served + 4, "there was no room for the last");
    assert_eq!(bench.edge.metrics.oldest_open_us(), None);
}
