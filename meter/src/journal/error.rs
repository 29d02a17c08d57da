//! What can go wrong with a journal.

use std::io;
use std::path::PathBuf;

use crate::event::EncodeError;
use crate::slots::SlotsError;

/// The journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A setting that cannot work.
    #[error("journal {field} is {value}, must be {must}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        must: &'static str,
    },
    /// Another process has it open.
    #[error("the journal {} is in use by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A file or the directory could not be used.
    #[error("journal {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The small files that say whose journal it is.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// They are whole but not ours.
    #[error("journal identity {} is not understood", path.display())]
    Identity {
        /// The path both names start with.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// They were written by another version.
    #[error("journal identity {} has version {found}, this program knows {known}", path.display())]
    Version {
        /// The path both names start with.
        path: PathBuf,
        /// Their version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A segment that this version cannot read; it is left as it is.
    #[error("journal segment {}", path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: SegmentError,
    },
}

/// A header page that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Its magic or checksum is wrong.
    #[error("the header is damaged")]
    Header,
    /// Written by another version.
    #[error("segment layout {layout} with row layout {rows} is not known to this version")]
    Layout {
        /// Layout of the segment.
        layout: u32,
        /// Layout of its rows.
        rows: u32,
    },
}

/// The event was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Bound or disk reached.
    #[error("the journal is full")]
    Full,
    /// After `close`.
    #[error("the journal is closed")]
    Closed,
    /// No row can hold it.
    #[error("the event cannot be a row")]
    Row(#[from] EncodeError),
    /// Its row does not fit into a segment of the configured size.
    #[error("the row has {bytes} bytes, a segment holds rows up to {limit}")]
    TooLarge {
        /// Bytes of the row.
        bytes: usize,
        /// Bytes the longest row may have.
        limit: usize,
    },
}
