//! `[[alerts.webhook]]`: where alerts are sent.

use std::path::PathBuf;

use http::Uri;
use serde::Deserialize;

use crate::alerts::signal::{Kind, Signal};

/// One receiver.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// What it is called in the outbox, in logs and by operators.
    pub id: String,
    /// Where events are sent: `https://`, or `http://` with `allow_private`.
    pub url: String,
    /// The file with its secrets, one `whsec_` a line; the first is the current one.
    pub secret_file: PathBuf,
    /// Tenants whose alerts it gets, with everything below them; none: all.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Types of events it gets; none: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Whether it may be on this machine or in a private network.
    #[serde(default)]
    pub allow_private: bool,
}

impl Webhook {
    /// Its URL, once it was checked.
    pub fn uri(&self) -> Option<Uri> {
        self.url.parse().ok()
    }

    /// Whether it is to get a signal.
    pub fn wants(&self, signal: &Signal) -> bool {
        let of_tenant = || self.tenants.iter().any(|tenant| signal.is_below(tenant));
        let of_type = || self.types.iter().any(|kind| kind == signal.kind.as_str());
        (self.tenants.is_empty() || of_tenant()) && (self.types.is_empty() || of_type())
    }

    /// What is wrong with it, by key. Never shows the URL: it may hold a password.
    pub(super) fn check(&self, report: &mut impl FnMut(&str, String)) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.id.is_empty() || self.id.len() > 64 || !self.id.chars().all(fits) {
            report("id", "expected 1 to 64 letters, digits, `-`, `_` or `.`".to_owned());
        }
        match self.uri() {
            Some(uri) if uri.host().is_some() => match uri.scheme_str() {
                Some("https") => {}
                Some("http") if self.allow_private => {}
                Some("http") => {
                    let message =
                        "http:// is for private receivers: set allow_private, or use https://";
                    report("url", message.to_owned());
                }
                _ => report("url", "expected https://HOST/PATH".to_owned()),
            },
            _ => report("url", "expected https://HOST/PATH".to_owned()),
        }
        for (index, kind) in self.types.iter().enumerate() {
            if Kind::ALL.iter().all(|known| known.as_str() != kind) {
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                let message = format!("no such type, expected one of {}", known.join(", "));
                report(&format!("types[{index}]"), message);
            }
        }
    }
}
