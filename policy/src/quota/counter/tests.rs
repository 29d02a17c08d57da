//! One counter: limits, windows that pass, what is put back, what is taken over.

use super::*;

fn words() -> Words {
    Words::default()
}

fn entry(tag: u16, limit: u64) -> Entry<'static> {
    Entry { tag: Tag(tag), limit, granted: 0, grace: 0, left_over: &|_| 0 }
}

fn granted(take: Take) -> Option<u64> {
    match take {
        Take::Granted { remaining, .. } => Some(remaining),
        Take::Refused(_) | Take::Sealed => None,
    }
}

#[test]
fn p1_the_last_unit_is_granted_and_the_next_is_not() {
    let words = words();
    let counter = Counter(&words);
    let entry = entry(5, 10);
    assert_eq!(granted(counter.take(&entry, 7)), Some(3));
    assert_eq!(granted(counter.look(&entry, 4)), None);
    assert_eq!(granted(counter.take(&entry, 4)), None, "all or nothing");
    assert_eq!(granted(counter.take(&entry, 3)), Some(0));
    assert_eq!(granted(counter.take(&entry, 1)), None);
    assert_eq!(counter.read(&entry).used(), 10);
}

#[test]
fn grace_admits_but_leaves_nothing() {
    let words = words();
    let counter = Counter(&words);
    let entry = Entry { grace: 2, granted: 1, ..entry(5, 1) };
    let left: Vec<_> = (0..5).map(|_| granted(counter.take(&entry, 1))).collect();
    assert_eq!(left, [Some(1), Some(0), Some(0), Some(0), None]);
}

#[test]
fn a_window_passes_with_the_first_call_and_late_calls_count_in_the_newer_one() {
    let words = words();
    let counter = Counter(&words);
    counter.add(&entry(4095, 0), 8);
    assert_eq!(counter.previous(), (Tag(0), 0), "nothing came before");
    let left_over: &dyn Fn(&Closed) -> u64 = &|closed| {
        assert_eq!(*closed, Closed { tag: Tag(4095), used: 8, extra: 0 });
        2
    };
    let next = Entry { left_over, ..entry(1, 10) };
    assert_eq!(granted(counter.take(&next, 1)), Some(11), "two were left over");
    assert_eq!(counter.previous(), (Tag(4095), 8));
    let late = Entry { granted: 100, ..entry(4095, 10) };
    assert_eq!(granted(counter.take(&late, 1)), Some(10), "no grant of a window that is over");
    let reading = Reading { tag: Tag(1), live: 2, base: 0, extra: 2 };
    assert_eq!(counter.read(&next), reading);
}

#[test]
fn p2_what_is_put_back_comes_out_of_the_window_it_counted_in() {
    let words = words();
    let counter = Counter(&words);
    counter.add(&entry(1, 0), 5);
    counter.put_back(Tag(1), 2);
    assert_eq!(counter.read(&entry(1, 0)).used(), 3);
    counter.add(&entry(2, 0), 1);
    counter.put_back(Tag(1), 1);
    assert_eq!((counter.read(&entry(2, 0)).used(), counter.previous()), (1, (Tag(1), 2)));
    counter.put_back(Tag(2), 9);
    assert_eq!(counter.read(&entry(2, 0)).used(), 0, "a count does not fall below nothing");
}

#[test]
fn counts_stop_at_their_end_and_leave_the_tag_alone() {
    let words = words();
    let counter = Counter(&words);
    let entry = entry(3, MAX_COUNT);
    counter.add(&entry, u64::MAX);
    counter.add(&entry, 1);
    assert_eq!(counter.read(&entry), Reading { tag: Tag(3), live: MAX_COUNT, base: 0, extra: 0 });
    assert_eq!(granted(counter.take(&entry, 1)), None);
    assert!(counter.set_base(Tag(3), u64::MAX, 0));
    assert_eq!(counter.read(&entry).used(), 2 * MAX_COUNT);
}

#[test]
fn the_base_is_of_one_window_only() {
    let words = words();
    let counter = Counter(&words);
    assert!(!counter.set_base(Tag(1), 5, 0), "in no window yet");
    counter.add(&entry(1, 10), 1);
    assert!(!counter.set_base(Tag(2), 5, 0));
    counter.add_base(&entry(1, 10), 3);
    counter.add_base(&entry(1, 10), 2);
    assert!(counter.set_base(Tag(1), 3, 3), "two came after it was asked for");
    assert_eq!(granted(counter.take(&entry(1, 10), 4)), Some(0));
    assert_eq!(
        granted(counter.take(&entry(2, 10), 4)),
        Some(6),
        "the base is over with its window"
    );
    assert_eq!(counter.previous(), (Tag(1), 10));
}

#[test]
fn what_comes_late_is_added_to_the_window_before() {
    let words = words();
    let counter = Counter(&words);
    counter.add(&entry(1, 0), 5);
    counter.add(&entry(2, 0), 1);
    counter.add(&entry(1, 0), 2);
    counter.add_base(&entry(1, 0), 1);
    assert_eq!((counter.read(&entry(2, 0)).used(), counter.previous()), (1, (Tag(1), 8)));
    counter.add(&entry(3, 0), 1);
    counter.add(&entry(1, 0), 100);
    assert_eq!((counter.read(&entry(3, 0)).used(), counter.previous()), (1, (Tag(2), 1)));
}

#[test]
fn p3_taking_over_never_counts_less() {
    let (old, new) = (words(), words());
    let (old, new) = (Counter(&old), Counter(&new));
    old.add(&entry(7, 0), 3);
    assert!(old.set_base(Tag(7), 4, 0));
    // Other windows, other tags.
    new.add(&entry(100, 0), 1);
    let from = old.seal(&entry(7, 0));
    assert_eq!(granted(old.take(&entry(7, 10), 1)), None, "who asks it asks the other one");
    assert_eq!(old.add(&entry(8, 0), 1), Added::Sealed);
    new.take_over(&from, &entry(100, 0), false);
    assert_eq!(new.read(&entry(100, 0)), Reading { tag: Tag(100), live: 0, base: 7, extra: 0 });
    new.add(&entry(100, 0), 5);
    let again = new.seal(&entry(100, 0));
    old.take_over(&again, &entry(7, 0), false);
    assert_eq!(old.read(&entry(7, 0)).used(), 12);
    let back = old.seal(&entry(7, 0));
    assert_eq!(back.reading.used(), 12, "what counts more already stays");
    // Nobody took over from it any more.
    old.fold();
    assert_eq!(old.read(&entry(7, 0)), Reading { tag: Tag(7), live: 0, base: 12, extra: 0 });
}

#[test]
fn p3_the_same_window_is_taken_over_with_what_was_rolled_over() {
    let (old, new) = (words(), words());
    let (old, new) = (Counter(&old), Counter(&new));
    old.add(&entry(6, 0), 9);
    old.add(&Entry { left_over: &|_| 4, ..entry(7, 0) }, 1);
    let from = old.seal(&entry(7, 0));
    new.take_over(&from, &entry(7, 0), true);
    assert_eq!(new.read(&entry(7, 0)), Reading { tag: Tag(7), live: 0, base: 1, extra: 4 });
    assert_eq!(new.previous(), (Tag(6), 9));
}

#[test]
fn p3_a_new_process_counts_on_from_the_sum() {
    let words = words();
    begin_process(&words);
    assert_eq!(Counter(&words).load(LIVE), 0);
    let counter = Counter(&words);
    counter.add(&entry(2, 0), 5);
    assert!(counter.set_base(Tag(2), 4, 0));
    begin_process(&words);
    begin_process(&words);
    assert_eq!(counter.read(&entry(2, 0)), Reading { tag: Tag(2), live: 0, base: 9, extra: 0 });
}
