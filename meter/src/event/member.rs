//! The name of a member of a meter that counts distinct ones.
//!
//! Rows of one member carry one request id, whoever wrote them: how many different ids there are is
//! the figure, at every level of the tree. So the id is made of the root tenant and not of the one
//! that was used: one person in two departments is one user of the holding. Members are hashed and
//! never kept as they are.

pub use orbit_policy::members::member_id;

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
}
