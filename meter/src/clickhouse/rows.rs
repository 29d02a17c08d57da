//! Single rows in ClickHouse's RowBinary format, for the small tables beside `usage_events`.
//!
//! Values follow each other as the columns do, every number little-endian, without names, types or
//! separators. Unlike text, it takes every number there is as it is: nothing is parsed.

/// Rows under construction.
#[derive(Debug, Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
}

impl Rows {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A number's `to_le_bytes()`. A date is one too, in ticks of its column.
    pub(super) fn number<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        self.bytes.extend_from_slice(&bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self
    }

    /// What an array starts with; its items follow.
    pub(super) fn length(&mut self, length: usize) -> &mut Self {
        let mut rest = length;
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
        self
    }
}
