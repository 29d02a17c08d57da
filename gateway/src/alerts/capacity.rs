//! Rate limits that will soon be too small: the signal to give a tenant more, before it is refused.
//!
//! Once a second every limit is asked whether anything of it is spent. The share of a minute in
//! which that is so is the rate of what was admitted over the limit's own
//! ([`Snapshot::is_rate_in_use`]), so requests do nothing for it. A limit that was in use for more
//! than `BUSY_PERCENT` of each of the last five minutes, and not less at their end than at their
//! beginning, is told, once while it lasts. One that fills slowly works off a burst for longer than
//! that: it must be in use for twice the time in which it fills.

use std::collections::BTreeMap;
use std::sync::Arc;

use orbit_policy::snapshot::{Level, RatePlace};
use orbit_policy::{Nanos, Snapshot};
use serde_json::{Map, json};

use super::episodes::{Building, Episode, Episodes};
use super::outbox::Findings;
use super::quotas::Found;
use super::signal::{self, Kind, Signal};
use crate::api::words::{per_second, rfc3339};

/// In use for more than this share of a minute.
const BUSY_PERCENT: u8 = 80;
/// Minutes in a row.
const MINUTES: usize = 5;
/// Minutes at the beginning and at the end that are compared.
const ENDS: usize = 2;
/// Looks with less than which nothing can be said of a minute.
const FEW_LOOKS: u16 = 30;
/// Limits that take longer to fill than this are for quotas to foretell.
const SLOW_S: u64 = 3_600;

/// How much the limits of the policy in force are in use.
pub struct CapacityWatch {
    snapshot: Option<Arc<Snapshot>>,
    limits: Vec<RatePlace>,
    /// Looks of this minute in which each was in use.
    in_use: Vec<u16>,
    looks: u16,
    episodes: Episodes<u8>,
}

/// A limit that was busy for a minute.
struct Busy {
    tenant: String,
    path: String,
    level: Level,
    name: String,
    interval_ns: u64,
    burst: u64,
    refill_s: u64,
}

impl CapacityWatch {
    /// Goes on with the episodes that were kept.
    pub fn new(kept: &BTreeMap<String, Episode>) -> CapacityWatch {
        CapacityWatch {
            snapshot: None,
            limits: Vec::new(),
            in_use: Vec::new(),
            looks: 0,
            episodes: Episodes::new("capacity", kept),
        }
    }

    /// Asks every limit. To be called once a second.
    pub fn look(&mut self, snapshot: &Arc<Snapshot>, now: Nanos) {
        let is_new = self.snapshot.as_ref().is_none_or(|known| !Arc::ptr_eq(known, snapshot));
        if is_new {
            self.limits = snapshot.rate_places().collect();
            self.in_use = vec![0; self.limits.len()];
            self.looks = 0;
            self.snapshot = Some(Arc::clone(snapshot));
        }
        self.looks = self.looks.saturating_add(1);
        for (place, in_use) in self.limits.iter().zip(&mut self.in_use) {
            *in_use += u16::from(snapshot.is_rate_in_use(*place, now));
        }
    }

    /// A minute is over.
    pub fn minute(&mut self, now_us: i64, found: &mut Found<'_>) {
        let Some(snapshot) = &self.snapshot else { return };
        // After a reload most of the minute was not seen: it neither adds to an episode nor ends
        // one.
        if self.looks < FEW_LOOKS {
            return;
        }
        let (mut held, mut limits) = (BTreeMap::new(), BTreeMap::new());
        for (place, in_use) in self.limits.iter().zip(&mut self.in_use) {
            let percent = (u32::from(std::mem::take(in_use)) * 100 / u32::from(self.looks)) as u8;
            if percent <= BUSY_PERCENT {
                continue;
            }
            let rate = snapshot.rate_at(*place);
            let refill_s = rate.terms.refill_s();
            if refill_s > SLOW_S {
                continue;
            }
            let name = format!("{} {}/{}", rate.path, rate.level.as_str(), rate.name);
            let busy = Busy {
                tenant: rate.tenant.to_owned(),
                path: rate.path.to_owned(),
                level: rate.level,
                name: rate.name.to_owned(),
                interval_ns: rate.terms.interval_ns,
                burst: rate.terms.burst,
                refill_s,
            };
            held.insert(name.clone(), percent);
            limits.insert(name, busy);
        }
        self.looks = 0;
        let Findings { episodes: changed, .. } = &mut *found.findings;
        let has_lasted = |name: &str, building: &Building<u8>| {
            limits.get(name).is_some_and(|busy| has_lasted(&building.minutes, busy.refill_s))
        };
        for (name, building) in self.episodes.minute(held, has_lasted, now_us, changed) {
            if let Some(busy) = limits.get(&name) {
                found.signals.push(tell(&name, busy, &building, now_us));
            }
        }
    }
}

/// Whether these minutes, each busy, are enough, and use does not fall.
fn has_lasted(minutes: &[u8], refill_s: u64) -> bool {
    let needed = MINUTES.max((2 * refill_s).div_ceil(60) as usize);
    let Some(last) = minutes.len().checked_sub(needed).map(|from| &minutes[from..]) else {
        return false;
    };
    let sum = |minutes: &[u8]| minutes.iter().map(|percent| u32::from(*percent)).sum::<u32>();
    sum(&last[last.len() - ENDS..]) >= sum(&last[..ENDS])
}

fn tell(name: &str, busy: &Busy, building: &Building<u8>, now_us: i64) -> Signal {
    let kind = Kind::ForecastExceeded;
    let parts = [kind.as_str().as_bytes(), name.as_bytes(), &building.began_us.to_le_bytes()];
    let last = &building.minutes[building.minutes.len().saturating_sub(MINUTES)..];
    let sum: u32 = last.iter().map(|percent| u32::from(*percent)).sum();
    let facts = [
        ("rate_limit", json!(busy.name)),
        ("level", json!(busy.level.as_str())),
        ("per_second", json!(per_second(busy.interval_ns))),
        ("burst", json!(busy.burst)),
        ("used_percent", json!(sum / (last.len() as u32).max(1))),
        ("since", json!(rfc3339(building.began_us))),
    ];
    Signal {
        id: signal::id(&parts),
        kind,
        tenant: busy.tenant.clone(),
        path: busy.path.clone(),
        at_us: now_us,
        data: Map::from_iter(facts.map(|(name, value)| (name.to_owned(), value))),
    }
}

#[cfg(test)]
mod tests {
    use orbit_policy::quota::InMemory;
    use orbit_policy::{Decision, Policy, PolicySettings, Reading, Source};

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// A tenant whose limit of 100 a second is used, and who watches.
    struct Bench {
        policy: Policy,
        key: orbit_policy::ApiKey,
        watch: CapacityWatch,
        episodes: BTreeMap<String, Episode>,
        second: u64,
    }

    fn documents(key: &orbit_policy::ApiKey, limit: &str) -> Vec<Source> {
        let text = format!(
            "[[app]]\nid = \"crm\"\n[[upstream]]\nid = \"u\"\n\
             peers = [{{ address = \"127.0.0.1:1\" }}]\n\
             [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
             [[plan]]\nid = \"p\"\nlimits = [{{ name = \"requests\", {limit} }}]\n\
             [[tenant]]\nid = \"acme\"\nplan = \"p\"\n\
             [[key]]\nid = \"{}\"\ntenant = \"acme\"\nhash = \"{}\"\n",
            key.id, key.hash
        );
        vec![Source { file: "p.toml".into(), text }]
    }

    impl Bench {
        fn new(limit: &str) -> Bench {
            let key = orbit_policy::ApiKey::generate("test").expect("a key");
            let memory = InMemory::shared();
            let settings = PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory };
            let policy = Policy::new(&documents(&key, limit), &settings, 0).expect("valid");
            let episodes = BTreeMap::new();
            let watch = CapacityWatch::new(&episodes);
            Bench { policy, key, watch, episodes, second: 1 }
        }

        /// Minutes with so many requests in each second. What was told of them.
        fn minutes(&mut self, count: u64, per_second: u64) -> Vec<Signal> {
            let (mut signals, mut findings) = (Vec::new(), Findings::default());
            for _ in 0..count {
                for _ in 0..60 {
                    self.second(per_second);
                }
                let now_us = (self.second * 1_000_000).cast_signed();
                let mut found = Found { signals: &mut signals, findings: &mut findings };
                self.watch.minute(now_us, &mut found);
            }
            for (name, episode) in findings.episodes {
                match episode {
                    Some(episode) => drop(self.episodes.insert(name, episode)),
                    None => drop(self.episodes.remove(&name)),
                }
            }
            signals
        }

        fn second(&mut self, per_second: u64) {
            let begin_ns = self.second * SECOND_NS;
            // Looks come between requests, a little later each second.
            let look_ns = begin_ns + self.second * 7 % 10 * SECOND_NS / 10 + 1_234_567;
            let mut has_looked = false;
            for number in 0..per_second {
                let at_ns = begin_ns + number * SECOND_NS / per_second;
                if at_ns > look_ns && !has_looked {
                    has_looked = true;
                    self.watch.look(&self.policy.load(), Nanos(look_ns));
                }
                let call = orbit_policy::Call {
                    key: Some(self.key.reveal().as_bytes()),
                    host: "x",
                    path: "/",
                    method: "GET",
                    body: orbit_policy::Body::None,
                    client: std::net::Ipv4Addr::LOCALHOST.into(),
                    header: &|_| None,
                    now: Nanos(at_ns),
                    unix_us: 0,
                };
                let _refused_or_not = matches!(self.policy.decide(&call), Decision::Admit(_));
            }
            if !has_looked {
                self.watch.look(&self.policy.load(), Nanos(look_ns));
            }
            self.second += 1;
        }
    }

    const FAST: &str = "rate = 10, per = \"second\", burst = 20";

    #[test]
    fn use_near_the_ceiling_that_does_not_fall_is_told_once_while_it_lasts() {
        let mut bench = Bench::new(FAST);
        assert_eq!(bench.minutes(8, 7), [], "seven of ten");
        assert_eq!(bench.minutes(4, 12), [], "not for long enough");
        assert_eq!(bench.minutes(1, 5), []);
        assert_eq!(bench.minutes(4, 12), [], "not in a row");
        let told = bench.minutes(1, 12);
        let [signal] = &told[..] else { panic!("{told:?}") };
        assert_eq!((signal.kind, &*signal.path), (Kind::ForecastExceeded, "acme"));
        assert_eq!(
            (&signal.data["rate_limit"], &signal.data["level"]),
            (&"requests".into(), &"plan".into())
        );
        assert_eq!(signal.data["per_second"], 10.0);
        assert!(signal.data["used_percent"].as_u64().is_some_and(|percent| percent > 90));
        // As long as it lasts, also over a restart and a reload.
        assert_eq!(bench.minutes(3, 12), []);
        bench.watch = CapacityWatch::new(&bench.episodes);
        assert_eq!(bench.minutes(6, 12), []);
        let at = Reading { mono: Nanos(bench.second * SECOND_NS), unix_us: 0 };
        bench.policy.apply(&documents(&bench.key, FAST), || at).expect("valid");
        assert_eq!(bench.minutes(6, 12), []);
        assert_eq!(bench.minutes(6, 1), []);
        assert_eq!(bench.minutes(5, 12).len(), 1, "another time");
    }

    #[test]
    fn a_burst_that_a_slow_limit_works_off_is_no_sustained_use() {
        // 60 at once, and nothing for ten minutes: it fills in ten.
        let mut bench = Bench::new("rate = 6, per = \"minute\", burst = 60");
        bench.second(60);
        assert_eq!(bench.minutes(12, 0), []);
        let mut bench = Bench::new("rate = 1, per = \"day\", burst = 50");
        bench.second(50);
        assert_eq!(bench.minutes(200, 0), []);
    }

    #[test]
    fn falling_use_is_not_told() {
        assert!(has_lasted(&[85, 85, 90, 85, 85], 1));
        assert!(!has_lasted(&[95, 90, 90, 85, 85], 1));
        assert!(!has_lasted(&[85, 90, 95, 99], 1));
        assert!(has_lasted(&[99, 99, 81, 82, 83, 84, 85], 1), "the last five count");
        assert!(!has_lasted(&[90; 9], 300) && has_lasted(&[90; 10], 300));
    }
}
