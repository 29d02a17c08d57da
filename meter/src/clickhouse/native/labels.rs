//! The eight string columns of a block, each a dictionary and one index per row.
//!
//! Real traffic repeats a few thousand combinations of strings. A row therefore costs one hash, of
//! all its labels as one slice; only a combination that is new to the block is taken apart and
//! looked up in the dictionaries.

use std::hash::BuildHasher;
use std::ops::Range;

use bytes::BytesMut;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{digest, put_string};
use crate::event::View;

/// The label columns, in the order a row has them.
const NAMES: [&str; 8] = ["tenant", "path", "plan", "key_id", "app", "route", "meter", "reason"];

/// Version of the serialization: dictionaries travel with the block.
const VERSION: u64 = 1;
/// The flags: the block brings its own keys, which are the whole dictionary.
const HAS_ADDITIONAL_KEYS: u64 = 1 << 9;
const NEED_UPDATE_DICTIONARY: u64 = 1 << 10;

/// A set of byte strings, numbered in the order they came.
#[derive(Default)]
struct Interner {
    ids: HashTable<u32>,
    text: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl Interner {
    /// The number of `text`, and whether it is new.
    #[inline]
    fn intern(&mut self, hasher: &RandomState, text: &[u8]) -> (u32, bool) {
        let hash = hasher.hash_one(text);
        let (arena, ranges) = (&self.text, &self.ranges);
        if let Some(id) = self.ids.find(hash, |id| arena[ranges[*id as usize].clone()] == *text) {
            return (*id, false);
        }
        let id = u32::try_from(ranges.len()).expect("a block has fewer rows than 2^32");
        let start = self.text.len();
        self.text.extend_from_slice(text);
        self.ranges.push(start..self.text.len());
        let (arena, ranges) = (&self.text, &self.ranges);
        self.ids
            .insert_unique(hash, id, |id| hasher.hash_one(&arena[ranges[*id as usize].clone()]));
        (id, true)
    }

    fn len(&self) -> usize {
        self.ranges.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ranges.iter().map(|range| &self.text[range.clone()])
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.text.clear();
        self.ranges.clear();
    }
}

/// The label columns of the rows pushed so far.
#[derive(Default)]
pub(super) struct Labels {
    /// Seeded at random: tenants choose some of these strings, and must not choose collisions.
    hasher: RandomState,
    /// Whole rows of labels as they lie in the journal.
    combinations: Interner,
    /// For each combination, its index in each dictionary.
    indexes: Vec<[u32; NAMES.len()]>,
    /// For each combination, what it adds to a row's digest.
    digests: Vec<u64>,
    dictionaries: [Interner; NAMES.len()],
    /// The combination of each row.
    rows: Vec<u32>,
}

impl Labels {
    /// Takes the labels of a row in; returns what they add to its digest.
    #[inline]
    pub(super) fn push(&mut self, view: &View<'_>) -> u64 {
        let (id, new) = self.combinations.intern(&self.hasher, view.labels());
        if new {
            self.take_apart(view);
        }
        self.rows.push(id);
        self.digests[id as usize]
    }

    #[cold]
    fn take_apart(&mut self, view: &View<'_>) {
        let labels = [
            view.tenant(),
            view.path(),
            view.plan(),
            view.key_id(),
            view.app(),
            view.route(),
            view.meter(),
            view.reason(),
        ];
        let mut indexes = [0; NAMES.len()];
        for ((index, dictionary), label) in
            indexes.iter_mut().zip(&mut self.dictionaries).zip(labels)
        {
            *index = dictionary.intern(&self.hasher, label.as_bytes()).0;
        }
        self.indexes.push(indexes);
        self.digests.push(digest::labels_part(view));
    }

    /// Writes the values of the column `name`, which must have at least one row.
    pub(super) fn put_column(&self, out: &mut BytesMut, name: &str) {
        let column = NAMES.iter().position(|label| *label == name);
        let column = column.expect("every column of the table is known here");
        let dictionary = &self.dictionaries[column];
        let width = match dictionary.len() {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2_u64,
        };
        let mut put = |value: u64| out.extend_from_slice(&value.to_le_bytes());
        put(VERSION);
        put(HAS_ADDITIONAL_KEYS | NEED_UPDATE_DICTIONARY | width);
        put(dictionary.len() as u64);
        for key in dictionary.iter() {
            put_string(out, key);
        }
        out.extend_from_slice(&(self.rows.len() as u64).to_le_bytes());
        let start = out.len();
        out.resize(start + (self.rows.len() << width), 0);
        let values = &mut out[start..];
        let indexes = self.rows.iter().map(|row| self.indexes[*row as usize][column]);
        match width {
            0 => {
                for (value, index) in values.iter_mut().zip(indexes) {
                    *value = index as u8;
                }
            }
            1 => {
                for (value, index) in values.chunks_exact_mut(2).zip(indexes) {
                    value.copy_from_slice(&(index as u16).to_le_bytes());
                }
            }
            _ => {
                for (value, index) in values.chunks_exact_mut(4).zip(indexes) {
                    value.copy_from_slice(&index.to_le_bytes());
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.combinations.clear();
        self.indexes.clear();
        self.digests.clear();
        self.rows.clear();
        for dictionary in &mut self.dictionaries {
            dictionary.clear();
        }
    }
}
