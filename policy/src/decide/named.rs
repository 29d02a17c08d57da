//! Who a request is to the distinct meters of its route: worked out once, from its header.

use std::fmt::Write;
use std::net::IpAddr;

use super::Call;
use crate::members::{Entry, Member, member_id};
use crate::meters::{MAX_DISTINCT, Meter, MeterId, MeterValue};
use crate::snapshot::{Route, Snapshot, Tenant};

/// Midnight is on one in every zone.
const QUARTER_US: i64 = 15 * 60 * 1_000_000;

/// The members a request is, by the place of their meter in its route's list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named {
    ids: [[u8; 16]; MAX_DISTINCT],
    /// Which of them are somebody.
    is_named: u8,
    /// Which of them were let into a set by this request.
    is_new: u8,
}

/// A member a request is.
#[derive(Clone, Copy, Debug)]
pub struct MemberOf<'s> {
    /// The meter.
    pub meter: &'s Meter,
    /// The member's id: the request id of its rows.
    pub id: [u8; 16],
    /// What a row of it is remembered as.
    pub row: Entry,
    /// Whether this request let it into a set: it is to have a row whatever is remembered.
    pub is_new: bool,
}

impl Named {
    /// Reads what the meters of the route name. Allocates nothing.
    pub(super) fn read(
        snapshot: &Snapshot,
        tenant: &Tenant,
        route: &Route,
        call: &Call<'_>,
    ) -> Named {
        let mut named = Named::default();
        for (place, meter) in route.distinct.iter().take(MAX_DISTINCT).enumerate() {
            let meter = snapshot.meter(*meter);
            let mut text = AddressText { bytes: [0; 45], len: 0 };
            let name = match &meter.value {
                // Who does not say is the user with the empty name, so that leaving the header out
                // gains nothing.
                MeterValue::EndUser => {
                    let header = snapshot.apps[route.app as usize].end_user_header.as_deref();
                    header.map(|header| (call.header)(header).unwrap_or_default())
                }
                MeterValue::RequestHeader(header) => {
                    (call.header)(header).filter(|name| !name.is_empty())
                }
                MeterValue::ClientIp => Some(text.of(call.client)),
                _ => None,
            };
            if let Some(name) = name {
                named.ids[place] = member_id(&meter.id, tenant.root(), name);
                named.is_named |= 1 << place;
            }
        }
        named
    }

    /// Who it is to this meter of the route; nobody where the request names none.
    pub(super) fn member(&self, route: &Route, meter: MeterId) -> Option<(u8, Member)> {
        let places = (0..).zip(&route.distinct);
        let (place, _) = places.take(MAX_DISTINCT).find(|(_, of)| **of == meter)?;
        let is_named = self.is_named >> place & 1 == 1;
        is_named.then(|| (place, Member::of(&self.ids[usize::from(place)])))
    }

    /// The members at these places are new in a set.
    pub(super) fn set_new(&mut self, places: u8) {
        self.is_new = places;
    }

    /// Everybody the request is.
    pub(super) fn each<'s>(
        &self,
        snapshot: &'s Snapshot,
        tenant: &Tenant,
        route: &'s Route,
        unix_us: i64,
    ) -> impl Iterator<Item = MemberOf<'s>> {
        use std::hash::BuildHasher;
        let Named { ids, is_named, is_new } = *self;
        let (tenant_hash, day) = if is_named == 0 {
            (0, 0)
        } else {
            // The last midnight of any of them tells which days it is in all of them.
            let midnights = tenant.days.iter().map(|days| days.window(unix_us).start_us);
            let day_us = midnights.max().unwrap_or(0);
            (snapshot.hasher.hash_one(&*tenant.id), (day_us / QUARTER_US).unsigned_abs() as u32)
        };
        let all = route.distinct.iter().zip(ids).enumerate();
        all.filter(move |(place, _)| is_named >> place & 1 == 1).map(move |(place, (meter, id))| {
            MemberOf {
                meter: snapshot.meter(*meter),
                id,
                row: Entry::new(&id, tenant_hash, day),
                is_new: is_new >> place & 1 == 1,
            }
        })
    }
}

/// An address as text, as a CloudEvent would name it.
struct AddressText {
    bytes: [u8; 45],
    len: usize,
}

impl AddressText {
    fn of(&mut self, address: IpAddr) -> &[u8] {
        let _it_fits = write!(self, "{address}");
        &self.bytes[..self.len]
    }
}

impl Write for AddressText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
