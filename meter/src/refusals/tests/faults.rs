//! Tables that cannot be made, are not ours, or hold nonsense.

use std::path::Path;

use super::*;

#[test]
fn without_a_table_counts_are_in_memory_and_it_says_so() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    // Whatever keeps a new file from being made.
    std::fs::create_dir(directory.path().join(table::NAME)).expect("writable");
    let refusals = open(&journal);
    assert!(refusals.is_volatile());
    count(&refusals, NOW_US, "acme", "limit");
    refusals.flush(NOW_US + US_PER_SECOND).expect("room");
    fill(&journal);
    count(&refusals, NOW_US + US_PER_SECOND, "acme", "limit");
    refusals.count_unmetered(&event("acme", "api_calls", NOW_US));
    assert_eq!(refusals.flush(i64::MAX), Err(AppendError::Full));
    let mut cursors = Cursors::new();
    let mut sums = drain(&journal, &mut cursors);
    while refusals.flush(i64::MAX).is_err() {
        thread::yield_now();
    }
    for (key, requests) in drain(&journal, &mut cursors) {
        *sums.entry(key).or_default() += requests;
    }
    assert_eq!(sums.values().sum::<u64>(), 3);
}

#[test]
fn a_device_without_room_makes_no_table_and_leaves_no_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(table::NAME);
    std::os::unix::fs::symlink("/dev/full", &path).expect("writable");
    let opened = Table::open(directory.path(), 64, BOOT).expect("nothing is there to fail");
    assert!(matches!(opened, Opened::Impossible(_)), "{opened:?}");
    assert!(!path.is_symlink() && Path::new("/dev/full").exists());
    assert!(matches!(Table::open(directory.path(), 64, BOOT), Ok(Opened::Table { .. })));
}

#[test]
fn a_table_that_is_not_ours_is_set_aside() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(table::NAME);
    std::fs::write(&path, b"something else").expect("writable");
    let journal = journal(directory.path(), 4);
    let refusals = open(&journal);
    assert!(!refusals.is_volatile());
    count(&refusals, NOW_US, "acme", "limit");
    drop(refusals);
    assert!(path.with_extension("damaged").exists());
    // Nor is one of another size.
    let refusals = Refusals::with_groups(Arc::clone(&journal), 65, BOOT).expect("opens");
    assert_eq!(refusals.oldest_us(), None);
}

#[test]
fn a_table_that_cannot_be_read_is_an_error_and_stays() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 4);
    let refusals = open(&journal);
    count(&refusals, NOW_US, "acme", "limit");
    drop(refusals);
    let path = directory.path().join(table::NAME);
    let away = directory.path().join("away");
    std::fs::rename(&path, &away).expect("there");
    std::os::unix::fs::symlink(&path, &path).expect("writable");
    let error = Refusals::with_groups(Arc::clone(&journal), 64, BOOT).expect_err("a loop");
    assert_eq!((&error.path, error.to_string().is_empty()), (&path, false));
    std::fs::rename(&away, &path).expect("there");
    assert_eq!(open(&journal).oldest_us(), Some(NOW_US));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    #[test]
    fn no_bytes_panic_or_become_rows(changes: Vec<(u16, u8)>) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let journal = journal(directory.path(), 4);
        let refusals = open(&journal);
        for tenant in 0..64 {
            count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
        }
        drop(refusals);
        damage(&directory.path().join(table::NAME), &changes);
        let refusals = open(&journal);
        while refusals.flush(i64::MAX).is_err() {
            thread::yield_now();
        }
        for ((second, tenant, _), counted) in journalled(&journal) {
            assert_eq!((second, counted), (NOW_US / US_PER_SECOND, (1, 1)));
            assert!(tenant.starts_with("tenant-"));
        }
    }
}

/// Changes bytes anywhere.
fn damage(path: &Path, changes: &[(u16, u8)]) {
    let mut bytes = std::fs::read(path).expect("readable");
    for &(at, with) in changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= with;
    }
    std::fs::write(path, bytes).expect("writable");
}
