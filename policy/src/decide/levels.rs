//! What a request asks of the gauges that its route changes, and what of it stays reserved while it
//! is in flight ([`crate::levels`]).

use std::sync::Arc;

use super::chain::Refusals;
use super::{Call, Denial, Permit};
use crate::levels::{LevelQuota, MAX_LEVELS, Sum, UNKNOWN};
use crate::meters::{MeterId, MeterValue, figure};
use crate::snapshot::{Route, Slot, Snapshot};

/// A request's body, as far as its header tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    #[default]
    None,
    /// It has so many bytes.
    Length(u64),
    /// It ends when it ends.
    Unknown,
}

/// By how much a request may raise each gauge of its route, in their order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rises([u64; MAX_LEVELS]);

/// What a request has reserved, of each gauge of its route.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// The slots where it has.
    slots: u64,
    /// So much is not turned into a change of the level yet.
    amounts: [u64; MAX_LEVELS],
    /// So much was reserved in all.
    asked: [u64; MAX_LEVELS],
}

impl Rises {
    /// Reads what the gauges of the route are raised by. Allocates nothing.
    pub(super) fn read(snapshot: &Snapshot, route: &Route, call: &Call<'_>) -> Rises {
        let mut rises = Rises::default();
        for (rise, meter) in rises.0.iter_mut().zip(&route.levels) {
            *rise = match (&snapshot.meter(*meter).value, call.body) {
                (MeterValue::RequestBytes, Body::Length(bytes)) => bytes,
                (MeterValue::RequestBytes | MeterValue::ResponseHeader(_), Body::Unknown)
                | (MeterValue::ResponseHeader(_), Body::Length(1..)) => UNKNOWN,
                (MeterValue::RequestHeader(name), _) => {
                    let figure = (call.header)(name).and_then(figure::signed_nano);
                    figure::whole_units(figure.unwrap_or(0))
                }
                _ => 0,
            };
        }
        rises
    }

    pub(super) fn of(&self, route: &Route, meter: MeterId) -> u64 {
        let place = route.levels.iter().position(|level| *level == meter);
        place.map_or(0, |place| self.0[place])
    }

    /// What is held once it is reserved at these slots.
    pub(super) fn held(&self, slots: u64) -> Held {
        let reserved = self.0.map(|rise| if slots == 0 || rise == UNKNOWN { 0 } else { rise });
        Held { slots, amounts: reserved, asked: reserved }
    }
}

impl Permit {
    /// The level quotas of its chain, and the places of their slots.
    fn levels(&self) -> impl Iterator<Item = (u8, &Arc<LevelQuota>)> + Clone {
        let own = &self.snapshot.keys[self.caller.key as usize].own;
        let all = (0..).zip(own.iter().chain(&*self.tenant().chain));
        all.filter_map(|(index, slot): (u8, &Slot)| Some((index, slot.level_here()?)))
    }

    fn place_of(&self, meter: MeterId) -> Option<usize> {
        self.route().levels.iter().position(|level| *level == meter)
    }

    /// So much of the body has come: reserves what of it is not yet, where its length was not known.
    /// Then what came may go on to the upstream. Else nothing more is reserved, and it may not.
    pub fn reserve(&mut self, body_bytes: u64) -> Result<(), Denial> {
        let snapshot = Arc::clone(&self.snapshot);
        for place in 0..self.route().levels.len().min(MAX_LEVELS) {
            let meter = self.route().levels[place];
            let more = body_bytes.saturating_sub(self.held.asked[place]);
            if more == 0 || snapshot.meter(meter).value != MeterValue::RequestBytes {
                continue;
            }
            let mut taken = 0_u64;
            for (index, quota) in self.levels().filter(|(_, quota)| quota.meter == meter) {
                let Err(used) = quota.ask(more, false) else {
                    taken |= u64::from(quota.reserves(more)) << index;
                    continue;
                };
                for (_, quota) in self.levels().filter(|(index, _)| taken >> index & 1 == 1) {
                    quota.give_back(more);
                }
                let mut refusals = Refusals::default();
                refusals.add_level(index, quota, more, used);
                let reason = refusals.finish().expect("one refused");
                let (caller, route) = (Some(self.caller), Some(self.route));
                return Err(Denial { snapshot, caller, route, reason });
            }
            self.held.slots |= taken;
            self.held.amounts[place] += more;
            self.held.asked[place] += more;
        }
        Ok(())
    }

    /// So much of a gauge is a change of its level now: how much of it was reserved.
    pub(crate) fn turned(&mut self, meter: MeterId, by: u64) -> u64 {
        let Some(place) = self.place_of(meter) else { return 0 };
        let turned = by.min(self.held.amounts[place]);
        self.held.amounts[place] -= turned;
        turned
    }

    /// The sums at which it has reserved some of a gauge.
    pub(crate) fn reserved_at(&self, meter: MeterId) -> impl Iterator<Item = &Arc<Sum>> + Clone {
        let slots = self.held.slots;
        let here = self.levels().filter(move |(index, _)| slots >> index & 1 == 1);
        here.filter(move |(_, quota)| quota.meter == meter).map(|(_, quota)| quota.sum())
    }

    /// Gives back what it reserved of levels and did not turn into changes. Does nothing the second
    /// time.
    pub fn release_levels(&mut self) {
        if self.held.slots == 0 {
            return;
        }
        for place in 0..self.route().levels.len().min(MAX_LEVELS) {
            let (meter, amount) = (self.route().levels[place], self.held.amounts[place]);
            self.reserved_at(meter).for_each(|sum| sum.change(-amount.cast_signed()));
        }
        self.held.slots = 0;
        self.held.amounts = [0; MAX_LEVELS];
    }
}
