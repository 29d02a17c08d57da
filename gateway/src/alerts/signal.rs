//! What there is to tell: each crossing under one id, the same whoever finds it and however often.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::words::rfc3339;
pub use crate::settings::EventType as Kind;
use crate::settings::Webhook;

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
            json!({ "type": self.kind.as_str(), "timestamp": rfc3339(self.at_us), "data": data });
        body.to_string().into_bytes()
    }

    /// Whether a webhook is to get it.
    pub fn is_for(&self, webhook: &Webhook) -> bool {
        let is_below = |tenant: &String| self.path.split('/').any(|part| part == tenant);
        let of_tenant = webhook.tenants.is_empty() || webhook.tenants.iter().any(is_below);
        of_tenant && (webhook.types.is_empty() || webhook.types.contains(&self.kind))
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
    let (digits, _) = hash.split_first_chunk::<16>().expect("a digest has 32 bytes");
    format!("msg_{:032x}", u128::from_be_bytes(*digits))
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
        let is_for = |tenants: &[&str], types: &[Kind]| {
            let tenants = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
            let types = types.to_vec();
            let (id, url, secret_file) = (String::new(), String::new(), "s".into());
            let allow_private = false;
            signal.is_for(&Webhook { id, url, secret_file, tenants, types, allow_private })
        };
        assert!(is_for(&[], &[]) && is_for(&["acme"], &[]) && is_for(&["x", "web"], &[]));
        assert!(!is_for(&["acm"], &[]), "no tenant's id begins another's");
        assert!(is_for(&[], &[Kind::Exhausted]) && !is_for(&[], &[Kind::ForecastExceeded]));
        assert!(!is_for(&["x"], &[Kind::Exhausted]));
    }
}
