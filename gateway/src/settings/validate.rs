//! What values may be: bounds and combinations the types cannot say.
//!
//! Guarantees that whatever passes here can be started: a process never runs with a limit that
//! turns a defence off by accident, or with two listeners on one address.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use orbit_meter::clickhouse::engine::DATABASE as EMBEDDED_DATABASE;

use super::{ClickHouseMode, Settings};

/// Segments are mapped, so they are made of whole pages.
const PAGE_BYTES: u64 = 4096;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const TIB: u64 = 1024 * 1024 * MIB;

/// Calls `report(key, message)` for every value that cannot be used.
pub(super) fn validate(settings: &Settings, mut report: impl FnMut(&str, String)) {
    bounds(settings, &mut report);
    listeners(settings, &mut report);
    combinations(settings, &mut report);
    webhooks(settings, &mut report);
}

/// Each webhook by itself, and no id twice.
fn webhooks(settings: &Settings, report: &mut impl FnMut(&str, String)) {
    let mut seen = HashSet::new();
    for (index, webhook) in settings.alerts.webhook.iter().enumerate() {
        let at = format!("alerts.webhook[{index}]");
        webhook.check(&mut |key, message| report(&format!("{at}.{key}"), message));
        if !seen.insert(&webhook.id) {
            report(&format!("{at}.id"), "another webhook has this id".to_owned());
        }
    }
}

/// Every number within its range.
fn bounds(settings: &Settings, report: &mut impl FnMut(&str, String)) {
    let limits = &settings.server.limits;
    let journal = &settings.journal;
    let checks: [(&str, u64, RangeInclusive<u64>); 25] = [
        ("server.threads", settings.server.threads as u64, 0..=1024),
        ("server.grace_period_s", settings.server.grace_period_s, 0..=3600),
        ("server.limits.max_header_bytes", limits.max_header_bytes as u64, 512..=MIB),
        // The HTTP/1 parser itself stops at 256 fields.
        ("server.limits.max_headers", limits.max_headers as u64, 8..=256),
        ("server.limits.max_body_bytes", limits.max_body_bytes, 0..=TIB),
        ("server.limits.header_timeout_ms", limits.header_timeout_ms, 100..=600_000),
        ("server.limits.body_timeout_ms", limits.body_timeout_ms, 100..=3_600_000),
        ("server.limits.keepalive_timeout_s", limits.keepalive_timeout_s, 1..=3600),
        ("ingest.max_body_bytes", settings.ingest.max_body_bytes as u64, KIB..=64 * MIB),
        ("ingest.max_age_days", settings.ingest.max_age_days.into(), 1..=366),
        ("ingest.max_future_s", settings.ingest.max_future_s.into(), 0..=86_400),
        ("ingest.dedup_days", settings.ingest.dedup_days.into(), 1..=3660),
        ("policy.max_dynamic_keys", settings.policy.max_dynamic_keys as u64, 1_000..=100_000_000),
        ("journal.segment_bytes", journal.segment_bytes, 64 * KIB..=4 * 1024 * MIB),
        ("journal.max_bytes", journal.max_bytes, MIB..=64 * TIB),
        ("journal.sync_interval_ms", journal.sync_interval_ms, 1..=60_000),
        ("journal.max_lanes", u64::from(journal.max_lanes), 1..=4096),
        ("clickhouse.retention_months", settings.clickhouse.retention_months.into(), 0..=1200),
        // One insert of at most this many rows is one part, hence atomic.
        ("ship.max_rows", settings.ship.max_rows as u64, 1..=1_000_000),
        ("ship.max_delay_ms", settings.ship.max_delay_ms, 10..=600_000),
        ("audit.interval_s", settings.audit.interval_s, 0..=86_400),
        ("alerts.refusals_per_minute", settings.alerts.refusals_per_minute, 1..=1_000_000_000),
        ("alerts.refusals_minutes", settings.alerts.refusals_minutes.into(), 1..=1_440),
        ("alerts.retry_base_ms", settings.alerts.retry_base_ms, 10..=600_000),
        ("alerts.timeout_ms", settings.alerts.timeout_ms, 100..=120_000),
    ];
    for (key, value, range) in checks {
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            report(key, format!("{value} is out of range, expected {least} to {most}"));
        }
    }
}

/// At least one listener, and no address twice. Port 0 is whatever is free, so it never collides.
fn listeners(settings: &Settings, report: &mut impl FnMut(&str, String)) {
    let server = &settings.server;
    if server.listen.is_empty() && server.tls.is_empty() {
        report("server.listen", "no listener: name one here or in [[server.tls]]".to_owned());
    }
    let cleartext = (server.listen.iter().enumerate())
        .map(|(index, address)| (format!("server.listen[{index}]"), *address));
    let tls = (server.tls.iter().enumerate())
        .map(|(index, tls)| (format!("server.tls[{index}].listen"), tls.listen));
    let admin = ("admin.listen".to_owned(), settings.admin.listen);
    let mut seen: HashSet<SocketAddr> = HashSet::new();
    let ingest = settings.ingest.listen.map(|address| ("ingest.listen".to_owned(), address));
    for (key, address) in cleartext.chain(tls).chain([admin]).chain(ingest) {
        if address.port() != 0 && !seen.insert(address) {
            report(&key, format!("{address} is already the address of another listener"));
        }
    }
}

/// Settings that only make sense together.
fn combinations(settings: &Settings, report: &mut impl FnMut(&str, String)) {
    let journal = &settings.journal;
    if journal.max_bytes < journal.segment_bytes.saturating_mul(2) {
        report(
            "journal.max_bytes",
            format!(
                "{} bytes hold fewer than two segments of {} bytes",
                journal.max_bytes, journal.segment_bytes
            ),
        );
    }
    if !journal.segment_bytes.is_multiple_of(PAGE_BYTES) {
        report(
            "journal.segment_bytes",
            format!("{} is not a multiple of {PAGE_BYTES}", journal.segment_bytes),
        );
    }
    let ingest = &settings.ingest;
    if ingest.dedup_days < ingest.max_age_days {
        report(
            "ingest.dedup_days",
            format!(
                "{} days are fewer than max_age_days ({}): an event that is sent again could count \
                 twice",
                ingest.dedup_days, ingest.max_age_days
            ),
        );
    }
    if settings.policy.paths.is_empty() {
        report("policy.paths", "no policy documents: name a file or a directory".to_owned());
    }
    clickhouse(settings, report);
    if settings.log.level.parse::<tracing_subscriber::EnvFilter>().is_err() {
        report(
            "log.level",
            format!(
                "`{}` is neither a level (error, warn, info, debug, trace) nor directives such as \
                 `info,orbit_meter=debug`",
                settings.log.level
            ),
        );
    }
}

/// The engine's address and names.
fn clickhouse(settings: &Settings, report: &mut impl FnMut(&str, String)) {
    let engine = &settings.clickhouse;
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !plain(&engine.database) {
        report(
            "clickhouse.database",
            format!("`{}` is not a name of letters, digits and _ (1 to 64)", engine.database),
        );
    }
    match engine.mode {
        ClickHouseMode::Embedded => {
            if engine.database != EMBEDDED_DATABASE {
                report(
                    "clickhouse.database",
                    format!("the embedded engine's database is always `{EMBEDDED_DATABASE}`"),
                );
            }
            if engine.http_port == engine.tcp_port && engine.http_port != 0 {
                report("clickhouse.tcp_port", "is the same as http_port".to_owned());
            }
            if engine.max_memory_bytes < 512 * MIB {
                report(
                    "clickhouse.max_memory_bytes",
                    format!(
                        "{} is too little, expected at least 536870912",
                        engine.max_memory_bytes
                    ),
                );
            }
            if engine.url.is_some() {
                report("clickhouse.url", "has no effect unless mode = \"external\"".to_owned());
            }
        }
        ClickHouseMode::External => match &engine.url {
            None => report(
                "clickhouse.url",
                "is required when mode = \"external\", such as \"https://host:8443\"".to_owned(),
            ),
            Some(url) => {
                let parsed = url.parse::<http::Uri>().ok();
                let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
                let host = parsed.as_ref().and_then(http::Uri::host);
                let credentials = parsed
                    .as_ref()
                    .and_then(http::Uri::authority)
                    .is_some_and(|authority| authority.as_str().contains('@'));
                if credentials {
                    report(
                        "clickhouse.url",
                        "must not carry a user or password: set user and password_file".to_owned(),
                    );
                } else if !matches!(scheme, Some("http" | "https")) || host.is_none() {
                    report(
                        "clickhouse.url",
                        format!("`{url}` is not an http:// or https:// address"),
                    );
                }
            }
        },
    }
}
