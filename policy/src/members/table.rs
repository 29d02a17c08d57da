//! The members of one set in one window: an open-addressed table of words, then a sketch.
//!
//! A table is read without a lock while one thread at a time (the set's turn) changes it. Members
//! are only ever added; a table that has no room is replaced by a larger copy. A member's word is
//! stored before the count that includes it, so whoever reads a count that is full finds every
//! member that is in it: nobody who was let in is refused.

use super::sketch::{self, Sketch};
use super::{Member, MemberCount, Seen, Span};
use crate::sync::{AtomicU64, Ordering};

/// Most members that are held one by one, unless a cap is higher.
pub const EXACT_MAX: u64 = 65_536;

/// Slots of the smallest table.
const LEAST_SLOTS: usize = 4;

/// A set's content in one window.
#[derive(Debug)]
pub(super) struct Table {
    span: Span,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Exact(Exact),
    Sketch(Box<Sketch>),
}

/// Members one by one. A slot is 0 or a member's number; linear probing from the member's place.
#[derive(Debug)]
pub(super) struct Exact {
    len: AtomicU64,
    slots: Box<[AtomicU64]>,
}

impl Table {
    /// A table with one member.
    pub(super) fn of(span: Span, seed: u64, member: Member) -> Table {
        let exact = Exact::new(LEAST_SLOTS);
        exact.add(seed, member);
        Table { span, content: Content::Exact(exact) }
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Whether it is nothing to a request of this window.
    pub(super) fn is_over(&self, span: Span) -> bool {
        self.span.end <= span.start
    }

    /// The same members in another window.
    pub(super) fn in_span(&self, span: Span) -> Table {
        let content = match &self.content {
            Content::Exact(exact) => Content::Exact(exact.copied()),
            Content::Sketch(sketch) => Content::Sketch(Box::new(sketch.copied())),
        };
        Table { span, content }
    }

    /// Whether it holds a member, or would count as many with it.
    pub(super) fn covers(&self, seed: u64, member: Member) -> bool {
        match &self.content {
            Content::Exact(exact) => exact.has(seed, member),
            Content::Sketch(sketch) => sketch.covers(member),
        }
    }

    pub(super) fn look(&self, seed: u64, member: Member, cap: Option<u64>) -> Seen {
        match &self.content {
            Content::Exact(exact) => exact.look(seed, member, cap),
            Content::Sketch(sketch) if sketch.covers(member) => Seen::Known,
            Content::Sketch(sketch) if cap.is_some_and(|cap| sketch.count() >= cap) => Seen::Full,
            Content::Sketch(_) => Seen::New,
        }
    }

    pub(super) fn count(&self) -> MemberCount {
        match &self.content {
            Content::Exact(exact) => MemberCount { members: exact.len(), estimated: false },
            Content::Sketch(sketch) => MemberCount { members: sketch.count(), estimated: true },
        }
    }

    /// How many members [`each`](Self::each) shows at most.
    pub(super) fn held(&self) -> u64 {
        match &self.content {
            Content::Exact(exact) => exact.len(),
            Content::Sketch(_) => sketch::REGISTERS as u64,
        }
    }

    /// Shows every member, and whether it is one of a sketch.
    pub(super) fn each(&self, visit: &mut dyn FnMut(Member, bool)) {
        match &self.content {
            Content::Exact(exact) => exact.members().for_each(|member| visit(member, false)),
            Content::Sketch(sketch) => sketch.members().for_each(|member| visit(member, true)),
        }
    }

    /// Whether one member more makes it a sketch, or it is one.
    pub(super) fn is_sketched(&self, exact_max: u64) -> bool {
        match &self.content {
            Content::Exact(exact) => exact.len() >= exact_max,
            Content::Sketch(_) => true,
        }
    }

    /// Adds a member in the set's turn. Returns the table that takes this one's place, if it had
    /// no room. Does nothing for a member it holds.
    pub(super) fn with(&self, seed: u64, member: Member, exact_max: u64) -> Option<Table> {
        let exact = match &self.content {
            Content::Exact(exact) if exact.has(seed, member) => return None,
            Content::Exact(exact) if exact.len() < exact_max => exact,
            _ => return self.sketched(member),
        };
        if exact.has_room() {
            exact.add(seed, member);
            return None;
        }
        let larger = exact.doubled(seed);
        larger.add(seed, member);
        Some(Table { span: self.span, content: Content::Exact(larger) })
    }

    /// Adds a member to the sketch, as [`with`](Self::with), and makes it one first.
    pub(super) fn sketched(&self, member: Member) -> Option<Table> {
        match &self.content {
            Content::Sketch(sketch) => {
                sketch.add(member);
                None
            }
            Content::Exact(exact) => {
                let sketch = Box::new(Sketch::default());
                exact.members().for_each(|member| sketch.add(member));
                sketch.add(member);
                Some(Table { span: self.span, content: Content::Sketch(sketch) })
            }
        }
    }
}

impl Exact {
    pub(super) fn new(slots: usize) -> Exact {
        let slots = (0..slots).map(|_| AtomicU64::new(0)).collect();
        Exact { len: AtomicU64::new(0), slots }
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn has(&self, seed: u64, member: Member) -> bool {
        self.probe(seed, member).is_ok()
    }

    pub(super) fn look(&self, seed: u64, member: Member, cap: Option<u64>) -> Seen {
        if self.has(seed, member) {
            return Seen::Known;
        }
        if cap.is_none_or(|cap| self.len() < cap) {
            return Seen::New;
        }
        // It may have been let in, as the last one, since it was looked for.
        if self.has(seed, member) { Seen::Known } else { Seen::Full }
    }

    /// The slot that holds the member, or the free one where it would stand.
    fn probe(&self, seed: u64, member: Member) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut at = mixed(member.number() ^ seed) as usize & mask;
        // A quarter of the slots is free, so this ends.
        loop {
            match self.slots[at].load(Ordering::Acquire) {
                0 => return Err(at),
                held if held == member.number() => return Ok(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn has_room(&self) -> bool {
        (self.len() as usize) < self.slots.len() / 4 * 3
    }

    /// One thread at a time, and only where there is room.
    pub(super) fn add(&self, seed: u64, member: Member) {
        debug_assert!(self.has_room(), "a full table is replaced");
        if let Err(free) = self.probe(seed, member) {
            self.slots[free].store(member.number(), Ordering::Release);
            self.len.fetch_add(1, Ordering::Release);
        }
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        let held = self.slots.iter().map(|slot| slot.load(Ordering::Relaxed));
        held.filter(|held| *held != 0).map(Member::from_number)
    }

    fn doubled(&self, seed: u64) -> Exact {
        let larger = Exact::new(self.slots.len() * 2);
        self.members().for_each(|member| larger.add(seed, member));
        larger
    }

    fn copied(&self) -> Exact {
        let word = |slot: &AtomicU64| AtomicU64::new(slot.load(Ordering::Relaxed));
        let slots = self.slots.iter().map(word).collect();
        Exact { len: AtomicU64::new(self.len()), slots }
    }
}

/// Spreads a number over all bits (the finalizer of MurmurHash3, Appleby).
pub(super) fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let number = (number ^ number >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ number >> 33
}
