//! What is entered in the ledger: answers on one side, rows and lanes on the other.

use std::fmt;

/// The 128 bits of an `X-Request-Id`, big-endian as written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// Parses 32 hexadecimal digits; dashes are skipped.
    pub fn parse(text: &[u8]) -> Option<RequestId> {
        let (mut id, mut digits) = ([0_u8; 16], 0);
        for byte in text.iter().filter(|byte| **byte != b'-') {
            let digit = char::from(*byte).to_digit(16)? as u8;
            let place = id.get_mut(digits / 2)?;
            *place = *place << 4 | digit;
            digits += 1;
        }
        (digits == 32).then_some(RequestId(id))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One answer received whole.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Its `X-Request-Id`, when it had a proper one.
    pub id: Option<RequestId>,
    /// Index of its request's [`Expectation`].
    pub group: u16,
    /// Its status.
    pub status: u16,
    /// The gateway made it: its body is problem details.
    pub gateway_made: bool,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// When its last byte was here, nanoseconds on the run's clock.
    pub ended_ns: u64,
}

/// What the rows of one kind of request must say.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The tenant.
    pub tenant: String,
    /// The app, when it is to be checked.
    pub app: Option<String>,
    /// The route.
    pub route: String,
    /// What a request of this route costs.
    pub cost: u64,
    /// What each request adds to a further meter: its id, and billionths.
    pub figure: Option<(String, i128)>,
    /// Who asks, by a name that no other kind's user has.
    pub user: Option<String>,
    /// Requests of this kind that brought no whole answer.
    pub open: u64,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// One answered request.
    Request,
    /// A count of refusals.
    Refused,
    /// Anything else.
    Other,
}

/// A row of `usage_events`, as far as the ledger reads it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The request.
    pub id: RequestId,
    /// What the row stands for.
    pub kind: RowKind,
    /// The tenant.
    pub tenant: &'a str,
    /// The app.
    pub app: &'a str,
    /// The route.
    pub route: &'a str,
    /// The meter.
    pub meter: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Bit 1: the client or the upstream went away before the end.
    pub flags: u8,
    /// Requests the row stands for.
    pub requests: u32,
    /// Billionths of the meter's unit.
    pub quantity_nano: i128,
    /// Bytes of request bodies.
    pub request_bytes: u64,
    /// Bytes of answers' bodies.
    pub response_bytes: u64,
}

/// The rows of one writer's lane, over its whole life.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Node, epoch and lane.
    pub name: (u32, u32, u16),
    /// Rows.
    pub rows: u64,
    /// Distinct sequence numbers.
    pub distinct: u64,
    /// The smallest sequence number.
    pub first: u64,
    /// The largest.
    pub last: u64,
}
