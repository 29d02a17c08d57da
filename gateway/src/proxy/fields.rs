//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11).
//!
//! Every limit that holds a request is listed in the policy field; the limit field carries the
//! one nearest to its end. An upstream's own fields stay as they are, ours are added to the
//! list: in front when our limit is the tighter one.

use std::fmt::Write;

use http::HeaderValue;
use orbit_policy::decide::LimitView;
use orbit_policy::{Admission, Snapshot};
use pingora::Result;
use pingora::http::ResponseHeader;

/// Field names, as sent over HTTP/1.
pub const RATELIMIT: &str = "RateLimit";
/// As above.
pub const RATELIMIT_POLICY: &str = "RateLimit-Policy";

/// Ready-made policy fields of a snapshot, by index.
pub fn policy_values(snapshot: &Snapshot) -> Vec<HeaderValue> {
    let value = |text: &str| HeaderValue::from_str(text).expect("ids and digits are visible ASCII");
    snapshot.policy_fields().iter().map(|text| value(text)).collect()
}

/// The member `"name";r=remaining;t=seconds`.
pub fn limit_member(name: &str, remaining: u64, seconds: u64) -> HeaderValue {
    let mut text = Text::default();
    text.push(b"\"");
    text.push(name.as_bytes());
    text.push(b"\";r=");
    text.number(remaining);
    text.push(b";t=");
    text.number(seconds);
    HeaderValue::from_bytes(text.as_slice()).expect("ids and digits are visible ASCII")
}

/// The policy list of a request whose limits are not those of its tenant alone.
pub fn compose_policy<'a>(limits: impl Iterator<Item = LimitView<'a>>) -> HeaderValue {
    let mut text = String::new();
    for limit in limits {
        let joint = if text.is_empty() { "" } else { ", " };
        let _infallible = write!(text, "{joint}{}", limit.policy_item());
    }
    HeaderValue::try_from(text).expect("ids and digits are visible ASCII")
}

/// Adds both fields to an answer that came from an upstream.
pub fn add(
    response: &mut ResponseHeader,
    admission: &Admission,
    ready: &[HeaderValue],
) -> Result<()> {
    let Some((limit, remaining, seconds)) = admission.nearest() else { return Ok(()) };
    let policy = match admission.policy_field().and_then(|index| ready.get(index)) {
        Some(value) => value.clone(),
        None => compose_policy(admission.limits()),
    };
    let member = limit_member(limit.name, remaining, seconds);
    if response.headers.contains_key(RATELIMIT) {
        let theirs = remaining_of(response);
        if theirs.is_none_or(|theirs| remaining >= theirs) {
            response.append_header(RATELIMIT, member)?;
        } else {
            prepend(response, RATELIMIT, member)?;
        }
    } else {
        response.insert_header(RATELIMIT, member)?;
    }
    response.append_header(RATELIMIT_POLICY, policy)?;
    Ok(())
}

/// The least `r` of the upstream's own members.
fn remaining_of(response: &ResponseHeader) -> Option<u64> {
    let fields = response.headers.get_all(RATELIMIT).into_iter();
    let members = fields.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let remaining = members.filter_map(|member| {
        let parameter = member.split(';').find_map(|p| p.trim().strip_prefix("r="))?;
        parameter.trim().parse().ok()
    });
    remaining.min()
}

fn prepend(response: &mut ResponseHeader, name: &'static str, ours: HeaderValue) -> Result<()> {
    let theirs: Vec<HeaderValue> = response.headers.get_all(name).into_iter().cloned().collect();
    response.insert_header(name, ours)?;
    theirs.into_iter().try_for_each(|value| response.append_header(name, value).map(|_| ()))
}

/// A short text on the stack.
struct Text {
    bytes: [u8; 192],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Text { bytes: [0; 192], length: 0 }
    }
}

impl Text {
    /// What does not fit is cut: a name is at most 80 bytes and a number 20.
    fn push(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length..];
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.length += length;
    }

    fn number(&mut self, number: u64) {
        self.push(itoa::Buffer::new().format(number).as_bytes());
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::{RATELIMIT, limit_member, prepend, remaining_of};
    use pingora::http::ResponseHeader;

    fn response(fields: &[&'static str]) -> ResponseHeader {
        let mut response = ResponseHeader::build(200, None).expect("a header");
        for field in fields {
            response.append_header(RATELIMIT, *field).expect("a field");
        }
        response
    }

    #[test]
    fn the_member_is_as_the_draft_writes_it() {
        assert_eq!(limit_member("team/requests", 950, 30), "\"team/requests\";r=950;t=30");
        let longest = "x".repeat(80);
        let member = limit_member(&longest, u64::MAX, u64::MAX);
        assert!(member.to_str().expect("ASCII").ends_with(&format!(";t={}", u64::MAX)));
    }

    #[test]
    fn an_upstreams_members_are_read_and_never_lost() {
        let mut response = response(&["\"a\";r=7;t=1, \"b\";r=5", "\"c\";t=1;r=9"]);
        assert_eq!(remaining_of(&response), Some(5));
        prepend(&mut response, RATELIMIT, limit_member("ours", 1, 1)).expect("a field");
        let all: Vec<_> = response.headers.get_all(RATELIMIT).iter().collect();
        assert_eq!(all, ["\"ours\";r=1;t=1", "\"a\";r=7;t=1, \"b\";r=5", "\"c\";t=1;r=9"]);
    }
}
