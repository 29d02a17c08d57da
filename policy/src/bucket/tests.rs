//! Properties of one bucket against a plain model, and of a change of terms.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Bucket, Debt, Take, Terms};
use crate::time::Nanos;

fn terms() -> impl Strategy<Value = Terms> {
    (1_u64..5_000, 1_u64..50).prop_map(|(interval_ns, burst)| Terms { interval_ns, burst })
}

/// Steps of time and costs.
fn asks() -> impl Strategy<Value = Vec<(u64, u32)>> {
    prop::collection::vec((0_u64..20_000, 1_u32..8), 1..200)
}

/// The same limit by the book: a level of tokens in fractions of `interval_ns`.
struct Model {
    terms: Terms,
    level: u128,
    at: u64,
}

impl Model {
    fn take(&mut self, cost: u32, now: u64) -> bool {
        let full = u128::from(self.terms.interval_ns) * u128::from(self.terms.burst);
        self.level = (self.level + u128::from(now - self.at)).min(full);
        self.at = now;
        let wanted = u128::from(cost) * u128::from(self.terms.interval_ns);
        let granted = self.level >= wanted;
        if granted {
            self.level -= wanted;
        }
        granted
    }
}

proptest! {
    #[test]
    fn p1_grants_exactly_what_the_model_grants(terms in terms(), asks in asks()) {
        let bucket = Bucket::default();
        let full = u128::from(terms.interval_ns) * u128::from(terms.burst);
        let mut model = Model { terms, level: full, at: 1_000 };
        let mut now = 1_000;
        for (step, cost) in asks {
            now += step;
            let granted = matches!(bucket.take(terms, cost, Nanos(now)), Take::Granted { .. });
            prop_assert_eq!(granted, model.take(cost, now));
        }
    }

    #[test]
    fn p1_never_more_than_rate_times_time_plus_burst(terms in terms(), asks in asks()) {
        let bucket = Bucket::default();
        let mut now = 0;
        let mut grants: Vec<(u64, u64)> = Vec::new();
        for (step, cost) in asks {
            now += step;
            if let Take::Granted { .. } = bucket.take(terms, cost, Nanos(now)) {
                grants.push((now, cost.into()));
            }
        }
        for from in 0..grants.len() {
            let mut sum = 0;
            for (at, cost) in &grants[from..] {
                sum += cost;
                prop_assert!(sum <= terms.burst + (at - grants[from].0) / terms.interval_ns);
            }
        }
    }

    #[test]
    fn refused_before_the_promised_instant_and_granted_at_it(terms in terms(), asks in asks()) {
        let bucket = Bucket::default();
        let mut now = 0;
        for (step, cost) in asks {
            now += step;
            let Take::Refused { ready_at, .. } = bucket.take(terms, cost, Nanos(now)) else {
                continue;
            };
            let Some(ready_at) = ready_at else {
                prop_assert!(u64::from(cost) > terms.burst);
                continue;
            };
            let early = bucket.look(terms, cost, Nanos(ready_at.0 - 1));
            prop_assert!(matches!(early, Take::Refused { .. }), "early {early:?}");
            let in_time = bucket.look(terms, cost, ready_at);
            prop_assert!(matches!(in_time, Take::Granted { .. }), "in time {in_time:?}");
        }
    }

    #[test]
    fn p2_put_back_restores_the_exact_word(terms in terms(), asks in asks()) {
        let bucket = Bucket::default();
        let mut now = 0;
        for (step, cost) in asks {
            now += step;
            let word = bucket.load(Nanos(now));
            if let Take::Granted { before, .. } = bucket.take(terms, cost, Nanos(now))
                && step % 2 == 0
            {
                prop_assert_eq!(before, word);
                prop_assert!(bucket.put_back(terms, cost, Nanos(now), before));
                prop_assert_eq!(bucket.load(Nanos(now)), word);
            }
        }
    }

    #[test]
    fn p1_p2_forced_takes_keep_every_answer_sound(
        terms in terms(), asks in asks(), forced in prop::collection::vec(0_u8..3, 200),
    ) {
        let bucket = Bucket::default();
        let (mut now, mut full_at) = (7, 0_u64);
        for ((step, cost), kind) in asks.into_iter().zip(forced) {
            now += step;
            let before = bucket.load(Nanos(now));
            let take = match kind {
                0 => bucket.take(terms, cost, Nanos(now)),
                _ => bucket.force(terms, cost, Nanos(now)),
            };
            match take {
                Take::Granted { before: word, .. } => {
                    prop_assert_eq!(word, before);
                    full_at = full_at.max(now) + terms.interval_ns * u64::from(cost);
                }
                Take::Refused { ready_at: Some(ready_at), .. } => {
                    let in_time = bucket.look(terms, cost, ready_at);
                    let granted = matches!(in_time, Take::Granted { .. });
                    prop_assert!(granted && kind == 0);
                }
                take => prop_assert!(u64::from(cost) > terms.burst && kind == 0, "{take:?}"),
            }
            let ahead_ns = bucket.debt(terms, Nanos(now)).ahead_ns;
            prop_assert_eq!(ahead_ns, full_at.saturating_sub(now));
            let ahead = full_at.saturating_sub(now).min(terms.tolerance_ns());
            let left = (terms.tolerance_ns() - ahead) / terms.interval_ns;
            prop_assert_eq!(bucket.remaining(terms, Nanos(now)), left);
            if kind == 2 {
                prop_assert!(bucket.put_back(terms, cost, Nanos(now), before));
                prop_assert_eq!(bucket.load(Nanos(now)), before);
                full_at = before;
            }
        }
    }

    #[test]
    fn p3_new_terms_forgive_nothing_and_charge_at_most_one_token_more(
        old in terms(), new in terms(), asks in asks(), pause in 0_u64..50_000,
    ) {
        let before = Arc::new(Bucket::default());
        let mut now = 0;
        for (step, cost) in asks {
            now += step;
            before.take(old, cost, Nanos(now));
        }
        now += pause;
        let now = Nanos(now);
        let spent = old.burst - before.remaining(old, now);
        let after = Bucket::inherit(Arc::clone(&before), old, new);
        let left = after.remaining(new, now);
        prop_assert!(left <= new.burst.saturating_sub(spent), "spent {} left {}", spent, left);
        // What was spent in part counts as a whole token at most.
        prop_assert!(left + spent + 1 >= new.burst, "spent {} left {}", spent, left);
        prop_assert_eq!(before.take(old, 1, now), Take::Sealed);
    }
}

/// A bucket by the book that is never cut: it owes whatever was taken, however much it holds.
#[derive(Clone, Copy)]
struct Uncut {
    terms: Terms,
    full_at: u64,
}

impl Uncut {
    fn charge(&mut self, cost: u32, now: u64) {
        self.full_at = self.full_at.max(now) + u64::from(cost) * self.terms.interval_ns;
    }

    fn change(&mut self, terms: Terms, now: u64) {
        let owed = u128::from(self.full_at.saturating_sub(now)) * u128::from(terms.interval_ns);
        let owed = owed.div_ceil(self.terms.interval_ns.into());
        *self = Uncut { terms, full_at: now + u64::try_from(owed).expect("small numbers") };
    }

    fn left(&self, now: u64) -> u64 {
        let Terms { interval_ns, burst } = self.terms;
        (interval_ns * burst).saturating_sub(self.full_at.saturating_sub(now)) / interval_ns
    }
}

/// What happens to a bucket between two takes.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    Reload(Terms),
    /// To be found under these terms after so long a pause.
    Restart(Terms, u64),
    Guaranteed,
}

fn events() -> impl Strategy<Value = Vec<(u64, u32, Event)>> {
    let event = prop_oneof![
        6 => Just(Event::Nothing),
        1 => terms().prop_map(Event::Reload),
        1 => (terms(), 0_u64..30_000).prop_map(|(terms, pause)| Event::Restart(terms, pause)),
        2 => Just(Event::Guaranteed),
    ];
    prop::collection::vec((0_u64..20_000, 1_u32..8, event), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn p3_no_round_trip_of_terms_forgives_and_no_cut_locks_out(first in terms(), events in events()) {
        let mut bucket = Arc::new(Bucket::default());
        let mut terms = first;
        let mut uncut = Uncut { terms, full_at: 0 };
        // Guaranteed tokens taken since the word was last within the burst.
        let (mut past, mut now) = (0, 0);
        for (step, cost, event) in events {
            now += step;
            if bucket.debt(terms, Nanos(now)).ahead_ns <= terms.tolerance_ns() {
                past = 0;
            }
            match event {
                Event::Nothing => {}
                Event::Guaranteed => {
                    bucket.force(terms, cost, Nanos(now));
                    uncut.charge(cost, now);
                    past += u64::from(cost);
                }
                Event::Reload(new) | Event::Restart(new, _) => {
                    let wide = bucket.debt(terms, Nanos(now));
                    let after = if let Event::Restart(_, pause) = event {
                        now += pause;
                        let restarted = Bucket::default();
                        restarted.raise(new, wide.after(pause), Nanos(now));
                        restarted
                    } else {
                        let after = Bucket::inherit(Arc::clone(&bucket), terms, new);
                        after.settle(Nanos(now));
                        after
                    };
                    if new != terms {
                        uncut.change(new, now);
                        // Not more than one that was never cut has, however often it was.
                        let left = after.remaining(new, Nanos(now));
                        prop_assert!(left <= uncut.left(now), "{left} of {}", uncut.left(now));
                    }
                    let ahead_ns = after.debt(new, Nanos(now)).ahead_ns;
                    // Rounded up once for each of the two parts.
                    let most = new.tolerance_ns() + (past + 1) * new.interval_ns;
                    prop_assert!(ahead_ns <= most, "{ahead_ns} of {most}");
                    (bucket, terms) = (Arc::new(after), new);
                }
            }
            if let Take::Granted { .. } = bucket.take(terms, cost, Nanos(now)) {
                uncut.charge(cost, now);
            }
            // All that is owed is remembered.
            let debt = bucket.debt(terms, Nanos(now));
            let owed = uncut.full_at.saturating_sub(now);
            prop_assert!(debt.ahead_ns + debt.arrears_ns >= owed, "{debt:?} of {owed}");
        }
    }
}

#[test]
fn p3_a_downgrade_empties_a_daily_limit_for_no_longer_than_its_day() {
    const DAY: u64 = 86_400_000_000_000;
    let of = |tokens: u32| Terms { interval_ns: DAY.div_ceil(tokens.into()), burst: tokens.into() };
    let (wide, narrow) = (of(1_500_000), of(100_000));
    let first = Arc::new(Bucket::default());
    first.take(wide, 800_000, Nanos(0));
    let second = Arc::new(Bucket::inherit(Arc::clone(&first), wide, narrow));
    assert_eq!(second.remaining(narrow, Nanos(0)), 0, "more is spent than it holds now");
    assert_eq!(second.remaining(narrow, Nanos(DAY / 2)), 50_000);
    assert_eq!(second.remaining(narrow, Nanos(DAY)), 100_000);
    // Back to where it was at once: as if nothing had happened.
    let third = Arc::new(Bucket::inherit(Arc::clone(&second), narrow, wide));
    assert_eq!(third.remaining(wide, Nanos(0)), 700_000);
    // Half a day after it was full, 50 000 of the 700 000 in arrears have come back.
    let fourth = Arc::new(Bucket::inherit(third, wide, narrow));
    assert_eq!(fourth.remaining(narrow, Nanos(0)), 0);
    let fifth = Bucket::inherit(fourth, narrow, wide);
    assert_eq!(fifth.remaining(wide, Nanos(DAY + DAY / 2)), 850_000);
}

#[test]
fn p3_arrears_survive_a_restart_and_are_paid_by_idle_time_only() {
    let (wide, narrow) =
        (Terms { interval_ns: 10, burst: 100 }, Terms { interval_ns: 10, burst: 5 });
    let first = Arc::new(Bucket::default());
    first.take(wide, 60, Nanos(0));
    let second = Bucket::inherit(first, wide, narrow);
    let debt = second.debt(narrow, Nanos(0));
    assert_eq!(debt, Debt { terms: narrow, ahead_ns: 50, arrears_ns: 550 });
    // Full after 50 ns; a restart of 100 ns in between.
    let restarted = Bucket::default();
    restarted.raise(narrow, debt.after(100), Nanos(7));
    let owes = |ahead_ns, arrears_ns| Debt { terms: narrow, ahead_ns, arrears_ns };
    assert_eq!(restarted.debt(narrow, Nanos(7)), owes(0, 500));
    assert_eq!(restarted.remaining(narrow, Nanos(7)), 5, "the same terms: as it was");
    // What is taken keeps the arrears from being paid.
    restarted.take(narrow, 5, Nanos(107));
    assert_eq!(restarted.debt(narrow, Nanos(107)), owes(50, 500));
    assert_eq!(restarted.debt(narrow, Nanos(157 + 300)), owes(0, 200));
    // Under other terms after the restart, all of it counts.
    let widened = Bucket::default();
    widened.raise(wide, restarted.debt(narrow, Nanos(107)), Nanos(0));
    assert_eq!(widened.remaining(wide, Nanos(0)), 45);
}

#[test]
fn a_cost_above_the_burst_is_never_ready() {
    let terms = Terms { interval_ns: 10, burst: 3 };
    let take = Bucket::default().take(terms, 4, Nanos(5));
    assert_eq!(take, Take::Refused { remaining: 3, ready_at: None });
}

#[test]
fn p3_a_chain_of_unused_buckets_settles_in_one_go() {
    let terms = |burst| Terms { interval_ns: 100, burst };
    let first = Arc::new(Bucket::default());
    for _ in 0..4 {
        first.take(terms(5), 1, Nanos(0));
    }
    let second = Arc::new(Bucket::inherit(Arc::clone(&first), terms(5), terms(6)));
    let third = Bucket::inherit(second, terms(6), terms(7));
    assert_eq!(third.remaining(terms(7), Nanos(0)), 3);
}

#[test]
fn a_bucket_forced_to_the_end_of_time_is_not_sealed() {
    let terms = Terms { interval_ns: u64::MAX / 2, burst: 1 };
    let bucket = Bucket::default();
    for _ in 0..5 {
        let take = bucket.force(terms, 1, Nanos(9));
        assert!(matches!(take, Take::Granted { .. }), "{take:?}");
    }
    assert_eq!(bucket.remaining(terms, Nanos(9)), 0);
    assert!(matches!(bucket.look(terms, 1, Nanos(u64::MAX)), Take::Granted { .. }));
}
