//! Blocks of `usage_events` in ClickHouse's Native format: columns, as the table keeps them.
//!
//! Three to five times cheaper for the server than rows (RowBinary), because nothing is left to
//! transpose or to look up. The layout, every number little-endian:
//!
//! ```text
//! varint columns, varint rows, then for each column:
//!     varint length + name, varint length + type, values
//! ```
//!
//! A `LowCardinality` column is a version (1), flags with the width of an index, its dictionary and
//! one index per row (see `native/labels.rs`). A UUID is two 64-bit halves, each little-endian.
//!
//! Guarantees: a block holds exactly the rows that were pushed, in that order, and all of one
//! month, so that the server makes one part of it. The builder keeps its memory from block to
//! block, and the encoded bytes' memory too, once the previous block has been dropped.

mod digest;
mod labels;
mod totals;

use bytes::{Bytes, BytesMut};

use self::labels::Labels;
pub use self::totals::Totals;
use super::schema::COLUMNS;
use crate::event::{EventId, View};

/// The digest of one row as an expression of ClickHouse's SQL over the columns of the table.
pub const ROW_DIGEST: &str = include_str!("queries/row_digest.sql");

const US_PER_DAY: i64 = 86_400_000_000;

/// One batch as the server takes it.
#[derive(Clone, Debug)]
pub struct EncodedBlock {
    bytes: Bytes,
    totals: Totals,
    batch_id: u64,
    month: u32,
}

impl EncodedBlock {
    /// The Native block.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its rows.
    pub fn rows(&self) -> usize {
        self.totals.rows as usize
    }

    /// What its rows add up to.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The batch every row of it names.
    pub fn batch_id(&self) -> u64 {
        self.batch_id
    }

    /// The partition (yyyymm, UTC) every row of it belongs to.
    pub fn month(&self) -> u32 {
        self.month
    }
}

/// Columns of a fixed width, in the order of [`COLUMNS`] without the labels and the batch.
#[derive(Default)]
struct Columns {
    node: Vec<u8>,
    epoch: Vec<u8>,
    lane: Vec<u8>,
    sequence: Vec<u8>,
    ts: Vec<u8>,
    kind: Vec<u8>,
    method: Vec<u8>,
    status: Vec<u8>,
    flags: Vec<u8>,
    requests: Vec<u8>,
    quantity: Vec<u8>,
    request_bytes: Vec<u8>,
    response_bytes: Vec<u8>,
    duration_us: Vec<u8>,
    upstream_us: Vec<u8>,
    request_id: Vec<u8>,
}

impl Columns {
    fn all(&mut self) -> [&mut Vec<u8>; 16] {
        [
            &mut self.node,
            &mut self.epoch,
            &mut self.lane,
            &mut self.sequence,
            &mut self.ts,
            &mut self.kind,
            &mut self.method,
            &mut self.status,
            &mut self.flags,
            &mut self.requests,
            &mut self.quantity,
            &mut self.request_bytes,
            &mut self.response_bytes,
            &mut self.duration_us,
            &mut self.upstream_us,
            &mut self.request_id,
        ]
    }
}

/// Collects rows of one month and encodes them as one block.
#[derive(Default)]
pub struct BlockBuilder {
    /// Of the rows pushed.
    totals: Totals,
    columns: Columns,
    labels: Labels,
    /// The previous block's bytes: taken back when nobody else holds them any more.
    previous: Bytes,
}

impl BlockBuilder {
    /// A builder without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows pushed since the last block.
    pub fn len(&self) -> usize {
        self.totals.rows as usize
    }

    /// Whether no row was pushed since the last block.
    pub fn is_empty(&self) -> bool {
        self.totals.rows == 0
    }

    /// Adds a row.
    #[inline]
    pub fn push(&mut self, id: &EventId, view: &View<'_>) {
        let labels_part = self.labels.push(view);
        self.totals.add(id, view, labels_part);
        let columns = &mut self.columns;
        columns.node.extend_from_slice(&id.node.to_le_bytes());
        columns.epoch.extend_from_slice(&id.epoch.to_le_bytes());
        columns.lane.extend_from_slice(&id.lane.to_le_bytes());
        columns.sequence.extend_from_slice(&id.sequence.to_le_bytes());
        columns.ts.extend_from_slice(&view.ts_us().to_le_bytes());
        columns.kind.push(view.kind() as u8);
        columns.method.push(view.method() as u8);
        columns.status.extend_from_slice(&view.status().to_le_bytes());
        columns.flags.push(view.flags().bits());
        columns.requests.extend_from_slice(&view.requests().to_le_bytes());
        columns.quantity.extend_from_slice(&view.quantity_nano().to_le_bytes());
        columns.request_bytes.extend_from_slice(&view.request_bytes().to_le_bytes());
        columns.response_bytes.extend_from_slice(&view.response_bytes().to_le_bytes());
        columns.duration_us.extend_from_slice(&view.duration_us().to_le_bytes());
        columns.upstream_us.extend_from_slice(&view.upstream_us().to_le_bytes());
        let (high, low) = halves(view.request_id());
        columns.request_id.extend_from_slice(&high.to_le_bytes());
        columns.request_id.extend_from_slice(&low.to_le_bytes());
    }

    /// Encodes the rows as the batch `batch_id` of `month` (yyyymm, see [`month_of`]) and starts
    /// over.
    ///
    /// # Panics
    /// When a row is of another month: its batch would become two parts, which a crash could tear.
    pub fn finish(&mut self, batch_id: u64, month: u32) -> EncodedBlock {
        if !self.is_empty() {
            for ts_us in [self.totals.min_ts_us, self.totals.max_ts_us] {
                assert_eq!(month_of(ts_us), month, "a batch is of one month");
            }
        }
        let mut out = std::mem::take(&mut self.previous)
            .try_into_mut()
            .unwrap_or_else(|_| BytesMut::with_capacity(64 * 1024));
        out.clear();
        put_varint(&mut out, COLUMNS.len());
        put_varint(&mut out, self.len());
        for (name, kind) in COLUMNS {
            put_string(&mut out, name.as_bytes());
            put_string(&mut out, kind.as_bytes());
            if !self.is_empty() {
                self.put_column(&mut out, name, batch_id);
            }
        }
        let bytes = out.freeze();
        let totals = std::mem::take(&mut self.totals);
        let block = EncodedBlock { bytes: bytes.clone(), totals, batch_id, month };
        self.previous = bytes;
        self.labels.clear();
        for column in self.columns.all() {
            column.clear();
        }
        block
    }

    fn put_column(&self, out: &mut BytesMut, name: &str, batch_id: u64) {
        let columns = &self.columns;
        let values = match name {
            "node" => &columns.node,
            "epoch" => &columns.epoch,
            "lane" => &columns.lane,
            "sequence" => &columns.sequence,
            "ts" => &columns.ts,
            "kind" => &columns.kind,
            "method" => &columns.method,
            "status" => &columns.status,
            "flags" => &columns.flags,
            "requests" => &columns.requests,
            "quantity" => &columns.quantity,
            "request_bytes" => &columns.request_bytes,
            "response_bytes" => &columns.response_bytes,
            "duration_us" => &columns.duration_us,
            "upstream_us" => &columns.upstream_us,
            "request_id" => &columns.request_id,
            "batch_id" => {
                out.reserve(self.len() * size_of::<u64>());
                for _ in 0..self.len() {
                    out.extend_from_slice(&batch_id.to_le_bytes());
                }
                return;
            }
            label => return self.labels.put_column(out, label),
        };
        out.extend_from_slice(values);
    }
}

/// The month of an event time (unix microseconds) as ClickHouse's `toYYYYMM` has it: yyyymm in UTC.
///
/// Exact from 1970 to 2199, the years an event may be in.
pub fn month_of(ts_us: i64) -> u32 {
    // Days to civil date by Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms", with
    // years that start on 1 March, so that the leap day is the last of its year.
    let days = ts_us.div_euclid(US_PER_DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let (month, next_year) =
        if march_month < 10 { (march_month + 3, 0) } else { (march_month - 9, 1) };
    let year = era * 400 + year_of_era + next_year;
    u32::try_from(year * 100 + month).expect("events are of the years 1970 to 2199")
}

/// The first moment of a month (yyyymm), unix microseconds: the inverse of [`month_of`].
pub fn start_of_month(month: u32) -> i64 {
    let (year, month) = (i64::from(month / 100), i64::from(month % 100));
    let (march_month, year) = if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * march_month + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era - 719_468) * US_PER_DAY
}

fn halves(id: [u8; 16]) -> (u64, u64) {
    let id = u128::from_be_bytes(id);
    ((id >> 64) as u64, id as u64)
}

fn put_varint(out: &mut BytesMut, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        out.extend_from_slice(&[rest as u8 | 0x80]);
        rest >>= 7;
    }
    out.extend_from_slice(&[rest as u8]);
}

fn put_string(out: &mut BytesMut, text: &[u8]) {
    put_varint(out, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let first = jiff::civil::date(1970, 1, 1);
        for days in 0..84_000 {
            let date = first.checked_add(jiff::Span::new().days(days)).expect("in range");
            let expected = date.year() as u32 * 100 + date.month() as u32;
            let midnight_us = i64::from(days) * 86_400_000_000;
            assert_eq!(month_of(midnight_us), expected, "{date}");
            assert_eq!(month_of(midnight_us + 86_399_999_999), expected, "{date}");
            if date.day() == 1 {
                assert_eq!(start_of_month(expected), midnight_us, "{date}");
            }
        }
    }

    #[test]
    fn varints_are_leb128() {
        for (value, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (1 << 14, &[0x80, 0x80, 1]),
        ] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(&out[..], expected);
        }
    }
}
