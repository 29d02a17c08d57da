//! M4 to its end: a gateway killed on a full disk is started on it, ships, and has room again.

#![allow(clippy::print_stdout, reason = "a child tells its parent, a random test its seed")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use orbit_meter::boot::{Boot, BootId};
use orbit_meter::clickhouse::{ClickHouseSettings, Store};
use orbit_meter::event::{Event, Kind};
use orbit_meter::ingest::{IndexSettings, IngestIndex, Recorded};
use orbit_meter::journal::{AppendError, Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use orbit_meter::ship::{ShipSettings, Shipper};

use super::disk::{Disk, in_own_namespace};
use super::fixture::{BASE_US, Fixture, PATIENCE, event, ship_settings};

const CHILD: &str = "ORBIT_SHIP_FULL_CHILD";
/// Events that did not pass the proxy, the first of all.
const INGESTED: u64 = 200;

fn ingested(number: u64) -> Event<'static> {
    Event { kind: Kind::Ingested, ..event(number) }
}

fn open_index(journal: &Arc<Journal>) -> Arc<IngestIndex> {
    let settings = IndexSettings::new(Duration::from_hours(24));
    Arc::new(IngestIndex::open(journal, &settings, BASE_US).expect("the index opens"))
}

/// The disk is the bound, not the budget.
fn unbounded(directory: &Path, boot: &Boot) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 1 << 20,
        max_bytes: 1 << 40,
        sync_interval: Duration::from_millis(50),
        ..JournalSettings::new(directory)
    };
    Journal::open_under(settings, boot).expect("the journal opens")
}

/// Not a test of its own: fills the disk while nobody takes what it ships, and says with how many
/// events.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let journal = unbounded(directory.as_ref(), &Boot::current());
    let index = open_index(&journal);
    let _refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    for number in 0..INGESTED {
        index.record(&ingested(number), BASE_US).expect("room");
    }
    let nobody = ClickHouseSettings {
        url: "http://127.0.0.1:9".to_owned(),
        user: "orbit".to_owned(),
        password: String::new(),
        database: "orbit".to_owned(),
    };
    let store = Store::new(&nobody).expect("valid settings");
    let shipper = Shipper::start(Arc::clone(&journal), store, ship_settings()).expect("starts");
    let mut count = INGESTED;
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
    let now = Boot::current();
    restart(&now);
    // The machine was started in between: what the pages of index and sums say is not believed.
    restart(&Boot { id: Some(BootId(7)), ..now });
}

fn restart(boot: &Boot) {
    let mut fixture = Fixture::new();
    let disk = Disk::new(48);
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

    fixture.journal = unbounded(&directory, boot);
    let index = open_index(&fixture.journal);
    let refusals = Refusals::open(Arc::clone(&fixture.journal)).expect("opens");
    assert!(!refusals.is_volatile() && index.is_there());
    disk.fill("filler.1");
    assert!(disk.free_bytes() < 4096, "{} bytes are free", disk.free_bytes());
    fixture.note_appended(count);
    let forgetting = Arc::clone(&index);
    let settings = ShipSettings {
        before_forget: Some(Arc::new(move || forgetting.sync())),
        ..ship_settings()
    };
    let store = Store::new(&fixture.proxied()).expect("valid settings");
    let journal = Arc::clone(&fixture.journal);
    let shipper = Shipper::start(journal, store, settings).expect("starts");
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
    while fixture.journal.is_full() {
        thread::yield_now();
    }
    // What was counted is known, and something new can be.
    for number in 0..INGESTED {
        let recorded = index.record(&ingested(number), BASE_US).expect("room");
        assert_eq!(recorded, Recorded::Duplicate, "{number}");
    }
    let new = index.record(&ingested(count), BASE_US).expect("room");
    assert!(matches!(new, Recorded::New(_)), "{new:?}");
    fixture.note_appended(1);
    fixture.append(999);
    shipper.stop(PATIENCE).expect("shipped");
    let rows = fixture.value("SELECT count() FROM usage_events");
    assert_eq!(rows, (count + 1_000).to_string());
    assert!(disk.free_bytes() > 8 << 20, "{} bytes are free", disk.free_bytes());
}
