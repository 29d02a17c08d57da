//! The whole product: `orbit up` with the real engine, killed, and the rows finance sees.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::node::{Answer, BATCH, event, exchange};
use super::up::{Up, repository, secret};

/// A running `orbit up` and what is asked of it.
struct Orbit(Up);

impl Orbit {
    fn start(home: &Path) -> Orbit {
        Orbit(Up::start(&repository().join("config/orbit.toml"), home))
    }

    fn send(&self, home: &Path, events: std::ops::Range<u32>) -> Answer {
        let token = secret(home, "ingest.token");
        let fields = format!("Authorization: Bearer {token}\r\nContent-Type: {BATCH}\r\n");
        let events: Vec<Value> = events.map(|id| event(&id.to_string())).collect();
        let body = Value::from(events).to_string();
        exchange(self.0.ingest, "POST", "/v1/events", &fields, &body).unwrap()
    }

    /// What the finance user sees.
    fn query(&self, home: &Path, sql: &str) -> String {
        let password = secret(home, "clickhouse/finance.password");
        let fields = format!("X-ClickHouse-User: finance\r\nX-ClickHouse-Key: {password}\r\n");
        let target = "/?default_format=TSV&wait_end_of_query=1";
        let answer = exchange(self.0.database, "POST", target, &fields, sql).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        // Chunked: the length of the only piece, the piece, the end.
        answer.body.lines().nth(1).unwrap_or_default().to_owned()
    }

    fn stop(self) {
        self.0.stop(Signal::TERM);
    }
}

#[test]
fn events_are_in_clickhouse_once_after_kills_and_repeats() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let orbit = Orbit::start(home);
    assert_eq!(orbit.send(home, 0..400).counts(), (400, 0, 0));
    // Killed with some shipped and some not, at once after the answer.
    drop(orbit);
    let orbit = Orbit::start(home);
    assert_eq!(orbit.send(home, 200..600).counts(), (200, 200, 0));
    drop(orbit);
    let orbit = Orbit::start(home);
    assert_eq!(orbit.send(home, 0..600).counts(), (0, 600, 0));
    // Stopping ships everything.
    orbit.stop();
    let orbit = Orbit::start(home);
    assert_eq!(orbit.send(home, 0..600).counts(), (0, 600, 0), "shipped, and remembered");
    let sums = "SELECT count(), uniqExact(request_id), sum(quantity), sum(requests) \
                FROM orbit.usage_events WHERE kind = 'ingested' AND meter = 'storage' \
                AND path LIKE '%/acme-web'";
    assert_eq!(orbit.query(home, sums), "600\t600\t1200\t600");
    orbit.stop();
}
