//! What is to be built, and the gateway's settings that follow from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct StageSettings {
    /// The `orbit` binary.
    pub orbit: PathBuf,
    /// The `loadtest` binary.
    pub launcher: PathBuf,
    /// Where everything goes; absolute, made when absent.
    pub directory: PathBuf,
    /// Where the gateway keeps its journal and what limits, quotas and members are at, when not in
    /// `directory`.
    pub data: Option<PathBuf>,
    /// Bytes of a segment of the journal.
    pub segment_bytes: u64,
    /// Bytes the journal may take.
    pub max_bytes: u64,
    /// What a request meets when the journal is full: `refuse` or `serve_unmetered`.
    pub on_full: &'static str,
    /// Policy documents beside those of the load tests.
    pub policy: String,
    /// Further sections of the gateway's settings.
    pub settings: String,
}

/// How often the journal is synced.
pub(crate) const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// The gateway's settings. Batches are small and soon sent, so that much is under way whenever
/// something dies.
pub(super) fn toml(
    settings: &StageSettings,
    [proxy, admin, ingest]: [SocketAddr; 3],
    database: SocketAddr,
) -> String {
    let StageSettings { directory, data, segment_bytes, max_bytes, on_full, .. } = settings;
    let data = data.as_ref().unwrap_or(directory);
    let below = |name| ::toml::Value::String(data.join(name).display().to_string());
    let (journal, state) = (below("journal"), below("state"));
    let sync_interval_ms = SYNC_INTERVAL.as_millis();
    format!(
        r#"[server]
listen = ["{proxy}"]
threads = 2
[admin]
listen = "{admin}"
token_file = "admin.token"
[ingest]
listen = "{ingest}"
token_file = "ingest.token"
[policy]
paths = ["policy"]
watch = false
[limits]
directory = {state}
[journal]
directory = {journal}
segment_bytes = {segment_bytes}
max_bytes = {max_bytes}
sync_interval_ms = {sync_interval_ms}
on_full = "{on_full}"
[clickhouse]
mode = "external"
url = "http://{database}"
user = "orbit"
password_file = "clickhouse/orbit.password"
[ship]
max_delay_ms = 200
{more}"#,
        more = settings.settings
    )
}
