//! Fresh API keys for the scenarios of this crate: the hashes for the gateway, the keys for
//! `loadtest run`. The tenants are those of `policy/load.toml`.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use orbit_policy::ApiKey;
use thiserror::Error;

/// Label, tenant, and the key's own limit.
const KEYS: [(&str, &str, Option<&str>); 15] = [
    ("LOAD", "load", None),
    ("LOAD_OTHER", "load-other", None),
    ("LOAD_SPENT", "load-spent", None),
    ("LOAD_SLOW", "load-slow", None),
    (
        "LOAD_KEY",
        "load-key",
        Some(r#"{ name = "key-requests", rate = 500, per = "second", burst = 500 }"#),
    ),
    ("LOAD_FULL", "load-full", None),
    ("LOAD_TEAM", "load-team", None),
    ("LOAD_DEPARTMENT", "load-department-team", None),
    ("LOAD_UNIT", "load-unit-team", None),
    ("LOAD_SUBSIDIARY", "load-subsidiary-team", None),
    ("LOAD_HOLDING", "load-holding-team", None),
    ("LOAD_PLANNED", "load-planned", None),
    ("LOAD_HALF", "load-half", None),
    ("LOAD_THIRTY", "load-thirty", None),
    ("LOAD_TWENTY", "load-twenty", None),
];

/// Why the keys could not be made.
#[derive(Debug, Error)]
pub enum FreshKeysError {
    /// The system gave no random bytes.
    #[error("cannot make a key")]
    Key(#[from] orbit_policy::keys::NewKeyError),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The two files.
pub struct FreshKeys {
    /// A policy document that holds hashes only.
    pub document: PathBuf,
    /// `NAME=key` lines, for their owner alone.
    pub keys_file: PathBuf,
}

/// Makes the keys and writes `policy/load-keys.toml` and `load.env` below `directory`.
pub fn write(directory: &Path) -> Result<FreshKeys, FreshKeysError> {
    let (document_text, keys_text) = make()?;
    let policy = directory.join("policy");
    std::fs::create_dir_all(&policy)
        .map_err(|source| FreshKeysError::Write { path: policy.clone(), source })?;
    let made = FreshKeys {
        document: policy.join("load-keys.toml"),
        keys_file: directory.join("load.env"),
    };
    for (path, text) in [(&made.keys_file, keys_text), (&made.document, document_text)] {
        let unwritten = |source| FreshKeysError::Write { path: path.clone(), source };
        // A new file: the mode of one that is there would stay as it is.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unwritten(error));
            }
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(unwritten)?;
    }
    Ok(made)
}

/// The document and the keys file.
fn make() -> Result<(String, String), FreshKeysError> {
    let mut document = String::from("# Keys of the load test: hashes only.\n");
    let mut keys = String::from("# Keys of the load test.\n");
    for (label, tenant, limit) in KEYS {
        let key = ApiKey::generate("load")?;
        let limits = limit.map_or_else(String::new, |limit| format!("limits = [{limit}]\n"));
        let (id, hash) = (key.id.as_str(), &key.hash);
        let table =
            format!("\n[[key]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nhash = \"{hash}\"\n{limits}");
        document.push_str(&table);
        writeln!(keys, "{label}={}", key.reveal()).expect("a string can always be written to");
    }
    Ok((document, keys))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use orbit_policy::Source;

    use super::*;
    use crate::keys::Keys;
    use crate::scenario::Scenario;

    fn below_the_crate(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    #[test]
    fn the_policy_is_valid_with_the_keys_and_the_scenarios_find_theirs() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let made = write(directory.path()).expect("the keys can be written");
        let made = write(made.keys_file.parent().expect("it is in the directory")).expect("again");
        let mode = std::fs::metadata(&made.keys_file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let text = |path: &Path| std::fs::read_to_string(path).expect("the file is there");
        let policy = text(&below_the_crate("policy/load.toml"));
        let sources = [("load.toml", &policy), ("load-keys.toml", &text(&made.document))]
            .map(|(file, text)| Source { file: file.to_owned(), text: text.clone() });
        if let Err(mistakes) = orbit_policy::check(&sources) {
            panic!("{mistakes}");
        }

        let keys = Keys::read(&made.keys_file).expect("the keys file is well formed");
        let named: BTreeSet<_> = policy.lines().filter_map(|l| l.strip_prefix("id = ")).collect();
        for entry in std::fs::read_dir(below_the_crate("scenarios")).expect("they are there") {
            let path = entry.expect("the directory can be read").path();
            let scenario = Scenario::read(&path).expect("another test shows its mistakes");
            for kind in &scenario.requests {
                let place = format!("{}: {}", path.display(), kind.name);
                assert!(kind.key.iter().all(|label| keys.get(label).is_some()), "{place}");
                for id in [&kind.tenant, &kind.app, &kind.route].into_iter().flatten() {
                    assert!(id.is_empty() || named.contains(&*format!("{id:?}")), "{place}: {id}");
                }
            }
        }
    }
}
