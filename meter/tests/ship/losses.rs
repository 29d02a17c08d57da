//! What cannot be shipped is told, once, whatever dies: sequences that made no row, and why.

use std::fs;
use std::path::{Path, PathBuf};

use orbit_meter::journal::{LaneKey, Loss, LossCause};

use super::fixture::{BASE_US, Fixture, PATIENCE};
use super::proxy::{Fault, Note};

const PAGE: usize = 4096;
/// Bytes before a row: its length and its checksum.
const HEAD: usize = 8;
/// Where a row says what kind it is.
const KIND: usize = 70;

/// The journal's segments, in the order they were made.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "segment")).collect();
    paths.sort();
    paths
}

/// Turns bytes in the middle of the first segment into others.
fn damage(directory: &Path) {
    let path = &segments(directory)[0];
    let mut bytes = fs::read(path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 600].fill(0xaa);
    fs::write(path, bytes).expect("writable");
}

/// Gives the rows with these sequences a kind that does not exist, under a checksum that is right.
fn make_strange(directory: &Path, lane: LaneKey, sequences: std::ops::Range<u64>) {
    let path = &segments(directory)[0];
    let mut bytes = fs::read(path).expect("readable");
    let mut identity = lane.node.to_le_bytes().to_vec();
    identity.extend(lane.epoch.to_le_bytes());
    identity.extend(lane.lane.to_le_bytes());
    let checksum = |start: u32, bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new_with_initial(start);
        hasher.update(bytes);
        hasher.finalize()
    };
    let seed = checksum(0, &identity);
    let mut at = PAGE;
    for sequence in 0..sequences.end {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
        let row = at + HEAD..at + HEAD + length;
        let sum = checksum(seed ^ sequence as u32, &bytes[row.clone()]);
        assert_eq!(bytes[at + 4..at + 8], sum.to_le_bytes(), "frame {sequence}");
        if sequences.contains(&sequence) {
            bytes[row.start + KIND] = 99;
            let sum = checksum(seed ^ sequence as u32, &bytes[row.clone()]);
            bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        at = row.end;
    }
    fs::write(path, bytes).expect("writable");
}

fn lane(fixture: &Fixture) -> LaneKey {
    fixture.journal.lanes()[0]
}

fn rows(fixture: &Fixture) -> u64 {
    fixture.number("SELECT count() FROM usage_events")
}

#[test]
fn m3_damaged_events_are_skipped_in_the_manifest_and_told_as_lost() {
    const EVENTS: u64 = 30_000;
    let mut fixture = Fixture::new();
    fixture.append(EVENTS);
    fixture.reopen_after(damage);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    let missing = EVENTS - rows(&fixture);
    assert!(missing > 0 && missing < EVENTS, "{missing}");
    fixture.assert_proved();
    fixture.assert_skipped(missing);
    assert_eq!(fixture.value("SELECT DISTINCT cause FROM usage_losses"), "damaged");
    drop(shipper);

    // The lane is gone; what is known of it stays, and is not told twice.
    fixture.reopen();
    let shipper = fixture.ship();
    fixture.append(10);
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_proved();
    fixture.assert_skipped(missing);
}

/// A loss that was found and not yet told survives the process, and the lane it was of.
#[test]
fn m3_a_loss_is_told_by_the_next_process_if_need_be() {
    const EVENTS: u64 = 30_000;
    let mut fixture = Fixture::new();
    fixture.append(EVENTS);
    fixture.reopen_after(damage);
    for _ in 0..2 {
        fixture.proxy.arm_at("usage_losses", Fault::Hold);
        let shipper = fixture.ship();
        assert!(matches!(fixture.proxy.note(), Note::Held(_)));
        drop(shipper);
        assert_eq!(fixture.value("SELECT count() FROM usage_losses"), "0");
        assert_eq!(fixture.value("SELECT sum(skipped) FROM usage_batches"), "0", "losses first");
        fixture.reopen();
    }
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_proved();
    fixture.assert_skipped(EVENTS - rows(&fixture));
}

#[test]
fn m3_an_end_that_is_torn_off_is_told_when_nothing_of_its_lane_is_left() {
    const EVENTS: u64 = 100;
    let mut fixture = Fixture::new();
    fixture.append(EVENTS);
    fixture.reopen_after(|directory| {
        let path = &segments(directory)[0];
        let mut bytes = fs::read(path).expect("readable");
        bytes[PAGE..].fill(0);
        fs::write(path, bytes).expect("writable");
    });
    let shipper = fixture.ship();
    fixture.wait_for("SELECT count() FROM usage_losses");
    shipper.stop(PATIENCE).expect("nothing left");
    assert_eq!(rows(&fixture), 0);
    let loss = "SELECT node, epoch, lane, first_sequence, events, cause FROM usage_losses FINAL";
    let node = fixture.journal.node();
    assert_eq!(fixture.value(loss), format!("{node}\t1\t0\t0\t{EVENTS}\tdamaged"));
}

/// Nobody can say which events a segment held that has lost its header, and no gap tells of them.
#[test]
fn m3_a_header_that_is_lost_is_told() {
    let mut fixture = Fixture::new();
    fixture.append(100);
    fixture.reopen_after(|directory| {
        let path = &segments(directory)[0];
        let mut bytes = fs::read(path).expect("readable");
        bytes[40] ^= 1;
        fs::write(path, bytes).expect("writable");
    });
    let shipper = fixture.ship();
    fixture.wait_for("SELECT count() FROM usage_losses");
    shipper.stop(PATIENCE).expect("nothing left");
    let loss = "SELECT node, epoch, lane, first_sequence, events, cause FROM usage_losses FINAL";
    let node = fixture.journal.node();
    assert_eq!(fixture.value(loss), format!("{node}\t0\t65535\t0\t0\theader"));
    // Once: the next process has nothing to tell.
    fixture.execute("TRUNCATE TABLE usage_losses");
    fixture.reopen();
    assert_eq!(fixture.journal.losses(), []);
}

/// Of what found no place to be counted in, it is told how much it has become.
#[test]
fn m3_a_loss_that_grows_is_told_again() {
    let fixture = Fixture::new();
    let (node, epoch) = (fixture.journal.node(), fixture.journal.epoch());
    let uncounted = |events| Loss {
        lane: LaneKey { node, epoch, lane: Loss::NO_LANE },
        first_sequence: 0,
        events,
        bytes: 10 * events,
        cause: LossCause::Uncounted,
        since_us: BASE_US,
        until_us: BASE_US + 1,
    };
    let shipper = fixture.ship();
    let told = "SELECT any(events) FROM usage_losses FINAL";
    for events in [1, 700] {
        fixture.journal.tell_loss(uncounted(events)).expect("writable");
        while fixture.number(told) != events {
            std::thread::yield_now();
        }
    }
    shipper.stop(PATIENCE).expect("nothing left");
    let loss = "SELECT count(), any(lane), any(cause), any(bytes) FROM usage_losses FINAL";
    assert_eq!(fixture.value(loss), "1\t65535\tuncounted\t7000");
}

/// Frames that are whole and yet no rows, as another version of this program may have written them.
#[test]
fn m3_frames_that_are_no_rows_are_skipped_and_told() {
    let mut fixture = Fixture::new();
    fixture.append(1_000);
    let key = lane(&fixture);
    fixture.reopen_after(|directory| make_strange(directory, key, 200..230));
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(rows(&fixture), 970);
    fixture.assert_proved();
    fixture.assert_skipped(30);
    assert_eq!(fixture.value("SELECT count() FROM usage_losses FINAL"), "1", "told as one");
}

/// A lane of nothing but such frames makes a plan without rows, so that its sequences are listed.
#[test]
fn m3_a_plan_without_rows_is_listed() {
    let mut fixture = Fixture::new();
    fixture.append(50);
    let key = lane(&fixture);
    fixture.reopen_after(|directory| make_strange(directory, key, 0..50));
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(rows(&fixture), 0);
    fixture.assert_proved();
    fixture.assert_skipped(50);
    let listed = "SELECT rows, ranges, skipped FROM usage_batches FINAL";
    assert_eq!(fixture.value(listed), "0\t[(1,0,0,49)]\t50");
}

/// The journal loses events of a plan of which one batch was taken and the other not: the manifest
/// tells what the table has.
#[test]
fn m3_when_a_planned_batch_shrinks_the_manifest_tells_what_the_table_has() {
    const EVENTS: u64 = 8_000;
    let mut fixture = Fixture::new();
    fixture.append(EVENTS);
    fixture.proxy.arm(Fault::DropAnswer);
    let shipper = fixture.ship();
    assert!(matches!(fixture.proxy.note(), Note::AnswerDropped));
    drop(shipper);
    let taken = rows(&fixture);
    assert_eq!(taken, EVENTS * 9 / 10, "the first month's");
    fixture.reopen_after(damage);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    let kept = rows(&fixture);
    assert!(kept > taken && kept < EVENTS, "{kept} of {EVENTS}");
    fixture.assert_proved();
    let listed = "SELECT sum(rows), any(skipped) FROM usage_batches FINAL";
    assert_eq!(fixture.value(listed), format!("{kept}\t{}", EVENTS - kept));
}
