//! The sections of `orbit.toml` as types: names, units and defaults.
//!
//! Owns the meaning of every key. Durations and sizes carry their unit in the name; a value that
//! means "off" or "automatic" says so. `config/orbit.toml` documents the same keys for operators.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{Cidr, Webhook};

/// `[server]`: where clients connect and what they may send.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Cleartext listeners.
    pub listen: Vec<SocketAddr>,
    /// Whether cleartext listeners also speak HTTP/2 with prior knowledge.
    pub h2c: bool,
    /// TLS listeners (HTTP/2 and HTTP/1.1 by ALPN).
    pub tls: Vec<TlsListener>,
    /// Worker threads of the proxy; 0 means one per core.
    pub threads: usize,
    /// How long requests in flight may take to finish after SIGTERM, in seconds.
    pub grace_period_s: u64,
    /// Networks whose `X-Forwarded-For` is believed for the client's address.
    pub trusted_proxies: Vec<Cidr>,
    /// What one client may send, and how slowly.
    pub limits: LimitSettings,
}

/// `[[server.tls]]`: one TLS listener.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsListener {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The certificate chain, PEM, leaf first.
    pub certificate_file: PathBuf,
    /// The private key, PEM.
    pub key_file: PathBuf,
}

/// `[server.limits]`: what one client may send, and how slowly.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Longest request header (line and fields), in bytes.
    pub max_header_bytes: usize,
    /// Most header fields of a request.
    pub max_headers: usize,
    /// Longest request body, in bytes.
    pub max_body_bytes: u64,
    /// How long a client may take to send its header, in milliseconds.
    pub header_timeout_ms: u64,
    /// How long a client may pause between two pieces of a body, either way, in milliseconds.
    pub body_timeout_ms: u64,
    /// How long an idle connection is kept, in seconds.
    pub keepalive_timeout_s: u64,
}

/// `[admin]`: the operators' listener.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The bearer token's file; made with a random token and mode 0600 when it does not exist.
    pub token_file: PathBuf,
}

/// `[ingest]`: where usage that does not pass the proxy is sent to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// Where it listens; none for no listener.
    #[serde(deserialize_with = "address_or_empty")]
    pub listen: Option<SocketAddr>,
    /// The bearer token's file; made with a random token and mode 0600 when it does not exist.
    pub token_file: PathBuf,
    /// Longest request body, in bytes.
    pub max_body_bytes: usize,
    /// Oldest event taken, in days.
    pub max_age_days: u32,
    /// How far ahead of this machine's clock an event may be dated, in seconds.
    pub max_future_s: u32,
    /// How long an event is remembered, so that it counts once, in days.
    pub dedup_days: u32,
}

/// `[policy]`: where the policy documents are.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFiles {
    /// Files, and directories whose `*.toml` files are read at every depth.
    pub paths: Vec<PathBuf>,
    /// Whether a change on disk is applied by itself.
    pub watch: bool,
    /// Most client addresses and end users whose limits are held one by one, 72 bytes each.
    pub max_dynamic_keys: usize,
}

/// `[limits]`: what limits have spent, over a restart.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The directory it is saved in, used by one process only.
    pub directory: PathBuf,
    /// How limits start after an end that was not in order.
    pub after_crash: AfterCrash,
}

/// How limits start when the gateway was killed, so that what was spent at the very end is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterCrash {
    /// Where they were at the last save, at most about a second before.
    Resume,
    /// With nothing left, refilled at their rates.
    Empty,
}

/// `[journal]`: where usage events are kept until they are shipped.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Its directory, used by one process only.
    pub directory: PathBuf,
    /// Size of one segment file, in bytes.
    pub segment_bytes: u64,
    /// Most disk the journal may take, in bytes.
    pub max_bytes: u64,
    /// How often written events are forced to the disk, in milliseconds.
    pub sync_interval_ms: u64,
    /// Most threads that write events.
    pub max_lanes: u16,
    /// What a request meets when no event could be kept.
    pub on_full: OnFull,
}

/// What happens to requests while the journal has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Refuse with 503: nothing is served that could not be recorded.
    Refuse,
    /// Serve without a record, and count how often.
    ServeUnmetered,
}

/// `[clickhouse]`: the engine usage is shipped to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClickHouse {
    /// Whether the engine is ours or someone else's.
    pub mode: ClickHouseMode,
    /// The database that holds Orbit's tables.
    pub database: String,
    /// How many months of raw events are kept; 0 keeps them for ever.
    pub retention_months: u32,
    /// Embedded: the engine's data directory.
    pub data: PathBuf,
    /// Embedded: the HTTP port on 127.0.0.1.
    pub http_port: u16,
    /// Embedded: the native protocol's port on 127.0.0.1.
    pub tcp_port: u16,
    /// Embedded: most memory the engine may use, in bytes.
    pub max_memory_bytes: u64,
    /// Embedded: the engine's library; none searches the places `make engine` installs to.
    pub library: Option<PathBuf>,
    /// External: the server's HTTP address.
    pub url: Option<String>,
    /// External: the user.
    pub user: String,
    /// External: the file that holds the user's password; none for no password.
    pub password_file: Option<PathBuf>,
}

/// Whose ClickHouse it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClickHouseMode {
    /// The engine runs as a child of this process.
    Embedded,
    /// A server or cluster that is run elsewhere.
    External,
}

/// `[ship]`: how events become batches.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ship {
    /// Most rows of one batch.
    pub max_rows: usize,
    /// Longest an event waits for its batch to fill, in milliseconds.
    pub max_delay_ms: u64,
}

/// `[audit]`: the check of what was shipped, beside the traffic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// How often it is made, in seconds; 0 never.
    pub interval_s: u64,
}

/// `[alerts]`: what is told to whom.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// More refusals of a tenant than this in each minute ...
    pub refusals_per_minute: u64,
    /// ... for so many minutes in a row are told.
    pub refusals_minutes: u32,
    /// Delay before the second attempt at a delivery, in milliseconds; later ones follow from it.
    pub retry_base_ms: u64,
    /// How long a receiver may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// Who is told.
    pub webhook: Vec<Webhook>,
}

/// `[log]`: the process's own log, on standard error.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged: a level, or directives such as `info,orbit_meter=debug`.
    pub level: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Alerts {
    fn default() -> Alerts {
        Alerts {
            refusals_per_minute: 60,
            refusals_minutes: 3,
            retry_base_ms: 5_000,
            timeout_ms: 15_000,
            webhook: Vec::new(),
        }
    }
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            h2c: true,
            tls: Vec::new(),
            threads: 0,
            grace_period_s: 10,
            trusted_proxies: Vec::new(),
            limits: LimitSettings::default(),
        }
    }
}

impl Server {
    /// Worker threads to start: as set, or one per core.
    pub fn worker_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }

    /// How long requests in flight may take to finish.
    pub fn grace_period(&self) -> Duration {
        Duration::from_secs(self.grace_period_s)
    }
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        LimitSettings {
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_body_bytes: 10 * 1024 * 1024,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            keepalive_timeout_s: 60,
        }
    }
}

impl LimitSettings {
    /// How long a client may take to send its header.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// How long a client may pause within a body.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }
}

impl Default for Admin {
    fn default() -> Admin {
        Admin {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            token_file: PathBuf::from("../data/admin.token"),
        }
    }
}

impl Default for Ingest {
    fn default() -> Ingest {
        Ingest {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8081))),
            token_file: PathBuf::from("../data/ingest.token"),
            max_body_bytes: 8 * 1024 * 1024,
            max_age_days: 35,
            max_future_s: 300,
            dedup_days: 35,
        }
    }
}

impl Ingest {
    /// How long an event must be remembered: longer than it may be dated ahead, and a day more for
    /// a clock that is set.
    pub fn keep(&self) -> Duration {
        let days = Duration::from_hours(24) * (self.dedup_days + 1);
        days + Duration::from_secs(self.max_future_s.into())
    }
}

/// An address, or an empty text for none.
fn address_or_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            let message = format!("`{text}` is neither \"ADDRESS:PORT\" nor empty");
            serde::de::Error::custom(message)
        })
    };
    (!text.is_empty()).then(|| parse(&text)).transpose()
}

impl Default for PolicyFiles {
    fn default() -> PolicyFiles {
        PolicyFiles {
            paths: vec![PathBuf::from("policy")],
            watch: true,
            max_dynamic_keys: 1_000_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { directory: PathBuf::from("../data/state"), after_crash: AfterCrash::Resume }
    }
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            directory: PathBuf::from("../data/journal"),
            segment_bytes: 64 * 1024 * 1024,
            max_bytes: 8 * 1024 * 1024 * 1024,
            sync_interval_ms: 100,
            max_lanes: 64,
            on_full: OnFull::Refuse,
        }
    }
}

impl Default for ClickHouse {
    fn default() -> ClickHouse {
        ClickHouse {
            mode: ClickHouseMode::Embedded,
            database: "orbit".to_owned(),
            retention_months: 25,
            data: PathBuf::from("../data/clickhouse"),
            http_port: 8123,
            tcp_port: 9000,
            max_memory_bytes: 4 * 1024 * 1024 * 1024,
            library: None,
            url: None,
            user: "orbit".to_owned(),
            password_file: None,
        }
    }
}

impl ClickHouse {
    /// The retention as the schema takes it: none keeps events for ever.
    pub fn ttl_months(&self) -> Option<u32> {
        (self.retention_months > 0).then_some(self.retention_months)
    }
}

impl Default for Ship {
    fn default() -> Ship {
        Ship { max_rows: 250_000, max_delay_ms: 1_000 }
    }
}

impl Default for Audit {
    fn default() -> Audit {
        Audit { interval_s: 300 }
    }
}

impl Audit {
    /// How often the check is made, if it is.
    pub fn interval(&self) -> Option<Duration> {
        (self.interval_s > 0).then(|| Duration::from_secs(self.interval_s))
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, level: "info".to_owned() }
    }
}
