//! The bound: said in time, kept exactly, and gone when there is room again.

use orbit_meter::journal::{AppendError, Journal, JournalError, JournalSettings, LaneKey};

use super::sample::{event, open, read_all, read_lane, segment_files, settings, until};

fn bounded(directory: &std::path::Path, segments: u64) -> JournalSettings {
    JournalSettings { max_bytes: segments * 32 * 1024, ..settings(directory) }
}

#[test]
fn full_is_said_while_there_is_room_for_what_is_on_its_way() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = Journal::open(bounded(directory.path(), 6)).expect("opens");
    let mut number = 0;
    while !journal.is_full() {
        journal.append(&event(number, "some/path/of/a/tenant")).expect("not full, so room");
        number += 1;
    }
    let at_the_word = number;
    let refused = loop {
        match journal.append(&event(number, "some/path/of/a/tenant")) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Full);
    // A segment of 28 KiB of frames of about 170 bytes; the word may come a few events late.
    assert!(number - at_the_word > 100, "only {} events fitted", number - at_the_word);
    let bytes: u64 = segment_files(directory.path())
        .iter()
        .map(|path| path.metadata().expect("there").len())
        .sum();
    assert!(bytes <= 6 * 32 * 1024);
    assert_eq!(journal.status().bytes, bytes);
    assert_eq!(read_all(&journal).len() as u64, number);

    let key: LaneKey = journal.lanes()[0];
    let (seen, end) = read_lane(&journal, key, None);
    assert_eq!(seen.len() as u64, number);
    journal.acknowledge(key, end).expect("removable");
    until("not full", || !journal.is_full());
    journal.append(&event(number, "")).expect("room again");
    let (rest, _) = read_lane(&journal, key, Some(end));
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].id.sequence, number);
}

#[test]
fn a_journal_left_full_opens_full_and_empties() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = Journal::open(bounded(directory.path(), 4)).expect("opens");
    let mut number = 0;
    while journal.append(&event(number, "")).is_ok() {
        number += 1;
    }
    journal.close();
    assert_eq!(journal.append(&event(number, "")), Err(AppendError::Closed));
    drop(journal);

    let journal = Journal::open(bounded(directory.path(), 4)).expect("opens");
    assert!(journal.is_full());
    assert_eq!(journal.append(&event(number, "")), Err(AppendError::Full));
    let [former] = journal.lanes()[..] else { panic!("one lane was left") };
    let (seen, end) = read_lane(&journal, former, None);
    assert_eq!(seen.len() as u64, number);
    journal.acknowledge(former, end).expect("removable");
    journal.retire(former).expect("removable");
    until("not full", || !journal.is_full());
    let id = journal.append(&event(number, "")).expect("room again");
    assert_eq!((id.epoch, id.sequence), (former.epoch + 1, 0));
}

#[test]
fn what_does_not_fit_into_a_segment_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    let long = "x".repeat(30_000);
    let error = journal.append(&event(0, &long)).expect_err("longer than a segment");
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error:?}");
    let error = journal.append(&event(0, &"x".repeat(65_536))).expect_err("longer than a row");
    assert!(matches!(error, AppendError::Row(_)), "{error:?}");
    let longest = "x".repeat(28_000);
    for number in 0..5 {
        journal.append(&event(number, &longest)).expect("fits a segment each");
    }
    assert_eq!(read_all(&journal).len(), 5);
}

#[test]
fn a_directory_is_open_once_at_a_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    let error = Journal::open(settings(directory.path())).expect_err("in use");
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    journal.close();
    let again = open(directory.path());
    assert_eq!((again.node(), again.epoch()), (journal.node(), journal.epoch() + 1));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let good = settings(directory.path());
    for bad in [
        JournalSettings { segment_bytes: 5_000, ..good.clone() },
        JournalSettings { segment_bytes: 4_096, ..good.clone() },
        JournalSettings { max_bytes: 32 * 1024, ..good.clone() },
        JournalSettings { max_lanes: 0, ..good.clone() },
        JournalSettings { sync_interval: std::time::Duration::ZERO, ..good.clone() },
    ] {
        let error = Journal::open(bad).expect_err("cannot work");
        assert!(matches!(error, JournalError::Setting { .. }), "{error}");
    }
}
