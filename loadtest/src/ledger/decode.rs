//! RowBinary, as far as the ledger's query needs it: a row is [`COLUMNS`].
//!
//! Bytes come from the network in pieces of any length; a row that is not complete yet is not an
//! error, and nothing here panics on what it is given.

use super::{RequestId, Row, RowKind};

/// The columns, in the order [`row`] reads them.
pub(super) const COLUMNS: &str = "request_id, tenant, app, route, meter, status, CAST(kind, 'Int8'), flags, requests, \
     quantity, request_bytes, response_bytes";

/// Longer strings than this are not ours: what is read is not RowBinary.
const MAX_STRING_BYTES: u64 = 65_535;

/// What the beginning of a buffer holds.
pub(super) enum Decoded<'a> {
    /// A row of so many bytes.
    Row(Row<'a>, usize),
    /// The beginning of a row.
    Incomplete,
    /// Not a row.
    Malformed,
}

/// Decodes the row at the beginning of `bytes`.
pub(super) fn row(bytes: &[u8]) -> Decoded<'_> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.row() {
        Ok(row) => Decoded::Row(row, reader.at),
        Err(Stop::Incomplete) => Decoded::Incomplete,
        Err(Stop::Malformed) => Decoded::Malformed,
    }
}

enum Stop {
    Incomplete,
    Malformed,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn row(&mut self) -> Result<Row<'a>, Stop> {
        let id = self.uuid()?;
        let (tenant, app, route) = (self.string()?, self.string()?, self.string()?);
        let meter = self.string()?;
        let status = u16::from_le_bytes(self.array()?);
        let kind = match self.array()? {
            [1] => RowKind::Request,
            [2] => RowKind::Refused,
            [_] => RowKind::Other,
        };
        let [flags] = self.array()?;
        let requests = u32::from_le_bytes(self.array()?);
        let quantity_nano = i128::from_le_bytes(self.array()?);
        let request_bytes = u64::from_le_bytes(self.array()?);
        let response_bytes = u64::from_le_bytes(self.array()?);
        Ok(Row {
            id,
            kind,
            tenant,
            app,
            route,
            meter,
            status,
            flags,
            requests,
            quantity_nano,
            request_bytes,
            response_bytes,
        })
    }

    /// A UUID is two little-endian words, the upper first.
    fn uuid(&mut self) -> Result<RequestId, Stop> {
        let upper = u64::from_le_bytes(self.array()?);
        let lower = u64::from_le_bytes(self.array()?);
        Ok(RequestId((u128::from(upper) << 64 | u128::from(lower)).to_be_bytes()))
    }

    fn string(&mut self) -> Result<&'a str, Stop> {
        let mut length = 0_u64;
        for shift in (0..28).step_by(7) {
            let [byte] = self.array()?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if length > MAX_STRING_BYTES {
                    return Err(Stop::Malformed);
                }
                return std::str::from_utf8(self.take(length as usize)?)
                    .map_err(|_| Stop::Malformed);
            }
        }
        Err(Stop::Malformed)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let bytes = self.take(N)?;
        Ok(*bytes.first_chunk().expect("take gives as many bytes as it was asked for"))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at + bytes).ok_or(Stop::Incomplete)?;
        self.at += bytes;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
        bytes.extend_from_slice(&0x0011_2233_4455_6677_u64.to_le_bytes());
        for text in ["acme", "", &"r".repeat(200), "calls"] {
            if text.len() >= 128 {
                bytes.push(text.len() as u8 | 0x80);
                bytes.push((text.len() >> 7) as u8);
            } else {
                bytes.push(text.len() as u8);
            }
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&404_u16.to_le_bytes());
        bytes.extend_from_slice(&[2, 1]);
        bytes.extend_from_slice(&77_u32.to_le_bytes());
        bytes.extend_from_slice(&(-5_i128).to_le_bytes());
        bytes.extend_from_slice(&6_u64.to_le_bytes());
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes
    }

    #[test]
    fn a_row_and_every_beginning_of_it() {
        let mut bytes = encoded();
        let length = bytes.len();
        for end in 0..length {
            assert!(matches!(row(&bytes[..end]), Decoded::Incomplete), "{end} of {length} bytes");
        }
        bytes.extend_from_slice(b"the next row");
        let Decoded::Row(row, used) = row(&bytes) else { panic!("a whole row is a row") };
        assert_eq!(used, length);
        assert_eq!(row.id.to_string(), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!((row.tenant, row.app, row.route.len()), ("acme", "", 200));
        assert_eq!((row.status, row.kind, row.flags, row.requests), (404, RowKind::Refused, 1, 77));
        assert_eq!((row.meter, row.quantity_nano), ("calls", -5));
        assert_eq!((row.request_bytes, row.response_bytes), (6, 7));
    }

    #[test]
    fn hostile_bytes_are_malformed() {
        let mut long = vec![0; 16];
        long.extend_from_slice(&[0xff; 8]);
        assert!(matches!(row(&long), Decoded::Malformed));
        let mut invalid = vec![0; 16];
        invalid.extend_from_slice(&[1, 0xff]);
        assert!(matches!(row(&invalid), Decoded::Malformed));
    }
}
