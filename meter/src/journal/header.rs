//! The header page of a segment: who wrote it, and from which sequence on.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 4 + 4 | layout of the segment, layout of its rows |
//! | 16 | 4 + 4 | node, epoch |
//! | 24 | 4 + 4 | lane, index of the segment within the lane |
//! | 32 | 8 | sequence of the first frame |
//! | 40 | 8 | when it was made, unix microseconds |
//! | 48 | 4 | CRC-32 of the above |
//! | 64 | 8 | committed offset, kept current by the writer |
//! | 72 | 8 | next sequence, kept current by the writer |
//! | 80 | 8 | 1 when a recovery has found the two words above, or corrected them |
//!
//! The two current words are hints after a crash: frames count by their own checksums, and the
//! words only tell how much should have been there. A recovery that has looked sets them right,
//! and the next one need not look again.

use super::frame::checksum;
use super::{LaneKey, SegmentError};
use crate::event::ROW_LAYOUT;

/// Unit of mapping and syncing.
pub(super) const PAGE_BYTES: usize = 4096;
/// Frames start here.
pub(super) const HEADER_BYTES: usize = PAGE_BYTES;
/// The identity's bytes; the rest of the page is the two words and zeros.
pub(super) const STAMP_BYTES: usize = 52;
/// Where the committed offset lies: a cache line of its own.
pub(super) const COMMITTED_AT: usize = 64;
/// Where the next sequence lies.
pub(super) const APPENDED_AT: usize = 72;
const SETTLED_AT: usize = 80;

const MAGIC: [u8; 8] = *b"ORBITJNL";
const SEGMENT_LAYOUT: u32 = 1;

/// A segment's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) lane: LaneKey,
    pub(super) index: u32,
    pub(super) first_sequence: u64,
    pub(super) created_us: i64,
}

/// What is said about the frames of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hint {
    /// Offset up to which frames were committed.
    pub(super) committed: u64,
    /// Sequence after the last of them.
    pub(super) next_sequence: u64,
    /// Said by a recovery that has read them, not by a writer.
    pub(super) is_settled: bool,
}

impl Hint {
    /// The three words, from the committed offset on.
    pub(super) fn words(self) -> [u8; 24] {
        let mut words = [0; 24];
        words[0..8].copy_from_slice(&self.committed.to_le_bytes());
        words[8..16].copy_from_slice(&self.next_sequence.to_le_bytes());
        words[16..24].copy_from_slice(&u64::from(self.is_settled).to_le_bytes());
        words
    }
}

/// What a header page says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Never used.
    Blank,
    /// A segment, and how far it goes.
    Segment { header: Header, hint: Hint },
}

impl Header {
    pub(super) fn stamp(&self) -> [u8; STAMP_BYTES] {
        let mut stamp = [0; STAMP_BYTES];
        stamp[0..8].copy_from_slice(&MAGIC);
        stamp[8..12].copy_from_slice(&SEGMENT_LAYOUT.to_le_bytes());
        stamp[12..16].copy_from_slice(&ROW_LAYOUT.to_le_bytes());
        stamp[16..20].copy_from_slice(&self.lane.node.to_le_bytes());
        stamp[20..24].copy_from_slice(&self.lane.epoch.to_le_bytes());
        stamp[24..28].copy_from_slice(&u32::from(self.lane.lane).to_le_bytes());
        stamp[28..32].copy_from_slice(&self.index.to_le_bytes());
        stamp[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        stamp[40..48].copy_from_slice(&self.created_us.to_le_bytes());
        let sum = checksum(0, &stamp[..48]);
        stamp[48..52].copy_from_slice(&sum.to_le_bytes());
        stamp
    }
}

/// Reads a header page.
pub(super) fn parse(page: &[u8; HEADER_BYTES]) -> Result<Page, SegmentError> {
    if page.iter().all(|&byte| byte == 0) {
        return Ok(Page::Blank);
    }
    if page[0..8] != MAGIC || checksum(0, &page[..48]) != u32_at(page, 48) {
        return Err(SegmentError::Header);
    }
    let (layout, rows) = (u32_at(page, 8), u32_at(page, 12));
    if layout != SEGMENT_LAYOUT || rows != ROW_LAYOUT {
        return Err(SegmentError::Layout { layout, rows });
    }
    let lane = u16::try_from(u32_at(page, 24)).map_err(|_| SegmentError::Header)?;
    Ok(Page::Segment {
        header: Header {
            lane: LaneKey { node: u32_at(page, 16), epoch: u32_at(page, 20), lane },
            index: u32_at(page, 28),
            first_sequence: u64_at(page, 32),
            created_us: u64_at(page, 40).cast_signed(),
        },
        hint: Hint {
            committed: u64_at(page, COMMITTED_AT),
            next_sequence: u64_at(page, APPENDED_AT),
            is_settled: u64_at(page, SETTLED_AT) == 1,
        },
    })
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&page[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(header: &Header) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[..STAMP_BYTES].copy_from_slice(&header.stamp());
        page
    }

    #[test]
    fn a_header_reads_back_and_no_bit_of_it_may_change() {
        let header = Header {
            lane: LaneKey { node: 0xA1B2_C3D4, epoch: 7, lane: 65_535 },
            index: 3,
            first_sequence: u64::MAX - 1,
            created_us: 1_795_000_000_000_000,
        };
        let page = page_of(&header);
        let read = parse(&page).expect("a valid page");
        assert_eq!(read, Page::Segment { header, hint: Hint::default() });
        let hint = Hint { committed: 5_000, next_sequence: 17, is_settled: true };
        let mut settled = page;
        settled[COMMITTED_AT..COMMITTED_AT + 24].copy_from_slice(&hint.words());
        assert_eq!(parse(&settled), Ok(Page::Segment { header, hint }));
        for bit in 0..STAMP_BYTES * 8 {
            let mut page = page;
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&page).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_layout_is_named() {
        let lane = LaneKey { node: 1, epoch: 1, lane: 0 };
        let header = Header { lane, index: 0, first_sequence: 0, created_us: 0 };
        let mut page = page_of(&header);
        page[8] = 2;
        let sum = checksum(0, &page[..48]).to_le_bytes();
        page[48..52].copy_from_slice(&sum);
        assert_eq!(parse(&page), Err(SegmentError::Layout { layout: 2, rows: ROW_LAYOUT }));
        assert_eq!(parse(&[0; HEADER_BYTES]), Ok(Page::Blank));
    }
}
