//! Refusals against the journal they end in.

use std::collections::BTreeMap;
use std::thread;

use super::*;
use crate::event::{Kind, View};
use crate::journal::JournalSettings;

const NOW_US: i64 = 1_795_000_000 * US_PER_SECOND;

fn journal(directory: &std::path::Path, segments: u64) -> Arc<Journal> {
    let segment_bytes = 32 * 1024;
    let max_bytes = segments * segment_bytes;
    let settings = JournalSettings { segment_bytes, max_bytes, ..JournalSettings::new(directory) };
    Journal::open(settings).expect("opens")
}

fn count(refusals: &Refusals, now_us: i64, tenant: &str, reason: &str) {
    refusals.count(now_us, tenant, "holding/acme", "growth", "crm", "contacts", reason, 429);
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
