//! The name of a member of a meter that counts distinct ones.
//!
//! Rows of one member carry one request id, whoever wrote them: how many different ids there are is
//! the figure, at every level of the tree. So the id is made of the root tenant and not of the one
//! that was used: one person in two departments is one user of the holding. Members are hashed and
//! never kept as they are.

use sha2::{Digest, Sha256};

/// The request id of a member's rows: the first half of SHA-256 over meter and root tenant, each
/// after its length (64 bits, little-endian), and the member, so that no two are one text.
pub fn member_id(meter: &str, root_tenant: &str, member: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in [meter, root_tenant] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(member);
    let digest: [u8; 32] = hash.finalize().into();
    *digest.first_chunk().expect("16 of 32 bytes")
}

/// The root of a row's path: `acme` of `acme/acme-brasil/sales`.
pub fn root_of(path: &str) -> &str {
    path.split_once('/').map_or(path, |(root, _)| root)
}

#[cfg(test)]
mod tests {
    use super::{member_id, root_of};

    #[test]
    fn a_member_is_one_below_one_root_and_meter_only() {
        let ann = member_id("active_users", "acme", b"ann");
        assert_eq!(ann, member_id("active_users", root_of("acme/north/sales"), b"ann"));
        assert_eq!(ann, member_id("active_users", root_of("acme"), b"ann"));
        let others = [
            member_id("active_users", "acme", b"bob"),
            member_id("active_users", "globex", b"ann"),
            member_id("active_integrations", "acme", b"ann"),
            member_id("active_user", "sacme", b"ann"),
            member_id("active_users", "acm", b"eann"),
            member_id("active_users", "acme", b""),
        ];
        assert!(!others.contains(&ann));
    }

    #[test]
    fn the_name_is_for_ever() {
        // printf '\x01\0\0\0\0\0\0\0m\x01\0\0\0\0\0\0\0tx' | sha256sum
        let id = u128::from_be_bytes(member_id("m", "t", b"x"));
        assert_eq!(id, 0x6327_aeb4_a176_ac08_378c_cc6e_00b4_494c);
    }
}
