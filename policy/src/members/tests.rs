//! Sets against a plain model, many threads on one cap, and a million users in bounded memory.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::sketch::Sketch;
use super::*;

const QUARTER: i64 = QUARTER_US;

fn month(number: i64) -> Span {
    Span::between(number * 2_880 * QUARTER, (number + 1) * 2_880 * QUARTER)
}

fn user(number: u64) -> Member {
    Member::of(&member_id("active_users", "acme", &number.to_le_bytes()))
}

fn asked(set: &MemberSet, month_number: i64, number: u64, cap: Option<u64>) -> Asked<'_> {
    Asked { set, span: month(month_number), member: user(number), cap }
}

/// Lets a member in on all levels or none, as a chain does.
fn admit(members: &Members, chain: &[Asked<'_>]) -> bool {
    let answers: Vec<_> = chain.iter().map(|asked| members.look(asked)).collect();
    if answers.contains(&Seen::Full) {
        return false;
    }
    if answers.iter().all(|answer| *answer == Seen::Known) {
        return true;
    }
    let turn = members.turn(chain.iter().map(|asked| asked.set));
    let answers: Vec<_> = chain.iter().map(|asked| turn.look(asked)).collect();
    if answers.contains(&Seen::Full) {
        return false;
    }
    for (asked, answer) in chain.iter().zip(answers) {
        if answer == Seen::New {
            turn.insert(asked);
        }
    }
    true
}

/// A log in memory.
#[derive(Default)]
struct Noted(Mutex<Vec<MemberRecord>>);

impl MemberLog for Arc<Noted> {
    fn append(&self, record: &MemberRecord) {
        self.0.lock().expect("no panic").push(*record);
    }
}

#[test]
fn p1_a_cap_is_exact_and_a_known_member_is_never_refused() {
    let members = Members::new(&[1; 16]);
    let set = members.set(7);
    for number in 0..50 {
        assert!(admit(&members, &[asked(&set, 0, number, Some(50))]), "{number} of 50");
    }
    assert!(!admit(&members, &[asked(&set, 0, 50, Some(50))]), "the 51st");
    assert!((0..50).all(|number| admit(&members, &[asked(&set, 0, number, Some(50))])));
    assert_eq!(set.count(month(0)), MemberCount { members: 50, estimated: false });
    // A lower cap takes nobody out; a higher one has room again.
    assert_eq!(members.look(&asked(&set, 0, 49, Some(10))), Seen::Known);
    assert!(!admit(&members, &[asked(&set, 0, 51, Some(10))]));
    assert!(admit(&members, &[asked(&set, 0, 51, Some(51))]));
    assert_eq!(set.count(month(1)).members, 0, "the next month begins with nobody");
    assert!(admit(&members, &[asked(&set, 1, 99, Some(1))]));
    assert!(!admit(&members, &[asked(&set, 0, 1, Some(1))]), "a late one counts in this month");
    assert_eq!(members.look(&asked(&members.set(8), 0, 1, Some(0))), Seen::Full);
}

#[test]
fn p2_no_room_at_the_wide_level_inserts_nowhere() {
    let members = Members::new(&[2; 16]);
    let (narrow, wide) = (members.set(1), members.set(2));
    let chain = |number| [asked(&narrow, 0, number, Some(5)), asked(&wide, 0, number, Some(1))];
    assert!(admit(&members, &chain(1)));
    assert!(!admit(&members, &chain(2)));
    assert_eq!(narrow.count(month(0)).members, 1);
    assert!(admit(&members, &chain(1)));
}

#[test]
fn p3_a_changed_period_forgives_nobody() {
    let members = Members::new(&[3; 16]);
    let set = members.set(1);
    let day = Span { start: month(0).start, end: month(0).start + 96 };
    assert!(admit(&members, &[asked(&set, 0, 1, Some(1))]));
    let by_day = |number| Asked { span: day, ..asked(&set, 0, number, Some(2)) };
    assert_eq!(members.look(&by_day(1)), Seen::Known);
    assert!(admit(&members, &[by_day(2)]));
    assert!(!admit(&members, &[by_day(3)]));
    let tomorrow = Span { start: day.end, end: day.end + 96 };
    assert_eq!(set.count(tomorrow).members, 0, "and its window is the new one");
}

#[test]
fn p3_another_set_takes_over_and_the_log_knows() {
    let (noted, members) = (Arc::new(Noted::default()), Members::new(&[3; 16]));
    members.keep(Box::new(Arc::clone(&noted)));
    let [old, new, large] = [1, 2, 3].map(|key| members.set(key));
    for number in 0..10 {
        assert!(admit(&members, &[asked(&old, 0, number, Some(10))]));
    }
    assert!(admit(&members, &[asked(&new, 0, 9, Some(10)), asked(&new, 0, 99, Some(10))]));
    let by_year = Span { start: month(0).start, end: month(11).end };
    members.take_over(&old, &new, month(0), by_year);
    assert!((0..10).all(|number| members.knows(&new, by_year, user(number))));
    assert_eq!(new.count(by_year).members, 11, "more than its cap: they were let in");
    (0..EXACT_MAX + 9_000).for_each(|number| {
        members.turn([&*large]).insert(&asked(&large, 0, number, None));
    });
    members.take_over(&large, &new, month(0), by_year);
    let estimate = large.count(month(0)).members;
    assert!(new.count(by_year).estimated && new.count(by_year).members.abs_diff(estimate) < 30);
    let again = Members::new(&[4; 16]);
    for record in noted.0.lock().expect("no panic").iter() {
        again.restore(record, 0);
    }
    assert_eq!(again.set(2).count(by_year), new.count(by_year));
}

#[test]
fn p3_what_was_let_in_is_let_in_after_a_restart() {
    let noted = Arc::new(Noted::default());
    let first = Members::new(&[4; 16]);
    first.keep(Box::new(Arc::clone(&noted)));
    let large = EXACT_MAX + 40_000;
    for number in 0..large {
        assert!(admit(&first, &[asked(&first.set(1), 0, number, None)]));
    }
    for number in 0..30 {
        assert!(admit(&first, &[asked(&first.set(2), 0, number, Some(30))]));
        assert!(admit(&first, &[asked(&first.set(3), 1, number, Some(30))]));
    }
    let second = Members::new(&[5; 16]);
    let records = noted.0.lock().expect("no panic").clone();
    let now = month(0).end_us() - 1;
    // And again, in another order: nothing changes.
    for record in records.iter().chain(records.iter().rev()) {
        second.restore(record, now);
    }
    let span = month(0);
    for key in 1..=3 {
        assert_eq!(first.set(key).count(span), second.set(key).count(span), "set {key}");
    }
    assert!(second.set(1).count(span).estimated);
    assert!(!admit(&second, &[asked(&second.set(2), 0, 30, Some(30))]));
    assert!(admit(&second, &[asked(&second.set(2), 0, 29, Some(30))]));
    let third = Members::new(&[5; 16]);
    for record in &records {
        third.restore(record, month(0).end_us());
    }
    assert_eq!(third.set(2).count(span).members, 0, "a window that is over");
    assert_eq!(third.set(3).count(month(1)).members, 30);
}

#[test]
fn windows_that_are_over_are_freed_and_sets_in_use_stay() {
    let members = Members::new(&[6; 16]);
    let kept = members.set(1);
    for (key, number) in [(1, 1), (2, 2), (3, 3)] {
        let span = i64::from(key == 3);
        assert!(admit(&members, &[asked(&members.set(key), span, number, Some(9))]));
    }
    assert_eq!(members.sweep(month(0).end_us()), 3, "late ones may come yet");
    assert_eq!(members.sweep(month(0).end_us() + LATE_US), 1);
    assert_eq!(members.sets.lock().expect("no panic").len(), 2, "the one in use, the later one");
    assert_eq!(kept.count(month(0)).members, 0);
}

#[test]
fn p3_a_window_that_begins_while_the_one_before_is_freed_loses_nobody() {
    let members = Members::new(&[8; 16]);
    let set = members.set(1);
    let now_us = month(0).end_us() + LATE_US;
    for round in 0..200 {
        // As it was in the window before.
        set.table.store(Some(Arc::new(Table::of(month(0), members.seed, user(0)))));
        std::thread::scope(|scope| {
            let turn = members.turn([&*set]);
            scope.spawn(|| members.sweep(now_us));
            // Until the other one is at it, and most likely waits for the turn.
            while members.sets.try_lock().is_ok() {
                std::thread::yield_now();
            }
            (0..100).for_each(|_| std::thread::yield_now());
            assert!(turn.insert(&asked(&set, 1, 1, Some(9))));
        });
        assert_eq!(set.count(month(1)).members, 1, "round {round}");
    }
}

#[test]
fn p1_sixteen_threads_let_in_exactly_the_cap_at_every_level() {
    const CAP: u64 = 50;
    let members = Members::new(&[7; 16]);
    let (wide, teams) = (members.set(0), [members.set(1), members.set(65)]);
    let (admitted, refused) = (Mutex::new(HashSet::new()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..16_u64 {
            let (members, wide, teams) = (&members, &wide, &teams);
            let (admitted, refused) = (&admitted, &refused);
            scope.spawn(move || {
                for number in 0..2_000_u64 {
                    // Everybody asks for the same users, in different orders.
                    let user = (number * 7 + thread * 131) % 200;
                    let team = &teams[(user % 2) as usize];
                    let chain = [asked(team, 0, user, Some(30)), asked(wide, 0, user, Some(CAP))];
                    if admit(members, &chain) {
                        admitted.lock().expect("no panic").insert(user);
                    } else {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let admitted = admitted.into_inner().expect("no panic");
    assert_eq!(admitted.len() as u64, CAP, "P1: to the unit, at the wide level");
    for (index, team) in (0..).zip(&teams) {
        let of_team = admitted.iter().filter(|user| *user % 2 == index).count() as u64;
        assert!(of_team <= 30, "P1: at the narrow level");
        assert_eq!(team.count(month(0)).members, of_team, "P2: refused ones are in no set");
    }
    assert_eq!(wide.count(month(0)).members, CAP);
    assert!(refused.into_inner() > 0);
    for user in admitted {
        assert!(admit(&members, &[asked(&wide, 0, user, Some(CAP))]), "P1: known ones go on");
    }
}

#[test]
fn a_sketch_is_within_three_sigma_from_nobody_to_a_million() {
    let sketch = Sketch::default();
    assert_eq!(sketch.count(), 0);
    let mut next = 10;
    for number in 1..=1_000_000_u64 {
        sketch.add(user(number));
        if number == next {
            let error = sketch.count() as f64 / number as f64 - 1.0;
            assert!(error.abs() <= 0.0243, "{error} at {number}");
            next += next / 3;
        }
    }
    let error = sketch.count() as f64 / 1e6 - 1.0;
    assert!(error.abs() <= 0.0243, "{error} at a million");
}

#[test]
fn a_million_users_without_a_cap_are_16_kib() {
    let members = Members::new(&[8; 16]);
    let set = members.set(1);
    for number in 0..1_000_000 {
        let asked = asked(&set, 0, number, None);
        if members.look(&asked) == Seen::New {
            members.turn([&*set]).insert(&asked);
        }
        if number + 1 == EXACT_MAX {
            assert_eq!(set.count(month(0)), MemberCount { members: EXACT_MAX, estimated: false });
        }
    }
    let MemberCount { members: count, estimated } = set.count(month(0));
    let error = count as f64 / 1e6 - 1.0;
    assert!(estimated && error.abs() <= 0.0243, "{error}");
    assert!(std::mem::size_of::<Sketch>() <= 16 * 1024 + 256);
    assert!(std::mem::size_of::<MemberSet>() <= 48);
    // A cap that comes later is held: what the sketch counts does not pass it.
    let full = (0..).map(|number| asked(&set, 0, 2_000_000 + number, Some(50)));
    assert!(full.take(1_000).any(|asked| members.look(&asked) == Seen::Full));
}

#[test]
fn written_rows_are_remembered_by_member_tenant_and_day_and_may_be_forgotten() {
    let written = Written::new(1 << 10);
    let entry = |number: u64, tenant: u64, day: u32| {
        Entry::new(&member_id("active_users", "acme", &number.to_le_bytes()), tenant, day)
    };
    written.note(entry(1, 1, 20_000));
    assert!(written.has(entry(1, 1, 20_000)));
    let later = entry(1, 1, 20_000 + 255);
    for other in [entry(2, 1, 20_000), entry(1, 2, 20_000), entry(1, 1, 20_001), later] {
        assert!(!written.has(other));
    }
    // A new day takes the place of an old one first.
    (0..100_000).for_each(|number| written.note(entry(number, 1, 20_000)));
    (0..300).for_each(|number| written.note(entry(number, 1, 20_001)));
    let kept = (0..300).filter(|number| written.has(entry(*number, 1, 20_001))).count();
    assert!(kept > 290, "{kept}");
    assert!((0..100_000).any(|number| !written.has(entry(number, 1, 20_000))));
    assert!(
        (500_000..600_000).all(|number| !written.has(entry(number, 1, 20_000))),
        "never invented"
    );
}

/// One request: who, of which of four teams, how far time goes on, whether the rest of the chain
/// refuses.
type Step = (u64, usize, u8, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![30 => Just(0_u8), 1 => 1_u8..3];
    prop::collection::vec((0_u64..40, 0_usize..4, time, prop::bool::weighted(0.1)), 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// P1, P2: sets of a tree answer as hash sets do, over months, with refusals elsewhere.
    #[test]
    fn sets_answer_as_the_plain_model(
        steps in steps(),
        caps in prop::collection::vec(prop::option::of(0_u64..20), 7),
    ) {
        // Three levels: teams 0..4, departments 4..6, the holding 6.
        let levels = |team: usize| [team, 4 + team / 2, 6];
        let members = Members::new(&[9; 16]);
        let sets: Vec<_> = (0..7).map(|key| members.set(key)).collect();
        let mut model: HashMap<usize, HashSet<u64>> = HashMap::new();
        let mut now = 0;
        for (user, team, passed, refused_elsewhere) in steps {
            if passed > 0 {
                now += i64::from(passed);
                model.clear();
            }
            let chain = levels(team).map(|level| asked(&sets[level], now, user, caps[level]));
            let expected = levels(team).iter().all(|level| {
                let held = model.entry(*level).or_default();
                held.contains(&user) || caps[*level].is_none_or(|cap| (held.len() as u64) < cap)
            });
            if refused_elsewhere {
                let looked = chain.iter().all(|asked| members.look(asked) != Seen::Full);
                prop_assert_eq!(looked, expected);
            } else {
                prop_assert_eq!(admit(&members, &chain), expected);
                if expected {
                    for level in levels(team) {
                        model.entry(level).or_default().insert(user);
                    }
                }
            }
            for (level, set) in sets.iter().enumerate() {
                let held = model.get(&level).map_or(0, HashSet::len) as u64;
                prop_assert_eq!(set.count(month(now)).members, held, "level {}", level);
            }
        }
    }
}
