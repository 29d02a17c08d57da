//! Typed access to one table: wrong types, missing keys and unknown keys become findings.

use std::borrow::Cow;
use std::fmt;

use super::tree::{Key, Node, Table, Value};
use crate::diagnostics::{Findings, Place};

/// Text borrowed from the document where it has no escapes.
pub(crate) type Text<'i> = Cow<'i, str>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// So many, or a part of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// A number as it is.
    Number(u64),
    /// Hundredths of something, 1 to 100.
    Percent(u64),
}

/// So many, or any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Count {
    /// So many.
    At(u64),
    /// Any number.
    Unlimited,
}

/// Which table we are in, for the key of a finding.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'s> {
    Top { kind: &'s str, index: usize, id: Option<&'s str> },
    Within { outer: &'s Scope<'s>, key: &'s str, index: Option<usize> },
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Top { kind, id: Some(id), .. } => write!(f, "{kind}.{id}"),
            Scope::Top { kind, index, id: None } => write!(f, "{kind}[{index}]"),
            Scope::Within { outer, key, index: None } => write!(f, "{outer}.{key}"),
            Scope::Within { outer, key, index: Some(index) } => {
                write!(f, "{outer}.{key}[{index}]")
            }
        }
    }
}

/// The keys of one table; each is taken once, what is left over is unknown.
pub(crate) struct Fields<'f, 'i, 's> {
    table: Table<'i>,
    pub(crate) place: Place,
    scope: Scope<'s>,
    findings: &'f mut Findings,
    asked: Vec<&'static str>,
    failed: bool,
}

impl<'f, 'i, 's> Fields<'f, 'i, 's> {
    pub(crate) fn new(
        table: Table<'i>,
        place: Place,
        scope: Scope<'s>,
        findings: &'f mut Findings,
    ) -> Self {
        Fields { table, place, scope, findings, asked: Vec::new(), failed: false }
    }

    /// Adds a finding at `key` of this table.
    pub(crate) fn find(&mut self, place: Place, key: &str, message: impl Into<String>) {
        self.failed = true;
        self.findings.add(place, format!("{}.{key}", self.scope), message);
    }

    /// Whether this table has a finding so far.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    fn take(&mut self, key: &'static str) -> Option<(Key<'i>, Node<'i>)> {
        self.asked.push(key);
        let index = self.table.entries.iter().position(|(k, _)| k.text == key)?;
        Some(self.table.entries.swap_remove(index))
    }

    fn at(&self, byte: u32) -> Place {
        Place { file: self.place.file, byte }
    }

    fn wrong_type(&mut self, key: &str, node: &Node<'_>, wanted: &str) {
        let message = format!("{} where {wanted} belongs", node.value.kind());
        self.find(self.at(node.at), key, message);
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<Located<Text<'i>>> {
        let (_, node) = self.take(key)?;
        let place = self.at(node.at);
        if let Value::Text(value) = node.value {
            Some(Located { value, place })
        } else {
            self.wrong_type(key, &node, "a string");
            None
        }
    }

    pub(crate) fn required_text(&mut self, key: &'static str) -> Option<Located<Text<'i>>> {
        self.require(key);
        self.text(key)
    }

    /// A text that only people read: its type is checked, its contents are not kept.
    pub(crate) fn for_people(&mut self, key: &'static str) {
        self.text(key);
    }

    pub(crate) fn require(&mut self, key: &'static str) {
        if !self.table.entries.iter().any(|(k, _)| k.text == key) {
            self.find(self.place, key, "the key is missing");
        }
    }

    /// An integer within `low..=high`.
    pub(crate) fn integer(
        &mut self,
        key: &'static str,
        low: u64,
        high: u64,
    ) -> Option<Located<u64>> {
        let (_, node) = self.take(key)?;
        let place = self.at(node.at);
        if let Value::Integer(value) = node.value {
            if let Some(value) = u64::try_from(value).ok().filter(|v| (low..=high).contains(v)) {
                Some(Located { value, place })
            } else {
                self.find(place, key, format!("{value} is not within {low} to {high}"));
                None
            }
        } else {
            self.wrong_type(key, &node, "an integer");
            None
        }
    }

    /// An integer within 1 to `most`, or `"1%"` to `"100%"`.
    pub(crate) fn amount(&mut self, key: &'static str, most: u64) -> Option<Located<Amount>> {
        let percent =
            |(k, node): &(Key<'i>, Node<'i>)| k.text == key && matches!(node.value, Value::Text(_));
        if !self.table.entries.iter().any(percent) {
            let number = self.integer(key, 1, most)?;
            return Some(Located { value: Amount::Number(number.value), place: number.place });
        }
        let Located { value, place } = self.text(key)?;
        let percent = value.strip_suffix('%').and_then(|number| number.parse().ok());
        if let Some(percent) = percent.filter(|percent| (1..=100).contains(percent)) {
            return Some(Located { value: Amount::Percent(percent), place });
        }
        let message = format!("`{value}` is neither a number nor a share from \"1%\" to \"100%\"");
        self.find(place, key, message);
        None
    }

    /// An integer within 1 to `most`, or `"unlimited"`.
    pub(crate) fn count(&mut self, key: &'static str, most: u64) -> Option<Located<Count>> {
        let text =
            |(k, node): &(Key<'i>, Node<'i>)| k.text == key && matches!(node.value, Value::Text(_));
        if !self.table.entries.iter().any(text) {
            let Located { value, place } = self.integer(key, 1, most)?;
            return Some(Located { value: Count::At(value), place });
        }
        let Located { value, place } = self.text(key)?;
        if value == "unlimited" {
            return Some(Located { value: Count::Unlimited, place });
        }
        self.find(place, key, format!("`{value}` is neither a number nor \"unlimited\""));
        None
    }

    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let (_, node) = self.take(key)?;
        if let Value::Boolean(value) = node.value {
            Some(value)
        } else {
            self.wrong_type(key, &node, "true or false");
            None
        }
    }

    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<Located<T>> {
        let Located { value, place } = self.text(key)?;
        if let Some((_, word)) = words.iter().find(|(name, _)| *name == value) {
            return Some(Located { value: *word, place });
        }
        let known: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        self.find(place, key, format!("`{value}` is not one of {}", known.join(", ")));
        None
    }

    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<Located<Text<'i>>>> {
        let (_, node) = self.take(key)?;
        let Value::Array(items) = node.value else {
            self.wrong_type(key, &node, "an array of strings");
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let place = self.at(item.at);
            match item.value {
                Value::Text(value) => texts.push(Located { value, place }),
                _ => self.wrong_type(key, &item, "a string"),
            }
        }
        Some(texts)
    }

    /// An array of integers, each within `low..=high`.
    pub(crate) fn integers(
        &mut self,
        key: &'static str,
        low: u64,
        high: u64,
    ) -> Option<Vec<Located<u64>>> {
        let (_, node) = self.take(key)?;
        let Value::Array(items) = node.value else {
            self.wrong_type(key, &node, "an array of integers");
            return None;
        };
        let mut integers = Vec::with_capacity(items.len());
        for item in items {
            let place = self.at(item.at);
            match item.value {
                Value::Integer(value) => match u64::try_from(value) {
                    Ok(value) if (low..=high).contains(&value) => {
                        integers.push(Located { value, place });
                    }
                    _ => self.find(place, key, format!("{value} is not within {low} to {high}")),
                },
                _ => self.wrong_type(key, &item, "an integer"),
            }
        }
        Some(integers)
    }

    /// Every table of an array, read by `read`.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(Fields<'_, 'i, '_>) -> Option<T>,
    ) -> Option<Located<Vec<T>>> {
        let (entry, node) = self.take(key)?;
        let place = self.at(entry.at);
        let Value::Array(items) = node.value else {
            self.wrong_type(key, &node, "an array of tables");
            return None;
        };
        let mut tables = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let at = self.at(item.at);
            let Value::Table(table) = item.value else {
                self.wrong_type(key, &item, "a table");
                continue;
            };
            let scope = Scope::Within { outer: &self.scope, key, index: Some(index) };
            match read(Fields::new(table, at, scope, self.findings)) {
                Some(value) => tables.push(value),
                None => self.failed = true,
            }
        }
        Some(Located { value: tables, place })
    }

    /// One inner table, read by `read`.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Fields<'_, 'i, '_>) -> Option<T>,
    ) -> Option<T> {
        let (_, node) = self.take(key)?;
        let at = self.at(node.at);
        let Value::Table(table) = node.value else {
            self.wrong_type(key, &node, "a table");
            return None;
        };
        let scope = Scope::Within { outer: &self.scope, key, index: None };
        let value = read(Fields::new(table, at, scope, self.findings));
        self.failed |= value.is_none();
        value
    }

    /// An id: 1 to 64 of `a-z 0-9 - _ .`, starting with a letter or digit.
    pub(crate) fn id(&mut self, key: &'static str) -> Option<Located<Text<'i>>> {
        let id = self.required_text(key)?;
        let first = id.value.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest =
            id.value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if first && rest && id.value.len() <= 64 {
            return Some(id);
        }
        let message =
            "an id is 1 to 64 of a-z, 0-9, `-`, `_` and `.`, and starts with a letter or digit";
        self.find(id.place, key, message);
        None
    }

    /// Reports keys nobody asked for. True when this table had no finding at all.
    pub(crate) fn finish(mut self) -> bool {
        for (key, _) in std::mem::take(&mut self.table.entries) {
            let place = self.at(key.at);
            let known = self.asked.join(", ");
            self.find(place, &key.text, format!("unknown key; known here are {known}"));
        }
        !self.failed
    }
}
