//! The whole product: `orbit up` with the real engine, killed, and the rows finance sees.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::node::{Answer, BATCH, event, exchange};

/// A running `orbit up`; killed when dropped.
struct Orbit {
    child: Child,
    ingest: SocketAddr,
    database: SocketAddr,
}

impl Drop for Orbit {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn address(line: &str, before: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(before)?;
    rest.split([',', ' ', '/']).next()?.parse().ok()
}

impl Orbit {
    fn start(home: &Path) -> Orbit {
        let any = "127.0.0.1:0";
        let mut child = Command::new(env!("CARGO_BIN_EXE_orbit"))
            .args(["up", "--listen", any, "--admin-listen", any, "--ingest-listen", any])
            .args(["--http-port", "0", "--tcp-port", "0", "--demo-listen", any])
            .arg("--config")
            .arg(repository().join("config/orbit.toml"))
            .arg("--data")
            .arg(home)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut ingest, mut database) = (None, None);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in lines.by_ref() {
            ingest = ingest.or_else(|| address(&line, "ingest http://"));
            if line.contains("X-ClickHouse-User") {
                database = address(&line, "http://");
            }
            if line.contains("Ctrl-C stops everything") {
                break;
            }
        }
        // Keeps the pipe open and empty for the process's last words.
        std::thread::spawn(move || lines.for_each(drop));
        let ended = "orbit up ended before it served";
        Orbit { child, ingest: ingest.expect(ended), database: database.expect(ended) }
    }

    fn send(&self, home: &Path, events: std::ops::Range<u32>) -> Answer {
        let token = std::fs::read_to_string(home.join("ingest.token")).unwrap();
        let fields = format!("Authorization: Bearer {}\r\nContent-Type: {BATCH}\r\n", token.trim());
        let events: Vec<Value> = events.map(|id| event(&id.to_string())).collect();
        let body = Value::from(events).to_string();
        exchange(self.ingest, "POST", "/v1/events", &fields, &body).unwrap()
    }

    /// What the finance user sees.
    fn query(&self, home: &Path, sql: &str) -> String {
        let password = std::fs::read_to_string(home.join("clickhouse/finance.password")).unwrap();
        let fields =
            format!("X-ClickHouse-User: finance\r\nX-ClickHouse-Key: {}\r\n", password.trim());
        let target = "/?default_format=TSV&wait_end_of_query=1";
        let answer = exchange(self.database, "POST", target, &fields, sql).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        // Chunked: the length of the only piece, the piece, the end.
        answer.body.lines().nth(1).unwrap_or_default().to_owned()
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
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
