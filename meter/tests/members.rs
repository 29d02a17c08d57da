//! M4: members on a real file system that is full.

#[path = "journal/disk.rs"]
mod disk;

use std::fs;
use std::path::Path;

use orbit_meter::members::{MemberFile, MemberStatus};
use orbit_policy::members::{Member, MemberLog, MemberRecord, Span, member_id};

use disk::{Disk, in_own_namespace};

/// Records of a file.
const FILE_RECORDS: u64 = 1 << 15;

fn record(number: u64) -> MemberRecord {
    let member = Member::of(&member_id("active_users", "acme", &number.to_le_bytes()));
    MemberRecord { set: 1, span: Span { start: 0, end: 2_880 }, member, sketched: false }
}

/// The log, and how many it knew.
fn open(directory: &Path) -> (MemberFile, u64) {
    let mut known = 0;
    let (file, _) = MemberFile::open(directory, &mut |_| known += 1).expect("opens");
    (file, known)
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).expect("a directory").count()
}

#[test]
fn m4_members_are_opened_on_a_full_disk_as_often_as_it_takes_and_go_on_when_there_is_room() {
    if !in_own_namespace(
        "m4_members_are_opened_on_a_full_disk_as_often_as_it_takes_and_go_on_when_there_is_room",
    ) {
        return;
    }
    let disk = Disk::new(16);
    let directory = disk.root().join("state");
    fs::create_dir(&directory).expect("writable");
    let (file, _) = open(&directory);
    let mut count = 0;
    let mut append = |file: &MemberFile, more: u64| {
        (count..count + more).for_each(|number| file.append(&record(number)));
        count += more;
    };
    append(&file, 10);
    let whole = |_: &mut dyn FnMut(&MemberRecord)| panic!("most of it is not over");
    file.upkeep(|| u64::MAX, whole);
    std::mem::forget(file);
    let filler = disk.fill("filler");
    for kill in 0..5 {
        let (file, known) = open(&directory);
        assert_eq!(known, 10 + kill * 10);
        append(&file, 10);
        file.upkeep(|| u64::MAX, whole);
        assert_eq!(files(&directory), 2, "one in use, one to come");
        std::mem::forget(file);
    }
    // Both are full in the end: whoever is let in now is in no file, until there is room.
    let (file, known) = open(&directory);
    append(&file, 2 * FILE_RECORDS - known);
    let full = MemberStatus { records: 2 * FILE_RECORDS, lost: 0, has_spare: false };
    assert_eq!(file.status(), full);
    append(&file, 7);
    assert_eq!(file.status(), MemberStatus { lost: 7, ..full });
    std::mem::forget(file);
    let (file, known) = open(&directory);
    assert_eq!((known, file.status()), (2 * FILE_RECORDS, full), "it opens without a spare");
    append(&file, 7);
    fs::remove_file(filler).expect("there");
    let export = |visit: &mut dyn FnMut(&MemberRecord)| {
        (0..2 * FILE_RECORDS + 14).for_each(|number| visit(&record(number)));
    };
    file.upkeep(|| 2 * FILE_RECORDS + 14, export);
    assert_eq!(file.status().lost, 0);
    drop(file);
    assert_eq!(open(&directory).1, 2 * FILE_RECORDS + 14);
}
