//! Kills, torn and damaged records, rewriting under insertions, and a directory that is gone.

use orbit_policy::members::{Asked, EXACT_MAX, Members, member_id};

use super::*;

const NOW_US: i64 = 0;

fn span() -> Span {
    Span { start: 0, end: 2_880 }
}

fn user(number: u64) -> Member {
    Member::of(&member_id("active_users", "acme", &number.to_le_bytes()))
}

fn insert(members: &Members, set: u128, number: u64) {
    let set = members.set(set);
    let asked = Asked { set: &set, span: span(), member: user(number), cap: None };
    members.turn([&*set]).insert(&asked);
}

/// Members that are kept in a directory, and their file.
fn open(directory: &Path) -> (Members, Arc<MemberFile>, FoundMembers) {
    let members = Members::new(&[1; 16]);
    let mut restore = |record: &MemberRecord| members.restore(record, NOW_US);
    let (file, found) = MemberFile::open(directory, &mut restore).expect("a directory");
    let file = Arc::new(file);
    members.keep(Box::new(Kept(Arc::clone(&file))));
    (members, file, found)
}

struct Kept(Arc<MemberFile>);

impl MemberLog for Kept {
    fn append(&self, record: &MemberRecord) {
        self.0.append(record);
    }
}

fn count(members: &Members, set: u128) -> u64 {
    members.set(set).count(span()).members
}

#[test]
fn p3_whoever_was_let_in_is_known_after_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    // More than a file holds.
    let many = FILE_RECORDS as u64 + 5;
    let (members, file, _) = open(directory.path());
    (0..many).for_each(|number| insert(&members, 1, number));
    insert(&members, 2, 1);
    // No destructor runs in a process that is killed.
    std::mem::forget((members, file));
    let (members, file, found) = open(directory.path());
    assert_eq!(found, FoundMembers { records: many + 1, ..FoundMembers::default() });
    assert_eq!([count(&members, 1), count(&members, 2), count(&members, 3)], [many, 1, 0]);
    insert(&members, 2, 1);
    insert(&members, 2, 2);
    drop((members, file));
    assert_eq!(count(&open(directory.path()).0, 2), 2);
}

#[test]
fn damage_is_reported_and_costs_only_what_is_damaged() {
    let directory = tempfile::tempdir().expect("a directory");
    let (members, file, _) = open(directory.path());
    (0..100).for_each(|number| insert(&members, 1, number));
    {
        let writer = file.lock();
        let words = writer.segments[0].words.all();
        // A member of another number, a record that was torn, one that never reached the disk.
        words[words_of(10).start + 2].store(77, Ordering::Relaxed);
        words[words_of(20).start + 3].store(0, Ordering::Relaxed);
        words[words_of(30)].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
    drop((members, file));
    std::fs::write(directory.path().join("members.00000099"), b"something else").expect("a file");
    std::fs::write(directory.path().join("members.new"), b"not ours").expect("a file");
    let (members, file, found) = open(directory.path());
    assert_eq!(found, FoundMembers { records: 97, damaged: 1, foreign: 1 });
    assert_eq!(count(&members, 1), 97);
    drop((members, file));
    let (_, _file, found) = open(directory.path());
    assert_eq!((found.records, found.foreign), (97, 0), "it was set aside");
}

#[test]
fn any_words_are_a_record_or_none_and_a_flipped_bit_is_seen() {
    let whole = MemberRecord { set: 5 << 70 | 3, span: span(), member: user(1), sketched: true };
    assert_eq!(record(words(&whole)), Some(whole));
    let mut undetected = 0;
    for bit in 0..256 {
        let mut flipped = words(&whole);
        flipped[bit / 64] ^= 1 << (bit % 64);
        undetected += u32::from(record(flipped).is_some());
    }
    assert_eq!(undetected, 0);
    let mut state = 1_u64;
    for _ in 0..100_000 {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state ^ state >> 29
        };
        let _any_answer = record([next(), next(), next(), next()]);
    }
}

#[test]
fn files_are_written_anew_when_most_is_over_and_nobody_is_lost_meanwhile() {
    let directory = tempfile::tempdir().expect("a directory");
    let (members, file, _) = open(directory.path());
    // A sketch, small sets, and a hundred thousand records of a window that is over.
    let large = EXACT_MAX + 20_000;
    (0..large).for_each(|number| insert(&members, 1, number));
    (0..10).for_each(|number| insert(&members, 2, number));
    let over = MemberRecord { set: 9, span: span(), member: user(1), sketched: false };
    (0..300_000).for_each(|_| file.append(&over));
    let before = files(directory.path());
    let estimate = count(&members, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| (10..5_000).for_each(|number| insert(&members, 2, number)));
        file.upkeep(|| 0, |visit| members.export(visit));
    });
    assert!(files(directory.path()) < before / 2, "{before}");
    std::mem::forget((members, file));
    let (members, _file, found) = open(directory.path());
    assert_eq!((found.damaged, found.foreign), (0, 0));
    assert_eq!([count(&members, 1), count(&members, 2), count(&members, 9)], [estimate, 5_000, 0]);
    assert!(members.set(1).count(span()).estimated);
}

fn files(directory: &Path) -> usize {
    list(directory).expect("a directory").len()
}

#[test]
fn members_that_found_no_room_are_written_when_there_is_some() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    std::fs::create_dir(&state).expect("a directory");
    let (members, file, _) = open(&state);
    // The first is the spare made at the start.
    (0..FILE_RECORDS as u64).for_each(|number| insert(&members, 1, number));
    let away = directory.path().join("away");
    std::fs::rename(&state, &away).expect("a rename");
    for number in 0..10 {
        insert(&members, 2, number);
    }
    file.upkeep(|| u64::from(u32::MAX), |visit| members.export(visit));
    assert_eq!(file.lock().lost, 10);
    std::fs::rename(&away, &state).expect("a rename");
    file.upkeep(|| u64::from(u32::MAX), |visit| members.export(visit));
    assert_eq!(file.lock().lost, 0);
    std::mem::forget((members, file));
    let (members, _file, _) = open(&state);
    assert_eq!([count(&members, 1), count(&members, 2)], [FILE_RECORDS as u64, 10]);
}
