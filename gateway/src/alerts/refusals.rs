//! Tenants that are refused again and again.
//!
//! An episode begins when a tenant was refused more than so many times a minute for so many minutes
//! in a row, and ends after five minutes that were not like that. It is told once, under an id made
//! of the tenant and the episode's beginning; while it lasts its beginning is kept, so that a
//! restart in the middle neither tells it again nor forgets that it goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use serde_json::{Map, json};

use super::signal::{self, Kind, Signal};

const MINUTE_US: i64 = 60_000_000;
/// Quiet minutes after which an episode is over.
const QUIET_MINUTES: i64 = 5;

/// Counts of refusals since they were last looked at. One look-up and one addition for each refusal
/// of a known tenant.
#[derive(Debug, Default)]
pub struct RefusalCounts {
    by_path: DashMap<Box<str>, AtomicU64>,
}

impl RefusalCounts {
    /// Counts a refusal of the tenant at a path; nobody's are not counted.
    pub fn count(&self, path: &str) {
        if path.is_empty() {
            return;
        }
        if let Some(count) = self.by_path.get(path) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.by_path.entry(path.into()).or_default().fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last call.
    fn take(&self) -> BTreeMap<String, u64> {
        let mut taken = BTreeMap::new();
        self.by_path.retain(|path, count| {
            let count = count.swap(0, Ordering::Relaxed);
            if count > 0 {
                taken.insert(path.to_string(), count);
            }
            // Who is not refused any more takes no memory; a count in between starts anew.
            count > 0
        });
        taken
    }
}

/// What counts as again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sustained {
    /// More refusals than this in each minute.
    pub per_minute: u64,
    /// For so many minutes.
    pub minutes: u32,
}

/// An episode, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Episode {
    /// Its first minute, unix microseconds.
    pub began_us: i64,
    /// Its latest minute with too many refusals, unix microseconds.
    pub last_us: i64,
}

/// What each tenant goes through.
#[derive(Debug)]
pub struct RefusalWatch {
    sustained: Sustained,
    /// Minutes in a row with too many, and the first of them.
    building: BTreeMap<String, (u32, i64)>,
    episodes: BTreeMap<String, Episode>,
}

impl RefusalWatch {
    /// Goes on with the episodes that were kept.
    pub fn new(sustained: Sustained, kept: BTreeMap<String, Episode>) -> RefusalWatch {
        RefusalWatch { sustained, building: BTreeMap::new(), episodes: kept }
    }

    /// Looks at a minute that is over. Returns whether episodes changed.
    pub fn look(&mut self, counts: &RefusalCounts, now_us: i64, found: &mut Vec<Signal>) -> bool {
        let many = counts.take().into_iter();
        let many: BTreeMap<String, u64> =
            many.filter(|(_, count)| *count > self.sustained.per_minute).collect();
        let before = self.episodes.clone();
        self.building.retain(|path, _| many.contains_key(path));
        for (path, count) in many {
            if let Some(episode) = self.episodes.get_mut(&path) {
                episode.last_us = now_us;
                continue;
            }
            let building = self.building.entry(path.clone()).or_insert((0, now_us));
            building.0 += 1;
            if building.0 >= self.sustained.minutes {
                let began_us = building.1;
                self.building.remove(&path);
                found.push(self.told(&path, count, began_us, now_us));
                self.episodes.insert(path, Episode { began_us, last_us: now_us });
            }
        }
        self.episodes.retain(|_, episode| now_us - episode.last_us < QUIET_MINUTES * MINUTE_US);
        self.episodes != before
    }

    /// What goes on.
    pub fn episodes(&self) -> &BTreeMap<String, Episode> {
        &self.episodes
    }

    fn told(&self, path: &str, count: u64, began_us: i64, now_us: i64) -> Signal {
        let kind = Kind::RefusalsSustained;
        let parts = [kind.as_str().as_bytes(), path.as_bytes(), &began_us.to_le_bytes()];
        Signal {
            id: signal::id(&parts),
            kind,
            tenant: path.rsplit('/').next().unwrap_or(path).to_owned(),
            path: path.to_owned(),
            at_us: now_us,
            data: Map::from_iter([
                ("refused_in_last_minute".to_owned(), json!(count)),
                ("since".to_owned(), json!(signal::time(began_us))),
                ("minutes".to_owned(), json!(self.sustained.minutes)),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_is_told_once_however_long_and_over_a_restart() {
        let sustained = Sustained { per_minute: 2, minutes: 2 };
        let counts = RefusalCounts::default();
        let mut watch = RefusalWatch::new(sustained, BTreeMap::new());
        let mut found = Vec::new();
        let mut minute = |watch: &mut RefusalWatch, number: i64, refused: u64| {
            (0..refused).for_each(|_| counts.count("acme/web"));
            watch.look(&counts, number * MINUTE_US, &mut found);
            found.len()
        };
        assert_eq!(minute(&mut watch, 1, 3), 0);
        // Just not enough: it begins anew.
        assert_eq!(minute(&mut watch, 2, 2), 0);
        assert_eq!(minute(&mut watch, 3, 3), 0);
        assert_eq!(minute(&mut watch, 4, 9), 1);
        let mut watch = RefusalWatch::new(sustained, watch.episodes().clone());
        for number in 5..9 {
            assert_eq!(minute(&mut watch, number, 3 * (number as u64 % 2)), 1);
        }
        for number in 9..13 {
            assert_eq!(minute(&mut watch, number, 0), 1);
        }
        assert!(watch.episodes().is_empty());
        assert_eq!(minute(&mut watch, 14, 3), 1);
        assert_eq!(minute(&mut watch, 15, 3), 2);
        assert_ne!(found[0].id, found[1].id);
        assert_eq!((&*found[0].tenant, &*found[0].path), ("web", "acme/web"));
    }
}
