//! Looking at very many quotas again and again: cheap for those where nothing happened.
//!
//! Whoever watches all quotas of a snapshot takes their pulses once and keeps them. A pulse that
//! beats as before says that nothing was counted since and that no window passed; only the others
//! are worth a [`QuotaView`].

use crate::quota::{QuotaView, Words};
use crate::snapshot::Snapshot;
use crate::sync::Ordering;

/// Tells whether a quota counted anything, at the price of reading four words.
#[derive(Clone, Copy, Debug)]
pub struct Pulse(&'static Words);

impl Pulse {
    /// A number that differs from an earlier one when the count, or the window it is of, does. Of
    /// two different states in 2^64, two may be told as one.
    pub fn beat(self) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(ODD).rotate_left(29);
        self.0.iter().fold(0, |sum, word| mix(sum, word.load(Ordering::Acquire)))
    }
}

impl Snapshot {
    /// The pulse of every quota, in an order that stays: [`quota_at`](Self::quota_at) shows the one
    /// at a place. Empty where the snapshot was only made to be judged.
    pub fn quota_pulses(&self) -> impl Iterator<Item = Pulse> {
        let quotas = (0..).map_while(|place| self.quota_slot(place));
        quotas.map_while(|(_, quota)| quota.place()).map(|place| Pulse(place.words))
    }

    /// The quota at a place among the [pulses](Self::quota_pulses), in the window that contains the
    /// instant (unix microseconds). Allocates nothing.
    pub fn quota_at(&self, place: usize, unix_us: i64) -> Option<QuotaView<'_>> {
        let (slot, quota) = self.quota_slot(place)?;
        Some(self.quota_view(slot, quota, unix_us))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::quota::{InMemory, Previous};
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

    #[test]
    fn a_pulse_beats_for_its_own_quota_only_and_when_a_window_passes() {
        let policy = policy();
        let snapshot = policy.load();
        let beats = || snapshot.quota_pulses().map(super::Pulse::beat).collect::<Vec<_>>();
        let place = |meter: &str| {
            (0..2).find(|place| snapshot.quota_at(*place, START_US).unwrap().meter == meter)
        };
        let (calls, reports) = (place("api_calls").unwrap(), place("automations").unwrap());
        let before = beats();
        assert_eq!(beats(), before);
        policy.charge("acme", "api_calls", 1, START_US);
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
        policy.charge("acme", "api_calls", 7, START_US);
        let snapshot = policy.load();
        let later_us = START_US + 500 * HOUR_US;
        let mut views = (0..2).map(|place| snapshot.quota_at(place, later_us).unwrap());
        let calls = views.find(|view| view.meter == "api_calls").unwrap();
        let over = Previous { start_us: START_US, end_us: START_US + HOUR_US, used: 7, limit: 10 };
        assert_eq!((calls.used, calls.previous), (0, Some(over)));
    }
}
