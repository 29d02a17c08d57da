//! API keys: their form, their checksum, what is stored of them, and how they are made.
//!
//! `orb_<env>_<id>_<secret><checksum>`: `orb_live_`, then 10 characters of key id, `_`, 32 of
//! secret and 6 of checksum, all base62. The checksum (CRC-32 of everything before it) tells
//! a typo from a wrong key without a look-up, and lets secret scanners recognise a leak. Only
//! the SHA-256 of the secret is stored: it carries 190 bits of entropy, so no slow hash is
//! needed, and the comparison takes the same time wherever the first difference is.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID: usize = 10;
const SECRET: usize = 32;
const CHECKSUM: usize = 6;
const MAX_ENV: usize = 8;
const TAIL: usize = 1 + ID + 1 + SECRET + CHECKSUM;

/// The public part of a key: which entry it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID]);

impl KeyId {
    /// Ten base62 characters; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<KeyId> {
        let id: [u8; ID] = text.try_into().ok()?;
        id.iter().all(u8::is_ascii_alphanumeric).then_some(KeyId(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of ASCII letters and digits only")
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is stored of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    fn of(secret: &[u8]) -> SecretHash {
        SecretHash(Sha256::digest(secret).into())
    }

    /// As words: compared byte by byte in constant time, a hash takes several times as long.
    fn words(&self) -> [u64; 4] {
        let (words, _) = self.0.as_chunks::<8>();
        std::array::from_fn(|place| u64::from_ne_bytes(words[place]))
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// A key as presented, well-formed but not yet known to be anybody's.
pub struct Presented<'a> {
    /// Which entry it claims to be.
    pub id: KeyId,
    secret: &'a [u8],
}

impl<'a> Presented<'a> {
    /// Takes a key apart and verifies its checksum. Any bytes may come in.
    pub fn parse(key: &'a [u8]) -> Option<Presented<'a>> {
        let rest = key.strip_prefix(b"orb_")?;
        let env = rest.len().checked_sub(TAIL).filter(|len| (1..=MAX_ENV).contains(len))?;
        let (env, tail) = rest.split_at(env);
        let fits =
            env.iter().all(u8::is_ascii_lowercase) && tail[0] == b'_' && tail[1 + ID] == b'_';
        if !fits {
            return None;
        }
        let id = KeyId::parse(&tail[1..=ID])?;
        let (body, given) = key.split_at(key.len() - CHECKSUM);
        if checksum(body) != given {
            return None;
        }
        let secret = &tail[ID + 2..ID + 2 + SECRET];
        Some(Presented { id, secret })
    }

    /// Whether this is the key whose hash is stored; constant time in the hash's contents.
    pub fn matches(&self, stored: &SecretHash) -> bool {
        SecretHash::of(self.secret).words().ct_eq(&stored.words()).into()
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut rest = crc32fast::hash(body);
    let mut text = [b'0'; CHECKSUM];
    for place in text.iter_mut().rev() {
        *place = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    text
}

/// A new key. Its text is the secret: show it once, keep only id and hash.
pub struct ApiKey {
    text: String,
    /// The public id.
    pub id: KeyId,
    /// What to store.
    pub hash: SecretHash,
}

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewKeyError {
    /// The environment label does not fit.
    #[error("an environment label is 1 to {MAX_ENV} letters a to z, not `{0}`")]
    Env(String),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
}

impl ApiKey {
    /// Makes a key from the operating system's randomness.
    pub fn generate(env: &str) -> Result<ApiKey, NewKeyError> {
        let fits =
            (1..=MAX_ENV).contains(&env.len()) && env.bytes().all(|b| b.is_ascii_lowercase());
        if !fits {
            return Err(NewKeyError::Env(env.to_owned()));
        }
        let mut letters = [0; ID + SECRET];
        random_base62(&mut letters).map_err(NewKeyError::Random)?;
        let (id, secret) = letters.split_at(ID);
        let id = KeyId::parse(id).expect("base62 letters");
        let secret_text = std::str::from_utf8(secret).expect("base62 letters");
        let mut text = format!("orb_{env}_{id}_{secret_text}");
        let check = checksum(text.as_bytes());
        text.push_str(std::str::from_utf8(&check).expect("base62 letters"));
        Ok(ApiKey { text, id, hash: SecretHash::of(secret) })
    }

    /// The whole key, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Fills `letters` evenly: bytes above the largest multiple of 62 are drawn again.
fn random_base62(letters: &mut [u8]) -> Result<(), getrandom::Error> {
    let mut filled = 0;
    while filled < letters.len() {
        let mut random = [0; 64];
        getrandom::fill(&mut random)?;
        for byte in random.into_iter().filter(|byte| *byte < 248) {
            if let Some(letter) = letters.get_mut(filled) {
                *letter = BASE62[(byte % 62) as usize];
                filled += 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
