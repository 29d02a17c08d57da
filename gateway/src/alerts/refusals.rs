//! Tenants that are refused again and again: more than so many times a minute for so many minutes
//! in a row ([`episodes`](super::episodes)).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::{DashMap, DashSet};
use serde_json::{Map, json};

use super::episodes::{Building, Episode, Episodes};
use super::quotas::Found;
use super::signal::{self, Kind, Signal};
use crate::api::words::rfc3339;

/// Counts of refusals since they were last looked at. One look-up and one addition for each refusal
/// of a known tenant.
#[derive(Debug, Default)]
pub struct RefusalCounts {
    by_path: DashMap<Box<str>, AtomicU64>,
    /// Quotas of which nothing is allowed and something was asked: tenant and name.
    asked_in_vain: DashSet<(Box<str>, Box<str>)>,
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

    /// Notes that a quota refused of which nothing is allowed, so that nothing shows in its count:
    /// the tenant it stands at, and its full name.
    pub fn ask_in_vain(&self, tenant: &str, name: &str) {
        let quota = (tenant.into(), name.into());
        if !self.asked_in_vain.contains(&quota) {
            self.asked_in_vain.insert(quota);
        }
    }

    /// Starts all counts anew.
    pub(super) fn forget(&self) {
        drop(self.take());
    }

    /// Such quotas since the last call.
    pub(super) fn take_asked_in_vain(&self) -> Vec<(Box<str>, Box<str>)> {
        if self.asked_in_vain.is_empty() {
            return Vec::new();
        }
        let asked: Vec<_> = self.asked_in_vain.iter().map(|quota| quota.clone()).collect();
        for quota in &asked {
            self.asked_in_vain.remove(quota);
        }
        asked
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

/// What each tenant goes through, by its path.
pub struct RefusalWatch {
    sustained: Sustained,
    episodes: Episodes<u64>,
}

impl RefusalWatch {
    /// Goes on with the episodes that were kept.
    pub fn new(sustained: Sustained, kept: &BTreeMap<String, Episode>) -> RefusalWatch {
        RefusalWatch { sustained, episodes: Episodes::new("refusals", kept) }
    }

    /// Looks at a minute that is over.
    pub fn minute(&mut self, counts: &RefusalCounts, now_us: i64, found: &mut Found<'_>) {
        let Sustained { per_minute, minutes } = self.sustained;
        let many = counts.take().into_iter().filter(|(_, count)| *count > per_minute).collect();
        let has_lasted =
            |_: &str, building: &Building<u64>| building.minutes.len() >= minutes as usize;
        let changed = &mut found.findings.episodes;
        for (path, building) in self.episodes.minute(many, has_lasted, now_us, changed) {
            found.signals.push(self.tell(&path, &building, now_us));
        }
    }

    fn tell(&self, path: &str, building: &Building<u64>, now_us: i64) -> Signal {
        let kind = Kind::RefusalsSustained;
        let began_us = building.began_us;
        let parts = [kind.as_str().as_bytes(), path.as_bytes(), &began_us.to_le_bytes()];
        Signal {
            id: signal::id(&parts),
            kind,
            tenant: path.rsplit('/').next().unwrap_or(path).to_owned(),
            path: path.to_owned(),
            at_us: now_us,
            data: Map::from_iter([
                ("refused_in_last_minute".to_owned(), json!(building.minutes.last())),
                ("since".to_owned(), json!(rfc3339(began_us))),
                ("minutes".to_owned(), json!(self.sustained.minutes)),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::Findings;
    use super::*;

    const MINUTE_US: i64 = 60_000_000;

    #[test]
    fn more_refusals_than_that_for_so_long_are_told_once() {
        let counts = RefusalCounts::default();
        let sustained = Sustained { per_minute: 2, minutes: 2 };
        let mut watch = RefusalWatch::new(sustained, &BTreeMap::new());
        let (mut signals, mut findings) = (Vec::new(), Findings::default());
        let mut minute = |number: i64, refused: u64| {
            (0..refused).for_each(|_| counts.count("acme/web"));
            counts.count("");
            let mut found = Found { signals: &mut signals, findings: &mut findings };
            watch.minute(&counts, number * MINUTE_US, &mut found);
            signals.len()
        };
        let told: Vec<usize> =
            [3, 2, 3, 9, 9].into_iter().zip(1..).map(|(n, at)| minute(at, n)).collect();
        assert_eq!(told, [0, 0, 0, 1, 1], "just enough is not more");
        assert_eq!((&*signals[0].tenant, &*signals[0].path), ("web", "acme/web"));
        assert_eq!(signals[0].data["refused_in_last_minute"], 9);
        let kept: Vec<_> = findings.episodes.keys().collect();
        assert_eq!(kept, ["refusals acme/web"], "in the transaction of the signal");
    }

    #[test]
    fn what_was_asked_in_vain_is_said_once() {
        let counts = RefusalCounts::default();
        counts.ask_in_vain("web", "team/exports");
        counts.ask_in_vain("web", "team/exports");
        assert_eq!(counts.take_asked_in_vain().len(), 1);
        assert_eq!(counts.take_asked_in_vain().len(), 0);
    }
}
