//! Shares: which limit above a share is of, what it comes to, and whether all that is guaranteed of
//! a limit is there.
//!
//! A share becomes two slots: its guarantee, which secures the limit above (and, where that is a
//! share itself, everything that one's guarantee secures), and its ceiling. Rates are compared as
//! written, in millionths of a token a day. Intervals are derived from the interval above and
//! rounded up, so that shares whose rates add up to no more than the limit's do so to the
//! nanosecond: the bound proved in [`bucket`](crate::bucket) rests on it.

mod ahead;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::index::Interner;
use crate::bucket::Terms;
use crate::diagnostics::{Findings, Place};
use crate::documents::{Amount, LimitDoc, Share, Written, period, refills};
use crate::snapshot::{Control, Label, Level, Slot};
pub(super) use ahead::{Ahead, Then};

const DAY_NS: u64 = 86_400_000_000_000;
/// Millionths of a token.
const MICRO: u128 = 1_000_000;

/// A rate as written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rate {
    micro_per_day: u128,
}

impl Rate {
    pub(super) const NONE: Rate = Rate { micro_per_day: 0 };

    pub(super) fn new(Written { tokens, per_ns }: Written) -> Rate {
        Rate { micro_per_day: u128::from(tokens) * u128::from(DAY_NS / per_ns) * MICRO }
    }

    /// The rate an amount stands for, of `whole` where it is a percentage.
    fn of(amount: Amount, per_ns: u64, whole: Rate) -> Rate {
        match amount {
            Amount::Number(tokens) => Rate::new(Written { tokens, per_ns }),
            Amount::Percent(percent) => {
                Rate { micro_per_day: whole.micro_per_day * u128::from(percent) / 100 }
            }
        }
    }

    pub(super) fn plus(self, other: Rate) -> Rate {
        Rate { micro_per_day: self.micro_per_day + other.micro_per_day }
    }

    /// `130 per second`, exact to a millionth.
    pub(super) fn show(self, per_ns: u64) -> String {
        let micro = self.micro_per_day * u128::from(per_ns) / u128::from(DAY_NS);
        let number = format!("{}.{:06}", micro / MICRO, micro % MICRO);
        let number = number.trim_end_matches('0').trim_end_matches('.');
        format!("{number} per {}", period(per_ns))
    }
}

/// A rate and what a bucket is held to by it.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) rate: Rate,
    pub(super) terms: Terms,
}

impl Held {
    /// A part of this at `rate`, with its part of the burst unless another is given.
    fn part(self, rate: Rate, burst: Option<u64>) -> Option<Held> {
        let (part, whole) = (rate.micro_per_day, self.rate.micro_per_day);
        let interval_ns = (u128::from(self.terms.interval_ns) * whole).div_ceil(part.max(1));
        let interval_ns = u64::try_from(interval_ns).ok()?;
        let own = (u128::from(self.terms.burst) * part / whole.max(1)).max(1);
        let burst = burst.unwrap_or(u64::try_from(own).ok()?);
        refills(interval_ns, burst).then_some(Held { rate, terms: Terms { interval_ns, burst } })
    }
}

/// A limit that shares are of.
struct Whole {
    /// The limit, or the ceiling of a share.
    ceiling: Held,
    /// What it may guarantee: the limit, or the guarantee of a share.
    guarantee: Held,
    per_ns: u64,
    /// What is guaranteed of it so far.
    given: Rate,
    /// The last of the shares of it, in the order of the documents.
    last: Option<(Place, String)>,
}

/// Every limit with shares, and every share.
#[derive(Default)]
pub(super) struct Shares {
    /// By the tenant a limit stands at, and its label.
    wholes: HashMap<(u32, u32), Whole, FixedState>,
    /// In the order of the tree: those above come first.
    pub(super) made: Vec<Made>,
}

/// A share.
pub(super) struct Made {
    pub(super) tenant: u32,
    /// Its place among the tenant's limits, and its label.
    pub(super) limit: usize,
    pub(super) label: u32,
    /// The tenant at which the limit stands that it is of, and that limit's label.
    pub(super) of: (u32, u32),
    /// Whether that is a plan's.
    is_of_plan: bool,
    pub(super) guarantee: Held,
    pub(super) ceiling: Held,
    pub(super) scope: u32,
    pub(super) per_ns: u64,
}

/// Why a limit has no shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotShared {
    /// It bounds requests in flight.
    InFlight,
    /// It is one bucket for each of something.
    ForEach,
}

impl NotShared {
    fn message(self, name: &str) -> String {
        match self {
            NotShared::InFlight => format!(
                "`{name}` above bounds requests in flight: a concurrency limit has no guarantee and \
                 no ceiling"
            ),
            NotShared::ForEach => {
                format!("`{name}` above is one limit for each of something: it has no shares")
            }
        }
    }
}

/// The limits a tenant's shares may be of.
pub(super) struct Above<'a> {
    pub(super) shares: &'a mut Shares,
    /// The tenant whose shares they are.
    pub(super) tenant: u32,
    /// The chain above it.
    pub(super) slots: &'a [Slot],
    /// The rate of a limit of that chain, as written.
    pub(super) written: &'a dyn Fn(&Slot, &Label) -> Written,
    /// A table above has a finding of its own: a limit that is not there may be in it.
    pub(super) in_doubt: bool,
}

/// A share as two buckets, in terms of the limit above.
pub(super) struct Split {
    pub(super) guarantee: Terms,
    pub(super) ceiling: Terms,
    /// What the guarantee secures: bits are positions of the chain above.
    pub(super) secures: u64,
    pub(super) scope: u32,
}

impl Above<'_> {
    /// Splits a share, which has this place among the tenant's limits and this label; what is wrong
    /// with it becomes a finding at `at`.
    pub(super) fn split(
        &mut self,
        doc: &LimitDoc<'_>,
        share: Share,
        (limit, label): (usize, u32),
        labels: &Interner<Label>,
        at: &str,
        findings: &mut Findings,
    ) -> Option<Split> {
        let name = &*doc.name.value;
        let key = |field: &str| format!("{at}.{field}");
        let position = self.slots.iter().position(|slot| {
            slot.quota_here().is_none() && *labels.get(slot.label).name == *doc.name.value
        });
        let Some(position) = position else {
            if !self.in_doubt {
                findings.add(doc.name.place, key("name"), nothing_to_share(name));
            }
            return None;
        };
        let slot = &self.slots[position];
        let terms = match &slot.control {
            Control::Bucket { terms, .. } => terms,
            other => {
                let in_flight = matches!(other, Control::Gauge { .. });
                let why = if in_flight { NotShared::InFlight } else { NotShared::ForEach };
                findings.add(doc.name.place, key("name"), why.message(name));
                return None;
            }
        };
        let whole =
            self.shares.wholes.entry((slot.owner, slot.label)).or_insert_with(|| {
                Whole::plain((self.written)(slot, labels.get(slot.label)), *terms)
            });
        let (guarantee, ceiling) = whole.share(share, &key, findings)?;
        let per_ns = share.per_ns.unwrap_or(whole.per_ns);
        self.shares.wholes.insert((self.tenant, label), Whole::new(ceiling, guarantee, per_ns));
        self.shares.made.push(Made {
            tenant: self.tenant,
            limit,
            label,
            of: (slot.owner, slot.label),
            is_of_plan: slot.level == Level::Plan,
            guarantee,
            ceiling,
            scope: slot.scope,
            per_ns,
        });
        Some(Split {
            guarantee: guarantee.terms,
            ceiling: ceiling.terms,
            secures: secured(self.slots, position),
            scope: slot.scope,
        })
    }
}

fn nothing_to_share(name: &str) -> String {
    format!("no tenant above has a limit `{name}` to share")
}

impl Whole {
    /// A limit that is no share itself.
    fn plain(written: Written, terms: Terms) -> Whole {
        let held = Held { rate: Rate::new(written), terms };
        Whole::new(held, held, written.per_ns)
    }

    fn new(ceiling: Held, guarantee: Held, per_ns: u64) -> Whole {
        Whole { ceiling, guarantee, per_ns, given: Rate::NONE, last: None }
    }

    /// Guarantee and ceiling of a share of this.
    fn share(
        &mut self,
        share: Share,
        key: &dyn Fn(&str) -> String,
        findings: &mut Findings,
    ) -> Option<(Held, Held)> {
        let per_ns = share.per_ns.unwrap_or(self.per_ns);
        let guarantee = Rate::of(share.guarantee, per_ns, self.guarantee.rate);
        self.given = self.given.plus(guarantee);
        if self.last.as_ref().is_none_or(|(place, _)| *place < share.guarantee_at) {
            self.last = Some((share.guarantee_at, key("guarantee")));
        }
        let most = self.ceiling.rate;
        let (ceiling, ceiling_at) = match share.ceiling {
            Some((amount, place)) => (Rate::of(amount, per_ns, most), (place, "ceiling")),
            None => (most, (share.guarantee_at, "guarantee")),
        };
        let mut refuse = |(place, field): (Place, &str), message: String| {
            findings.add(place, key(field), message);
            None
        };
        if ceiling > most {
            let message = format!("is above the limit it is a share of, {}", most.show(per_ns));
            return refuse(ceiling_at, message);
        }
        if ceiling < guarantee && share.ceiling.is_some() {
            let message = format!("is below the guarantee, {}", guarantee.show(per_ns));
            return refuse(ceiling_at, message);
        }
        // More than there is: the sum will be a finding.
        let least = guarantee.min(self.guarantee.rate);
        let long = "the burst would take more than 400 days to refill";
        let Some(guaranteed) = self.guarantee.part(least, share.guarantee_burst) else {
            return refuse((share.guarantee_at, "guarantee"), long.to_owned());
        };
        let Some(ceiling) = self.ceiling.part(ceiling, share.burst) else {
            return refuse(ceiling_at, long.to_owned());
        };
        Some((guaranteed, ceiling))
    }

    /// More guaranteed of it than it has is a finding.
    fn check(self, name: impl FnOnce() -> String, findings: &mut Findings) {
        let Whole { guarantee, given, per_ns, last: Some((place, key)), .. } = self else { return };
        if given > guarantee.rate {
            let (sum, there) = (given.show(per_ns), guarantee.rate.show(per_ns));
            let message = format!("the guarantees of {} add up to {sum}; it has {there}", name());
            findings.add(place, key, message);
        }
    }
}

impl Shares {
    /// Limits of which more is guaranteed than they have.
    pub(super) fn check(&mut self, name: &dyn Fn(u32, u32) -> String, findings: &mut Findings) {
        for ((owner, label), whole) in self.wholes.drain() {
            whole.check(|| name(owner, label), findings);
        }
    }
}

/// What a guarantee secures that is of the limit at `position`: the limit, and where that is a
/// share, its guarantee and what that one secures. Bits are positions of `slots`.
fn secured(slots: &[Slot], position: usize) -> u64 {
    let limit = bit(position);
    let Some(before) = position.checked_sub(1) else { return limit };
    match &slots[before].control {
        // What stands right behind a guarantee is the ceiling of the same share.
        Control::Guarantee(guarantee) => {
            limit | bit(before) | shifted(guarantee.secures, before) & below(slots.len())
        }
        _ => limit,
    }
}

fn bit(position: usize) -> u64 {
    shifted(1, position)
}

/// Bits further up a chain. What does not fit is on a chain that is refused for its length.
pub(super) fn shifted(bits: u64, by: usize) -> u64 {
    u32::try_from(by).ok().and_then(|by| bits.checked_shl(by)).unwrap_or(0)
}

/// The positions below `end`.
fn below(end: usize) -> u64 {
    if end >= 64 { u64::MAX } else { bit(end) - 1 }
}

/// Makes the guarantees of a chain secure nothing past its end: the plan they were of is not on it.
pub(super) fn cut(chain: &mut [Slot]) {
    let end = chain.len();
    for (index, slot) in chain.iter_mut().enumerate() {
        if let Control::Guarantee(guarantee) = &mut slot.control {
            guarantee.secures &= below(end - index);
        }
    }
}
