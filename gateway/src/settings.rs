//! What an operator sets about this process: `orbit.toml`, read once at start.
//!
//! Owns reading, checking and resolving the settings file. Guarantees that unknown keys are
//! refused, that every mistake of a file is reported at once with file, line, column and key, and
//! that [`Settings::default`] is what the documented example `config/orbit.toml` says. Policy
//! (plans, tenants, keys) is not here: it lives in its own documents and is reloaded, these are
//! not.

mod cidr;
mod document;
mod sections;
mod validate;
mod webhook;

use std::fmt;
use std::path::{Path, PathBuf};

pub use cidr::{Cidr, CidrError};
use document::Document;
pub use sections::{
    Admin, AfterCrash, Alerts, Audit, ClickHouse, ClickHouseMode, Ingest, Journal, LimitSettings,
    Limits, Log, LogFormat, OnFull, PolicyFiles, Server, Ship, TlsListener,
};
pub use webhook::{EventType, Webhook};

#[cfg(test)]
mod tests;

/// Longest settings file read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The whole settings file, one field per section.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// `[server]`: where clients connect and what they may send.
    pub server: Server,
    /// `[admin]`: the operators' listener.
    pub admin: Admin,
    /// `[ingest]`: where usage that does not pass the proxy is sent to.
    pub ingest: Ingest,
    /// `[policy]`: where the policy documents are.
    pub policy: PolicyFiles,
    /// `[limits]`: what limits have spent, over a restart.
    pub limits: Limits,
    /// `[journal]`: where usage events are kept until they are shipped.
    pub journal: Journal,
    /// `[clickhouse]`: the engine usage is shipped to.
    pub clickhouse: ClickHouse,
    /// `[ship]`: how events become batches.
    pub ship: Ship,
    /// `[audit]`: the check of what was shipped.
    pub audit: Audit,
    /// `[alerts]`: what is told to whom.
    pub alerts: Alerts,
    /// `[log]`: the process's own log.
    pub log: Log,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read.
    #[error("cannot read the settings file {}", path.display())]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is longer than any settings file can be.
    #[error("the settings file {} is longer than {limit_bytes} bytes", path.display())]
    TooLong {
        /// The file asked for.
        path: PathBuf,
        /// The most that is read, in bytes.
        limit_bytes: u64,
    },
    /// The file was read and is wrong, in these places.
    #[error("{}", lines(problems))]
    Invalid {
        /// Every mistake found, in file order.
        problems: Vec<Problem>,
    },
}

/// One mistake in a settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Dotted key, such as `journal.segment_bytes`; empty when the text is not TOML at all.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// One problem a line.
fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl Settings {
    /// Reads and checks the file, and resolves its relative paths against its directory.
    ///
    /// Fails with every problem of the file at once.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let failed = |source| SettingsError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
            return Err(SettingsError::TooLong {
                path: path.to_owned(),
                limit_bytes: MAX_FILE_BYTES,
            });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let mut settings = Settings::parse(&path.display().to_string(), &text)?;
        settings.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(settings)
    }

    /// Reads and checks `text`; paths stay as written. `file` only names it in problems.
    pub fn parse(file: &str, text: &str) -> Result<Settings, SettingsError> {
        let document = Document::parse(file, text)
            .map_err(|problem| SettingsError::Invalid { problems: vec![problem] })?;
        let mut problems = Vec::new();
        let mut settings = Settings::default();
        for (name, value) in document.sections() {
            let at = &mut problems;
            match name {
                "server" => document.read(&mut settings.server, value, at),
                "admin" => document.read(&mut settings.admin, value, at),
                "ingest" => document.read(&mut settings.ingest, value, at),
                "policy" => document.read(&mut settings.policy, value, at),
                "limits" => document.read(&mut settings.limits, value, at),
                "journal" => document.read(&mut settings.journal, value, at),
                "clickhouse" => document.read(&mut settings.clickhouse, value, at),
                "ship" => document.read(&mut settings.ship, value, at),
                "audit" => document.read(&mut settings.audit, value, at),
                "alerts" => document.read(&mut settings.alerts, value, at),
                "log" => document.read(&mut settings.log, value, at),
                _ => at.push(document.problem(
                    name,
                    "unknown section, expected one of `server`, `admin`, `ingest`, `policy`, \
                     `limits`, `journal`, `clickhouse`, `ship`, `audit`, `alerts`, `log`",
                )),
            }
        }
        // Values are judged only where they could be read: a section that failed holds defaults.
        validate::validate(&settings, |key, message| {
            problems.push(document.problem(key, message));
        });
        if problems.is_empty() {
            return Ok(settings);
        }
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(SettingsError::Invalid { problems })
    }

    /// Makes every relative path relative to `base` instead of the working directory.
    pub fn resolve(&mut self, base: &Path) {
        let paths = (self.server.tls.iter_mut())
            .flat_map(|tls| [&mut tls.certificate_file, &mut tls.key_file])
            .chain(&mut self.policy.paths)
            .chain([
                &mut self.admin.token_file,
                &mut self.limits.directory,
                &mut self.ingest.token_file,
                &mut self.journal.directory,
                &mut self.clickhouse.data,
            ])
            .chain(self.alerts.webhook.iter_mut().map(|webhook| &mut webhook.secret_file))
            .chain(&mut self.clickhouse.library)
            .chain(&mut self.clickhouse.password_file);
        for path in paths {
            *path = clean(&base.join(&*path));
        }
    }
}

/// The same path without `.` and with `dir/..` folded, so that messages and logs read well.
///
/// A `..` is folded only over a plain name, as written; a symbolic link there would make the two
/// differ, so a folded path that does not exist is left as it was.
fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for part in path.components() {
        match (part, clean.components().next_back()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) if !clean.is_symlink() => {
                clean.pop();
            }
            _ => clean.push(part),
        }
    }
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}
