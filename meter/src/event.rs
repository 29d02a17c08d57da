//! One thing that is counted: the event, its identity, and the row it is kept as.
//!
//! An [`Event`] borrows everything, so that recording a request copies its strings once, straight
//! into the journal. The row is a fixed part, the eight string lengths and the strings, in that
//! order and all little-endian (layout [`ROW_LAYOUT`], named by every segment header):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | event time, unix microseconds |
//! | 8 | 16 | request id |
//! | 24 | 16 | quantity, 1e-9 units |
//! | 40 | 8 + 8 | request and response body bytes |
//! | 56 | 4 + 4 | duration and upstream time, microseconds |
//! | 64 | 4 | requests this row stands for |
//! | 68 | 2 | status |
//! | 70 | 1 + 1 + 1 + 1 | kind, method, flags, zero |
//! | 74 | 8 x 2 | lengths of the strings |
//! | 90 | | tenant, path, plan, key id, app, route, meter, reason |
//!
//! Lengths and strings are one slice, [`View::labels`]: two rows with equal label bytes have equal
//! strings, so a reader that has seen a combination before needs one hash, not eight.
//!
//! Guarantees: what [`Event::encode`] wrote, [`View::decode`] reads back unchanged; any other bytes
//! are an error and never a panic.

mod member;
mod row;
#[cfg(test)]
mod tests;

pub use member::{member_id, root_of};
pub use row::{DecodeError, EncodeError, MAX_ROW_BYTES, MIN_ROW_BYTES, ROW_LAYOUT, View};

/// Earliest event time a row may carry: 1970-01-01T00:00:00Z, in unix microseconds.
pub const EARLIEST_TS_US: i64 = 0;

/// First event time too late for a row: 2200-01-01T00:00:00Z, in unix microseconds. Within these
/// bounds ClickHouse's `toYYYYMM` and ours agree, so a row's partition is never in doubt.
pub const LATEST_TS_US: i64 = 7_258_118_400_000_000;

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A request that was answered.
    Request = 1,
    /// Requests of one second that were refused for one reason.
    Refused = 2,
    /// Usage reported from outside the proxy.
    Ingested = 3,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Kind> {
        match number {
            1 => Some(Kind::Request),
            2 => Some(Kind::Refused),
            3 => Some(Kind::Ingested),
            _ => None,
        }
    }
}

/// A request's method; any not listed is `Other`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Not a method of RFC 9110 or RFC 5789.
    #[default]
    Other = 0,
    /// GET
    Get = 1,
    /// HEAD
    Head = 2,
    /// POST
    Post = 3,
    /// PUT
    Put = 4,
    /// DELETE
    Delete = 5,
    /// CONNECT
    Connect = 6,
    /// OPTIONS
    Options = 7,
    /// TRACE
    Trace = 8,
    /// PATCH
    Patch = 9,
}

impl Method {
    /// The method with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Method> {
        Some(match number {
            0 => Method::Other,
            1 => Method::Get,
            2 => Method::Head,
            3 => Method::Post,
            4 => Method::Put,
            5 => Method::Delete,
            6 => Method::Connect,
            7 => Method::Options,
            8 => Method::Trace,
            9 => Method::Patch,
            _ => return None,
        })
    }
}

impl From<&str> for Method {
    /// Methods are case-sensitive (RFC 9110, 9.1).
    fn from(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "CONNECT" => Method::Connect,
            "OPTIONS" => Method::Options,
            "TRACE" => Method::Trace,
            "PATCH" => Method::Patch,
            _ => Method::Other,
        }
    }
}

/// Facts about how an answer came to be, one bit each. Bits without a name are kept as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// None.
    pub const NONE: Flags = Flags(0);
    /// The client or the upstream went away before the end.
    pub const ABORTED: Flags = Flags(1);
    /// The gateway made the answer itself.
    pub const GATEWAY_MADE: Flags = Flags(2);
    /// Served while nothing could be recorded and written down afterwards as a sum.
    pub const UNMETERED: Flags = Flags(4);
    /// More of a request that another row counts: bytes only, no request and no quantity.
    pub const PART: Flags = Flags(8);
    /// Counted while it went on; what flowed afterwards is in rows marked as parts.
    pub const OPEN: Flags = Flags(16);
    /// A further meter of what another row counts: a quantity, but no request and no bytes.
    pub const MEASURED: Flags = Flags(32);
    /// A member of a meter that counts distinct ones, as it was first seen in a period: no request
    /// and no bytes. The row's request id is made of the member, so how many different ids there
    /// are is the count, whoever has seen them and however often.
    pub const MEMBER: Flags = Flags(64);

    /// The flags with these bits.
    pub const fn from_bits(bits: u8) -> Flags {
        Flags(bits)
    }

    /// The bits, as the row and the table hold them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One thing that is counted, borrowed from whoever records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Event time: when the request arrived, unix microseconds UTC.
    pub ts_us: i64,
    /// The request's id, as sent upstream and answered to the client.
    pub request_id: [u8; 16],
    /// What the row stands for.
    pub kind: Kind,
    /// The request's method.
    pub method: Method,
    /// HTTP status of the answer.
    pub status: u16,
    /// How the answer came to be.
    pub flags: Flags,
    /// Requests this row stands for: 1, or the refusals of that second.
    pub requests: u32,
    /// Quantity on the meter in 1e-9 units (Decimal(38, 9)).
    pub quantity_nano: i128,
    /// Body bytes of the request.
    pub request_bytes: u64,
    /// Body bytes of the answer.
    pub response_bytes: u64,
    /// Microseconds from arrival to the end of the answer, saturating.
    pub duration_us: u32,
    /// Microseconds until the upstream's response header, saturating.
    pub upstream_us: u32,
    /// The tenant's id.
    pub tenant: &'a str,
    /// Ids from the root of the tenant tree to the tenant, joined with '/'.
    pub path: &'a str,
    /// The plan's id.
    pub plan: &'a str,
    /// The key's public id.
    pub key_id: &'a str,
    /// The app's id.
    pub app: &'a str,
    /// The route's id.
    pub route: &'a str,
    /// What is counted, for example `api_calls`.
    pub meter: &'a str,
    /// Why it was refused; empty unless it was.
    pub reason: &'a str,
}

/// An event's identity, unique over all nodes and restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The journal directory, drawn at random when it was made.
    pub node: u32,
    /// How often that directory had been opened.
    pub epoch: u32,
    /// The writer.
    pub lane: u16,
    /// Position among that writer's events, dense from 0.
    pub sequence: u64,
}
