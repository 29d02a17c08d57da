//! From a CloudEvent to what is counted, or the reason why it is not.
//!
//! A reason is a closed enum, whose names are part of the API.

use jiff::Timestamp;
use orbit_meter::event::{Event, Flags, Kind, Method, member_id, root_of};
use orbit_policy::Snapshot;
use orbit_policy::snapshot::Tenant;

use super::Bounds;
use super::reading::{Reading, read};
use super::request::Envelope;

/// Longest id and longest source, in bytes each.
const MAX_NAME_BYTES: usize = 1024;
/// Longest meter, in bytes.
const MAX_METER_BYTES: usize = 64;
const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// Why an event is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Malformed,
    UnsupportedSpecversion,
    MissingAttribute,
    InvalidAttribute,
    InvalidData,
    InvalidQuantity,
    TooOld,
    InTheFuture,
    UnknownTenant,
    UnknownApp,
}

impl Reason {
    /// The name in answers.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::UnsupportedSpecversion => "unsupported_specversion",
            Reason::MissingAttribute => "missing_attribute",
            Reason::InvalidAttribute => "invalid_attribute",
            Reason::InvalidData => "invalid_data",
            Reason::InvalidQuantity => "invalid_quantity",
            Reason::TooOld => "too_old",
            Reason::InTheFuture => "in_the_future",
            Reason::UnknownTenant => "unknown_tenant",
            Reason::UnknownApp => "unknown_app",
        }
    }
}

/// A reason and what is wrong in this case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Refusal {
        Refusal { reason, detail: detail.into() }
    }
}

/// What is counted.
#[derive(Debug)]
pub(super) struct Usage<'a> {
    request_id: [u8; 16],
    ts_us: i64,
    quantity_nano: i128,
    meter: &'a str,
    /// The request id of its member, on a meter of distinct ones.
    member: Option<[u8; 16]>,
    tenant: &'a Tenant,
    plan: &'a str,
    app: &'a str,
}

/// Who sent the event under which name: what makes it the same when it is sent again.
pub(super) fn request_id(event: &Envelope<'_>) -> Result<[u8; 16], Refusal> {
    let version = required("specversion", event.specversion.as_ref())?;
    if version != "1.0" {
        let detail = format!("specversion must be 1.0, not {version:.16}");
        return Err(Refusal::new(Reason::UnsupportedSpecversion, detail));
    }
    let id = named("id", event.id.as_ref())?;
    let source = named("source", event.source.as_ref())?;
    Ok(orbit_meter::ingest::request_id(source, id))
}

/// Judges everything else; `now_us` is the time of arrival.
pub(super) fn usage<'a>(
    request_id: [u8; 16],
    event: &'a Envelope<'a>,
    snapshot: &'a Snapshot,
    bounds: &Bounds,
    now_us: i64,
) -> Result<Usage<'a>, Refusal> {
    let meter = required("type", event.kind.as_ref())?;
    if !is_meter(meter) {
        let detail = "type must be a meter: 1 to 64 of a-z, 0-9, `_`, `.` and `-`, starting with a \
                      letter";
        return Err(Refusal::new(Reason::InvalidAttribute, detail));
    }
    let ts_us = match &event.time {
        Some(time) => time_us(time, bounds, now_us)?,
        None => now_us,
    };
    let defined = snapshot.meter_id(meter).map(|id| snapshot.meter(id));
    let Reading { quantity_nano, app, member } = read(event, defined)?;
    let id = required("subject", event.subject.as_ref())?;
    let tenant = snapshot.tenant(id).ok_or_else(|| {
        Refusal::new(Reason::UnknownTenant, format!("no tenant has the id {id:.64}"))
    })?;
    let app = app.filter(|id| !id.is_empty());
    let app = app.map_or(Ok(""), |id| match snapshot.app(&id) {
        Some(app) => Ok(&*app.id),
        None => Err(Refusal::new(Reason::UnknownApp, format!("no app has the id {id:.64}"))),
    })?;
    let plan = &snapshot.plan_of(tenant).id;
    let root = root_of(&tenant.path);
    let member = member.map(|member| member_id(meter, root, member.as_bytes()));
    Ok(Usage { request_id, ts_us, quantity_nano, meter, member, tenant, plan, app })
}

impl<'a> Usage<'a> {
    /// The row.
    pub(super) fn event(&self) -> Event<'a> {
        Event {
            ts_us: self.ts_us,
            request_id: self.request_id,
            kind: Kind::Ingested,
            method: Method::Other,
            status: 0,
            flags: Flags::NONE,
            requests: 1,
            quantity_nano: self.quantity_nano,
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_us: 0,
            tenant: &self.tenant.id,
            path: &self.tenant.path,
            plan: self.plan,
            key_id: "",
            app: self.app,
            route: "",
            meter: self.meter,
            reason: "",
        }
    }

    /// The row of its member, to be written before its own: an event that is there is known to
    /// have brought its member along.
    pub(super) fn member(&self) -> Option<Event<'a>> {
        self.member.map(|request_id| Event {
            request_id,
            flags: Flags::MEMBER,
            requests: 0,
            ..self.event()
        })
    }
}

/// A required attribute; CloudEvents requires them not to be empty.
fn required<'a>(name: &str, value: Option<&'a String>) -> Result<&'a str, Refusal> {
    value.map(String::as_str).filter(|value| !value.is_empty()).ok_or_else(|| {
        Refusal::new(Reason::MissingAttribute, format!("{name} is missing or empty"))
    })
}

fn named<'a>(name: &str, value: Option<&'a String>) -> Result<&'a str, Refusal> {
    let value = required(name, value)?;
    if value.len() > MAX_NAME_BYTES {
        let detail = format!("{name} has more than {MAX_NAME_BYTES} bytes");
        return Err(Refusal::new(Reason::InvalidAttribute, detail));
    }
    Ok(value)
}

fn is_meter(text: &str) -> bool {
    let rest = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    text.len() <= MAX_METER_BYTES
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(rest)
}

/// The event's time within what is taken.
fn time_us(text: &str, bounds: &Bounds, now_us: i64) -> Result<i64, Refusal> {
    let Ok(at) = text.parse::<Timestamp>() else {
        let detail = "time must be RFC 3339, such as 2026-11-23T08:00:00Z";
        return Err(Refusal::new(Reason::InvalidAttribute, detail));
    };
    let ts_us = at.as_microsecond();
    let (days, seconds) = (bounds.max_age_days, bounds.max_future_s);
    if now_us.saturating_sub(ts_us) > i64::from(days) * DAY_US {
        return Err(Refusal::new(Reason::TooOld, format!("time is more than {days} days ago")));
    }
    if ts_us.saturating_sub(now_us) > i64::from(seconds) * 1_000_000 {
        let detail = format!("time is more than {seconds} s ahead");
        return Err(Refusal::new(Reason::InTheFuture, detail));
    }
    Ok(ts_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_are_plain_names() {
        for name in ["storage", "a", "gb.hours-2_x", &"m".repeat(64)] {
            assert!(is_meter(name), "{name}");
        }
        for name in ["", "Storage", "1st", ".a", "a b", "é", &"m".repeat(65)] {
            assert!(!is_meter(name), "{name}");
        }
    }

    #[test]
    fn times_are_taken_within_their_bounds() {
        let bounds = Bounds { max_body_bytes: 0, max_age_days: 35, max_future_s: 300 };
        // 2026-11-23T08:00:00Z
        let now_us = 1_795_420_800_000_000;
        let reason = |text| time_us(text, &bounds, now_us).map_err(|refusal| refusal.reason);
        assert_eq!(reason("2026-11-23T08:05:00Z"), Ok(now_us + 300_000_000));
        assert_eq!(reason("2026-11-23T08:05:00.000001Z"), Err(Reason::InTheFuture));
        assert_eq!(reason("2026-10-19T05:00:00-03:00"), Ok(now_us - 35 * DAY_US));
        assert_eq!(reason("2026-10-19T07:59:59.999999Z"), Err(Reason::TooOld));
        assert_eq!(reason("2026-11-23T08:00:00.123456789Z"), Ok(now_us + 123_456));
        for text in ["", "yesterday", "2026-11-23", "2026-11-23T08:00:00", "1795420800"] {
            assert_eq!(reason(text), Err(Reason::InvalidAttribute), "{text}");
        }
    }
}
