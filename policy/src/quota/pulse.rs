//! Looking at very many quotas again and again: cheap for those where nothing happened.
//!
//! Whoever watches all quotas of a snapshot takes their pulses once and keeps them. A pulse that
//! beats as before says that nothing was counted since and that no window passed; only the others
//! are worth a [`QuotaView`].

use std::sync::Arc;

use crate::levels::Sum;
use crate::quota::{QuotaView, Words};
use crate::snapshot::{Slot, Snapshot};
use crate::sync::Ordering;

/// Tells whether a quota counted anything, at the price of reading a few words.
#[derive(Clone, Debug)]
pub struct Pulse(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Windows(&'static Words),
    Level(Arc<Sum>),
}

impl Pulse {
    fn of(slot: &Slot) -> Option<Pulse> {
        let kind = match (slot.quota_here(), slot.level_here()) {
            (Some(quota), _) => Kind::Windows(quota.place()?.words),
            (None, Some(quota)) => Kind::Level(Arc::clone(quota.sum_if_put()?)),
            (None, None) => return None,
        };
        Some(Pulse(kind))
    }

    /// A number that differs from an earlier one when the count, or the window it is of, does. Of
    /// two different states in 2^64, two may be told as one.
    pub fn beat(&self) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(ODD).rotate_left(29);
        match &self.0 {
            Kind::Windows(words) => {
                words.iter().fold(0, |sum, word| mix(sum, word.load(Ordering::Acquire)))
            }
            Kind::Level(level) => level.used(),
        }
    }
}

impl Snapshot {
    /// The pulse of every quota, in an order that stays: [`quota_at`](Self::quota_at) shows the one
    /// at a place. Empty where the snapshot was only made to be judged.
    pub fn quota_pulses(&self) -> impl Iterator<Item = Pulse> {
        self.all_quotas().map_while(Pulse::of)
    }

    /// The quota at a place among the [pulses](Self::quota_pulses), in the window that contains the
    /// instant (unix microseconds). Allocates nothing.
    pub fn quota_at(&self, place: usize, unix_us: i64) -> Option<QuotaView<'_>> {
        self.view_of(self.quota_slot(place)?, unix_us)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::quota::{InMemory, Previous, Reported};
    use crate::{Policy, PolicySettings, Source};

    const HOUR_US: i64 = 3_600_000_000;
    const START_US: i64 = 495_000 * HOUR_US;

    fn policy() -> Policy {
        let text = r#"
[[plan]]
id = "p"
quotas = [
    { name = "calls", meter = "api_calls", limit = 10, per = "hour" },
    { name = "runs", meter = "automations", limit = 10, per = "day" },
]
[[tenant]]
id = "acme"
plan = "p"
"#;
        let memory = InMemory::shared();
        let settings = PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory };
        let source = Source { file: "p.toml".into(), text: text.into() };
        let policy = Policy::new(&[source], &settings, START_US).expect("valid");
        policy.roll(START_US);
        policy
    }

    fn count(policy: &Policy, amount: u64) {
        let calls = Reported { path: "acme", plan: "p", meter: "api_calls", at_us: START_US };
        policy.charge_event(&calls, amount, START_US);
    }

    #[test]
    fn a_pulse_beats_for_its_own_quota_only_and_when_a_window_passes() {
        let policy = policy();
        let snapshot = policy.load();
        let beats = || snapshot.quota_pulses().map(|pulse| pulse.beat()).collect::<Vec<_>>();
        let place = |meter: &str| {
            (0..2).find(|place| snapshot.quota_at(*place, START_US).unwrap().meter == meter)
        };
        let (calls, reports) = (place("api_calls").unwrap(), place("automations").unwrap());
        let before = beats();
        assert_eq!(beats(), before);
        count(&policy, 1);
        assert_ne!(beats()[calls], before[calls]);
        assert_eq!(beats()[reports], before[reports]);
        let counted = beats();
        policy.roll(START_US + HOUR_US);
        assert_ne!(beats()[calls], counted[calls]);
        assert!(snapshot.quota_at(2, START_US).is_none());
    }

    #[test]
    fn the_last_window_in_which_anything_was_counted_is_known_after_any_pause() {
        let policy = policy();
        count(&policy, 7);
        let snapshot = policy.load();
        let later_us = START_US + 500 * HOUR_US;
        let mut views = (0..2).map(|place| snapshot.quota_at(place, later_us).unwrap());
        let calls = views.find(|view| view.meter == "api_calls").unwrap();
        let over = Previous { start_us: START_US, end_us: START_US + HOUR_US, used: 7, limit: 10 };
        assert_eq!((calls.used, calls.window.unwrap().previous), (0, Some(over)));
    }
}
