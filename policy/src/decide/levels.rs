//! What a request asks of the gauges that its route changes, and what of it stays reserved while it
//! is in flight ([`crate::levels`]).

use std::sync::Arc;

use super::refusals::Refusals;
use super::{Call, Denial, Permit};
use crate::levels::{LevelQuota, MAX_LEVELS, MOST_KNOWN, Sum, UNKNOWN};
use crate::meters::{MeterId, MeterValue, figure};
use crate::snapshot::{Route, Snapshot};

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

/// What a request has reserved of each gauge of its route, and not turned into a change of the level
/// yet: the same at every quota of its chain that reserves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held([u64; MAX_LEVELS]);

impl Rises {
    /// Reads what the gauges of the route are raised by. Allocates nothing.
    #[inline]
    pub(super) fn read(snapshot: &Snapshot, route: &Route, call: &Call<'_>) -> Rises {
        let mut rises = Rises::default();
        if !route.levels.is_empty() {
            rises.read_all(snapshot, route, call);
        }
        rises
    }

    fn read_all(&mut self, snapshot: &Snapshot, route: &Route, call: &Call<'_>) {
        for (rise, meter) in self.0.iter_mut().zip(&route.levels) {
            *rise = match (&snapshot.meter(*meter).value, call.body) {
                (MeterValue::RequestBytes, Body::Length(bytes)) => bytes.min(MOST_KNOWN),
                (MeterValue::RequestBytes | MeterValue::ResponseHeader(_), Body::Unknown)
                | (MeterValue::ResponseHeader(_), Body::Length(1..)) => UNKNOWN,
                (MeterValue::RequestHeader(name), _) => {
                    let figure = (call.header)(name).and_then(figure::signed_nano);
                    figure::whole_units(figure.unwrap_or(0)).min(MOST_KNOWN)
                }
                _ => 0,
            };
        }
    }

    pub(super) fn of(&self, route: &Route, meter: MeterId) -> u64 {
        let place = route.levels.iter().position(|level| *level == meter);
        place.map_or(0, |place| self.0[place])
    }

    /// What is held once it is reserved.
    pub(super) fn held(&self) -> Held {
        Held(self.0.map(|rise| if rise == UNKNOWN { 0 } else { rise }))
    }
}

impl Permit {
    /// The level quotas of a gauge on its chain at which it reserves, and the places of their slots.
    fn reserving(&self, meter: MeterId) -> impl Iterator<Item = (u8, &Arc<LevelQuota>)> + Clone {
        let own = self.snapshot.keys[self.caller.key as usize].own.len() as u8;
        let chain = (own..).zip(&*self.tenant().chain);
        let levels = chain.filter_map(|(index, slot)| Some((index, slot.level_here()?)));
        levels.filter(move |(_, quota)| quota.meter == meter && !quota.bills)
    }

    fn place_of(&self, meter: MeterId) -> Option<usize> {
        self.route().levels.iter().position(|level| *level == meter)
    }

    /// So many more bytes of a body whose length was not known have come: reserves them. Then they may
    /// go on to the upstream. Else nothing more is reserved, and they may not.
    pub fn reserve(&mut self, more: u64) -> Result<(), Denial> {
        for place in 0..self.route().levels.len() {
            let meter = self.route().levels[place];
            if self.snapshot.meter(meter).value == MeterValue::RequestBytes {
                self.reserve_of(meter, more)?;
                self.held.0[place] += more;
            }
        }
        Ok(())
    }

    fn reserve_of(&self, meter: MeterId, more: u64) -> Result<(), Denial> {
        for (index, quota) in self.reserving(meter) {
            let Err(used) = quota.ask(more, false) else { continue };
            let taken = self.reserving(meter).take_while(|(taken, _)| *taken < index);
            taken.for_each(|(_, quota)| quota.give_back(more));
            let mut refusals = Refusals::default();
            refusals.add_level(index, quota, more, used);
            let reason = refusals.finish().expect("one refused");
            let (caller, route) = (Some(self.caller), Some(self.route));
            let (snapshot, unix_us) = (Arc::clone(&self.snapshot), self.unix_us);
            return Err(Denial { snapshot, caller, route, reason, unix_us });
        }
        Ok(())
    }

    /// So much of a gauge is a change of its level now: how much of it was reserved.
    pub(crate) fn turned(&mut self, meter: MeterId, by: u64) -> u64 {
        let Some(place) = self.place_of(meter) else { return 0 };
        let turned = by.min(self.held.0[place]);
        self.held.0[place] -= turned;
        turned
    }

    /// The sums at which it reserves some of a gauge.
    pub(crate) fn reserved_at(&self, meter: MeterId) -> impl Iterator<Item = &Arc<Sum>> + Clone {
        self.reserving(meter).map(|(_, quota)| quota.sum())
    }

    /// Gives back what it reserved of levels and did not turn into changes. Does nothing the second
    /// time.
    pub fn release_levels(&mut self) {
        if self.held.0 != [0; MAX_LEVELS] {
            self.give_levels_back();
        }
    }

    #[cold]
    fn give_levels_back(&mut self) {
        let Held(amounts) = std::mem::take(&mut self.held);
        for (meter, amount) in self.route().levels.iter().zip(amounts) {
            self.reserved_at(*meter).for_each(|sum| sum.change(-amount.cast_signed()));
        }
    }
}
