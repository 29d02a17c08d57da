//! The demonstration keys of `orbit up`: made at the first start, one for each demo tenant.
//!
//! Owns two files below the data directory: the keys' hashes for the policy, and the keys
//! themselves for the person who tries Orbit (mode 0600). Guarantees that both agree: when one of
//! them is missing both are made anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use orbit_policy::ApiKey;

use super::key;

/// The tenants of `config/policy` that get a key: the five levels of the demo holding, and a small
/// customer on the smallest plan.
pub(super) const TENANTS: [&str; 6] =
    ["acme-web", "acme-marketing", "acme-retail", "acme-brasil", "acme", "padaria"];

/// The tenant whose key is shown and used in examples.
pub(super) const SHOWN_TENANT: &str = "acme-web";

/// Where `orbit up` keeps the demo keys.
pub(super) struct DemoKeys {
    /// A policy directory holding nothing but the keys' hashes.
    pub(super) policy: PathBuf,
    /// `export ORBIT_KEY_TENANT=key` lines.
    pub(super) env_file: PathBuf,
    /// The key of [`SHOWN_TENANT`], if this call made them.
    pub(super) made: Option<String>,
}

impl DemoKeys {
    /// Finds the demo keys below `data`, or makes them.
    pub(super) fn ensure(data: &Path) -> anyhow::Result<DemoKeys> {
        let policy = data.join("policy");
        let documents = policy.join("demo-keys.toml");
        let env_file = data.join("demo.env");
        private_directory(&policy)?;
        if documents.exists() && env_file.exists() {
            return Ok(DemoKeys { policy, env_file, made: None });
        }
        let Made { tables, exports, shown } = make()?;
        // The secrets first: hashes whose keys nobody has would be of no use.
        write_private(&env_file, &exports)?;
        write_private(&documents, &tables)?;
        Ok(DemoKeys { policy, env_file, made: Some(shown) })
    }
}

/// The environment variable that holds a tenant's key.
pub(super) fn variable(tenant: &str) -> String {
    let letters = tenant.chars().map(|c| match c {
        'a'..='z' => c.to_ascii_uppercase(),
        '0'..='9' => c,
        _ => '_',
    });
    format!("ORBIT_KEY_{}", letters.collect::<String>())
}

/// The two files' contents, and the key that is shown.
struct Made {
    tables: String,
    exports: String,
    shown: String,
}

fn make() -> anyhow::Result<Made> {
    let mut shown = String::new();
    let mut tables = String::from("# Keys of the demonstration tenants: hashes only.\n");
    let mut exports = String::from("# Keys of the demonstration tenants. Use: . ./demo.env\n");
    for tenant in TENANTS {
        let key = ApiKey::generate("demo")?;
        tables.push('\n');
        tables.push_str(&key::table(&key, tenant, Some("demo")));
        exports.extend(["export ", &variable(tenant), "=", key.reveal(), "\n"]);
        if tenant == SHOWN_TENANT {
            key.reveal().clone_into(&mut shown);
        }
    }
    Ok(Made { tables, exports, shown })
}

/// Makes a directory and those above it, for its owner only.
fn private_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Replaces a file by one its owner alone can read, whole or not at all.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        // The mode above only counts for a new file; a draft may be left from a crash.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_made_once_and_are_private() {
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("data");
        let keys = DemoKeys::ensure(&data).expect("made");
        assert_eq!(mode(&data), 0o700);
        assert_eq!(mode(&data.join("policy")), 0o700);
        assert_eq!(mode(&keys.env_file), 0o600);
        assert_eq!(mode(&data.join("policy/demo-keys.toml")), 0o600);

        let documents = fs::read_to_string(data.join("policy/demo-keys.toml")).expect("text");
        assert_eq!(documents.matches("[[key]]").count(), TENANTS.len());
        let exports = fs::read_to_string(&keys.env_file).expect("text");
        for tenant in TENANTS {
            let start = format!("export {}=", variable(tenant));
            let key = exports.lines().find_map(|line| line.strip_prefix(&start)).expect("there");
            assert!(key.starts_with("orb_demo_"), "a key of the demo environment");
            let secret = &key["orb_demo_0123456789_".len()..];
            assert!(!documents.contains(secret), "the policy holds no secret");
            assert_eq!(keys.made.as_deref() == Some(key), tenant == SHOWN_TENANT);
        }
        let again = DemoKeys::ensure(&data).expect("found");
        assert_eq!(again.made, None);
        assert_eq!(fs::read_to_string(&again.env_file).expect("text"), exports);
        assert_eq!(fs::read_dir(&data).expect("listed").count(), 2, "no draft stays behind");
    }

    #[test]
    fn every_demo_key_belongs_to_a_tenant_of_the_example() {
        let home = tempfile::tempdir().expect("a directory");
        let keys = DemoKeys::ensure(home.path()).expect("made");
        let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/policy"));
        let sources = crate::reload::read(&[example.to_owned(), keys.policy]).expect("readable");
        let alone = crate::reload::read(&[example.to_owned()]).expect("readable");
        let keys_before = orbit_policy::check(&alone, 0).expect("a valid example").counts()[1];
        let keys_after = orbit_policy::check(&sources, 0).expect("valid keys").counts()[1];
        assert_eq!(keys_after - keys_before, TENANTS.len());
    }

    #[test]
    fn variables_are_shell_names() {
        assert_eq!(variable("acme-web"), "ORBIT_KEY_ACME_WEB");
        assert_eq!(variable("padaria"), "ORBIT_KEY_PADARIA");
    }
}
