//! M1 and M4 on bad disks: full, read-only, failing to sync.

#![allow(clippy::print_stdout, reason = "a child tells its parent, a random test its seed")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use orbit_meter::journal::{AppendError, Journal, JournalError, JournalSettings, LossCause};

use super::disk::{Disk, in_own_namespace};
use super::log::Log;
use super::sample::{event, open, read_all, read_lane, settings, until};

const FULL_VICTIM: &str = "ORBIT_JOURNAL_FULL_VICTIM";
const SYNC_VICTIM: &str = "ORBIT_JOURNAL_SYNC_VICTIM";

/// The disk is the bound, not the budget.
fn unbounded(directory: &Path) -> JournalSettings {
    JournalSettings { segment_bytes: 256 << 10, max_bytes: 1 << 40, ..settings(directory) }
}

/// Appends until there is no room; returns the next number.
fn append_until_refused(journal: &Journal, mut number: u64) -> u64 {
    loop {
        match journal.append(&event(number, "some/path")) {
            Ok(_) => number += 1,
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                return number;
            }
        }
    }
}

#[track_caller]
fn assert_numbers(journal: &Journal, count: u64) {
    let numbers: Vec<u64> = read_all(journal).iter().map(|seen| seen.number).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    assert_eq!(journal.losses(), []);
}

#[test]
fn m4_a_disk_that_fills_up_under_a_running_journal_loses_nothing_and_is_used_again() {
    if !in_own_namespace(
        "faults::m4_a_disk_that_fills_up_under_a_running_journal_loses_nothing_and_is_used_again",
    ) {
        return;
    }
    let log = Log::start();
    let disk = Disk::new(24);
    let journal = Journal::open(unbounded(&disk.root().join("journal"))).expect("opens");
    journal.append(&event(0, "some/path")).expect("room");
    let filler = disk.fill("filler");
    let mut number = 1;
    while !journal.is_full() {
        // At a rate at which the housekeeping thread, not the writer, finds the disk full.
        let synced_us = journal.status().synced_us;
        for _ in 0..100 {
            journal.append(&event(number, "some/path")).expect("not full, so room");
            number += 1;
        }
        until("a round", || journal.status().synced_us > synced_us);
    }
    let at_the_word = number;
    number = append_until_refused(&journal, number);
    assert!(number - at_the_word > 100, "only {} events fitted", number - at_the_word);
    assert_numbers(&journal, number);
    until("logged", || log.count("no journal segment can be made") > 0);

    std::fs::remove_file(filler).expect("removable");
    until("not full", || !journal.is_full());
    journal.append(&event(number, "some/path")).expect("room again");
    assert_numbers(&journal, number + 1);
    assert_eq!(journal.status().sync_failures, 0);
    for once in [
        "no journal segment can be made",
        "the journal is full",
        "journal segments can be made again",
        "the journal has room again",
    ] {
        assert_eq!(log.count(once), 1, "{once}: {}", log.text());
    }
}

/// Not a test of its own: fills the disk and says with how many events.
#[test]
fn full_victim() {
    let Some(directory) = std::env::var_os(FULL_VICTIM) else { return };
    let journal = Journal::open(unbounded(directory.as_ref())).expect("opens");
    println!("\nappended {}", append_until_refused(&journal, 0));
    loop {
        thread::park();
    }
}

#[test]
fn m4_a_full_disk_is_restarted_on_and_freed() {
    if !in_own_namespace("faults::m4_a_full_disk_is_restarted_on_and_freed") {
        return;
    }
    let disk = Disk::new(24);
    let directory = disk.root().join("journal");
    let mut counts = vec![killed_when_full(&directory)];
    assert!(counts[0] > 10_000, "{counts:?}");
    // An opening gives back what segments had not used, and it is taken again each time.
    for epoch in 2..6 {
        disk.fill(&format!("filler.{epoch}"));
        assert!(disk.free_bytes() < 4096, "{} bytes are free", disk.free_bytes());
        counts.push(killed_when_full(&directory));
    }
    disk.fill("filler");
    let journal = Journal::open(unbounded(&directory)).expect("opens without a free block");
    assert_eq!((journal.epoch(), journal.losses()), (6, Vec::new()));
    let lanes = journal.lanes();
    for (key, expected) in lanes.iter().zip(counts.iter().filter(|&&count| count > 0)) {
        let (seen, end) = read_lane(&journal, *key, None);
        assert_eq!(seen.len() as u64, *expected, "{key:?} of {counts:?}");
        journal.acknowledge(*key, end).expect("removable");
        journal.retire(*key).expect("removable");
    }
    assert_eq!(lanes.len(), counts.iter().filter(|&&count| count > 0).count());
    until("not full", || !journal.is_full());
    let id = journal.append(&event(0, "")).expect("room again");
    assert_eq!(id.sequence, 0);
}

/// Runs the victim until it says with how many events the disk is full, and kills it.
fn killed_when_full(directory: &Path) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "faults::full_victim", "--nocapture", "--test-threads=1"])
        .env(FULL_VICTIM, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let count = lines
        .find_map(|line| line.expect("text").strip_prefix("appended ")?.parse().ok())
        .expect("the victim says so");
    child.kill().expect("alive until now");
    child.wait().expect("killed");
    count
}

#[test]
fn a_read_only_disk_is_refused_with_its_name() {
    if !in_own_namespace("faults::a_read_only_disk_is_refused_with_its_name") {
        return;
    }
    let disk = Disk::new(24);
    let directory = disk.root().join("journal");
    let journal = open(&directory);
    // By a thread that ends: one that lives on keeps its lane mapped.
    thread::scope(|scope| {
        scope.spawn(|| journal.append(&event(0, "")).expect("room"));
    });
    drop(journal);
    disk.remount("ro");
    let error = Journal::open(settings(&directory)).expect_err("read-only");
    let text = orbit_meter::causes::with_causes(&error);
    assert!(matches!(error, JournalError::Io { .. }), "{text}");
    assert!(text.contains("journal/lock") && text.contains("Read-only file system"), "{text}");
    disk.remount("rw");
    assert_numbers(&open(&directory), 1);
}

#[test]
fn m1_a_disk_that_turns_read_only_costs_no_event_of_a_living_process() {
    if !in_own_namespace(
        "faults::m1_a_disk_that_turns_read_only_costs_no_event_of_a_living_process",
    ) {
        return;
    }
    let log = Log::start();
    let disk = Disk::new(24);
    let directory = disk.root().join("journal");
    let journal = Journal::open(unbounded(&directory)).expect("opens");
    // By a thread that ends: one that lives on keeps its lane mapped.
    let number = thread::scope(|scope| scope.spawn(|| break_down(&disk, &journal)).join());
    let number = number.expect("no panic");
    assert!(journal.is_full());
    assert_numbers(&journal, number);
    assert_eq!(log.count("the journal cannot be synced"), 1, "{}", log.text());
    assert_eq!(log.count("no journal segment can be made"), 1, "{}", log.text());
    journal.close();
    assert!(log.count("can be synced again") == 0, "{}", log.text());
    drop(journal);
    // Mounted again, it is as after a power failure: what was synced is there.
    let disk = disk.unmounted().mounted();
    let journal = Journal::open(unbounded(&disk.root().join("journal"))).expect("opens");
    let there = read_all(&journal).len() as u64;
    let torn: u64 = journal
        .losses()
        .iter()
        .filter(|loss| loss.cause == LossCause::Damaged)
        .map(|loss| loss.events)
        .sum();
    assert!(there >= 300 && there + torn <= number, "{there} there, {torn} torn of {number}");
}

/// Appends before and after the disk breaks down, until there is no room; returns how many.
fn break_down(disk: &Disk, journal: &Journal) -> u64 {
    for number in 0..500 {
        journal.append(&event(number, "some/path")).expect("room");
    }
    until("synced", || journal.status().synced_bytes > 50_000);
    disk.break_down();
    let mut number = 500;
    until("a failed sync", || {
        // A quick writer is out of room before the third sync.
        number += u64::from(journal.append(&event(number, "some/path")).is_ok());
        journal.status().sync_failures > 2
    });
    // What the kernel holds is readable, and no writer meets a signal, up to the last byte.
    append_until_refused(journal, number)
}

/// Not a test of its own: its syncs fail for a while, by strace's hand.
#[test]
fn sync_victim() {
    let Some(directory) = std::env::var_os(SYNC_VICTIM) else { return };
    let log = Log::start();
    let journal = open(directory.as_ref());
    let mut number = 0;
    let mut append = || {
        journal.append(&event(number, "some/path")).expect("room");
        number += 1;
        number
    };
    until("a failed sync", || {
        append();
        journal.status().sync_failures > 0
    });
    let synced_us = journal.status().synced_us;
    until("well again", || {
        append();
        log.count("the journal can be synced again") > 0
    });
    assert!(journal.status().synced_us > synced_us);
    assert_eq!(log.count("the journal cannot be synced"), 1, "{}", log.text());
    let (count, pid) = (append(), std::process::id());
    // Whole before the parent reads it.
    let line = format!("\nappended {count} {pid}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).expect("a reader");
    loop {
        thread::park();
    }
}

#[test]
fn m1_syncs_that_fail_for_a_while_are_told_once_and_made_up_for() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=msync"])
        .args(["-e", "inject=msync:error=EIO:when=20..60", "--"])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", "faults::sync_victim", "--nocapture", "--test-threads=1"])
        .env(SYNC_VICTIM, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("strace");
    let mut lines = BufReader::new(strace.stdout.take().expect("piped")).lines();
    let (count, pid): (u64, i32) = lines
        .find_map(|line| {
            let line = line.expect("text");
            let (count, pid) = line.strip_prefix("appended ")?.split_once(' ')?;
            Some((count.parse().ok()?, pid.parse().ok()?))
        })
        .expect("the victim is well again");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("alive until now");
    strace.wait().expect("ended with its child");
    assert_numbers(&open(directory.path()), count);
}

#[test]
fn an_opening_whose_record_cannot_be_synced_fails_with_its_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(open(directory.path()));
    let done = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"])
        .args(["-e", "inject=fdatasync:error=EIO:when=1+", "--"])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", "faults::sync_victim", "--nocapture", "--test-threads=1"])
        .env(SYNC_VICTIM, directory.path())
        .output()
        .expect("strace");
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{text}");
    assert!(text.contains("identity") && text.contains("Input/output error"), "{text}");
    assert_numbers(&open(directory.path()), 0);
}
