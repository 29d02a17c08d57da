//! Counts over lives of the process, faults of the disk, and keys that come and go.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const DAY_US: i64 = 86_400_000_000;

fn open(directory: &Path, day: i64) -> (Counts, Left) {
    Counts::open(directory, "quotas", day * DAY_US, |_| {}).expect("it opens")
}

#[test]
fn what_was_counted_is_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (counts, left) = open(directory.path(), 100);
    assert_eq!(left, Left { keys: 0, power_failed: false });
    let words = counts.words(7 << 64 | 9).expect("room");
    words[2].store(5, Ordering::Relaxed);
    assert!(std::ptr::eq(words, counts.words(7 << 64 | 9).expect("known")));
    assert_eq!(counts.words(9).expect("room")[2].load(Ordering::Relaxed), 0);
    // Not closed: as after kill -9.
    let began = AtomicU64::new(0);
    let (counts, left) = Counts::open(directory.path(), "quotas", 101 * DAY_US, |words| {
        began.fetch_add(words[2].load(Ordering::Relaxed), Ordering::Relaxed);
    })
    .expect("it opens");
    assert_eq!((left.keys, began.into_inner()), (2, 5));
    assert_eq!(counts.words(7 << 64 | 9).expect("known")[2].load(Ordering::Relaxed), 5);
    counts.sync(101 * DAY_US).expect("it syncs");
}

#[test]
fn a_key_that_is_gone_leaves_its_slot_to_another() {
    let directory = tempfile::tempdir().expect("a directory");
    let (counts, _) = open(directory.path(), 100);
    for key in 0..10 {
        counts.words(key).expect("room")[0].store(1, Ordering::Relaxed);
    }
    counts.retain(&|key| key >= 5);
    assert_eq!(counts.len(), 5);
    for key in 10..15 {
        assert_eq!(counts.words(key).expect("room")[0].load(Ordering::Relaxed), 0);
    }
    let slots: Vec<_> = counts.table().places.values().map(|(_, slot)| *slot).collect();
    assert!(slots.iter().all(|slot| *slot < 10), "{slots:?}");
    // Nobody asks for the rest for long.
    let (counts, left) = open(directory.path(), 100 + 40);
    assert_eq!(left.keys, 10);
    counts.words(12).expect("known");
    let (_, left) = open(directory.path(), 100 + 41);
    assert_eq!(left.keys, 1);
}

#[test]
fn p3_a_process_that_runs_for_months_leaves_its_counts_to_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let (counts, _) = open(directory.path(), 100);
    counts.words(1).expect("room")[0].store(7, Ordering::Relaxed);
    for day in 100..190 {
        counts.sync(day * DAY_US).expect("it syncs");
    }
    counts.words(2).expect("room")[0].store(8, Ordering::Relaxed);
    let (counts, left) = open(directory.path(), 200);
    assert_eq!(left.keys, 2);
    let of = |key| counts.find(key).map(|words| words[0].load(Ordering::Relaxed));
    assert_eq!([of(1), of(2), of(3)], [Some(7), Some(8), None]);
    let (_, left) = open(directory.path(), 241);
    assert_eq!(left.keys, 0, "nobody had them for too long");
}

#[test]
fn more_keys_than_a_file_holds_are_in_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let (counts, _) = open(directory.path(), 100);
    let keys = FILE_SLOTS as u128 + 10;
    for key in 0..keys {
        counts.words(key).expect("room")[3].store(key as u64 + 1, Ordering::Relaxed);
    }
    let (counts, left) = open(directory.path(), 100);
    assert_eq!(left.keys as u128, keys);
    for key in 0..keys {
        let words = counts.words(key).expect("known");
        assert_eq!(u128::from(words[3].load(Ordering::Relaxed)), key + 1);
    }
}

#[test]
fn a_slot_that_was_not_finished_is_free() {
    let directory = tempfile::tempdir().expect("a directory");
    let (counts, _) = open(directory.path(), 100);
    let words = counts.words(1).expect("room");
    words[0].store(77, Ordering::Relaxed);
    counts.words(2).expect("room");
    // Killed before the mark was written.
    let table = counts.table();
    table.files[0].release(0);
    drop(table);
    let (counts, left) = open(directory.path(), 100);
    assert_eq!(left.keys, 1);
    assert_eq!(counts.words(3).expect("room")[0].load(Ordering::Relaxed), 0);
}

#[test]
fn a_strange_file_is_set_aside_and_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("quotas-0");
    std::fs::write(&path, b"something else altogether").expect("written");
    let (counts, left) = open(directory.path(), 100);
    assert_eq!(left.keys, 0);
    counts.words(1).expect("room");
    let aside = std::fs::read(directory.path().join("quotas-0.strange")).expect("it is kept");
    assert!(aside.starts_with(b"something else altogether"));
}

#[test]
fn another_run_of_the_machine_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let (counts, _) = open(directory.path(), 100);
    counts.words(1).expect("room");
    counts.table().files[0].used_in(u64::MAX);
    let (_, left) = open(directory.path(), 100);
    assert_eq!(left, Left { keys: 1, power_failed: true });
    assert!(!open(directory.path(), 100).1.power_failed);
}
