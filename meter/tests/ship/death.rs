//! Kills: of the engine in the middle of a stream, and of the shipping process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use orbit_meter::clickhouse::{ClickHouseSettings, Store};
use orbit_meter::ship::Shipper;

use super::fixture::{Fixture, PATIENCE, event, open, ship_settings};

const CHILD: &str = "ORBIT_SHIP_DEATH_CHILD";

/// Events a victim may write; each victim has numbers of its own.
const SPAN: u64 = 10_000_000;

/// Not a test of its own: the victim of `killed_while_shipping_loses_and_doubles_nothing`, which
/// runs this binary again with the variable set. Without it, there is nothing to do.
#[test]
fn victim() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let [directory, url, password, first] =
        task.split('\n').collect::<Vec<_>>().try_into().expect("four lines");
    let settings = ClickHouseSettings {
        url: url.to_owned(),
        user: "orbit".to_owned(),
        password: password.to_owned(),
        database: "orbit".to_owned(),
    };
    let journal = open(Path::new(directory));
    let store = Store::new(&settings).expect("valid settings");
    let shipper = Shipper::start(Arc::clone(&journal), store, ship_settings()).expect("starts");
    let first: u64 = first.parse().expect("a number");
    let mut out = std::io::stdout().lock();
    for number in first..first + SPAN {
        journal.append(&event(number)).expect("room");
        if number % 100 == 99 {
            let line = format!("at {} {}\n", number + 1 - first, shipper.status().rows);
            if out.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    }
}

#[test]
fn killed_while_shipping_loses_and_doubles_nothing() {
    let mut fixture = Fixture::new();
    fixture.journal.close();
    let directory = fixture.journal.directory().to_str().expect("text").to_owned();
    let ClickHouseSettings { url, password, .. } = fixture.proxied();
    let mut promised = 0;
    for round in 0..6_u64 {
        let task = format!("{directory}\n{url}\n{password}\n{}", round * SPAN);
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "death::victim", "--nocapture", "--test-threads=1"])
            .env(CHILD, task)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let at = |line: String| -> Option<(u64, u64)> {
            let (appended, shipped) = line.strip_prefix("at ")?.split_once(' ')?;
            Some((appended.parse().ok()?, shipped.parse().ok()?))
        };
        // A moment that differs by round: some inserts done, some under way.
        loop {
            let line = lines.next().expect("the victim goes on").expect("text");
            if let Some((appended, shipped)) = at(line)
                && appended >= 3_000 + round * 4_100
                && (shipped > 0 || round % 2 == 0)
            {
                break;
            }
        }
        child.kill().expect("alive until now");
        child.wait().expect("killed");
        // The last line may be cut: what it says is then less than what was appended.
        promised += lines.map_while(Result::ok).filter_map(at).last().map_or(0, |(n, _)| n);
    }
    fixture.reopen();
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    let rows: u64 = fixture.value("SELECT count() FROM usage_events").parse().expect("a number");
    assert!(rows >= promised, "{rows} rows of {promised} events");
    fixture.assert_dense(6);
}

#[test]
fn an_engine_killed_in_the_middle_of_the_stream_loses_and_doubles_nothing() {
    const ROUNDS: u64 = 4;
    const EVENTS: u64 = 60_000;
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    for round in 0..ROUNDS {
        let running = AtomicBool::new(true);
        thread::scope(|scope| {
            let (journal, running) = (Arc::clone(&fixture.journal), &running);
            scope.spawn(move || {
                for number in round * EVENTS..(round + 1) * EVENTS {
                    journal.append(&event(number)).expect("room");
                }
                running.store(false, Ordering::Release);
            });
            // A moment that differs by round: after so many rows were acknowledged.
            let target = round * EVENTS + round * 15_000;
            while shipper.status().rows < target && running.load(Ordering::Acquire) {
                thread::yield_now();
            }
            fixture.kill_engine();
        });
        fixture.note_appended(EVENTS);
        fixture.start_engine();
    }
    shipper.flush(PATIENCE).expect("shipped");
    assert!(shipper.status().failures > 0, "the kills were felt");
    fixture.assert_exact();
}
