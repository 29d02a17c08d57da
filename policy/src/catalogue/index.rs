//! Names to numbers: ids of one kind, and interned values.

use std::cell::Cell;
use std::hash::Hash;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::diagnostics::{Findings, Place};
use crate::documents::{Located, Text};

/// Ids of tables that could not be read: a reference to one of them is not a second mistake.
pub(crate) struct Broken<'d>(HashSet<(&'static str, &'d str), FixedState>);

impl<'d> Broken<'d> {
    pub(super) fn new(broken: &'d [(&'static str, Text<'_>)]) -> Self {
        Broken(broken.iter().map(|(kind, id)| (*kind, &**id)).collect())
    }

    pub(super) fn has(&self, kind: &'static str, id: &str) -> bool {
        self.0.contains(&(kind, id))
    }
}

/// Ids of one kind that are compared with wrong ones, over all of those: less than a second.
const COMPARED: usize = 100_000;
/// The most letters in which a slip of the pen differs.
const SLIP: usize = 2;

/// The ids of one kind of table, numbered in the order of the text.
pub(super) struct Index<'d> {
    kind: &'static str,
    map: HashMap<&'d str, (u32, Place), FixedState>,
    /// How many ids may still be compared with wrong ones.
    compared: Cell<usize>,
}

impl<'d> Index<'d> {
    /// An id that is there twice is a finding.
    pub(super) fn build<'i: 'd>(
        kind: &'static str,
        ids: impl ExactSizeIterator<Item = &'d Located<Text<'i>>>,
        findings: &mut Findings,
    ) -> Self {
        let mut map = HashMap::with_capacity_and_hasher(ids.len(), FixedState::default());
        for (index, id) in ids.enumerate() {
            let (_, first) = *map.entry(&*id.value).or_insert((index as u32, id.place));
            if first != id.place {
                let key = format!("{kind}.{}.id", id.value);
                findings.add_with(id.place, key, "the id is taken already, at", first);
            }
        }
        Index { kind, map, compared: Cell::new(COMPARED) }
    }

    pub(super) fn get(&self, id: &str) -> Option<u32> {
        self.map.get(id).map(|(index, _)| *index)
    }

    /// The number of the id a table refers to; a finding at `key` if there is none.
    pub(super) fn refer(
        &self,
        id: &Located<Text<'_>>,
        key: impl FnOnce() -> String,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Option<u32> {
        let found = self.get(&id.value);
        if found.is_none() && !broken.has(self.kind, &id.value) {
            let message =
                format!("there is no {} `{}`{}", self.kind, id.value, self.hint(&id.value));
            findings.add(id.place, key(), message);
        }
        found
    }

    /// The nearest id that is there, for a slip of the pen; while there is time for it.
    fn hint(&self, wrong: &str) -> String {
        let Some(left) = self.compared.get().checked_sub(self.map.len()) else {
            return String::new();
        };
        self.compared.set(left);
        let alike = self.map.keys().filter(|id| id.len().abs_diff(wrong.len()) <= SLIP);
        let near = alike.map(|id| (distance(wrong, id), *id)).min();
        match near.filter(|(distance, _)| *distance <= SLIP) {
            Some((_, id)) => format!("; did you mean `{id}`?"),
            None => String::new(),
        }
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Equal values once, numbered in the order they came.
pub(super) struct Interner<T> {
    items: Vec<T>,
    map: HashMap<T, u32, FixedState>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    pub(super) fn new() -> Self {
        Interner { items: Vec::new(), map: HashMap::default() }
    }

    pub(super) fn intern(&mut self, item: T) -> u32 {
        if let Some(index) = self.map.get(&item) {
            return *index;
        }
        let index = self.items.len() as u32;
        self.items.push(item.clone());
        self.map.insert(item, index);
        index
    }

    /// The number of an item that is there.
    pub(super) fn find<Q: Eq + Hash + ?Sized>(&self, item: &Q) -> Option<u32>
    where
        T: std::borrow::Borrow<Q>,
    {
        self.map.get(item).copied()
    }

    pub(super) fn get(&self, index: u32) -> &T {
        &self.items[index as usize]
    }

    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}
