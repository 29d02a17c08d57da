//! M4 to its end: a gateway killed on a full disk is started on it, ships, and has room again.

#![allow(clippy::print_stdout, reason = "a child tells its parent, a random test its seed")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use orbit_meter::clickhouse::{ClickHouseSettings, Store};
use orbit_meter::journal::{AppendError, Journal, JournalSettings};
use orbit_meter::ship::Shipper;

use super::disk::{Disk, in_own_namespace};
use super::fixture::{Fixture, PATIENCE, event, ship_settings};

const CHILD: &str = "ORBIT_SHIP_FULL_CHILD";

/// The disk is the bound, not the budget.
fn unbounded(directory: &Path) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 1 << 20,
        max_bytes: 1 << 40,
        sync_interval: Duration::from_millis(50),
        ..JournalSettings::new(directory)
    };
    Journal::open(settings).expect("the journal opens")
}

/// Not a test of its own: fills the disk while nobody takes what it ships, and says with how many
/// events.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let journal = unbounded(directory.as_ref());
    let nobody = ClickHouseSettings {
        url: "http://127.0.0.1:9".to_owned(),
        user: "orbit".to_owned(),
        password: String::new(),
        database: "orbit".to_owned(),
    };
    let store = Store::new(&nobody).expect("valid settings");
    let shipper = Shipper::start(Arc::clone(&journal), store, ship_settings()).expect("starts");
    let mut count = 0;
    loop {
        match journal.append(&event(count)) {
            Ok(_) => count += 1,
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                break;
            }
        }
    }
    while shipper.status().failures == 0 {
        thread::yield_now();
    }
    println!("\nappended {count}");
    loop {
        thread::park();
    }
}

#[test]
fn m4_a_gateway_killed_on_a_full_disk_is_started_on_it_and_ships_it_empty() {
    if !in_own_namespace(
        "full::m4_a_gateway_killed_on_a_full_disk_is_started_on_it_and_ships_it_empty",
    ) {
        return;
    }
    let mut fixture = Fixture::new();
    let disk = Disk::new(24);
    let directory = disk.root().join("journal");
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "full::victim", "--nocapture", "--test-threads=1"])
        .env(CHILD, &directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let count: u64 = lines
        .find_map(|line| line.expect("text").strip_prefix("appended ")?.parse().ok())
        .expect("the victim says so");
    child.kill().expect("alive until now");
    child.wait().expect("killed");
    disk.fill("filler.0");
    assert!(disk.free_bytes() < 4096, "{} bytes are free", disk.free_bytes());

    fixture.journal = unbounded(&directory);
    disk.fill("filler.1");
    assert!(disk.free_bytes() < 4096, "{} bytes are free", disk.free_bytes());
    fixture.note_appended(count);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
    while fixture.journal.is_full() {
        thread::yield_now();
    }
    fixture.append(1_000);
    shipper.stop(PATIENCE).expect("shipped");
    let rows = fixture.value("SELECT count() FROM usage_events");
    assert_eq!(rows, (count + 1_000).to_string());
    assert!(disk.free_bytes() > 8 << 20, "{} bytes are free", disk.free_bytes());
}
