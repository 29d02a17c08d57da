//! The index against a set, with deaths between any two steps and power failures at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::generation::Step;
use super::index::Tables;
use super::*;
use crate::boot::{Boot, BootId};
use crate::event::{Event, EventId, Flags, Kind, Method, View};
use crate::journal::{Journal, JournalSettings, LaneKey, Position};

const NOW_US: i64 = 1_796_000_000_000_000;
const DAY_US: i64 = 24 * 3600 * 1_000_000;
const PAGE: usize = 4096;

fn journal(directory: &Path, boot: u128) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 16 * 1024,
        max_bytes: 64 << 20,
        // Only what the test syncs is synced.
        sync_interval: Duration::from_hours(1),
        max_lanes: 2,
        ..JournalSettings::new(directory)
    };
    let boot = Boot { id: Some(BootId(boot)), began_us: NOW_US };
    Journal::open_under(settings, &boot).expect("the journal opens")
}

fn settings() -> IndexSettings {
    IndexSettings { keep: Duration::from_hours(24), min_slots: 256 }
}

fn id_of(key: u64) -> [u8; 16] {
    request_id("test", &key.to_string())
}

fn event(key: u64) -> Event<'static> {
    Event {
        ts_us: NOW_US,
        request_id: id_of(key),
        kind: Kind::Ingested,
        method: Method::Other,
        status: 0,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 1,
        // Tells the test which it is.
        request_bytes: key,
        response_bytes: 0,
        duration_us: 0,
        upstream_us: 0,
        tenant: "acme",
        path: "acme",
        plan: "business",
        key_id: "",
        app: "",
        route: "",
        meter: "storage",
        reason: "",
    }
}

/// Everything readable in the journal.
fn readable(journal: &Journal) -> BTreeMap<EventId, u64> {
    let mut found = BTreeMap::new();
    for lane in journal.lanes() {
        let mut reader = journal.reader(lane, None).expect("a lane of this journal");
        while let Some(frame) = reader.read().expect("readable") {
            let row = View::decode(frame.row).expect("a row");
            found.insert(frame.id, row.request_bytes());
        }
    }
    found
}

/// Copies a directory with everything below: what is left when the process dies now.
fn image(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            image(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), target) {
            // A spare segment that was not needed any more.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

fn index_files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory.join("ingest")).expect("there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        (PathBuf::from(path.file_name().expect("a file")), bytes)
    };
    paths.map(named).collect()
}

/// A node with its disk.
struct World {
    root: tempfile::TempDir,
    home: PathBuf,
    deaths: u32,
    boot: u128,
    journal: Arc<Journal>,
    index: IngestIndex,
    /// What ClickHouse has, and what the shipper knows of it.
    shipped: BTreeMap<EventId, u64>,
    cursors: BTreeMap<LaneKey, u64>,
    /// The disk as of the last sync.
    durable: PathBuf,
}

fn open_index(journal: &Arc<Journal>, cursors: &BTreeMap<LaneKey, u64>) -> Tables {
    super::recovery::open(journal, &settings(), NOW_US, || Ok(cursors.clone()))
        .expect("the index opens")
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().expect("a directory");
        let home = root.path().join("0");
        let journal = journal(&home, 1);
        let tables = open_index(&journal, &BTreeMap::new());
        let index = IngestIndex::with(Arc::clone(&journal), tables);
        let durable = root.path().join("durable-0");
        image(&home, &durable);
        World {
            root,
            home,
            deaths: 0,
            boot: 1,
            journal,
            index,
            shipped: BTreeMap::new(),
            cursors: BTreeMap::new(),
            durable,
        }
    }

    /// Goes on from `home`.
    fn open(&mut self, home: PathBuf) {
        self.journal.close();
        self.home = home;
        self.journal = journal(&self.home, self.boot);
        let tables = open_index(&self.journal, &self.cursors);
        self.index = IngestIndex::with(Arc::clone(&self.journal), tables);
        self.mark_durable();
        self.check();
    }

    fn place(&mut self, name: &str) -> PathBuf {
        self.deaths += 1;
        self.root.path().join(format!("{name}-{}", self.deaths))
    }

    /// What is on the disk now stays on it.
    fn mark_durable(&mut self) {
        let durable = self.place("durable");
        image(&self.home, &durable);
        self.durable = durable;
    }

    /// Records, and dies at that step if it comes to it.
    fn record(&mut self, key: u64, die_at: Option<Step>) {
        let home = self.place("killed");
        let from = self.home.clone();
        let mut dead = false;
        let known = self.all().values().any(|other| *other == key);
        let mut step = |step| {
            if Some(step) == die_at {
                image(&from, &home);
                dead = true;
            }
        };
        let recorded = self.index.record_in_steps(&event(key), NOW_US, &mut step).expect("room");
        assert_eq!(recorded == Recorded::Duplicate, known, "key {key}");
        if dead {
            self.open(home);
        }
    }

    fn die(&mut self) {
        let home = self.place("killed");
        image(&self.home, &home);
        self.open(home);
    }

    fn reboot(&mut self) {
        self.index.close().expect("synced");
        assert!(self.index.record(&event(KEYS), NOW_US).is_err(), "closed");
        self.boot += 1;
        self.open(self.home.clone());
    }

    /// As the shipper does: rows, then everything else, then the cursor, then the journal forgets.
    fn ship(&mut self) {
        let everything = Position { segment: u32::MAX, ..Position::START };
        for lane in self.journal.lanes() {
            self.journal.sync_lane(lane, everything).expect("synced");
            let from = self.journal.acknowledged(lane);
            let mut reader = self.journal.reader(lane, from).expect("a lane");
            while let Some(frame) = reader.read().expect("readable") {
                let row = View::decode(frame.row).expect("a row");
                self.shipped.insert(frame.id, row.request_bytes());
            }
            self.index.sync().expect("synced");
            self.cursors.insert(lane, reader.position().sequence);
            self.journal.acknowledge(lane, reader.position()).expect("removed");
            self.journal.retire(lane).expect("removed");
        }
        self.mark_durable();
    }

    /// The journal falls back to its last sync or not at all, each page of the index either way.
    fn lose_power(&mut self, mut choices: u64, journal_too: bool) {
        let home = self.place("power");
        let (journal, now) = (&self.durable, index_files(&self.home));
        image(if journal_too { journal } else { &self.home }, &home);
        let before = index_files(&self.durable);
        fs::remove_dir_all(home.join("ingest")).expect("there");
        fs::create_dir(home.join("ingest")).expect("writable");
        for (name, bytes) in now {
            let mut mixed = bytes.clone();
            let old = before.get(&name);
            for (page, chunk) in mixed.chunks_mut(PAGE).enumerate() {
                choices = choices.rotate_left(1);
                let keep = choices & 1 == 1;
                match old {
                    _ if keep => {}
                    Some(old) => chunk.copy_from_slice(&old[page * PAGE..(page + 1) * PAGE]),
                    // A new table's header is synced before it is used.
                    None if page == 0 => {}
                    None => chunk.fill(0),
                }
            }
            fs::write(home.join("ingest").join(name), mixed).expect("writable");
        }
        self.boot += 1;
        self.open(home);
    }

    /// Every event there is.
    fn all(&self) -> BTreeMap<EventId, u64> {
        let mut all = readable(&self.journal);
        all.extend(self.shipped.iter().map(|(id, key)| (*id, *key)));
        all
    }

    /// Counted once, and known exactly when it is counted.
    fn check(&self) {
        let all = self.all();
        let keys: BTreeSet<u64> = all.values().copied().collect();
        assert_eq!(keys.len(), all.len(), "an event was counted twice: {all:?}");
        for key in 0..KEYS {
            assert_eq!(self.index.contains(id_of(key)), keys.contains(&key), "key {key}");
        }
    }
}

const KEYS: u64 = 700;

#[derive(Debug, Clone)]
enum Act {
    Record(u64, Option<Step>),
    Many(u64, u64),
    Die,
    Reboot,
    Ship,
    LosePower(u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Announced),
        Just(Step::Identified),
        Just(Step::HalfNoted),
        Just(Step::Noted),
        Just(Step::Appended),
        Just(Step::Settled),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..KEYS, proptest::option::of(step())).prop_map(|(key, step)| Act::Record(key, step)),
        3 => (0..KEYS, 1..120_u64).prop_map(|(from, count)| Act::Many(from, count)),
        1 => Just(Act::Die),
        1 => Just(Act::Reboot),
        2 => Just(Act::Ship),
        2 => (any::<u64>(), any::<bool>()).prop_map(|(pages, both)| Act::LosePower(pages, both)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// M1, M2 for ingested events: whatever dies, index and journal agree, and no key counts twice.
    #[test]
    fn the_index_knows_exactly_what_was_counted(acts in prop::collection::vec(act(), 1..30)) {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Record(key, die_at) => world.record(key, die_at),
                Act::Many(from, count) => {
                    (from..(from + count).min(KEYS)).for_each(|key| world.record_quickly(key));
                }
                Act::Die => world.die(),
                Act::Reboot => world.reboot(),
                Act::Ship => world.ship(),
                Act::LosePower(pages, both) => world.lose_power(pages, both),
            }
        }
        world.check();
    }
}

impl World {
    fn record_quickly(&self, key: u64) {
        self.index.record(&event(key), NOW_US).expect("room");
    }
}

#[test]
fn a_death_at_every_step_leaves_index_and_journal_in_agreement() {
    let steps = [
        (Step::Announced, false),
        (Step::Identified, false),
        (Step::HalfNoted, false),
        (Step::Noted, false),
        (Step::Appended, true),
        (Step::Settled, true),
    ];
    let mut world = World::new();
    for (key, (step, is_counted)) in steps.into_iter().enumerate() {
        let key = key as u64;
        world.record(key, Some(step));
        assert_eq!(world.index.contains(id_of(key)), is_counted, "{step:?}");
        // Sent again, as the sender who got no answer does.
        world.record(key, None);
        world.record(key, None);
        assert!(world.index.contains(id_of(key)));
    }
    world.ship();
    world.die();
    assert_eq!(world.all().len(), steps.len());
}

/// The corner in which the shipping cursor alone knows that events were counted: all of the lane's
/// segments that held them are shipped and removed, and the power fails before the next one is on
/// the disk. The header's page, besides, is one of a moment when an entry was in flight.
#[test]
fn what_was_shipped_stays_known_when_nothing_of_its_lane_is_left() {
    let mut world = World::new();
    let table = world.home.join("ingest/00000000.index");
    let mut header = Vec::new();
    let mut catch = |step| {
        if step == Step::Appended {
            header = fs::read(&table).expect("readable")[..PAGE].to_vec();
        }
    };
    let recorded = world.index.record_in_steps(&event(0), NOW_US, &mut catch).expect("room");
    let Recorded::New(first) = recorded else { panic!("it is new") };
    let lane = LaneKey { node: first.node, epoch: first.epoch, lane: first.lane };
    let mut reader = world.journal.reader(lane, None).expect("a lane");
    // Until an event is in the second segment.
    let mut next = 1;
    let shipped = loop {
        let before = reader.position().sequence;
        if reader.read().expect("readable").is_none() {
            world.record_quickly(next);
            next += 1;
        } else if reader.position().segment > 0 {
            break before;
        }
    };
    world.index.sync().expect("synced");
    world.cursors.insert(lane, shipped);
    let end = Position { segment: 1, sequence: shipped, ..Position::START };
    world.journal.acknowledge(lane, end).expect("removed");

    let home = world.place("power");
    image(&world.home, &home);
    for entry in fs::read_dir(&home).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            fs::remove_file(path).expect("there");
        }
    }
    let table = home.join("ingest/00000000.index");
    let mut bytes = fs::read(&table).expect("readable");
    bytes[..PAGE].copy_from_slice(&header);
    fs::write(&table, bytes).expect("writable");
    world.boot += 1;
    world.journal.close();
    let journal = journal(&home, world.boot);
    let tables = open_index(&journal, &world.cursors);
    let index = IngestIndex::with(Arc::clone(&journal), tables);
    assert!(shipped > 10 && next > shipped, "{shipped} of {next} were shipped");
    for key in 0..next {
        assert_eq!(index.contains(id_of(key)), key < shipped, "key {key}");
    }
}

#[test]
fn tables_grow_and_are_dropped_when_all_in_them_is_old() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = journal(directory.path(), 1);
    let index = IngestIndex::open(&journal, &settings(), NOW_US).expect("opens");
    for key in 0..1_000 {
        let recorded = index.record(&event(key), NOW_US).expect("room");
        assert!(matches!(recorded, Recorded::New(_)));
    }
    assert_eq!(index.entries(), 1_000);
    let files = |directory: &Path| index_files(directory).len();
    assert!(files(directory.path()) >= 3, "{}", files(directory.path()));
    assert!((0..1_000).all(|key| index.contains(id_of(key))));
    index.close().expect("synced");
    drop(index);
    journal.close();

    let journal = self::journal(directory.path(), 1);
    let later_us = NOW_US + 2 * DAY_US;
    let index = IngestIndex::open(&journal, &settings(), later_us).expect("opens");
    assert_eq!(files(directory.path()), 1, "the last is kept, to be written");
    assert!(!index.contains(id_of(0)));
    assert!(index.contains(id_of(999)));
    let next = index.record(&event(5_000), later_us).expect("room");
    assert!(matches!(next, Recorded::New(_)));
}

#[test]
fn a_lost_or_damaged_index_is_made_again_from_what_the_journal_has() {
    for damage in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = journal(directory.path(), 1);
        let index = IngestIndex::open(&journal, &settings(), NOW_US).expect("opens");
        for key in 0..100 {
            index.record(&event(key), NOW_US).expect("room");
        }
        drop(index);
        journal.close();
        let file = directory.path().join("ingest/00000000.index");
        if damage {
            fs::write(&file, b"nothing of ours").expect("writable");
        } else {
            fs::remove_file(&file).expect("there");
        }
        let journal = self::journal(directory.path(), 1);
        let index = IngestIndex::open(&journal, &settings(), NOW_US).expect("opens");
        assert!((0..100).all(|key| index.contains(id_of(key))), "damage: {damage}");
        assert_eq!(index.entries(), 100);
        assert_eq!(file.with_extension("index.damaged").exists(), damage);
    }
}

#[test]
fn a_journal_without_room_leaves_no_trace_in_the_index() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings_of_journal = JournalSettings {
        segment_bytes: 16 * 1024,
        max_bytes: 48 * 1024,
        ..JournalSettings::new(directory.path())
    };
    let journal = Journal::open(settings_of_journal).expect("opens");
    let index = IngestIndex::open(&journal, &settings(), NOW_US).expect("opens");
    let refused =
        (0..10_000).find(|key| index.record(&event(*key), NOW_US).is_err()).expect("full");
    assert!(!index.contains(id_of(refused)));
    assert_eq!(readable(&journal).len() as u64, refused);
    assert!(matches!(index.record(&event(0), NOW_US).expect("known already"), Recorded::Duplicate));
}

#[test]
fn no_two_names_are_one() {
    assert_ne!(request_id("ab", "c"), request_id("a", "bc"));
    assert_ne!(request_id("", "abc"), request_id("abc", ""));
    assert_eq!(request_id("a", "b"), request_id("a", "b"));
}
