//! What is wrong with an operator's documents: every mistake, with file, line and key.

use std::fmt;

/// One mistake in one document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The document as its [`Source`](crate::Source) named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in bytes, from 1.
    pub column: u32,
    /// The key at fault, as a path: `tenant.acme.limits[0].rate`.
    pub key: String,
    /// What is wrong, and where there is one, what would be right.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { file, line, column, key, message } = self;
        write!(f, "{file}:{line}:{column}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(message)
    }
}

/// Every mistake found in a set of documents, in the order of files and lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A place in a set of documents: which one, and the byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) byte: u32,
}

/// Gathers mistakes by place; lines and columns are worked out once, at the end.
#[derive(Default)]
pub(crate) struct Findings {
    mistakes: Vec<Finding>,
    /// What is no mistake, and perhaps not meant; `None` where nobody asks.
    doubts: Option<Vec<Finding>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    place: Place,
    key: String,
    message: String,
    /// Another place the message speaks of: its file and line are added.
    other: Option<Place>,
}

impl Findings {
    /// Findings that hold doubts as well.
    pub(crate) fn with_doubts() -> Findings {
        Findings { mistakes: Vec::new(), doubts: Some(Vec::new()) }
    }

    /// Whether anybody asks for doubts about these documents: about mistakes there are none.
    pub(crate) fn asks_for_doubts(&self) -> bool {
        self.doubts.is_some() && self.mistakes.is_empty()
    }

    /// Adds what is no mistake, and perhaps not meant.
    pub(crate) fn doubt(&mut self, place: Place, key: String, message: String) {
        if let Some(doubts) = &mut self.doubts {
            doubts.push(Finding { place, key, message, other: None });
        }
    }

    /// The doubts, resolved.
    pub(crate) fn doubts(self, sources: &[crate::Source]) -> Diagnostics {
        resolve(self.doubts.unwrap_or_default(), sources)
    }

    pub(crate) fn add(&mut self, place: Place, key: impl Into<String>, message: impl Into<String>) {
        let (key, message) = (key.into(), message.into());
        self.mistakes.push(Finding { place, key, message, other: None });
    }

    /// `message` ends where the other place's file and line belong.
    pub(crate) fn add_with(
        &mut self,
        place: Place,
        key: impl Into<String>,
        message: impl Into<String>,
        other: Place,
    ) {
        let (key, message) = (key.into(), message.into());
        self.mistakes.push(Finding { place, key, message, other: Some(other) });
    }

    /// Keeps those at places that `keep` wants.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Place) -> bool) {
        self.mistakes.retain(|finding| keep(finding.place));
    }

    /// Adds those of `other`, each with something more to say.
    pub(crate) fn extend(&mut self, other: Findings, more: &str) {
        self.mistakes.extend(other.mistakes.into_iter().map(|mut finding| {
            finding.message.push_str(more);
            finding
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// The mistakes, resolved.
    pub(crate) fn resolve(self, sources: &[crate::Source]) -> Diagnostics {
        resolve(self.mistakes, sources)
    }
}

/// Sorts by place and resolves it, one pass over each file however many findings it has.
fn resolve(mut findings: Vec<Finding>, sources: &[crate::Source]) -> Diagnostics {
    findings.sort();
    findings.dedup();
    let mut cursor = Cursor::default();
    let diagnostics = findings.into_iter().map(|Finding { place, key, mut message, other }| {
        let (file, line, column) = cursor.advance(place, sources);
        if let Some(other) = other {
            let (file, line, _) = Cursor::default().advance(other, sources);
            message.push_str(&format!(" {file}:{line}"));
        }
        Diagnostic { file: file.to_owned(), line, column, key, message }
    });
    Diagnostics(diagnostics.collect())
}

#[derive(Default)]
struct Cursor {
    file: u32,
    byte: usize,
    /// Line breaks passed.
    breaks: u32,
    line_start: usize,
}

impl Cursor {
    fn advance<'s>(&mut self, place: Place, sources: &'s [crate::Source]) -> (&'s str, u32, u32) {
        if self.file != place.file {
            *self = Cursor { file: place.file, ..Cursor::default() };
        }
        let source = &sources[place.file as usize];
        let text = source.text.as_bytes();
        let end = (place.byte as usize).min(text.len());
        for (index, _) in text[self.byte..end].iter().enumerate().filter(|(_, b)| **b == b'\n') {
            self.breaks += 1;
            self.line_start = self.byte + index + 1;
        }
        self.byte = end;
        (&source.file, self.breaks + 1, (end - self.line_start) as u32 + 1)
    }
}
