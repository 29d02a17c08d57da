//! Many threads: every event once, dense sequences, lanes handed on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Barrier};
use std::thread;

use orbit_meter::journal::{Journal, JournalSettings};

use super::sample::{event, open, read_all, settings};

fn assert_dense(journal: &Journal) -> usize {
    let mut lanes: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    let seen = read_all(journal);
    for one in &seen {
        lanes.entry((one.id.epoch, one.id.lane)).or_default().push(one.id.sequence);
    }
    for (lane, sequences) in lanes {
        let dense: Vec<u64> = (0..sequences.len() as u64).collect();
        assert_eq!(sequences, dense, "lane {lane:?}");
    }
    seen.len()
}

#[test]
fn every_event_of_every_thread_is_read_back_once() {
    const THREADS: u64 = 8;
    const EACH: u64 = 4_000;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..EACH {
                    journal.append(&event(thread * EACH + number, "a/b")).expect("room");
                }
            });
        }
    });
    let numbers: BTreeSet<u64> = read_all(&journal).iter().map(|seen| seen.number).collect();
    assert_eq!(numbers, (0..THREADS * EACH).collect());
    assert_eq!(assert_dense(&journal), (THREADS * EACH) as usize);
    assert_eq!(journal.status().appended_events, THREADS * EACH);
    assert!(journal.losses().is_empty());
}

#[test]
fn reading_while_others_write_sees_every_event_once() {
    const EACH: u64 = 20_000;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    let start = Barrier::new(3);
    thread::scope(|scope| {
        let writers = [0, 1].map(|thread| {
            let (journal, start) = (&journal, &start);
            scope.spawn(move || {
                journal.append(&event(thread * EACH, "")).expect("room");
                start.wait();
                for number in 1..EACH {
                    journal.append(&event(thread * EACH + number, "")).expect("room");
                }
            })
        });
        start.wait();
        let mut readers: Vec<_> = journal
            .lanes()
            .into_iter()
            .map(|key| journal.reader(key, None).expect("a live lane"))
            .collect();
        let mut seen = 0;
        loop {
            let written = writers.iter().all(thread::ScopedJoinHandle::is_finished);
            let before = seen;
            for reader in &mut readers {
                let expected = reader.position().sequence;
                if let Some(frame) = reader.read().expect("readable") {
                    assert_eq!(frame.id.sequence, expected);
                    seen += 1;
                }
            }
            if written && seen == before {
                break;
            }
        }
        assert_eq!(seen, 2 * EACH);
    });
    assert!(journal.losses().is_empty());
}

#[test]
fn a_lane_is_given_back_when_its_thread_ends() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for number in 0..20 {
        let journal = Arc::clone(&journal);
        let append = move || journal.append(&event(number, "")).expect("room");
        let id = thread::spawn(append).join().expect("no panic");
        assert_eq!((id.lane, id.sequence), (0, number));
    }
    assert_eq!(journal.lanes().len(), 1);
    assert_eq!(journal.status().active_lanes, 0);
    assert_eq!(assert_dense(&journal), 20);
}

#[test]
fn more_threads_than_lanes_share() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let settings = JournalSettings { max_lanes: 2, ..settings(directory.path()) };
    let journal = Journal::open(settings).expect("opens");
    let ready = Barrier::new(6);
    thread::scope(|scope| {
        for thread in 0..6 {
            let (journal, ready) = (&journal, &ready);
            scope.spawn(move || {
                for number in 0..500 {
                    journal.append(&event(thread * 500 + number, "")).expect("room");
                    if number == 0 {
                        ready.wait();
                    }
                }
            });
        }
    });
    assert_eq!(journal.lanes().len(), 2);
    assert_eq!(assert_dense(&journal), 3_000);
}

#[test]
fn one_thread_may_use_several_journals() {
    let directories = [(); 3].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let journals = directories.each_ref().map(|directory| open(directory.path()));
    for number in 0..300 {
        journals[number as usize % 3].append(&event(number, "")).expect("room");
    }
    for journal in &journals {
        assert_eq!(assert_dense(journal), 100);
    }
}
