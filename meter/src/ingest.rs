//! Usage that did not pass the proxy: each (source, id) is counted once, however often it is sent.
//!
//! An ingested event is an ordinary row of the journal whose request id is a hash of the sender's
//! name for it ([`request_id`]). The [`IngestIndex`] remembers these, beside the journal and in
//! step with it; its protocol is described there.
//!
//! Guarantees: an event that was recorded survives `kill -9`, and the same event sent again within
//! [`IndexSettings::keep`] is found, across restarts, kills and power failures. What a power failure
//! took from the journal (see [`crate::journal`]) is forgotten here too, so that sending it again
//! counts it. Another node has another index: what is sent to two nodes is counted on both.

mod generation;
mod index;
mod recovery;
#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};

pub use index::{IndexError, IndexSettings, IngestIndex, RecordError, Recorded};

/// The request id of an ingested event: the first half of SHA-256 over the source's length (64 bits,
/// little-endian), the source and the id, so that no two pairs are one text.
pub fn request_id(source: &str, id: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update((source.len() as u64).to_le_bytes());
    hash.update(source.as_bytes());
    hash.update(id.as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    *digest.first_chunk().expect("16 of 32 bytes")
}
