//! What goes on for a while: told when it has lasted, once, however long it goes on.
//!
//! An episode begins when something was so for some minutes in a row, and is over after five
//! minutes that were not. While it lasts its beginning is kept, so that a restart in the middle
//! neither tells it again nor forgets that it goes on.

use std::collections::BTreeMap;

const MINUTE_US: i64 = 60_000_000;
/// Quiet minutes after which an episode is over.
const QUIET_MINUTES: i64 = 5;

/// An episode, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Episode {
    /// Its first minute, unix microseconds.
    pub began_us: i64,
    /// The latest minute that was like that, unix microseconds.
    pub last_us: i64,
}

/// Minutes in a row that have not become an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Building<T> {
    /// The first of them, unix microseconds.
    pub began_us: i64,
    /// What there is to say of each.
    pub minutes: Vec<T>,
}

/// Episodes of one kind.
#[derive(Debug)]
pub struct Episodes<T> {
    /// Begins the names under which they are kept.
    kind: &'static str,
    building: BTreeMap<String, Building<T>>,
    going: BTreeMap<String, Episode>,
}

impl<T> Episodes<T> {
    /// Goes on with those of `kept` that are of this kind.
    pub fn new(kind: &'static str, kept: &BTreeMap<String, Episode>) -> Episodes<T> {
        let own = kept.iter().filter_map(|(name, episode)| {
            let name = name.strip_prefix(kind)?.strip_prefix(' ')?;
            Some((name.to_owned(), *episode))
        });
        Episodes { kind, building: BTreeMap::new(), going: own.collect() }
    }

    /// Takes what was so in a minute that is over. `has_lasted` says of the minutes in a row
    /// whether that is an episode. Those that begin are returned; every change goes to `changed`.
    pub fn minute(
        &mut self,
        held: BTreeMap<String, T>,
        has_lasted: impl Fn(&str, &Building<T>) -> bool,
        now_us: i64,
        changed: &mut BTreeMap<String, Option<Episode>>,
    ) -> Vec<(String, Building<T>)> {
        let mut begun = Vec::new();
        let kept_as = |name: &str| format!("{} {name}", self.kind);
        self.building.retain(|name, _| held.contains_key(name));
        for (name, minute) in held {
            if let Some(episode) = self.going.get_mut(&name) {
                episode.last_us = now_us;
                changed.insert(kept_as(&name), Some(*episode));
                continue;
            }
            let new = || Building { began_us: now_us, minutes: Vec::new() };
            let building = self.building.entry(name.clone()).or_insert_with(new);
            building.minutes.push(minute);
            if has_lasted(&name, building)
                && let Some(building) = self.building.remove(&name)
            {
                let episode = Episode { began_us: building.began_us, last_us: now_us };
                self.going.insert(name.clone(), episode);
                changed.insert(kept_as(&name), Some(episode));
                begun.push((name, building));
            }
        }
        self.going.retain(|name, episode| {
            let goes_on = now_us - episode.last_us < QUIET_MINUTES * MINUTE_US;
            if !goes_on {
                changed.insert(kept_as(name), None);
            }
            goes_on
        });
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> BTreeMap<String, u64> {
        names.iter().map(|name| ((*name).to_owned(), 7)).collect()
    }

    #[test]
    fn an_episode_begins_once_however_long_it_lasts_and_over_a_restart() {
        let mut kept = BTreeMap::new();
        let mut episodes = Episodes::new("a", &kept);
        let minute = |episodes: &mut Episodes<u64>,
                      kept: &mut BTreeMap<String, Episode>,
                      number: i64,
                      names: &[&str]| {
            let mut changed = BTreeMap::new();
            let lasted = |_: &str, building: &Building<u64>| building.minutes.len() >= 2;
            let begun = episodes.minute(of(names), lasted, number * MINUTE_US, &mut changed);
            for (name, episode) in changed {
                match episode {
                    Some(episode) => drop(kept.insert(name, episode)),
                    None => assert!(kept.remove(&name).is_some()),
                }
            }
            let begun = begun.into_iter();
            begun.map(|(name, building)| (name, building.began_us / MINUTE_US)).collect::<Vec<_>>()
        };
        assert_eq!(minute(&mut episodes, &mut kept, 1, &["x"]), []);
        // A gap: it begins anew.
        assert_eq!(minute(&mut episodes, &mut kept, 2, &["y"]), []);
        assert_eq!(minute(&mut episodes, &mut kept, 3, &["x"]), []);
        assert_eq!(minute(&mut episodes, &mut kept, 4, &["x"]), [("x".to_owned(), 3)]);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a x"]);
        kept.insert("b x".to_owned(), Episode { began_us: 0, last_us: 0 });
        let mut episodes = Episodes::new("a", &kept);
        for number in [5, 7, 8, 12] {
            assert_eq!(minute(&mut episodes, &mut kept, number, &["x"]), []);
        }
        for number in 13..18 {
            assert_eq!(minute(&mut episodes, &mut kept, number, &[]), []);
        }
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["b x"], "it is over; another kind is not");
        assert_eq!(minute(&mut episodes, &mut kept, 18, &["x"]), []);
        assert_eq!(minute(&mut episodes, &mut kept, 19, &["x"]), [("x".to_owned(), 18)]);
    }
}
