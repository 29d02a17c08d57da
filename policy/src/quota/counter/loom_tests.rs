//! Every interleaving of takes, windows that pass, and what is put back, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p orbit-policy --lib loom --release`

use std::sync::Arc;

use loom::thread;

use super::*;

const LIMIT: u64 = 3;

fn entry(tag: u16) -> Entry<'static> {
    let left_over = &|closed: &Closed| (LIMIT - closed.used.min(LIMIT)).min(1);
    Entry { tag: Tag(tag), limit: LIMIT, granted: 0, grace: 0, left_over }
}

fn words() -> Arc<Words> {
    Arc::new(std::array::from_fn(|_| AtomicU64::new(0)))
}

fn takes(words: &Words, tag: u16, times: usize) -> u64 {
    let granted = |_| matches!(Counter(words).take(&entry(tag), 1), Take::Granted { .. });
    (0..times).filter(|index| granted(*index)).count() as u64
}

#[test]
fn p1_two_threads_take_exactly_what_is_there() {
    loom::model(|| {
        let words = words();
        let other = {
            let words = Arc::clone(&words);
            thread::spawn(move || takes(&words, 1, 2))
        };
        let mine = takes(&words, 1, 2);
        assert_eq!(mine + other.join().expect("the other thread ends well"), LIMIT);
    });
}

#[test]
fn p1_a_window_passes_once_and_nothing_is_lost_or_given_twice() {
    loom::model(|| {
        let words = words();
        assert_eq!(takes(&words, 1, 2), 2);
        let other = {
            let words = Arc::clone(&words);
            thread::spawn(move || takes(&words, 2, 2))
        };
        let mine = takes(&words, 2, 2);
        let all = mine + other.join().expect("the other thread ends well");
        // One unit is left over; a thread that comes before it is written may be refused early.
        assert!((LIMIT..=LIMIT + 1).contains(&all), "{all}");
        let reading = Counter(&words).read(&entry(2));
        assert_eq!(reading, Reading { tag: Tag(2), live: all, base: 0, extra: 1 });
        assert_eq!(Counter(&words).previous(), (Tag(1), 2));
    });
}

#[test]
fn p2_a_take_is_put_back_whether_or_not_the_window_passes() {
    loom::model(|| {
        let words = words();
        assert_eq!(takes(&words, 1, 1), 1);
        let other = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let Take::Granted { tag, .. } = Counter(&words).take(&entry(1), 1) else {
                    panic!("there is room");
                };
                Counter(&words).put_back(tag, 1);
            })
        };
        Counter(&words).add(&entry(2), 1);
        other.join().expect("the other thread ends well");
        let used = Counter(&words).read(&entry(2)).used();
        let (tag, before) = Counter(&words).previous();
        assert_eq!((used, tag), (1, Tag(1)));
        // Put back between the passing of the window and the note of what was used in it, a unit
        // stays in that note: never one less.
        assert!((1..=2).contains(&before), "{before}");
    });
}

/// Two counters, the second of which takes over from the first with the first call for it.
struct Pair {
    old: Arc<Words>,
    new: Arc<Words>,
    is_settled: loom::sync::Mutex<bool>,
}

impl Pair {
    fn settled(&self) -> Counter<'_> {
        let mut is_settled = self.is_settled.lock().expect("no code panics holding this lock");
        if !std::mem::replace(&mut is_settled, true) {
            let left = Counter(&self.old).seal(&entry(1));
            Counter(&self.new).take_over(&left, &entry(1), true);
        }
        Counter(&self.new)
    }

    /// As a request with the snapshot before.
    fn take_old(&self) -> u64 {
        let take = match Counter(&self.old).take(&entry(1), 1) {
            Take::Sealed => self.settled().take(&entry(1), 1),
            take => take,
        };
        u64::from(matches!(take, Take::Granted { .. }))
    }
}

#[test]
fn p1_p3_taking_over_beside_takes_grants_exactly_what_is_there() {
    loom::model(|| {
        let pair = Arc::new(Pair {
            old: words(),
            new: words(),
            is_settled: loom::sync::Mutex::new(false),
        });
        assert_eq!(takes(&pair.old, 1, 1), 1);
        let other = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || pair.take_old() + pair.take_old())
        };
        let take = pair.settled().take(&entry(1), 1);
        let mine = u64::from(matches!(take, Take::Granted { .. }));
        let all = 1 + mine + other.join().expect("the other thread ends well");
        assert_eq!(all, LIMIT);
        let left = Counter(&pair.new).read(&entry(1));
        assert_eq!(left.used(), LIMIT, "each unit is at the one that counts");
    });
}

#[test]
fn p3_what_is_only_counted_while_another_takes_over_is_at_one_of_them() {
    loom::model(|| {
        let pair = Arc::new(Pair {
            old: words(),
            new: words(),
            is_settled: loom::sync::Mutex::new(false),
        });
        let other = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || match Counter(&pair.old).add(&entry(1), 5) {
                Added::Sealed => drop(pair.settled().add(&entry(1), 5)),
                Added::Done => {}
            })
        };
        let new = pair.settled();
        other.join().expect("the other thread ends well");
        assert_eq!(new.read(&entry(1)).used(), 5);
    });
}

#[test]
fn p1_making_it_all_base_beside_takes_never_admits_more() {
    loom::model(|| {
        let words = words();
        assert_eq!(takes(&words, 1, 2), 2);
        let other = {
            let words = Arc::clone(&words);
            thread::spawn(move || takes(&words, 1, 2))
        };
        Counter(&words).fold();
        let all = 2 + other.join().expect("the other thread ends well");
        assert!(all <= LIMIT, "{all}");
        assert_eq!(Counter(&words).read(&entry(1)).used(), all);
        assert_eq!(all + takes(&words, 1, 2), LIMIT, "and no less in the end");
    });
}

#[test]
fn who_is_late_never_overwrites_a_newer_window() {
    loom::model(|| {
        let words = words();
        assert_eq!(takes(&words, 1, 2), 2);
        let other = {
            let words = Arc::clone(&words);
            thread::spawn(move || Counter(&words).add(&entry(2), 1))
        };
        Counter(&words).add(&entry(3), 1);
        other.join().expect("the other thread ends well");
        let reading = Counter(&words).read(&entry(3));
        assert_eq!((reading.tag, reading.extra), (Tag(3), 1));
        let (tag, used) = Counter(&words).previous();
        let all = reading.used() + if tag == Tag(2) { used } else { 0 };
        assert_eq!(all, 2, "each counted once, in one of the windows");
    });
}
