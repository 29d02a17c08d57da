//! The engine's data directory: passwords, `config.xml`, `users.xml`, and the lock.
//!
//! SQL cannot create users in this build of ClickHouse, so `users.xml` is the whole of access
//! control:
//!
//! - `orbit`, the gateway's own (password in `orbit.password`): reads and writes the tables of every
//!   database; no FILE, URL or any other source, no management of access;
//! - `finance`, for people (password in `finance.password`): SELECT on the database `orbit`, and
//!   settings only within the limits of its profile;
//! - `default`: may start and stop listening, and nobody can log in as it.
//!
//! All from this host only.
//!
//! The engine's own session is always `default` without a password. Its profile allows one session,
//! which that session holds for as long as the engine runs; a second login is refused.
//!
//! Every file is mode 0600 below a directory of mode 0700. Passwords are made once and kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::ports::Ports;
use super::{DATABASE, EngineError, FINANCE_USER, USER};
use crate::clickhouse::ClickHouseSettings;

/// The file whose lock says that a process serves the directory.
pub(super) const LOCK: &str = "engine.lock";

/// The secrets of the two users that can log in. No `Debug`, on purpose.
#[derive(Clone)]
pub(super) struct Passwords {
    pub(super) orbit: String,
    pub(super) finance: String,
}

impl Passwords {
    /// Reads both from the data directory, making the directory and the files when absent.
    pub(super) fn prepare(data: &Path) -> Result<Self, EngineError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(EngineError::file("create the directory", data))?;
        Ok(Self {
            orbit: password(data, "orbit.password")?,
            finance: password(data, "finance.password")?,
        })
    }

    /// How one of the users connects to an engine on these ports.
    pub(super) fn connection(&self, user: &str, ports: Ports) -> ClickHouseSettings {
        let password = if user == USER { &self.orbit } else { &self.finance };
        ClickHouseSettings {
            url: format!("http://127.0.0.1:{}", ports.http),
            user: user.to_owned(),
            password: password.clone(),
            database: DATABASE.to_owned(),
        }
    }
}

fn password(data: &Path, name: &str) -> Result<String, EngineError> {
    let path = data.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => return usable(text.trim(), path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::file("read", &path)(error)),
    }
    let made = hex(&random::<32>()?);
    // Linked into place, not renamed: whoever is second, of two that start at once, must take the
    // first one's password.
    let unfinished = unfinished(&path);
    write_new(&unfinished, format!("{made}\n").as_bytes())?;
    let linked = fs::hard_link(&unfinished, &path);
    fs::remove_file(&unfinished).map_err(EngineError::file("remove", &unfinished))?;
    match linked {
        Ok(()) => Ok(made),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(&path).map_err(EngineError::file("read", &path))?;
            usable(text.trim(), path)
        }
        Err(error) => Err(EngineError::file("create", &path)(error)),
    }
}

/// Passwords travel in an HTTP header: printable ASCII, and long enough not to be guessed.
fn usable(text: &str, path: PathBuf) -> Result<String, EngineError> {
    if text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(EngineError::BadPasswordFile { path })
    }
}

/// Waits until this process may serve `data`: an engine whose parent was killed may need some
/// seconds to finish. `None` when `given_up` says so first. Dropping the file frees the directory.
pub(super) fn lock(
    data: &Path,
    patience: Duration,
    given_up: impl Fn() -> bool,
) -> Result<Option<File>, EngineError> {
    const STEP: Duration = Duration::from_millis(50);
    let path = data.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(EngineError::file("open", &path))?;
    let mut waited = Duration::ZERO;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if given_up() => return Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) if waited < patience => {
                thread::sleep(STEP);
                waited += STEP;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(EngineError::InUse { path: data.to_owned() });
            }
            Err(error) => return Err(EngineError::file("lock", &path)(error.into())),
        }
    }
}

/// Writes `config.xml` and `users.xml` and makes `system` a database on disk. Returns the
/// configuration's path, which is known to exist: the engine would silently ignore a missing one
/// and run without any authentication.
pub(super) fn configure(
    data: &Path,
    passwords: &Passwords,
    max_memory_bytes: u64,
) -> Result<PathBuf, EngineError> {
    let config = data.join("config.xml");
    let users = data.join("users.xml");
    replace(&users, users_xml(passwords, max_memory_bytes).as_bytes())?;
    replace(&config, config_xml(data, &users, max_memory_bytes)?.as_bytes())?;
    let metadata = data.join("metadata");
    fs::create_dir_all(&metadata).map_err(EngineError::file("create", &metadata))?;
    let system = metadata.join("system.sql");
    // `system` is a Memory database unless it is declared before the first start; in memory, the
    // query log would be lost with every stop.
    if !system.exists() {
        let mut bytes = random::<16>()?;
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut id = hex(&bytes);
        for dash in [20, 16, 12, 8] {
            id.insert(dash, '-');
        }
        let sql = format!("ATTACH DATABASE system UUID '{id}' ENGINE = Atomic\n");
        replace(&system, sql.as_bytes())?;
    }
    Ok(config)
}

fn config_xml(data: &Path, users: &Path, max_memory_bytes: u64) -> Result<String, EngineError> {
    let users = xml_path(users)?;
    let log = xml_path(&data.join("engine.log"))?;
    Ok(format!(
        "<!-- Written at every start; edits are lost. -->
<clickhouse>
  <users_config>{users}</users_config>
  <logger>
    <log>{log}</log>
    <size>16M</size>
    <count>3</count>
  </logger>
  <timezone>UTC</timezone>
  <max_server_memory_usage>{max_memory_bytes}</max_server_memory_usage>
  <mark_cache_size>{mark_cache}</mark_cache_size>
  <access_control_improvements>
    <table_engines_require_grant>true</table_engines_require_grant>
    <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
    <select_from_information_schema_requires_grant>true\
</select_from_information_schema_requires_grant>
  </access_control_improvements>
  <query_log>
    <database>system</database>
    <table>query_log</table>
    <partition_by>toYYYYMM(event_date)</partition_by>
    <ttl>event_date + INTERVAL 30 DAY DELETE</ttl>
    <flush_interval_milliseconds>7500</flush_interval_milliseconds>
  </query_log>
</clickhouse>
",
        mark_cache = max_memory_bytes / 16,
    ))
}

fn users_xml(passwords: &Passwords, max_memory_bytes: u64) -> String {
    let orbit = sha256_hex(&passwords.orbit);
    let finance = sha256_hex(&passwords.finance);
    // A person's query may take half of the memory; inserts must always find some.
    let finance_memory = max_memory_bytes / 2;
    format!(
        "<!-- Written at every start; edits are lost. -->
<clickhouse>
  <profiles>
    <default>
      <async_insert>0</async_insert>
    </default>
    <engine>
      <max_sessions_for_user>1</max_sessions_for_user>
    </engine>
    <finance>
      <readonly>2</readonly>
      <max_memory_usage>{finance_memory}</max_memory_usage>
      <max_execution_time>300</max_execution_time>
      <constraints>
        <max_memory_usage><min>1</min><max>{finance_memory}</max></max_memory_usage>
        <max_execution_time><min>1</min><max>300</max></max_execution_time>
      </constraints>
    </finance>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <no_password/>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>engine</profile>
      <quota>default</quota>
      <grants><query>GRANT SYSTEM LISTEN ON *.*</query></grants>
    </default>
    <{USER}>
      <password_sha256_hex>{orbit}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SHOW, SELECT, dictGet, KILL QUERY ON *.*</query>
        <query>GRANT INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE ON *.*</query>
        <query>GRANT SYSTEM MERGES, SYSTEM FLUSH, SYSTEM VIEWS ON *.*</query>
        <query>GRANT TABLE ENGINE ON *</query>
      </grants>
    </{USER}>
    <{FINANCE_USER}>
      <password_sha256_hex>{finance}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>finance</profile>
      <quota>default</quota>
      <grants><query>GRANT SHOW, SELECT ON {DATABASE}.*</query></grants>
    </{FINANCE_USER}>
  </users>
</clickhouse>
"
    )
}

fn xml_path(path: &Path) -> Result<String, EngineError> {
    let text = path.to_str().ok_or_else(|| {
        EngineError::file("configure the engine for", path)(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path is not UTF-8",
        ))
    })?;
    Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// Replaces a file in one step, so that no reader and no crash sees half of it; one that says the
/// same already stays, which needs no room.
fn replace(path: &Path, content: &[u8]) -> Result<(), EngineError> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let unfinished = unfinished(path);
    write_new(&unfinished, content)?;
    fs::rename(&unfinished, path).map_err(EngineError::file("replace", path))
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), EngineError> {
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| {
        // What is unfinished is nobody's; if it cannot be removed either, it does no harm.
        drop(fs::remove_file(path));
        EngineError::file("write", path)(error)
    })
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.tmp", std::process::id()))
}

fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| EngineError::system("draw random bytes")(io::Error::other(error)))?;
    Ok(bytes)
}

fn sha256_hex(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}
