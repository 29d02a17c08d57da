//! The digest of a row, as the table's own reader computes it (`queries/row_digest.sql`).
//!
//! Guarantees: equal rows have equal digests here and in SQL; a change of any one number of a row
//! changes its digest, and a change of a label does but for one in 2^32. Digests of rows are added
//! up, wrapping, so that the sum does not depend on how the server has sorted them.
//!
//! It finds mistakes, not adversaries: who may write to the table may also write to the manifest.

use crate::event::{EventId, View};

/// What the labels add to a row's digest, before it is hashed. Once per combination of labels.
pub(super) fn labels_part(view: &View<'_>) -> u64 {
    let pair = |high: &str, low: &str| u64::from(crc(high)) << 32 | u64::from(crc(low));
    sum([
        (pair(view.tenant(), view.meter()), 0x1d8e_4e27_c47d_124f),
        (pair(view.path(), view.plan()), 0xeb44_acca_b455_d165),
        (pair(view.app(), view.route()), 0x2127_599b_f432_5c37),
        (u64::from(crc(view.reason())), 0x8803_55f2_1e6d_1965),
    ])
}

/// The row's digest.
#[inline]
pub(super) fn row(id: &EventId, view: &View<'_>, labels_part: u64) -> u64 {
    let quantity = view.quantity_nano().cast_unsigned();
    let small = u64::from(view.requests()) << 32
        | u64::from(view.flags().bits()) << 24
        | u64::from(view.kind() as u8) << 16
        | u64::from(id.lane);
    let numbers = sum([
        (u64::from(id.node) << 32 | u64::from(id.epoch), 0x9e37_79b9_7f4a_7c15),
        (id.sequence, 0xbf58_476d_1ce4_e5b9),
        (small, 0x94d0_49bb_1331_11eb),
        (view.ts_us().cast_unsigned(), 0xd6e8_feb8_6659_fd93),
        (quantity as u64, 0xa076_1d64_78bd_642f),
        ((quantity >> 64) as u64, 0xe703_7ed1_a0b4_28db),
        (view.request_bytes(), 0x8ebc_6af0_9c88_c6e3),
        (view.response_bytes(), 0x5899_65cc_7537_4cc3),
    ]);
    int_hash_64(numbers.wrapping_add(labels_part))
}

#[inline]
fn sum<const N: usize>(terms: [(u64, u64); N]) -> u64 {
    terms.iter().fold(0, |sum, (value, factor)| value.wrapping_mul(*factor).wrapping_add(sum))
}

/// ClickHouse's `intHash64`: MurmurHash3's 64-bit finaliser of the number and a constant.
#[inline]
fn int_hash_64(number: u64) -> u64 {
    let mut x = number ^ 0x4cf2_d2ba_ae6d_a887;
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// ClickHouse's `CRC32`, which is zlib's.
fn crc(label: &str) -> u32 {
    crc32fast::hash(label.as_bytes())
}
