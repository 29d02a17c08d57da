//! Quotas of distinct meters: a set of members beside the counter.
//!
//! A request of a member that the set knows is admitted whatever is used. A new member takes one of
//! what the quota has, for its window; it is let in with the set's turn, after every other level of
//! the chain granted (see [`crate::members`]). The counter follows the set, for what is told of the
//! window before and what rolls over from it; what is used is what the set holds.

use std::sync::Arc;

use super::{Beyond, Exhausted, Quota};
use crate::calendar::Window;
use crate::members::{Asked, Member, MemberCount, MemberSet, Members, Seen, Span, Turn};

/// Who was counted at a quota.
#[derive(Debug)]
pub(crate) struct Distinct {
    members: Arc<Members>,
    set: Arc<MemberSet>,
}

/// The answer of a quota to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// Counted already.
    Known,
    /// To be let in.
    New,
    /// New, and there is no room: the throttle decides.
    Throttled,
    /// New, and there is no room.
    Refused(Exhausted),
    /// Another quota took over: ask the newer snapshot.
    Stale,
}

fn span(window: &Window) -> Span {
    Span::between(window.start_us, window.end_us)
}

impl Quota {
    /// Makes it one of a distinct meter; only the first call counts.
    pub(crate) fn count_distinct(&self, members: &Arc<Members>) {
        self.distinct.get_or_init(|| {
            let (members, set) = (Arc::clone(members), members.set(self.key));
            Distinct { members, set }
        });
    }

    /// The set, where it is one of a distinct meter.
    pub(crate) fn set(&self) -> Option<&MemberSet> {
        self.distinct.get().map(|distinct| &*distinct.set)
    }

    /// How many members it has in a window; `None`: it is of no distinct meter.
    pub(crate) fn member_count(&self, window: &Window) -> Option<MemberCount> {
        self.set().map(|set| set.count(span(window)))
    }

    /// Asks for a member and changes nothing. Nobody has to ask where it is of no distinct meter.
    pub(crate) fn ask_member(self: &Arc<Self>, member: Member, unix_us: i64) -> Entrance {
        let Some(Distinct { members, set }) = self.distinct.get() else { return Entrance::Known };
        if self.successor.get().is_some() {
            return Entrance::Stale;
        }
        self.settle(unix_us);
        let window = self.rules.calendar.window(unix_us);
        let span = span(&window);
        if members.knows(set, span, member) {
            return Entrance::Known;
        }
        let allowed = self.allowed(&window);
        let cap = allowed.saturating_add(self.rules.grace);
        let is_billed = matches!(self.rules.beyond, Beyond::Bill);
        let asked = Asked { set, span, member, cap: (!is_billed).then_some(cap) };
        match (members.look(&asked), &self.rules.beyond) {
            (Seen::Known, _) => Entrance::Known,
            (Seen::New, _) => Entrance::New,
            (Seen::Full, Beyond::Throttle { .. }) => Entrance::Throttled,
            (Seen::Full, _) => Entrance::Refused(Exhausted {
                used: set.count(span).members,
                limit: allowed,
                ends_us: Some(window.end_us),
                never: cap == 0,
            }),
        }
    }

    /// Lets a member in, in a turn for its set. Returns whether that changed anything: then one is
    /// to be [counted](Self::count), when the turn is over, as that may wait for somebody else's turn.
    pub(crate) fn let_in(&self, turn: &Turn<'_>, member: Member, unix_us: i64) -> bool {
        let Some(set) = self.set() else { return false };
        let window = self.rules.calendar.window(unix_us);
        // Exact up to what is allowed, also where more is let in and billed.
        let cap = Some(self.allowed(&window).saturating_add(self.rules.grace));
        turn.insert(&Asked { set, span: span(&window), member, cap })
    }

    /// Counts a member whatever the limit, for what did not pass this edge; not where the quota is in a
    /// newer window. `is_sketched`: it is one of those that make a sketch of more.
    pub(crate) fn count_member(self: &Arc<Self>, member: Member, unix_us: i64, is_sketched: bool) {
        let quota = self.current();
        let Some(Distinct { members, set }) = quota.distinct.get() else { return };
        let (window, reading, _) = quota.read(unix_us);
        let span = span(&window);
        let count = || set.count(span);
        let is_known = members.knows(set, span, member) && (!is_sketched || count().estimated);
        if reading.tag != window.tag || is_known {
            return;
        }
        let before = count().members;
        let turn = members.turn([&**set]);
        if is_sketched {
            turn.sketch(set, span, member);
        } else {
            quota.let_in(&turn, member, unix_us);
        }
        drop(turn);
        // The counter follows the set.
        let more = count().members.saturating_sub(before);
        if more > 0 {
            quota.count(more, unix_us);
        }
    }

    /// Takes the members of the quota before over.
    pub(super) fn take_members_over(&self, from: &Quota, unix_us: i64) {
        if let (Some(Distinct { members, set }), Some(before)) = (self.distinct.get(), from.set()) {
            let now = |quota: &Quota| span(&quota.rules.calendar.window(unix_us));
            members.take_over(before, set, now(from), now(self));
        }
    }

    /// What may be used in a window, without grace.
    fn allowed(&self, window: &Window) -> u64 {
        let granted = self.rules.limit.saturating_add(self.rules.granted(window));
        if self.rules.roll_over == 0 {
            return granted;
        }
        let reading = self.rules.entry(window, |entry| self.counter().read(entry));
        granted.saturating_add(reading.extra)
    }
}
