//! Death at any moment: the kernel has what was appended, and a tear is cut, not guessed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use super::sample::{event, open, read_all, read_lane, segment_files, snapshot};

const CHILD: &str = "ORBIT_JOURNAL_CRASH_CHILD";

/// Not a test of its own: the victim of `what_was_appended_survives_sigkill`, which runs this
/// binary again with the variable set. Without it, there is nothing to do.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let journal = open(directory.as_ref());
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        let id = journal.append(&event(number, "acme/acme-brasil")).expect("room");
        // One write per event: what the parent has read, has been appended before.
        let line = format!("appended {} {} {number}\n", id.lane, id.sequence);
        if out.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn what_was_appended_survives_sigkill() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut before = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "crash::victim", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // A different moment each round: after so many events, in the middle of the next.
        let target = 300 + 617 * round;
        let mut last = None;
        let number_of =
            |line: &str| line.strip_prefix("appended ")?.rsplit(' ').next()?.parse::<u64>().ok();
        while last.is_none_or(|number| number < target) {
            let line = lines.next().expect("the victim writes on").expect("text");
            last = number_of(&line).or(last);
        }
        child.kill().expect("alive until now");
        child.wait().expect("killed");
        // What the pipe still held had been appended too; its last line may be cut.
        for line in lines.map_while(Result::ok) {
            last = number_of(&line).max(last);
        }
        let last = last.expect("at least one event");

        let journal = open(directory.path());
        let newest = *journal.lanes().last().expect("the victim's lane");
        let (seen, _) = read_lane(&journal, newest, None);
        // The very last line may lack its last digits, never have more.
        assert!(seen.len() as u64 > last, "{} of {last} events survived", seen.len());
        for (index, one) in seen.iter().enumerate() {
            assert_eq!((one.id.sequence, one.number), (index as u64, index as u64));
        }
        assert!(journal.losses().is_empty(), "{:?}", journal.losses());
        let all = read_all(&journal).len();
        assert_eq!(all, before + seen.len(), "earlier rounds are kept");
        before = all;
        journal.close();
    }
}

#[test]
fn a_copy_taken_at_any_moment_opens() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copies = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for round in 0..20_u64 {
        for number in 0..97 {
            journal.append(&event(round * 97 + number, "a/b/c")).expect("room");
        }
        let copy = copies.path().join(round.to_string());
        snapshot(directory.path(), &copy);
        let crashed = open(&copy);
        let seen = read_all(&crashed);
        assert_eq!(seen.len() as u64, (round + 1) * 97);
        assert!(crashed.losses().is_empty());
    }
}

#[test]
fn an_identity_is_noted_before_anything_of_its_event_can_be_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copies = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for number in 0..5 {
        let (before, after) = (format!("before {number}"), format!("after {number}"));
        let (before, after) = (copies.path().join(before), copies.path().join(after));
        let mut noted = None;
        let noting = |id| {
            noted = Some(id);
            snapshot(directory.path(), &before);
        };
        let id = journal.append_noting(&event(number, "a/b/c"), noting).expect("room");
        assert_eq!(noted, Some(id));
        snapshot(directory.path(), &after);
        let (before, after) = (open(&before), open(&after));
        assert!(!before.holds(id), "died with the note and without the event");
        assert_eq!(read_all(&before).len() as u64, number);
        assert!(after.holds(id));
        assert_eq!(read_all(&after).len() as u64, number + 1);
    }
}

#[test]
fn crash_after_crash_does_not_fill_the_disk_with_zeros() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for number in 0..30 {
        let journal = open(directory.path());
        journal.append(&event(number, "")).expect("room");
        // Closing leaves the segment at its full length, as a crash does.
        journal.close();
    }
    let journal = open(directory.path());
    assert_eq!(read_all(&journal).len(), 30);
    let rows: u64 = segment_files(directory.path())
        .iter()
        .map(|path| path.metadata().expect("there").len())
        .filter(|&bytes| bytes < 32 * 1024)
        .sum();
    assert_eq!(rows, 30 * 8 * 1024, "a header page and a page of rows each");
}

#[test]
fn a_damaged_frame_cuts_its_segment_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for number in 0..1_000 {
        journal.append(&event(number, "a/b/c")).expect("room");
    }
    journal.close();
    let files = segment_files(directory.path());
    assert!(files.len() > 4, "several segments");
    // Somewhere in the rows of the second segment.
    let file = std::fs::File::options().write(true).open(&files[1]).expect("there");
    file.write_all_at(&[0xFF; 3], 20_000).expect("writable");
    drop(file);

    let journal = open(directory.path());
    let seen = read_all(&journal);
    let losses = journal.losses();
    let [loss] = &losses[..] else { panic!("one loss, not {losses:?}") };
    assert_eq!(seen.len() as u64 + loss.events, 1_000);
    let gap = loss.first_sequence..loss.first_sequence + loss.events;
    for one in &seen {
        assert_eq!(one.id.sequence, one.number);
        assert!(!gap.contains(&one.number));
    }
    assert_eq!(journal.status().lost_events, loss.events);
}

#[test]
fn a_segment_with_a_damaged_header_is_set_aside() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for number in 0..600 {
        journal.append(&event(number, "a/b/c")).expect("room");
    }
    journal.close();
    let victim = &segment_files(directory.path())[1];
    let file = std::fs::File::options().write(true).open(victim).expect("there");
    // The epoch, which is 1.
    file.write_all_at(&[0xFF], 20).expect("writable");
    drop(file);

    let journal = open(directory.path());
    assert!(victim.with_extension("damaged").exists());
    let seen = read_all(&journal);
    let lost: u64 = journal.losses().iter().map(|loss| loss.events).sum();
    assert!(lost > 0);
    assert_eq!(seen.len() as u64 + lost, 600);
}
