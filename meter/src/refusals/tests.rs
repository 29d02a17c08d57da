//! Refusals against the journal they end in.

pub(super) mod death;
mod faults;
mod model;

use std::collections::BTreeMap;
use std::thread;

use super::*;
use crate::event::{Flags, Kind, Method, View};
use crate::journal::{JournalSettings, LaneKey, Position};

const NOW_US: i64 = 1_795_000_000 * US_PER_SECOND;

/// What the tables of these tests say of the machine they run on.
const BOOT: u64 = 77;

/// Fills the journal with other events until it is full.
fn fill(journal: &Journal) {
    let other = event("other", "", 0);
    while journal.append(&other).is_ok() {}
    assert!(journal.is_full());
}

/// How far each lane was shipped: what the shipper keeps on the disk.
type Cursors = BTreeMap<LaneKey, Position>;

/// Ships everything the journal holds, which makes room; returns what was summed.
fn drain(journal: &Journal, cursors: &mut Cursors) -> Sums {
    let mut sums = Sums::new();
    for key in journal.lanes() {
        let mut reader = journal.reader(key, cursors.get(&key).copied()).expect("a lane");
        while let Some(frame) = reader.read().expect("readable") {
            note(&mut sums, &View::decode(frame.row).expect("a row"));
        }
        cursors.insert(key, reader.position());
        journal.acknowledge(key, reader.position()).expect("removable");
        journal.retire(key).expect("removable");
    }
    sums
}

/// Requests by kind, tenant, and reason or meter.
type Sums = BTreeMap<(u8, String, String), u64>;

fn note(sums: &mut Sums, row: &View<'_>) {
    let label = match row.kind() {
        Kind::Refused => row.reason(),
        _ if row.flags().contains(Flags::UNMETERED) => row.meter(),
        _ => return,
    };
    let key = (row.kind() as u8, row.tenant().to_owned(), label.to_owned());
    *sums.entry(key).or_default() += u64::from(row.requests());
}

/// An admitted request.
fn event<'a>(tenant: &'a str, meter: &'a str, ts_us: i64) -> Event<'a> {
    Event {
        ts_us,
        request_id: [7; 16],
        kind: Kind::Request,
        method: Method::Get,
        status: 200,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 3 * UNIT_NANO,
        request_bytes: 10,
        response_bytes: 20,
        duration_us: 30,
        upstream_us: 25,
        tenant,
        path: "holding/acme",
        plan: "growth",
        key_id: "0123456789",
        app: "crm",
        route: "contacts",
        meter,
        reason: "",
    }
}

fn open(journal: &Arc<Journal>) -> Refusals {
    Refusals::with_groups(Arc::clone(journal), 64, BOOT).expect("opens")
}

fn journal(directory: &std::path::Path, segments: u64) -> Arc<Journal> {
    let segment_bytes = 32 * 1024;
    let max_bytes = segments * segment_bytes;
    let settings = JournalSettings { segment_bytes, max_bytes, ..JournalSettings::new(directory) };
    Journal::open(settings).expect("opens")
}

fn count(refusals: &Refusals, now_us: i64, tenant: &str, reason: &str) {
    refusals.count(now_us, tenant, "holding/acme", "growth", "crm", "contacts", reason, 429);
}

/// As far as there was room.
fn assert_flushed(result: Result<(), AppendError>) {
    assert!(matches!(result, Ok(()) | Err(AppendError::Full)), "{result:?}");
}

fn groups(refusals: &Refusals) -> usize {
    refusals.capacity - locked(&refusals.free).len()
}

/// (second, tenant, reason) -> (events, requests)
fn journalled(journal: &Journal) -> BTreeMap<(i64, String, String), (u32, u32)> {
    let mut found = BTreeMap::new();
    for key in journal.lanes() {
        let mut reader = journal.reader(key, None).expect("a lane");
        while let Some(frame) = reader.read().expect("readable") {
            let row = View::decode(frame.row).expect("a row");
            assert_eq!((row.kind(), row.meter(), row.status()), (Kind::Refused, "refusals", 429));
            assert_eq!(row.path(), "holding/acme");
            assert_eq!(row.quantity_nano(), i128::from(row.requests()) * 1_000_000_000);
            assert_eq!(row.ts_us() % US_PER_SECOND, 0);
            let second = row.ts_us() / US_PER_SECOND;
            let entry = found
                .entry((second, row.tenant().to_owned(), row.reason().to_owned()))
                .or_insert((0, 0));
            entry.0 += 1;
            entry.1 += row.requests();
        }
    }
    found
}

#[test]
fn a_second_of_refusals_is_one_event_per_group() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    for step in 0..3_000 {
        let now_us = NOW_US + step * 1_000;
        count(&refusals, now_us, "acme", "limit");
        if step % 3 == 0 {
            count(&refusals, now_us, "other", "quota");
        }
    }
    assert_eq!(refusals.oldest_us(), Some(NOW_US + 2 * US_PER_SECOND));
    refusals.flush(NOW_US + 3 * US_PER_SECOND - 1).expect("room");
    let second = NOW_US / US_PER_SECOND;
    let found = journalled(&journal);
    assert_eq!(found.len(), 4, "the third second is not over: {found:?}");
    refusals.flush(NOW_US + 3 * US_PER_SECOND).expect("room");
    assert_eq!(refusals.oldest_us(), None);
    let found = journalled(&journal);
    assert_eq!(found.len(), 6);
    for (index, requests) in [(0, 334), (1, 333), (2, 333)] {
        let of = |tenant: &str, reason: &str| {
            found[&(second + index, tenant.to_owned(), reason.to_owned())]
        };
        assert_eq!(of("acme", "limit"), (1, 1_000));
        assert_eq!(of("other", "quota"), (1, requests));
    }
}

#[test]
fn every_refusal_of_every_thread_is_counted_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = Arc::new(Refusals::open(Arc::clone(&journal)).expect("opens"));
    let flusher = refusals.start().expect("a thread");
    thread::scope(|scope| {
        for thread in 0..4_i64 {
            let refusals = &refusals;
            scope.spawn(move || {
                for step in 0..5_000 {
                    // Threads disagree about the time, as they do.
                    let now_us = NOW_US + (step + thread * 100) * 500;
                    count(refusals, now_us, ["a", "b", "c"][step as usize % 3], "limit");
                }
            });
        }
    });
    drop(flusher);
    let total: u32 = journalled(&journal).values().map(|(_, requests)| requests).sum();
    assert_eq!(total, 20_000);
}

#[test]
fn a_full_journal_delays_counts_and_loses_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    let mut counted = 0;
    let mut second = 0;
    while refusals.flush(NOW_US + second * US_PER_SECOND).is_ok() {
        count(&refusals, NOW_US + second * US_PER_SECOND, "acme", "limit");
        counted += 1;
        second += 1;
    }
    for _ in 0..100 {
        count(&refusals, NOW_US + second * US_PER_SECOND, "acme", "limit");
        counted += 1;
        second += 1;
    }
    let key = journal.lanes()[0];
    let before: u32 = journalled(&journal).values().map(|(_, requests)| requests).sum();
    let mut reader = journal.reader(key, None).expect("a lane");
    while reader.read().expect("readable").is_some() {}
    journal.acknowledge(key, reader.position()).expect("removable");
    while refusals.flush(i64::MAX).is_err() {
        thread::yield_now();
    }
    let mut after = 0;
    while let Some(frame) = reader.read().expect("readable") {
        after += View::decode(frame.row).expect("a row").requests();
    }
    assert_eq!(before + after, counted);
}

#[test]
fn groups_that_rest_are_forgotten() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    assert!(!refusals.is_volatile());
    for tenant in 0..100 {
        count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
    }
    assert_eq!(groups(&refusals), 100);
    refusals.flush(NOW_US + US_PER_SECOND).expect("room");
    assert_eq!(groups(&refusals), 100);
    refusals.flush(NOW_US + 60 * US_PER_SECOND).expect("room");
    assert_eq!(groups(&refusals), 0);
    assert_eq!(journalled(&journal).len(), 100);
}

#[test]
fn what_was_served_unmetered_is_one_event_per_group_and_day_when_there_is_room() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = open(&journal);
    fill(&journal);
    let midnight_us = (NOW_US / 86_400 / US_PER_SECOND + 1) * 86_400 * US_PER_SECOND;
    for step in 0..1_000 {
        let now_us = midnight_us + (step - 700) * US_PER_SECOND;
        refusals.count_unmetered(&event("acme", "api_calls", now_us));
        refusals.count_unmetered(&Event { requests: 0, ..event("acme", "api_calls", now_us) });
        if step % 10 == 0 {
            assert_eq!(refusals.flush(now_us), Err(AppendError::Full));
        }
    }
    // One that began earlier and ended later.
    refusals.count_unmetered(&event("acme", "api_calls", midnight_us - 800 * US_PER_SECOND));
    assert_eq!(refusals.oldest_us(), Some(midnight_us - 800 * US_PER_SECOND));
    let mut cursors = Cursors::new();
    drain(&journal, &mut cursors);
    while refusals.flush(i64::MAX).is_err() {
        thread::yield_now();
    }
    let mut found = Vec::new();
    let key = *journal.lanes().last().expect("a lane");
    let mut reader = journal.reader(key, cursors.get(&key).copied()).expect("a lane");
    while let Some(frame) = reader.read().expect("readable") {
        let row = View::decode(frame.row).expect("a row");
        assert_eq!((row.kind(), row.flags(), row.status()), (Kind::Request, Flags::UNMETERED, 200));
        assert_eq!(
            (row.meter(), row.reason(), row.route()),
            ("api_calls", "unmetered", "contacts")
        );
        assert_eq!(row.quantity_nano(), i128::from(row.requests()) * 3 * UNIT_NANO);
        found.push((row.ts_us() - midnight_us, row.requests()));
    }
    found.sort_unstable();
    assert_eq!(found, [(-800 * US_PER_SECOND, 701), (0, 300)]);
}

#[test]
fn groups_beyond_the_cap_are_events_of_their_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = open(&journal);
    for tenant in 0..100 {
        count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
        count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
    }
    count(&refusals, NOW_US, &"x".repeat(1_000), "limit");
    assert_eq!(groups(&refusals), 64);
    assert_eq!(journalled(&journal).values().map(|it| it.1).sum::<u32>(), 36 * 2 + 1);
    refusals.flush(NOW_US + US_PER_SECOND).expect("room");
    let found = journalled(&journal);
    assert_eq!(found.len(), 101);
    assert_eq!(found.values().map(|it| it.1).sum::<u32>(), 201);
    // Few slots were left, so groups without a count were forgotten until there were more.
    assert!(groups(&refusals) <= 48, "{} groups", groups(&refusals));
}
