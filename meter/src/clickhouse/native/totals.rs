//! What a batch adds up to: counted while it is encoded, and by the server from its rows.
//!
//! Guarantees: for the rows of one block, both ways give the same. Sums wrap on both sides, so a
//! sum never fails and never depends on the order of the rows.

use super::digest;
use crate::event::{EventId, View};

/// The numbers that two holders of a batch compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many rows.
    pub rows: u64,
    /// Earliest event time, unix microseconds; 0 when there are no rows.
    pub min_ts_us: i64,
    /// Latest event time, unix microseconds; 0 when there are no rows.
    pub max_ts_us: i64,
    /// Requests they stand for.
    pub requests: u64,
    /// Quantity, 1e-9 units.
    pub quantity_nano: i128,
    /// Body bytes of requests.
    pub request_bytes: u64,
    /// Body bytes of answers.
    pub response_bytes: u64,
    /// Sum of the rows' digests; see [`ROW_DIGEST`](super::ROW_DIGEST).
    pub digest: u64,
}

impl Totals {
    /// Takes a row in; `labels_part` is [`digest::labels_part`] of it.
    #[inline]
    pub(super) fn add(&mut self, id: &EventId, view: &View<'_>, labels_part: u64) {
        let ts_us = view.ts_us();
        if self.rows == 0 {
            (self.min_ts_us, self.max_ts_us) = (ts_us, ts_us);
        }
        self.rows += 1;
        self.min_ts_us = self.min_ts_us.min(ts_us);
        self.max_ts_us = self.max_ts_us.max(ts_us);
        self.requests = self.requests.wrapping_add(view.requests().into());
        self.quantity_nano = self.quantity_nano.wrapping_add(view.quantity_nano());
        self.request_bytes = self.request_bytes.wrapping_add(view.request_bytes());
        self.response_bytes = self.response_bytes.wrapping_add(view.response_bytes());
        self.digest = self.digest.wrapping_add(digest::row(id, view, labels_part));
    }

    /// The select list by which the server computes them, one column for each field in order.
    pub fn select_list() -> String {
        let digest = super::ROW_DIGEST;
        format!(
            "count(), toUnixTimestamp64Micro(min(ts)), toUnixTimestamp64Micro(max(ts)), \
             sum(requests), reinterpretAsInt128(sum(quantity)), sum(request_bytes), \
             sum(response_bytes), sum(\n{digest}\n)"
        )
    }

    /// Reads the line of TSV that [`Totals::select_list`] makes.
    pub fn parse(line: &str) -> Option<Totals> {
        let mut fields = line.trim_end().split('\t');
        let totals = Totals {
            rows: fields.next()?.parse().ok()?,
            min_ts_us: fields.next()?.parse().ok()?,
            max_ts_us: fields.next()?.parse().ok()?,
            requests: fields.next()?.parse().ok()?,
            quantity_nano: fields.next()?.parse().ok()?,
            request_bytes: fields.next()?.parse().ok()?,
            response_bytes: fields.next()?.parse().ok()?,
            digest: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(totals)
    }
}
