//! Signatures of Standard Webhooks (standardwebhooks.com, specification 1.0.0).
//!
//! `v1,` and the base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`. While a secret is rotated a
//! webhook has several, and each signs. A secret is `whsec_` and the base64 of 24 to 64 bytes; it
//! is in no log, error or `Debug`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret could not be read. No variant carries any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file has no line.
    #[error("{}: there is no secret in it", path.display())]
    None {
        /// The file.
        path: PathBuf,
    },
    /// A line is not a secret.
    #[error("{}:{line}: a secret is whsec_ and the base64 of 24 to 64 bytes", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

/// The secrets of a webhook, the current one first.
#[derive(Clone)]
pub struct Secrets(Vec<Vec<u8>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.0.len()).finish()
    }
}

impl Secrets {
    /// Reads a file with a secret on each line; empty lines and lines with `#` are passed over.
    pub fn read(path: &Path) -> Result<Secrets, SecretError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
        let mut secrets = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let secret = parse(text);
            let form = || SecretError::Form { path: path.to_owned(), line };
            secrets.push(secret.ok_or_else(form)?);
        }
        if secrets.is_empty() {
            return Err(SecretError::None { path: path.to_owned() });
        }
        Ok(Secrets(secrets))
    }

    /// The value of `webhook-signature`; `timestamp_s` is in unix seconds.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let sign = |secret: &Vec<u8>| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length is a key");
            mac.update(format!("{id}.{timestamp_s}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

fn parse(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    BYTES.contains(&bytes.len()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Result<Secrets, SecretError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        std::fs::write(&path, text).expect("written");
        Secrets::read(&path)
    }

    /// The example of the specification's reference libraries.
    #[test]
    fn the_known_example_has_the_known_signature() {
        let secrets = secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("a secret");
        let body = br#"{"test": 2432232314}"#;
        let signed = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn while_secrets_are_rotated_each_signs() {
        let two = "# new\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\n\
                   whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let secrets = secrets(two).expect("two secrets");
        let signed = secrets.sign("msg_1", 1, b"{}");
        assert_eq!(signed.split(' ').filter(|one| one.starts_with("v1,")).count(), 2);
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    }

    #[test]
    fn what_is_no_secret_is_named_by_its_line_only() {
        for text in ["whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!", "not-one"] {
            let said = secrets(&format!("\n{text}")).expect_err("no secret").to_string();
            assert!(said.contains(":2:") && !said.contains(text), "{said}");
        }
        assert!(matches!(secrets("# none\n"), Err(SecretError::None { .. })));
    }
}
