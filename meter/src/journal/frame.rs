//! A frame: length, checksum, row.
//!
//! The checksum starts from the frame's own identity (node, epoch, lane, sequence), so bytes left
//! from another time or copied to another place are no frame here.

use super::LaneKey;
use crate::event::{Event, MAX_ROW_BYTES, MIN_ROW_BYTES};

/// Bytes before the row.
pub(super) const FRAME_HEAD_BYTES: usize = 8;
/// The shortest frame.
pub(super) const MIN_FRAME_BYTES: u64 = (FRAME_HEAD_BYTES + MIN_ROW_BYTES) as u64;
/// The longest frame.
pub(super) const MAX_FRAME_BYTES: usize = FRAME_HEAD_BYTES + MAX_ROW_BYTES;

/// Where a lane's checksums start from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(lane: LaneKey) -> Seed {
        let mut bytes = [0; 10];
        bytes[0..4].copy_from_slice(&lane.node.to_le_bytes());
        bytes[4..8].copy_from_slice(&lane.epoch.to_le_bytes());
        bytes[8..10].copy_from_slice(&lane.lane.to_le_bytes());
        Seed(checksum(0, &bytes))
    }

    /// Different for any two sequences with equal upper halves, so never equal for neighbours of
    /// one segment: CRC-32 carries a difference of its start through to its end.
    #[inline]
    fn at(self, sequence: u64) -> u32 {
        self.0 ^ sequence as u32 ^ ((sequence >> 32) as u32).rotate_left(16)
    }
}

/// CRC-32 of `bytes`, continued from `start`.
#[inline]
pub(super) fn checksum(start: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    hasher.update(bytes);
    hasher.finalize()
}

/// Writes a frame into `frame`, which is exactly as long as head and row.
#[inline]
pub(super) fn write(frame: &mut [u8], seed: Seed, sequence: u64, event: &Event<'_>) {
    let (head, row) = frame.split_at_mut(FRAME_HEAD_BYTES);
    event.encode(row);
    head[0..4].copy_from_slice(&(row.len() as u32).to_le_bytes());
    head[4..8].copy_from_slice(&checksum(seed.at(sequence), row).to_le_bytes());
}

/// What lies at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// The row of the frame with the expected identity.
    Row(&'a [u8]),
    /// As much of a frame as there is: it needs this many bytes in all.
    Short(usize),
    /// No frame with this identity.
    Nothing,
}

/// Looks for the frame with this sequence at the start of `bytes`.
#[inline]
pub(super) fn read(bytes: &[u8], seed: Seed, sequence: u64) -> Found<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else {
        return Found::Short(FRAME_HEAD_BYTES);
    };
    let [a, b, c, d, sum @ ..] = *head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if !(MIN_ROW_BYTES..=MAX_ROW_BYTES).contains(&length) {
        return Found::Nothing;
    }
    match rest.get(..length) {
        None => Found::Short(FRAME_HEAD_BYTES + length),
        Some(row) if checksum(seed.at(sequence), row) == u32::from_le_bytes(sum) => Found::Row(row),
        Some(_) => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Flags, Kind, Method};

    const LANE: LaneKey = LaneKey { node: 9, epoch: 2, lane: 1 };

    fn frame(sequence: u64) -> Vec<u8> {
        let event = Event {
            ts_us: 1,
            request_id: [7; 16],
            kind: Kind::Request,
            method: Method::Get,
            status: 200,
            flags: Flags::NONE,
            requests: 1,
            quantity_nano: 1,
            request_bytes: 0,
            response_bytes: 5,
            duration_us: 6,
            upstream_us: 7,
            tenant: "acme",
            path: "acme",
            plan: "pro",
            key_id: "k",
            app: "crm",
            route: "r",
            meter: "api_calls",
            reason: "",
        };
        let row = event.encoded_len().expect("a short row");
        let mut frame = vec![0; FRAME_HEAD_BYTES + row];
        write(&mut frame, Seed::new(LANE), sequence, &event);
        frame
    }

    #[test]
    fn a_frame_counts_only_at_its_own_place() {
        let bytes = frame(41);
        let seed = Seed::new(LANE);
        assert_eq!(read(&bytes, seed, 41), Found::Row(&bytes[FRAME_HEAD_BYTES..]));
        assert_eq!(read(&bytes, seed, 42), Found::Nothing);
        assert_eq!(read(&bytes, seed, 41 + (1 << 32)), Found::Nothing);
        let other = Seed::new(LaneKey { epoch: 3, ..LANE });
        assert_eq!(read(&bytes, other, 41), Found::Nothing);
    }

    #[test]
    fn cut_or_changed_bytes_are_no_frame() {
        let bytes = frame(0);
        let seed = Seed::new(LANE);
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length], seed, 0), Found::Short(_)), "{length}");
            let mut torn = bytes.clone();
            torn[length..].fill(0);
            if torn != bytes {
                assert_eq!(read(&torn, seed, 0), Found::Nothing, "zero from {length}");
            }
        }
        for bit in 32..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&changed, seed, 0), Found::Nothing, "bit {bit}");
        }
    }
}
