//! Who a journal directory is, and how often it has been opened.
//!
//! Guarantees: the node number is drawn once; the epoch is raised durably before anything is
//! written under it, so no two openings ever share an event id.

use std::io;
use std::path::Path;

use super::frame::checksum;
use crate::durable;

const NAME: &str = "identity";

/// A directory's node number and the epoch of this opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node: u32,
    pub(super) epoch: u32,
}

/// Raises the epoch; `seen` tells the highest epoch of a node that segments in the directory carry.
/// A directory without a readable identity becomes a new node, whose ids cannot collide with
/// anything written before.
pub(super) fn raise(directory: &Path, seen: impl Fn(u32) -> u32) -> io::Result<Identity> {
    let stored = durable::read(directory, NAME)?;
    let known = stored.as_deref().and_then(parse);
    if stored.is_some() && known.is_none() {
        tracing::error!(?directory, "the journal's identity is unreadable; becoming a new node");
    }
    let known = match known {
        Some(known) => known,
        None => Identity { node: random_node()?, epoch: 0 },
    };
    let epoch = known.epoch.max(seen(known.node)) + 1;
    let raised = Identity { epoch, ..known };
    durable::replace(directory, NAME, text(raised).as_bytes())?;
    Ok(raised)
}

fn random_node() -> io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u32::from_le_bytes(bytes))
}

fn text(identity: Identity) -> String {
    let body = format!("orbit-journal 1 node {} epoch {}", identity.node, identity.epoch);
    format!("{body} crc {:08x}\n", checksum(0, body.as_bytes()))
}

fn parse(bytes: &[u8]) -> Option<Identity> {
    let line = std::str::from_utf8(bytes).ok()?.trim_end();
    let (body, sum) = line.rsplit_once(" crc ")?;
    if u32::from_str_radix(sum, 16).ok()? != checksum(0, body.as_bytes()) {
        return None;
    }
    let mut words = body.split(' ');
    let mut after = |name: &str| {
        words.by_ref().find(|word| *word == name)?;
        words.next()?.parse().ok()
    };
    Some(Identity { node: after("node")?, epoch: after("epoch")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_opening_raises_the_epoch_of_the_same_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = raise(directory.path(), |_| 0).expect("writable");
        let second = raise(directory.path(), |_| 0).expect("writable");
        assert_eq!((first.epoch, second.epoch), (1, 2));
        assert_eq!(first.node, second.node);
        let ahead = raise(directory.path(), |_| 9).expect("writable");
        assert_eq!(ahead, Identity { epoch: 10, ..first });
    }

    #[test]
    fn an_unreadable_identity_becomes_another_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = raise(directory.path(), |_| 0).expect("writable");
        let path = directory.path().join(NAME);
        let text = std::fs::read_to_string(&path).expect("just written");
        std::fs::write(&path, text.replace("epoch 1", "epoch 7")).expect("writable");
        let second = raise(directory.path(), |_| 0).expect("writable");
        assert_ne!(first.node, second.node);
        assert_eq!(second.epoch, 1);
    }
}
