//! A chain of limits, taken all or nothing.
//!
//! A guarantee that has tokens secures the limits it is of: they are debited without being asked.
//! One that has none is not debited, and they are asked like any other: that is borrowing what
//! siblings leave. What is secured is debited last, when every level that may refuse has granted: so
//! a refusal never leaves a debit behind where a limit is no bound to it.
//!
//! What a quota lets pass beyond its limit is counted once the whole chain has admitted. New members
//! of distinct meters are let in then, too, all under locks taken before the second walk
//! ([`super::newcomers`]).

use std::cell::Cell;
use std::sync::Arc;

use crate::bucket::{Bucket, Take, Terms};
use crate::calendar::Tag;
use crate::documents::Each;
use crate::dynamic::{DynamicTake, Subject};
use crate::levels::LevelQuota;
use crate::quota::{self, Answer, Beyond, Entrance, Quota};
use crate::snapshot::{Caller, Control, EVERYWHERE, Route, RouteIndex, Slot, Snapshot};
use crate::time::Nanos;

use super::levels::Rises;
use super::named::Named;
use super::refusals::Refusals;
use super::secured::{Nearest, Secured};
use super::{Call, MAX_CHAIN, Reason};

/// Limits of a chain that is not long.
const SHORT: usize = 16;

/// What came of a walk.
pub(super) enum Walk {
    /// `throttled`: the quotas that are used up and admitted at their lower rate; `new`: the named
    /// members that were let into a set.
    Admitted {
        entered: u64,
        nearest: Option<(u8, u64)>,
        throttled: u64,
        new: u8,
    },
    Refused(Reason),
    Stale,
}

pub(super) struct Chain<'c, 'a> {
    pub(super) snapshot: &'c Snapshot,
    own: &'c [Slot],
    shared: &'c [Slot],
    pub(super) route: RouteIndex,
    cost: u32,
    rule: &'c Route,
    guarantees: bool,
    pub(super) call: &'c Call<'a>,
    pub(super) named: &'c Named,
    rises: &'c Rises,
    /// Whom the limit per client that was asked last holds: worked out once for both walks.
    subject: Cell<Option<(u64, Subject)>>,
}

/// What a walk that only looks finds where every level would grant.
#[derive(Clone, Copy, Default)]
pub(super) struct Looked {
    /// The quotas the request is a new member to.
    pub(super) newcomers: u64,
    /// What nothing is to be taken of: it is not asked again.
    idle: u64,
}

enum Step {
    Granted {
        before: u64,
        remaining: u64,
    },
    Refused {
        remaining: u64,
        ready_at: Option<Nanos>,
    },
    Entered,
    Full,
    Sealed,
    Exempt,
    /// A quota counts without asking.
    Billed,
    /// A quota is used up, and its throttle granted.
    Throttled {
        before: u64,
        remaining: u64,
    },
    /// A quota would let a new member in.
    Newcomer,
    /// A quota is used up.
    UsedUp(quota::Exhausted),
    /// Room is there for what a request raises a level by, or reserved.
    Reserved,
    /// There is no room: so much is in use.
    NoRoom {
        used: u64,
    },
}

impl Snapshot {
    pub(super) fn applies(&self, slot: &Slot, route: RouteIndex) -> bool {
        slot.scope == EVERYWHERE || self.scopes[slot.scope as usize].contains(route.0)
    }
}

impl<'c, 'a> Chain<'c, 'a> {
    pub(super) fn new(
        snapshot: &'c Snapshot,
        caller: Caller,
        route: RouteIndex,
        call: &'c Call<'a>,
        (named, rises): (&'c Named, &'c Rises),
    ) -> Self {
        let rule = &snapshot.routes[route.0 as usize];
        let tenant = &snapshot.tenants[caller.tenant as usize];
        Chain {
            snapshot,
            own: &snapshot.keys[caller.key as usize].own,
            shared: &tenant.chain,
            guarantees: tenant.guarantees,
            route,
            cost: rule.cost,
            rule,
            call,
            named,
            rises,
            subject: Cell::new(None),
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (u8, &'c Slot)> {
        let all = (0..).zip(self.own.iter().chain(self.shared));
        all.filter(|(_, slot)| self.snapshot.applies(slot, self.route))
    }

    pub(super) fn walk(&self) -> Walk {
        // Most chains have no guarantee, and are spared what keeping track of one takes.
        if self.guarantees { self.walk_as::<true>() } else { self.walk_as::<false>() }
    }

    fn walk_as<const GUARANTEES: bool>(&self) -> Walk {
        match self.look::<GUARANTEES>() {
            Ok(looked) if looked.newcomers != 0 => self.let_in(looked),
            // Most are short, and clearing room for the longest takes as long as walking one.
            Ok(looked) if self.own.len() + self.shared.len() <= SHORT => {
                self.take::<GUARANTEES, SHORT>(looked)
            }
            Ok(looked) => self.take::<GUARANTEES, MAX_CHAIN>(looked),
            Err(refused) => refused,
        }
    }

    /// Asks every level and changes none.
    fn look<const GUARANTEES: bool>(&self) -> Result<Looked, Walk> {
        let mut looked = Looked::default();
        let mut refusals = Refusals::default();
        let mut secured = Secured::default();
        for (index, slot) in self.slots() {
            if self.has_tokens(slot) {
                continue;
            }
            match self.step(slot, true, GUARANTEES && secured.has(index)) {
                Step::Granted { remaining, .. } if GUARANTEES => {
                    _ = secured.granted(index, slot, remaining);
                }
                Step::Refused { remaining, ready_at } => {
                    let ready_at = self.sooner(index, ready_at);
                    refusals.add(index, remaining, ready_at, false);
                }
                Step::Full => refusals.add(index, 0, None, true),
                Step::UsedUp(exhausted) => refusals.add_quota(index, &exhausted, self.call),
                Step::NoRoom { used } => self.no_room(&mut refusals, index, slot, used),
                Step::Sealed => return Err(Walk::Stale),
                Step::Newcomer => looked.newcomers |= 1 << index,
                // A guarantee that has nothing now may have when it is asked again.
                Step::Exempt if !slot.is_guarantee() => looked.idle |= 1 << index,
                Step::Granted { .. }
                | Step::Entered
                | Step::Exempt
                | Step::Billed
                | Step::Reserved
                | Step::Throttled { .. } => {}
            }
        }
        refusals.finish().map_or(Ok(looked), |reason| Err(Walk::Refused(reason)))
    }

    /// Takes at every level, or at none.
    pub(super) fn take<const GUARANTEES: bool, const LENGTH: usize>(&self, looked: Looked) -> Walk {
        let mut before = [0; LENGTH];
        let mut taken = 0_u64;
        let mut entered = 0_u64;
        let (mut billed, mut throttled) = (0_u64, 0_u64);
        let (mut secured, mut last) = (Secured::default(), 0_u64);
        let mut nearest = Nearest::default();
        for (index, slot) in self.slots() {
            if looked.idle >> index & 1 == 1 {
                continue;
            }
            if GUARANTEES && secured.has(index) {
                last |= 1 << index;
                continue;
            }
            // Most levels are rate limits, and most grant.
            if let Some((terms, word, after)) = self.debit(slot) {
                before[index as usize] = word;
                taken |= 1 << index;
                nearest.note_wider(index, terms, after, self.call.now);
                continue;
            }
            let mut refusals = Refusals::default();
            match self.step(slot, false, false) {
                Step::Granted { before: word, remaining } => {
                    before[index as usize] = word;
                    taken |= 1 << index;
                    if !GUARANTEES {
                        nearest.note(index, remaining);
                    } else if let Some(left) = secured.granted(index, slot, remaining) {
                        nearest.note(index, left);
                    }
                    continue;
                }
                Step::Entered => {
                    entered |= 1 << index;
                    continue;
                }
                Step::Throttled { before: word, remaining } => {
                    before[index as usize] = word;
                    throttled |= 1 << index;
                    nearest.note(index, remaining);
                    continue;
                }
                Step::Billed => {
                    billed |= 1 << index;
                    continue;
                }
                Step::Reserved => {
                    taken |= 1 << index;
                    continue;
                }
                Step::Exempt | Step::Newcomer => continue,
                Step::Sealed => {}
                Step::NoRoom { used } => self.no_room(&mut refusals, index, slot, used),
                Step::UsedUp(exhausted) => refusals.add_quota(index, &exhausted, self.call),
                Step::Refused { remaining, ready_at } => {
                    let ready_at = self.sooner(index, ready_at);
                    refusals.add(index, remaining, ready_at, false);
                }
                Step::Full => refusals.add(index, 0, None, true),
            }
            self.put_back(taken | entered, throttled, &before);
            return refusals.finish().map_or(Walk::Stale, Walk::Refused);
        }
        if GUARANTEES {
            // Nothing that is secured refuses; but a reload may have sealed it just now.
            for (index, slot) in self.slots().filter(|(index, _)| last >> index & 1 == 1) {
                match self.step(slot, false, true) {
                    Step::Granted { before: word, remaining } => {
                        before[index as usize] = word;
                        taken |= 1 << index;
                        if let Some(left) = secured.granted(index, slot, remaining) {
                            nearest.note(index, left);
                        }
                    }
                    Step::Sealed => {
                        self.put_back(taken | entered, throttled, &before);
                        return Walk::Stale;
                    }
                    // A guarantee of a limit that is not on this chain.
                    _ => {}
                }
            }
        }
        if billed | throttled != 0 {
            self.count_beyond(billed | throttled);
        }
        Walk::Admitted { entered, nearest: nearest.0, throttled, new: 0 }
    }

    /// Whether the request is debited at a quota as it is admitted, and not charged for later.
    fn debits(&self, quota: &Quota) -> bool {
        quota.rules.meter == self.rule.meter_id
    }

    /// Counts the request at quotas that did not debit it.
    fn count_beyond(&self, slots: u64) {
        for (_, slot) in self.slots().filter(|(index, _)| slots >> index & 1 == 1) {
            if let Some(quota) = slot.quota_here().filter(|quota| self.debits(quota)) {
                quota.count(self.rule.units.into(), self.call.unix_us);
            }
        }
    }

    /// When the limit at `refused` has tokens, or a guarantee has that secures it.
    fn sooner(&self, refused: u8, ready_at: Option<Nanos>) -> Option<Nanos> {
        let mut soonest = ready_at;
        for (index, slot) in self.slots().take_while(|(index, _)| *index < refused) {
            if let Control::Guarantee(guarantee) = &slot.control
                && guarantee.secures >> (refused - index) & 1 == 1
                && let Take::Refused { ready_at: Some(ready_at), .. } =
                    guarantee.bucket.look(guarantee.terms, self.cost, self.call.now)
            {
                soonest = Some(soonest.map_or(ready_at, |soonest| soonest.min(ready_at)));
            }
        }
        soonest
    }

    /// Whether it is a rate limit that would grant: nothing more is to be known of it on a look.
    fn has_tokens(&self, slot: &Slot) -> bool {
        let Control::Bucket { bucket, terms } = &slot.control else { return false };
        self.cost == 0 || bucket.has(*terms, self.cost, self.call.now)
    }

    /// Takes at a rate limit that grants: its terms, and its word before and after.
    fn debit(&self, slot: &Slot) -> Option<(Terms, u64, u64)> {
        let Control::Bucket { bucket, terms } = &slot.control else { return None };
        if self.cost == 0 {
            return None;
        }
        let (before, after) = bucket.debit(*terms, self.cost, self.call.now)?;
        Some((*terms, before, after))
    }

    fn step(&self, slot: &Slot, look: bool, secured: bool) -> Step {
        let Call { now, .. } = *self.call;
        match &slot.control {
            Control::Bucket { .. } | Control::Guarantee(_) | Control::Each { .. }
                if self.cost == 0 =>
            {
                Step::Exempt
            }
            Control::Bucket { bucket, terms } => self.tokens(bucket, *terms, look, secured),
            Control::Guarantee(guarantee) if guarantee.secures == 0 => Step::Exempt,
            Control::Guarantee(guarantee) => {
                match self.tokens(&guarantee.bucket, guarantee.terms, look, secured) {
                    Step::Refused { .. } => Step::Exempt,
                    step => step,
                }
            }
            Control::Gauge { gauge, max } if look => {
                if gauge.count() < *max {
                    Step::Entered
                } else {
                    Step::Full
                }
            }
            Control::Gauge { gauge, max } => {
                if gauge.enter(*max) {
                    Step::Entered
                } else {
                    Step::Full
                }
            }
            Control::Quota(quota) => self.quota(quota, look),
            Control::Level(quota) => self.level(quota, look),
            Control::Each { each, limit, terms } => {
                let Some(subject) = self.subject(*each, *limit) else { return Step::Exempt };
                let key = (*limit, subject);
                match self.snapshot.dynamic.take(key, *terms, self.cost, now, look) {
                    DynamicTake::Granted { before, remaining } => {
                        Step::Granted { before, remaining }
                    }
                    DynamicTake::Refused { remaining, ready_at } => {
                        Step::Refused { remaining, ready_at }
                    }
                }
            }
        }
    }

    fn quota(&self, quota: &Arc<Quota>, look: bool) -> Step {
        if quota.set().is_some() {
            return self.member(quota, look);
        }
        if !self.rule.counts_on.contains(quota.rules.meter.0) {
            return Step::Exempt;
        }
        let units = self.debits(quota).then_some(self.rule.units);
        match quota.ask(units, self.call.unix_us, look) {
            Answer::Granted { tag, remaining } => Step::Granted { before: tag.0.into(), remaining },
            Answer::Open => Step::Exempt,
            Answer::Billed => Step::Billed,
            Answer::Refused(exhausted) => Step::UsedUp(exhausted),
            Answer::Stale => Step::Sealed,
            // It takes nothing of a rate; of a meter that counts it is one all the same.
            Answer::Throttled if self.cost == 0 => Step::Billed,
            Answer::Throttled => self.throttle(quota, look),
        }
    }

    fn level(&self, quota: &LevelQuota, look: bool) -> Step {
        let rise = self.rises.of(self.rule, quota.meter);
        if rise == 0 {
            return Step::Exempt;
        }
        match quota.ask(rise, look) {
            Ok(()) if quota.reserves(rise) => Step::Reserved,
            Ok(()) => Step::Exempt,
            Err(used) => Step::NoRoom { used },
        }
    }

    fn no_room(&self, refusals: &mut Refusals, index: u8, slot: &Slot, used: u64) {
        if let Some(quota) = slot.level_here() {
            refusals.add_level(index, quota, self.rises.of(self.rule, quota.meter), used);
        }
    }

    fn throttle(&self, quota: &Quota, look: bool) -> Step {
        let Beyond::Throttle { bucket, terms } = &quota.rules.beyond else { return Step::Exempt };
        match self.tokens(bucket, *terms, look, false) {
            Step::Granted { before, remaining } => Step::Throttled { before, remaining },
            step => step,
        }
    }

    fn member(&self, quota: &Arc<Quota>, look: bool) -> Step {
        let route = &self.snapshot.routes[self.route.0 as usize];
        let Some((_, member)) = self.named.member(route, quota.rules.meter) else {
            return Step::Exempt;
        };
        match quota.ask_member(member, self.call.unix_us) {
            Entrance::Known => Step::Exempt,
            Entrance::New => Step::Newcomer,
            Entrance::Refused(exhausted) => Step::UsedUp(exhausted),
            Entrance::Stale => Step::Sealed,
            Entrance::Throttled => match self.throttle(quota, look) {
                Step::Throttled { .. } if look => Step::Newcomer,
                step => step,
            },
        }
    }

    fn tokens(&self, bucket: &Bucket, terms: Terms, look: bool, secured: bool) -> Step {
        let now = self.call.now;
        let take = match (look, secured) {
            (true, _) => bucket.look(terms, self.cost, now),
            (false, false) => bucket.take(terms, self.cost, now),
            (false, true) => bucket.force(terms, self.cost, now),
        };
        match take {
            Take::Granted { before, remaining } => Step::Granted { before, remaining },
            Take::Refused { remaining, .. } if secured => Step::Granted { before: 0, remaining },
            Take::Refused { remaining, ready_at } => Step::Refused { remaining, ready_at },
            Take::Sealed => Step::Sealed,
        }
    }

    /// Whom a per-client limit holds here. A request that names no end user is held by the
    /// user with the empty name, so that leaving the header out gains nothing.
    fn subject(&self, each: Each, limit: u64) -> Option<Subject> {
        if let Some((of, subject)) = self.subject.get()
            && of == limit
        {
            return Some(subject);
        }
        let dynamic = &self.snapshot.dynamic;
        let subject = match each {
            Each::ClientIp => dynamic.client(limit, self.call.client),
            Each::EndUser => {
                let app = self.snapshot.routes[self.route.0 as usize].app;
                let header = self.snapshot.apps[app as usize].end_user_header.as_deref()?;
                let user = (self.call.header)(header).unwrap_or_default();
                dynamic.user(limit, user)
            }
        };
        self.subject.set(Some((limit, subject)));
        Some(subject)
    }

    fn put_back(&self, taken: u64, throttled: u64, before: &[u64]) {
        let now = self.call.now;
        for (index, slot) in self.slots() {
            if (taken | throttled) >> index & 1 == 0 {
                continue;
            }
            let before = before[index as usize];
            if throttled >> index & 1 == 1 {
                if let Some((bucket, terms)) = slot.bucket() {
                    bucket.put_back(terms, self.cost, now, before);
                }
                continue;
            }
            match &slot.control {
                Control::Bucket { bucket, terms } => {
                    bucket.put_back(*terms, self.cost, now, before);
                }
                Control::Guarantee(guarantee) => {
                    guarantee.bucket.put_back(guarantee.terms, self.cost, now, before);
                }
                Control::Gauge { gauge, .. } => gauge.leave(),
                Control::Quota(quota) => quota.put_back(Tag(before as u16), self.rule.units),
                Control::Level(quota) => quota.give_back(self.rises.of(self.rule, quota.meter)),
                Control::Each { each, limit, terms } => {
                    if let Some(subject) = self.subject(*each, *limit) {
                        let key = (*limit, subject);
                        self.snapshot.dynamic.put_back(key, *terms, self.cost, now, before);
                    }
                }
            }
        }
    }
}

/// Releases the concurrency permits of a request.
pub(super) fn leave(snapshot: &Snapshot, caller: Caller, entered: u64) {
    let own = &snapshot.keys[caller.key as usize].own;
    let shared = &snapshot.tenants[caller.tenant as usize].chain;
    for (index, slot) in own.iter().chain(&**shared).enumerate() {
        if entered >> index & 1 == 1
            && let Control::Gauge { gauge, .. } = &slot.control
        {
            gauge.leave();
        }
    }
}
