//! Rate limits from outside a decision: how much of their time they are in use.
//!
//! A token takes a bucket the time in which it comes back, so of any span in which a bucket is
//! neither full at the beginning nor at the end, the share of time in which it is not full is the
//! rate of what was admitted over its own rate, whatever the requests' pattern (the utilisation law
//! of queues, Denning and Buzen 1978). Looking often at whether buckets are full measures their use
//! without a word from requests.

use super::{Control, Level, Slot, Snapshot};
use crate::bucket::{Bucket, Terms};
use crate::time::Nanos;

/// Where a rate limit stands: to be used with its snapshot only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatePlace {
    owner: u32,
    slot: u8,
}

/// A rate limit of a tenant, or of the plan it bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateView<'s> {
    /// The tenant it stands at.
    pub tenant: &'s str,
    /// The path of that tenant: ids from its root, joined with `/`.
    pub path: &'s str,
    /// Where it stands.
    pub level: Level,
    /// Its name.
    pub name: &'s str,
    /// What it is held to.
    pub terms: Terms,
}

impl Snapshot {
    /// Every rate limit of tenants and their plans, each once; those of keys, clients and end users
    /// are not among them.
    pub fn rate_places(&self) -> impl Iterator<Item = RatePlace> {
        (0..).zip(&self.tenants).flat_map(|(owner, tenant)| {
            let slots = (0..).zip(&tenant.chain).filter(move |(_, slot)| slot.owner == owner);
            let rates = slots.filter(|(_, slot)| matches!(slot.control, Control::Bucket { .. }));
            rates.map(move |(slot, _)| RatePlace { owner, slot })
        })
    }

    /// The limit at a place.
    pub fn rate_at(&self, place: RatePlace) -> RateView<'_> {
        let (slot, _, terms) = self.rate(place);
        let owner = &self.tenants[slot.owner as usize];
        let name = &self.labels[slot.label as usize].name;
        RateView { tenant: &owner.id, path: &owner.path, level: slot.level, name, terms }
    }

    /// Whether anything of the limit at a place is spent at this instant.
    pub fn is_rate_in_use(&self, place: RatePlace, now: Nanos) -> bool {
        let (_, bucket, terms) = self.rate(place);
        bucket.remaining(terms, now) < terms.burst
    }

    fn rate(&self, place: RatePlace) -> (&Slot, &Bucket, Terms) {
        let slot = &self.tenants[place.owner as usize].chain[place.slot as usize];
        match &slot.control {
            Control::Bucket { bucket, terms } => (slot, bucket, *terms),
            _ => unreachable!("places are those of rate limits"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use crate::policy::{Policy, PolicySettings};
    use crate::{ApiKey, Body, Call, Decision, Nanos, Source};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_time_in_use_is_the_share_of_the_rate_and_each_limit_is_there_once() {
        let key = ApiKey::generate("test").expect("a key");
        let text = format!(
            r#"
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{{ address = "127.0.0.1:1" }}]
[[route]]
id = "r"
app = "crm"
upstream = "u"
[[plan]]
id = "p"
limits = [{{ name = "requests", rate = 50, per = "second" }}]
[[tenant]]
id = "acme"
plan = "p"
limits = [{{ name = "parallel", concurrent = 5 }}]
[[tenant]]
id = "web"
parent = "acme"
limits = [
    {{ name = "requests", rate = 20, per = "second", burst = 5 }},
    {{ name = "address", rate = 20, per = "second", each = "client_ip" }},
]
[[key]]
id = "{}"
tenant = "web"
hash = "{}"
limits = [{{ name = "own", rate = 90, per = "second" }}]
"#,
            key.id, key.hash
        );
        let settings = PolicySettings {
            max_dynamic_keys: 9,
            hash_key: [0; 16],
            memory: crate::quota::InMemory::shared(),
        };
        let source = Source { file: "p.toml".into(), text };
        let policy = Policy::new(&[source], &settings, 0).expect("valid");
        let snapshot = policy.load();
        let places: Vec<_> = snapshot.rate_places().collect();
        let named = |place| {
            let rate = snapshot.rate_at(place);
            format!("{} {} {}", rate.path, rate.level.as_str(), rate.name)
        };
        let names: Vec<_> = places.iter().copied().map(named).collect();
        assert_eq!(names, ["acme plan requests", "acme/web subsidiary requests"]);
        // Sixteen a second, in bursts of four: four fifths of one limit, a third of the other.
        let mut in_use = [0; 2];
        for ms in 0..10_000 {
            let now = Nanos(SECOND + ms * SECOND / 1_000);
            if ms % 250 == 0 {
                for _ in 0..4 {
                    let call = Call {
                        key: Some(key.reveal().as_bytes()),
                        host: "x",
                        path: "/",
                        method: "GET",
                        body: Body::None,
                        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                        header: &|_| None,
                        now,
                        unix_us: 0,
                    };
                    assert!(matches!(policy.decide(&call), Decision::Admit(_)));
                }
            }
            for (place, in_use) in places.iter().zip(&mut in_use) {
                *in_use += u32::from(snapshot.is_rate_in_use(*place, now));
            }
        }
        assert_eq!(in_use, [3_200, 8_000]);
    }
}
