//! Events and journals to test with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orbit_meter::event::{Event, EventId, Flags, Kind, Method, View};
use orbit_meter::journal::{Journal, JournalSettings, LaneKey, Position};

/// Small segments, so that every test rotates.
pub(crate) fn settings(directory: &Path) -> JournalSettings {
    JournalSettings {
        segment_bytes: 32 * 1024,
        max_bytes: 64 << 20,
        sync_interval: Duration::from_millis(20),
        max_lanes: 8,
        ..JournalSettings::new(directory)
    }
}

pub(crate) fn open(directory: &Path) -> Arc<Journal> {
    Journal::open(settings(directory)).expect("the journal opens")
}

/// An event that can be told from others by `number`, with `padding` more bytes.
pub(crate) fn event(number: u64, padding: &str) -> Event<'_> {
    Event {
        ts_us: 1_795_000_000_000_000 + number.cast_signed(),
        request_id: u128::from(number).to_le_bytes(),
        kind: Kind::Request,
        method: Method::Post,
        status: 200,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 1_000_000_000,
        request_bytes: number,
        response_bytes: 512,
        duration_us: 900,
        upstream_us: 700,
        tenant: "acme-brasil",
        path: padding,
        plan: "growth",
        key_id: "0123456789",
        app: "crm",
        route: "contacts",
        meter: "api_calls",
        reason: "",
    }
}

/// One event as read back: whose it is, its number, how long its padding was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: EventId,
    pub(crate) number: u64,
    pub(crate) padding: usize,
}

/// Everything readable in a lane from `from` on, and where reading stopped.
pub(crate) fn read_lane(
    journal: &Journal,
    key: LaneKey,
    from: Option<Position>,
) -> (Vec<Seen>, Position) {
    let mut reader = journal.reader(key, from).expect("a lane of this journal");
    let mut seen = Vec::new();
    while let Some(frame) = reader.read().expect("readable files") {
        let row = View::decode(frame.row).expect("a whole row");
        let number = row.request_bytes();
        assert_eq!(row.request_id(), u128::from(number).to_le_bytes());
        seen.push(Seen { id: frame.id, number, padding: row.path().len() });
    }
    (seen, reader.position())
}

/// Everything readable, lane by lane.
pub(crate) fn read_all(journal: &Journal) -> Vec<Seen> {
    let lanes = journal.lanes();
    lanes.into_iter().flat_map(|key| read_lane(journal, key, None).0).collect()
}

/// Copies a journal's directory as it is at this moment: what a crash would leave.
pub(crate) fn snapshot(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable place");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("a readable entry");
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            // A spare segment that was not needed any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.expect("room for a copy")),
        }
    }
}

/// The segment files of a directory, by name.
pub(crate) fn segment_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "segment")).collect();
    paths.sort();
    paths
}

/// Waits for another thread, which does what the test is about.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..100_000_000_u64 {
        if is_so() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("never {what}");
}
