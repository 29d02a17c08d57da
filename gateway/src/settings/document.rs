//! A parsed settings file that still knows where every key stands.
//!
//! Owns turning a byte range into line, column and dotted key, and a dotted key back into its
//! place. Guarantees that one bad section does not hide the problems of another.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Problem;

/// The text, its file name and its table with spans.
pub(super) struct Document<'a> {
    file: &'a str,
    text: &'a str,
    table: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses the TOML; a syntax error is a problem with a place and no key.
    pub(super) fn parse(file: &'a str, text: &'a str) -> Result<Document<'a>, Problem> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Document { file, text, table: table.into_inner() }),
            Err(error) => {
                let (line, column) = place(text, error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                Err(Problem { file: file.to_owned(), line, column, key: String::new(), message })
            }
        }
    }

    /// Every top-level key and its value, in the order of the map.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Spanned<DeValue<'a>>)> {
        self.table.iter().map(|(name, value)| (name.get_ref().as_ref(), value))
    }

    /// Reads one section into `target`, or adds the problem and leaves `target` alone.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        target: &mut T,
        value: &Spanned<DeValue<'a>>,
        problems: &mut Vec<Problem>,
    ) {
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(section) => *target = section,
            Err(error) => {
                let span = error.span().unwrap_or_else(|| value.span());
                let (line, column) = place(self.text, span.start);
                problems.push(Problem {
                    file: self.file.to_owned(),
                    line,
                    column,
                    key: key_at(&self.table, &span),
                    message: error.message().to_owned(),
                });
            }
        }
    }

    /// A problem with the value of `key` (dotted), placed where the key is written; when it is not
    /// (a default, or a missing key) at the closest table that is.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let (line, column) = place(self.text, self.find(key));
        Problem {
            file: self.file.to_owned(),
            line,
            column,
            key: key.to_owned(),
            message: message.into(),
        }
    }

    /// The byte where the deepest written part of `key` starts. `name[2]` reads the third element.
    fn find(&self, key: &str) -> usize {
        let mut table = &self.table;
        let mut found = 0;
        for part in key.split('.') {
            let (name, index) = match part.split_once('[') {
                Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
                None => (part, None),
            };
            let Some((written, value)) =
                table.iter().find(|(written, _)| written.get_ref().as_ref() == name)
            else {
                return found;
            };
            found = written.span().start;
            let mut value = value;
            if let Some(element) = index
                .and_then(|index| value.get_ref().as_array().and_then(|array| array.get(index)))
            {
                found = element.span().start;
                value = element;
            }
            match value.get_ref().as_table() {
                Some(inner) => table = inner,
                None => return found,
            }
        }
        found
    }
}

/// The dotted key whose name or value covers `span` most closely.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> String {
    for (name, value) in table {
        let inside = covers(&value.span(), span);
        let name_text: &str = name.get_ref().as_ref();
        // A table's own span may be only its header, so look into it before judging by spans.
        let deeper = deeper(value.get_ref(), span);
        if !deeper.is_empty() {
            return format!("{name_text}{deeper}");
        }
        if inside || covers(&name.span(), span) {
            return name_text.to_owned();
        }
    }
    String::new()
}

/// What follows the name of a value that covers `span`: `.key`, `[2]`, `[2].key` or nothing.
fn deeper(value: &DeValue<'_>, span: &Range<usize>) -> String {
    match value {
        DeValue::Table(table) => {
            let key = key_at(table, span);
            if key.is_empty() { key } else { format!(".{key}") }
        }
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                let rest = deeper(element.get_ref(), span);
                if !rest.is_empty() || covers(&element.span(), span) {
                    return format!("[{index}]{rest}");
                }
            }
            String::new()
        }
        _ => String::new(),
    }
}

/// Whether `outer` holds all of `inner`.
fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before[start..].chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}
