//! The binary row of an event: encoding into a given slice, decoding to a borrowed view.

use std::ops::Range;

use super::{EARLIEST_TS_US, Event, Flags, Kind, LATEST_TS_US, Method};

/// Version of the row's layout, written in every segment header.
pub const ROW_LAYOUT: u32 = 1;

/// Bytes of a row whose strings are all empty.
pub const MIN_ROW_BYTES: usize = TEXT;

/// Bytes of a row whose strings are all as long as a length can say.
pub const MAX_ROW_BYTES: usize = TEXT + LABELS * u16::MAX as usize;

/// The strings of a row, in the order they are laid out.
const LABELS: usize = 8;
const NAMES: [&str; LABELS] =
    ["tenant", "path", "plan", "key_id", "app", "route", "meter", "reason"];

const LENGTHS: usize = 74;
const TEXT: usize = LENGTHS + 2 * LABELS;

/// An event that no row can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string is longer than its length field can say.
    #[error("{field} has {bytes} bytes, more than 65535")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The event time has no month in the table.
    #[error("event time {ts_us} us is outside 1970-01-01 to 2199-12-31")]
    Time {
        /// Unix microseconds.
        ts_us: i64,
    },
}

/// Bytes that are not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The lengths do not add up to the row.
    #[error("row of {bytes} bytes, its fields need {needed}")]
    Length {
        /// Bytes given.
        bytes: usize,
        /// Bytes the row's own lengths ask for.
        needed: usize,
    },
    /// No such kind.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// No such method.
    #[error("unknown method {0}")]
    Method(u8),
    /// The event time is outside what a row may carry.
    #[error("event time {0} us is outside 1970-01-01 to 2199-12-31")]
    Time(i64),
    /// A string is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
}

impl<'a> Event<'a> {
    fn labels(&self) -> [&'a str; LABELS] {
        [
            self.tenant,
            self.path,
            self.plan,
            self.key_id,
            self.app,
            self.route,
            self.meter,
            self.reason,
        ]
    }

    /// Bytes of this event's row, or why it cannot be a row.
    #[inline]
    pub fn encoded_len(&self) -> Result<usize, EncodeError> {
        let mut bytes = TEXT;
        for (index, label) in self.labels().iter().enumerate() {
            if label.len() > usize::from(u16::MAX) {
                return Err(EncodeError::TooLong { field: NAMES[index], bytes: label.len() });
            }
            bytes += label.len();
        }
        if !(EARLIEST_TS_US..LATEST_TS_US).contains(&self.ts_us) {
            return Err(EncodeError::Time { ts_us: self.ts_us });
        }
        Ok(bytes)
    }

    /// Writes the row into `row`, which must be exactly [`Event::encoded_len`] bytes long.
    ///
    /// # Panics
    /// When `row` has any other length: the caller sized it wrongly.
    #[inline]
    pub fn encode(&self, row: &mut [u8]) {
        let (head, mut text) = row.split_at_mut(TEXT);
        let head: &mut [u8; TEXT] = head.try_into().expect("split at this length");
        head[0..8].copy_from_slice(&self.ts_us.to_le_bytes());
        head[8..24].copy_from_slice(&self.request_id);
        head[24..40].copy_from_slice(&self.quantity_nano.to_le_bytes());
        head[40..48].copy_from_slice(&self.request_bytes.to_le_bytes());
        head[48..56].copy_from_slice(&self.response_bytes.to_le_bytes());
        head[56..60].copy_from_slice(&self.duration_us.to_le_bytes());
        head[60..64].copy_from_slice(&self.upstream_us.to_le_bytes());
        head[64..68].copy_from_slice(&self.requests.to_le_bytes());
        head[68..70].copy_from_slice(&self.status.to_le_bytes());
        head[70..74].copy_from_slice(&[self.kind as u8, self.method as u8, self.flags.bits(), 0]);
        for (index, label) in self.labels().iter().enumerate() {
            let at = LENGTHS + 2 * index;
            head[at..at + 2].copy_from_slice(&(label.len() as u16).to_le_bytes());
            let (here, rest) = text.split_at_mut(label.len());
            here.copy_from_slice(label.as_bytes());
            text = rest;
        }
        assert!(text.is_empty(), "a row is exactly as long as its event says");
    }
}

/// A row, checked once and read in place.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    head: &'a [u8; LENGTHS],
    labels: &'a [u8],
    text: &'a str,
    /// Where each string ends in `text`; every one is a character boundary.
    ends: [u32; LABELS],
    kind: Kind,
    method: Method,
}

impl<'a> View<'a> {
    /// Checks that `row` is a whole row, and nothing but.
    #[inline]
    pub fn decode(row: &'a [u8]) -> Result<View<'a>, DecodeError> {
        let length = |needed| DecodeError::Length { bytes: row.len(), needed };
        let (head, labels) = row.split_first_chunk::<LENGTHS>().ok_or(length(TEXT))?;
        let (lengths, text) = labels.split_first_chunk::<{ 2 * LABELS }>().ok_or(length(TEXT))?;
        let mut ends = [0; LABELS];
        let mut end = 0;
        for (index, length) in lengths.chunks_exact(2).enumerate() {
            end += u32::from(u16::from_le_bytes([length[0], length[1]]));
            ends[index] = end;
        }
        if text.len() != end as usize {
            return Err(length(TEXT + end as usize));
        }
        let view = View {
            head,
            labels,
            text: text_of(text, &ends)?,
            ends,
            kind: Kind::from_number(head[70]).ok_or(DecodeError::Kind(head[70]))?,
            method: Method::from_number(head[71]).ok_or(DecodeError::Method(head[71]))?,
        };
        let ts_us = view.ts_us();
        if !(EARLIEST_TS_US..LATEST_TS_US).contains(&ts_us) {
            return Err(DecodeError::Time(ts_us));
        }
        Ok(view)
    }

    /// Event time, unix microseconds UTC.
    #[inline]
    pub fn ts_us(&self) -> i64 {
        i64::from_le_bytes(self.field(0))
    }

    /// The request's id.
    #[inline]
    pub fn request_id(&self) -> [u8; 16] {
        self.field(8)
    }

    /// Quantity on the meter, 1e-9 units.
    #[inline]
    pub fn quantity_nano(&self) -> i128 {
        i128::from_le_bytes(self.field(24))
    }

    /// Body bytes of the request.
    #[inline]
    pub fn request_bytes(&self) -> u64 {
        u64::from_le_bytes(self.field(40))
    }

    /// Body bytes of the answer.
    #[inline]
    pub fn response_bytes(&self) -> u64 {
        u64::from_le_bytes(self.field(48))
    }

    /// Microseconds from arrival to the end of the answer.
    #[inline]
    pub fn duration_us(&self) -> u32 {
        u32::from_le_bytes(self.field(56))
    }

    /// Microseconds until the upstream's response header.
    #[inline]
    pub fn upstream_us(&self) -> u32 {
        u32::from_le_bytes(self.field(60))
    }

    /// Requests this row stands for.
    #[inline]
    pub fn requests(&self) -> u32 {
        u32::from_le_bytes(self.field(64))
    }

    /// HTTP status of the answer.
    #[inline]
    pub fn status(&self) -> u16 {
        u16::from_le_bytes(self.field(68))
    }

    /// What the row stands for.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The request's method.
    #[inline]
    pub fn method(&self) -> Method {
        self.method
    }

    /// How the answer came to be.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags::from_bits(self.head[72])
    }

    /// Lengths and strings as they lie: equal bytes mean equal strings, and the other way round.
    #[inline]
    pub fn labels(&self) -> &'a [u8] {
        self.labels
    }

    /// The tenant's id.
    #[inline]
    pub fn tenant(&self) -> &'a str {
        self.label(0)
    }

    /// Ids from the root of the tenant tree, joined with '/'.
    #[inline]
    pub fn path(&self) -> &'a str {
        self.label(1)
    }

    /// The plan's id.
    #[inline]
    pub fn plan(&self) -> &'a str {
        self.label(2)
    }

    /// The key's public id.
    #[inline]
    pub fn key_id(&self) -> &'a str {
        self.label(3)
    }

    /// The app's id.
    #[inline]
    pub fn app(&self) -> &'a str {
        self.label(4)
    }

    /// The route's id.
    #[inline]
    pub fn route(&self) -> &'a str {
        self.label(5)
    }

    /// What is counted.
    #[inline]
    pub fn meter(&self) -> &'a str {
        self.label(6)
    }

    /// Why it was refused.
    #[inline]
    pub fn reason(&self) -> &'a str {
        self.label(7)
    }

    /// All fields at once.
    pub fn event(&self) -> Event<'a> {
        Event {
            ts_us: self.ts_us(),
            request_id: self.request_id(),
            kind: self.kind,
            method: self.method,
            status: self.status(),
            flags: self.flags(),
            requests: self.requests(),
            quantity_nano: self.quantity_nano(),
            request_bytes: self.request_bytes(),
            response_bytes: self.response_bytes(),
            duration_us: self.duration_us(),
            upstream_us: self.upstream_us(),
            tenant: self.tenant(),
            path: self.path(),
            plan: self.plan(),
            key_id: self.key_id(),
            app: self.app(),
            route: self.route(),
            meter: self.meter(),
            reason: self.reason(),
        }
    }

    #[inline]
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.head[at..at + N]);
        bytes
    }

    #[inline]
    fn label(&self, index: usize) -> &'a str {
        &self.text[range(&self.ends, index)]
    }
}

fn range(ends: &[u32; LABELS], index: usize) -> Range<usize> {
    let start = if index == 0 { 0 } else { ends[index - 1] as usize };
    start..ends[index] as usize
}

/// All strings are UTF-8 when the whole is and every one ends between characters.
#[inline]
fn text_of<'a>(text: &'a [u8], ends: &[u32; LABELS]) -> Result<&'a str, DecodeError> {
    let whole = std::str::from_utf8(text)
        .ok()
        .filter(|whole| ends.iter().all(|&end| whole.is_char_boundary(end as usize)));
    whole.ok_or_else(|| {
        let bad = |&index: &usize| std::str::from_utf8(&text[range(ends, index)]).is_err();
        DecodeError::Text(NAMES[(0..LABELS).find(bad).unwrap_or(LABELS - 1)])
    })
}
