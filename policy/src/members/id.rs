//! What a member is known by: the same on every node and after every restart.

use siphasher::sip128::{Hasher128, SipHasher13};

/// The key under which members are hashed. It is no secret: it only sets these hashes apart from
/// others, and never changes, as rows that are written hold them.
const KEY: &[u8; 16] = b"orbit member v1\0";

/// A member of a set: half of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(u64);

impl Member {
    /// The member with this id.
    pub fn of(id: &[u8; 16]) -> Member {
        Member::from_number(u128::from_le_bytes(*id) as u64)
    }

    /// The member of this number; 0 is the same as 1, as it stands for nobody in a table.
    pub fn from_number(number: u64) -> Member {
        Member(number.max(1))
    }

    /// Its number, never 0.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The id of a member: SipHash-1-3 of 128 bits under a fixed key of the meter, the tenant at the
/// root of the tree and the member's name. The same end user of two teams is one member of their
/// holding, and another one than a namesake of another holding.
pub fn member_id(meter: &str, root: &str, name: &[u8]) -> [u8; 16] {
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new_with_key(KEY);
    // Neither meter nor tenant holds this byte, so no two triples run into the same bytes.
    for part in [meter, root] {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.write(name);
    hasher.finish128().as_u128().to_le_bytes()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ids_never_change_and_every_part_counts() {
        let id = member_id("active_users", "acme", b"ana");
        assert_eq!(u128::from_be_bytes(id), 0xcc1a_97e0_66b3_8d70_7fc7_7039_47ca_1f2d);
        for (meter, root, name) in [
            ("active_user", "sacme", "ana"),
            ("active_users", "acm", "eana"),
            ("active_users", "acme", "an"),
            ("active_integrations", "acme", "ana"),
        ] {
            assert_ne!(member_id(meter, root, name.as_bytes()), id);
        }
        assert_eq!(Member::of(&[0; 16]).number(), 1);
    }
}
