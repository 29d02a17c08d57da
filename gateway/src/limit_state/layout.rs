//! The bytes of a saved state of the limits.
//!
//! A header of fixed length, then the records one after another, all numbers little-endian:
//!
//! ```text
//! magic 8 | version u32 | hash key 16 | boot u128 | boot_ns u64 | unix_us i64 | now_ns u64 |
//! body length u64 | CRC-32 of the body u32 | CRC-32 of the header before it u32
//!
//! 1, 2, 3   limits of a tenant, of its plan, of a key: id | count u8 | for each limit
//!           name | 1 (token bucket) | debt; of a plan, the tenant's id | the plan's id
//! 4         a client's or end user's bucket: subject u128 | debt
//! 5         all clients and end users were emptied: at_ns i64
//!
//! debt      interval_ns u64 | burst u64 | full_ns u64 | paid_ns u64
//! ```
//!
//! Ids and names are a length in one byte and text. A bucket is full at `full_ns` and out of arrears
//! at `paid_ns`; 0 where it is so already. Instants are on the time scale of the process
//! that wrote them, at `now_ns` in the header: as long as nothing is taken, the body stays the
//! same. Guarantees that a single damaged byte anywhere is noticed, and that no bytes panic.

use orbit_policy::bucket::Terms;
use orbit_policy::{Debt, Held, Nanos, Owner, Record, Spent};

use crate::clock::Stamp;

const MAGIC: [u8; 8] = *b"ORBLIMIT";
/// The layout above. Another one is another number.
const VERSION: u32 = 2;
/// How long the header is.
pub(super) const HEADER_BYTES: usize = 84;

const TENANT: u8 = 1;
const PLAN: u8 = 2;
const KEY: u8 = 3;
const DYNAMIC: u8 = 4;
const EMPTIED: u8 = 5;
/// A kind of limit.
const TOKENS: u8 = 1;

/// What a state says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Under which clients and end users are hashed. A secret.
    pub(super) hash_key: [u8; 16],
    /// When it was true.
    pub(super) stamp: Stamp,
    /// The same instant on the time scale of the body.
    pub(super) now: Nanos,
}

/// Bytes that are no state this process can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it ends within its header of {HEADER_BYTES} bytes")]
    Short,
    #[error("it does not begin as a state of limits does")]
    Magic,
    #[error("its layout is version {found}, this program knows {VERSION}")]
    Version { found: u32 },
    #[error("the checksum of its header does not match")]
    Header,
    #[error("{found} bytes follow its header instead of {expected}")]
    Length { expected: u64, found: u64 },
    #[error("the checksum of its records does not match")]
    Body,
    #[error("the record at byte {at} cannot be read")]
    Record { at: usize },
}

/// Header and body as they stand in the file.
pub(super) fn header(header: &Header, body: &[u8]) -> [u8; HEADER_BYTES] {
    let Header { hash_key, stamp, now } = header;
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(hash_key);
    bytes.extend_from_slice(&stamp.boot.to_le_bytes());
    bytes.extend_from_slice(&stamp.boot_ns.to_le_bytes());
    bytes.extend_from_slice(&stamp.unix_us.to_le_bytes());
    bytes.extend_from_slice(&now.0.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.try_into().expect("the fields above are as long as the header")
}

/// Appends a record to a body. Returns how many buckets it holds that are not full.
pub(super) fn note(record: &Record<'_>, now: Nanos, body: &mut Vec<u8>) -> usize {
    match *record {
        Record::Limits { owner, limits } => {
            let (tag, id, plan) = match owner {
                Owner::Tenant(id) => (TENANT, id, None),
                Owner::Plan { tenant, plan } => (PLAN, tenant, Some(plan)),
                Owner::Key(id) => (KEY, id, None),
            };
            body.push(tag);
            note_text(id, body);
            if let Some(plan) = plan {
                note_text(plan, body);
            }
            body.push(u8::try_from(limits.len()).expect("a chain has 64 limits at most"));
            for Held { name, spent: Spent::Tokens(debt) } in limits {
                note_text(name, body);
                body.push(TOKENS);
                note_debt(*debt, now, body);
            }
            limits
                .iter()
                .filter(|held| matches!(held.spent, Spent::Tokens(debt) if !debt.is_none()))
                .count()
        }
        Record::Dynamic { subject, debt } => {
            body.push(DYNAMIC);
            body.extend_from_slice(&subject.to_le_bytes());
            note_debt(debt, now, body);
            1
        }
        Record::Emptied { ago_ns } => {
            body.push(EMPTIED);
            let at_ns = now.0.cast_signed().saturating_sub_unsigned(ago_ns);
            body.extend_from_slice(&at_ns.to_le_bytes());
            0
        }
    }
}

fn note_text(text: &str, body: &mut Vec<u8>) {
    body.push(u8::try_from(text.len()).expect("ids and names have far less than 256 bytes"));
    body.extend_from_slice(text.as_bytes());
}

fn note_debt(debt: Debt, now: Nanos, body: &mut Vec<u8>) {
    let Debt { terms, ahead_ns, arrears_ns } = debt;
    let full = now.plus(ahead_ns);
    // What is paid is noted as such: since when it is so is of no interest.
    let full_ns = if ahead_ns == 0 { 0 } else { full.0 };
    let paid_ns = if arrears_ns == 0 { 0 } else { full.plus(arrears_ns).0 };
    for number in [terms.interval_ns, terms.burst, full_ns, paid_ns] {
        body.extend_from_slice(&number.to_le_bytes());
    }
}

/// Reads a header, and returns it with the length and the checksum of the body to come.
pub(super) fn read_header(bytes: &[u8]) -> Result<(Header, u64, u32), Damage> {
    let mut reader = Reader { bytes, at: 0 };
    let short = |_| Damage::Short;
    if reader.array::<8>().map_err(short)? != MAGIC {
        return Err(Damage::Magic);
    }
    let found = reader.u32().map_err(short)?;
    if found != VERSION {
        return Err(Damage::Version { found });
    }
    let hash_key = reader.array().map_err(short)?;
    let boot = u128::from_le_bytes(reader.array().map_err(short)?);
    let boot_ns = reader.u64().map_err(short)?;
    let unix_us = reader.u64().map_err(short)?.cast_signed();
    let now = Nanos(reader.u64().map_err(short)?);
    let length = reader.u64().map_err(short)?;
    let checksum = reader.u32().map_err(short)?;
    let covered = crc32fast::hash(&bytes[..reader.at]);
    if reader.u32().map_err(short)? != covered {
        return Err(Damage::Header);
    }
    let header = Header { hash_key, stamp: Stamp { boot, boot_ns, unix_us }, now };
    Ok((header, length, checksum))
}

/// Shows every record of a body; what comes after a damaged one is not shown.
pub(super) fn each(
    body: &[u8],
    now: Nanos,
    visit: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Damage> {
    let mut reader = Reader { bytes: body, at: 0 };
    let mut limits = Vec::new();
    while reader.at < body.len() {
        let start = reader.at;
        reader.record(now, &mut limits, visit).map_err(|_| Damage::Record { at: start })?;
    }
    Ok(())
}

/// The bytes ended too early or mean nothing.
struct Unreadable;

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], Unreadable> {
        let rest = self.bytes.get(self.at..).ok_or(Unreadable)?;
        let taken = rest.get(..count).ok_or(Unreadable)?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        self.take(N)?.try_into().map_err(|_| Unreadable)
    }

    fn u32(&mut self) -> Result<u32, Unreadable> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_le_bytes)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array().map(|[byte]| byte)
    }

    fn text(&mut self) -> Result<&'b str, Unreadable> {
        let length = self.byte()?;
        std::str::from_utf8(self.take(length.into())?).map_err(|_| Unreadable)
    }

    fn debt(&mut self, now: Nanos) -> Result<Debt, Unreadable> {
        let terms = Terms { interval_ns: self.u64()?, burst: self.u64()? };
        let full = Nanos(self.u64()?).max(now);
        let arrears_ns = Nanos(self.u64()?).since(full);
        let means_something = terms.interval_ns.checked_mul(terms.burst).is_some_and(|ns| ns > 0);
        if !means_something {
            return Err(Unreadable);
        }
        Ok(Debt { terms, ahead_ns: full.since(now), arrears_ns })
    }

    fn record(
        &mut self,
        now: Nanos,
        limits: &mut Vec<Held<'b>>,
        visit: &mut dyn FnMut(&Record<'_>),
    ) -> Result<(), Unreadable> {
        let tag = self.byte()?;
        match tag {
            TENANT | PLAN | KEY => {
                let id = self.text()?;
                let owner = match tag {
                    TENANT => Owner::Tenant(id),
                    PLAN => Owner::Plan { tenant: id, plan: self.text()? },
                    _ => Owner::Key(id),
                };
                limits.clear();
                for _ in 0..self.byte()? {
                    let name = self.text()?;
                    if self.byte()? != TOKENS {
                        return Err(Unreadable);
                    }
                    limits.push(Held { name, spent: Spent::Tokens(self.debt(now)?) });
                }
                visit(&Record::Limits { owner, limits });
            }
            DYNAMIC => {
                let subject = u128::from_le_bytes(self.array()?);
                visit(&Record::Dynamic { subject, debt: self.debt(now)? });
            }
            EMPTIED => {
                let at_ns = self.u64()?.cast_signed();
                let ago_ns = now.0.saturating_add_signed(at_ns.saturating_neg());
                visit(&Record::Emptied { ago_ns });
            }
            _ => return Err(Unreadable),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
