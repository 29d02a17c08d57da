//! `[[alerts.webhook]]`: where alerts are sent.

use std::path::PathBuf;

use http::Uri;
use serde::Deserialize;

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum EventType {
    /// A soft threshold of a quota was crossed.
    #[serde(rename = "quota.threshold_crossed")]
    ThresholdCrossed,
    /// A quota is used up.
    #[serde(rename = "quota.exhausted")]
    Exhausted,
    /// At this pace a quota is used up before its window ends, or a rate limit soon reached.
    #[serde(rename = "capacity.forecast_exceeded")]
    ForecastExceeded,
    /// A tenant is refused again and again.
    #[serde(rename = "refusals.sustained")]
    RefusalsSustained,
}

impl EventType {
    /// The name in settings and events.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::ThresholdCrossed => "quota.threshold_crossed",
            EventType::Exhausted => "quota.exhausted",
            EventType::ForecastExceeded => "capacity.forecast_exceeded",
            EventType::RefusalsSustained => "refusals.sustained",
        }
    }
}

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
    pub types: Vec<EventType>,
    /// Whether it may be on this machine or in a private network.
    #[serde(default)]
    pub allow_private: bool,
}

impl Webhook {
    /// Its URL, once it was checked.
    pub fn uri(&self) -> Option<Uri> {
        self.url.parse().ok()
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
    }
}
