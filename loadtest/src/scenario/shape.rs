//! The shape of a scenario document: names and types of its keys. Sense is checked elsewhere.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) name: Option<String>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) rate: Spanned<RateText>,
    pub(super) requests: Option<Spanned<u64>>,
    pub(super) duration_s: Option<Spanned<f64>>,
    pub(super) warmup_s: Option<Spanned<f64>>,
    pub(super) connections: Option<Spanned<u32>>,
    pub(super) streams: Option<Spanned<u32>>,
    pub(super) http: Option<HttpText>,
    pub(super) threads: Option<Spanned<u32>>,
    pub(super) timeout_s: Option<Spanned<f64>>,
    pub(super) drain_s: Option<Spanned<f64>>,
    pub(super) expect_limit: Option<Spanned<LimitDocument>>,
    pub(super) expect_shares: Option<SharesDocument>,
    #[serde(default)]
    pub(super) request: Vec<Spanned<RequestDocument>>,
}

#[derive(Deserialize)]
pub(super) enum HttpText {
    #[serde(rename = "1.1")]
    One,
    #[serde(rename = "2")]
    Two,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestDocument {
    pub(super) name: Spanned<String>,
    pub(super) weight: Option<Spanned<u32>>,
    pub(super) method: Option<Spanned<String>>,
    pub(super) path: Spanned<String>,
    pub(super) host: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) key_header: Option<KeyHeaderText>,
    pub(super) body_bytes: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) headers: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) abort: Option<Spanned<AbortDocument>>,
    pub(super) websocket: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) expect: Vec<Spanned<u16>>,
    #[serde(default)]
    pub(super) may_fail: bool,
    pub(super) tenant: Option<String>,
    pub(super) app: Option<String>,
    pub(super) route: Option<String>,
    #[serde(default = "one")]
    pub(super) cost: u64,
    pub(super) figure: Option<FigureDocument>,
    pub(super) user: Option<String>,
}

fn one() -> u64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FigureDocument {
    pub(super) meter: String,
    pub(super) thousandths: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KeyHeaderText {
    Bearer,
    XApiKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AbortDocument {
    pub(super) after: AbortAfter,
    pub(super) bytes: Option<u64>,
    pub(super) wait_ms: Option<u64>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum AbortAfter {
    Send,
    Header,
    Body,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitDocument {
    pub(super) rate: Spanned<f64>,
    pub(super) per_s: Option<Spanned<f64>>,
    pub(super) burst: Spanned<u64>,
    pub(super) level: String,
    pub(super) policy: Option<String>,
    #[serde(default)]
    pub(super) requests: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharesDocument {
    pub(super) per_s: Spanned<f64>,
    pub(super) burst: u64,
    pub(super) guaranteed_burst: u64,
    pub(super) shares: Vec<ShareDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareDocument {
    pub(super) request: Spanned<String>,
    pub(super) per_s: Spanned<f64>,
}

#[derive(Clone, Copy)]
pub(super) enum RateText {
    PerSecond(f64),
    Max,
}

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RateText, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RateText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("requests per second, or \"max\"")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<RateText, E> {
                Ok(RateText::PerSecond(value as f64))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<RateText, E> {
                Ok(RateText::PerSecond(value as f64))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<RateText, E> {
                Ok(RateText::PerSecond(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<RateText, E> {
                if value == "max" {
                    Ok(RateText::Max)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(value), &self))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
