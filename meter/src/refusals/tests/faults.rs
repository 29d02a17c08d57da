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
    assert_eq!(requests(&drained(&journal, &refusals)), 3);
    assert_eq!(refusals.homeless.load(Ordering::Relaxed), 0, "they are forgotten like others");
}

#[test]
fn m1_counts_without_a_table_get_one_as_soon_as_there_is_room() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let in_the_way = directory.path().join(table::NAME);
    std::fs::create_dir(&in_the_way).expect("writable");
    let refusals = open(&journal);
    fill(&journal);
    for tenant in ["acme", "other"] {
        refusals.count_unmetered(&event(tenant, "api_calls", NOW_US));
    }
    assert!(refusals.is_volatile());
    std::fs::remove_dir(&in_the_way).expect("there");
    while refusals.is_volatile() {
        assert_eq!(refusals.flush(i64::MAX), Err(AppendError::Full));
    }
    // From now on they survive a kill.
    refusals.count_unmetered(&event("acme", "api_calls", NOW_US));
    std::mem::forget(refusals);
    assert_eq!(requests(&drained(&journal, &open(&journal))), 3);
}

#[test]
fn a_file_that_was_never_finished_is_made_anew() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(table::NAME);
    std::os::unix::fs::symlink("/dev/full", &path).expect("writable");
    let opened = Table::open(directory.path(), SMALL, 1).expect("nothing is there to fail");
    assert!(opened.refused.is_none() && !path.is_symlink() && Path::new("/dev/full").exists());
    // One that was never finished is made anew.
    std::fs::write(&path, [0; 4096]).expect("writable");
    let opened = Table::open(directory.path(), SMALL, 1).expect("opens");
    assert!(opened.refused.is_none() && opened.same_run.is_empty());
    assert_eq!(opened.table.slots(), 64);
}

#[test]
fn a_table_that_is_not_ours_is_set_aside() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(table::NAME);
    std::fs::write(&path, vec![7; 70_000]).expect("writable");
    let journal = journal(directory.path(), 4);
    let refusals = open(&journal);
    assert!(!refusals.is_volatile());
    count(&refusals, NOW_US, "acme", "limit");
    drop(refusals);
    assert!(path.with_extension("damaged").exists());
    // Nor is one of another size.
    let other = Capacity { slots: 63, ..SMALL };
    let refusals = Refusals::with_capacity(Arc::clone(&journal), other).expect("opens");
    assert_eq!(refusals.oldest_us(), None);
}

#[test]
fn m1_counts_that_nobody_can_read_any_more_are_a_loss() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 4);
    let refusals = open(&journal);
    count(&refusals, NOW_US, "acme", "limit");
    count(&refusals, NOW_US, "other", "limit");
    drop(refusals);
    // The name of one, and of the other the total that was stored last: the first of its version.
    damage(
        &directory.path().join(table::NAME),
        &[(4096 + 23 * 8, 1), (4096 + 1024 + 16 * 8 + 9, 1)],
    );
    let refusals = open(&journal);
    assert_eq!(refusals.oldest_us(), None);
    let [loss] = journal.losses()[..] else { panic!("one loss") };
    assert_eq!((loss.cause, loss.events), (LossCause::Uncounted, 2));
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
    let error = Refusals::with_capacity(Arc::clone(&journal), SMALL).expect_err("a loop");
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
