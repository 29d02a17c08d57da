//! What there is to tell: each crossing under one id, the same whoever finds it and however often.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A soft threshold of a quota was crossed.
    ThresholdCrossed,
    /// A quota is used up.
    Exhausted,
    /// At this pace a quota is used up before its window ends.
    ForecastExceeded,
    /// A tenant is refused again and again.
    RefusalsSustained,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] =
        [Kind::ThresholdCrossed, Kind::Exhausted, Kind::ForecastExceeded, Kind::RefusalsSustained];

    /// The type of its events.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::ThresholdCrossed => "quota.threshold_crossed",
            Kind::Exhausted => "quota.exhausted",
            Kind::ForecastExceeded => "capacity.forecast_exceeded",
            Kind::RefusalsSustained => "refusals.sustained",
        }
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// The event's id, `msg_` and 32 hexadecimal digits.
    pub id: String,
    /// What happened.
    pub kind: Kind,
    /// To whom.
    pub tenant: String,
    /// Ids from the root of the tree to that tenant, joined with `/`.
    pub path: String,
    /// When it was found, unix microseconds.
    pub at_us: i64,
    /// What more there is to say.
    pub data: Map<String, Value>,
}

impl Signal {
    /// What is sent: `type`, `timestamp` and `data`, as Standard Webhooks recommends.
    pub fn body(&self) -> Vec<u8> {
        let mut data = self.data.clone();
        data.insert("tenant".to_owned(), json!(self.tenant));
        data.insert("path".to_owned(), json!(self.path));
        let body =
            json!({ "type": self.kind.as_str(), "timestamp": time(self.at_us), "data": data });
        body.to_string().into_bytes()
    }

    /// Whether it is of `tenant` or of something below it.
    pub fn is_below(&self, tenant: &str) -> bool {
        self.path.split('/').any(|part| part == tenant)
    }
}

/// An event's id, made of what makes it the same event.
pub fn id(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let digits: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("msg_{digits}")
}

/// RFC 3339 in UTC; empty when out of range.
pub(super) fn time(unix_us: i64) -> String {
    Timestamp::from_microsecond(unix_us).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_every_part() {
        let one = id(&[b"ab", b"c"]);
        assert_eq!(one, id(&[b"ab", b"c"]));
        assert_ne!(one, id(&[b"a", b"bc"]));
        assert_eq!(one.len(), 36);
    }

    #[test]
    fn a_body_has_type_timestamp_and_data() {
        let signal = Signal {
            id: id(&[b"x"]),
            kind: Kind::Exhausted,
            tenant: "web".to_owned(),
            path: "acme/web".to_owned(),
            at_us: 1_796_000_000_000_000,
            data: Map::from_iter([("used".to_owned(), json!(7))]),
        };
        let body: Value = serde_json::from_slice(&signal.body()).expect("JSON");
        assert_eq!(body["type"], "quota.exhausted");
        assert_eq!(body["timestamp"], "2026-11-30T00:53:20.000Z");
        assert_eq!(body["data"], json!({ "tenant": "web", "path": "acme/web", "used": 7 }));
        assert!(signal.is_below("acme") && signal.is_below("web") && !signal.is_below("acm"));
    }
}
