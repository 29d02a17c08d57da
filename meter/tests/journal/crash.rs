//! Death at any moment: the kernel has what was appended, and a tear is cut, not guessed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use orbit_meter::journal::{Journal, Loss, LossCause};

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

/// Writes over the epoch in a segment's header, or over all of the header.
fn damage_header(path: &std::path::Path, is_wiped: bool) {
    let file = std::fs::File::options().write(true).open(path).expect("there");
    let done =
        if is_wiped { file.write_all_at(&[0; 4096], 0) } else { file.write_all_at(&[0xFF], 20) };
    done.expect("writable");
}

/// What is known to be lost because a header is, by the number of its file.
fn headers_lost(journal: &Journal) -> Vec<u64> {
    let losses = journal.losses().into_iter();
    let headers = losses.filter(|loss| loss.cause == LossCause::Header);
    headers
        .map(|loss| {
            assert_eq!((loss.lane.node, loss.lane.epoch), (journal.node(), 0));
            assert_eq!((loss.lane.lane, loss.events), (Loss::NO_LANE, 0));
            assert!(loss.since_us == 0 && loss.until_us > 0);
            loss.first_sequence
        })
        .collect()
}

#[test]
fn m1_a_segment_with_a_damaged_header_is_set_aside_and_told_as_a_loss() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for number in 0..600 {
        journal.append(&event(number, "a/b/c")).expect("room");
    }
    journal.close();
    let victim = &segment_files(directory.path())[1];
    damage_header(victim, false);

    let journal = open(directory.path());
    assert!(victim.with_extension("segment.damaged").exists());
    let seen = read_all(&journal);
    let lost: u64 = journal.losses().iter().map(|loss| loss.events).sum();
    assert!(lost > 0);
    assert_eq!(seen.len() as u64 + lost, 600);
    assert_eq!(headers_lost(&journal).len(), 1);
}

/// Nothing follows that would show a gap: the header is all there is to tell of it.
#[test]
fn m1_a_damaged_header_of_a_lanes_last_or_only_segment_is_a_loss() {
    for (events, is_wiped) in [(300, false), (300, true), (5, false), (5, true)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let journal = open(directory.path());
        for number in 0..events {
            journal.append(&event(number, "a/b/c")).expect("room");
        }
        journal.close();
        let files = segment_files(directory.path());
        assert_eq!(files.len() > 1, events > 5, "{files:?}");
        let last = files.last().expect("one");
        // A spare segment that was not needed has taken a number as well.
        let serial = last.file_stem().and_then(std::ffi::OsStr::to_str).expect("a number");
        let serial = u64::from_str_radix(serial, 16).expect("a number");
        damage_header(last, is_wiped);

        let journal = open(directory.path());
        assert!((read_all(&journal).len() as u64) < events);
        assert_eq!(headers_lost(&journal), [serial], "{events} events, wiped: {is_wiped}");
        assert_eq!(journal.status().losses, 1);
        let told = journal.losses();
        journal.close();
        // Again, until it is noted, and no new file takes its number.
        let journal = open(directory.path());
        assert_eq!(journal.losses(), told);
        journal.losses_noted(&told).expect("writable");
        journal.close();
        let journal = open(directory.path());
        assert_eq!(journal.losses(), []);
        journal.append(&event(0, "")).expect("room");
        let new = segment_files(directory.path());
        assert!(new.iter().all(|path| *path != files[files.len() - 1]), "{new:?}");
    }
}

/// A reader that meets a frame it cannot read waits: more may be written. Once the writer has left the
/// segment, it must go on behind it.
#[test]
fn a_torn_frame_of_a_segment_that_was_being_written_is_left_behind_when_the_writer_is_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = open(directory.path());
    for number in 0..10 {
        journal.append(&event(number, "a/b/c")).expect("room");
    }
    let [file] = &segment_files(directory.path())
        .into_iter()
        .filter(|path| {
            let mut magic = [0; 8];
            let file = std::fs::File::open(path).expect("there");
            file.read_exact_at(&mut magic, 0).is_ok() && magic != [0; 8]
        })
        .collect::<Vec<_>>()[..]
    else {
        panic!("one segment in use")
    };
    let torn = std::fs::File::options().write(true).open(file).expect("there");
    torn.write_all_at(&[0xFF; 2], 4096 + 400).expect("writable");
    let key = journal.lanes()[0];
    let mut reader = journal.reader(key, None).expect("a lane");
    let mut read = || {
        let mut seen = 0;
        while reader.read().expect("readable").is_some() {
            seen += 1;
        }
        seen
    };
    let before = read();
    assert!(before < 10);
    assert_eq!(read(), 0, "it waits");
    for number in 10..400 {
        journal.append(&event(number, "a/b/c")).expect("room");
    }
    let behind = read();
    let [loss] = journal.losses()[..] else { panic!("one loss, not {:?}", journal.losses()) };
    assert_eq!(loss.first_sequence, before);
    assert_eq!(before + loss.events + behind, 400);
}
