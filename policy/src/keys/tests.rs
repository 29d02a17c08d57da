//! Keys: round trip, typos, hostile bytes.

use proptest::prelude::*;

use super::{ApiKey, NewKeyError, Presented};

/// A well-formed key with a given id and secret.
pub(crate) fn key_text(id: &str, secret: &str) -> String {
    let body = format!("orb_test_{id}_{secret}");
    let check = super::checksum(body.as_bytes());
    body + std::str::from_utf8(&check).expect("base62")
}

fn key() -> ApiKey {
    ApiKey::generate("test").expect("a key")
}

#[test]
fn a_new_key_is_recognised_and_no_other_is() {
    let (key, other) = (key(), key());
    let presented = Presented::parse(key.reveal().as_bytes()).expect("well-formed");
    assert_eq!(presented.id, key.id);
    assert!(presented.matches(&key.hash));
    assert!(!presented.matches(&other.hash));
}

#[test]
fn any_one_changed_character_is_caught_before_the_look_up() {
    let text = key().reveal().to_owned();
    for index in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[index] = if bytes[index] == b'x' { b'y' } else { b'x' };
        assert!(Presented::parse(&bytes).is_none(), "changed character {index}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let key = key();
    let secret = &key.reveal()[key.reveal().len() - 38..];
    assert!(!format!("{key:?} {:?}", key.hash).contains(secret));
}

#[test]
fn labels_are_letters() {
    for env in ["", "Live", "a-b", "ninechars"] {
        assert!(matches!(ApiKey::generate(env), Err(NewKeyError::Env(_))), "{env}");
    }
}

proptest! {
    #[test]
    fn any_bytes_may_come_in(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(Presented::parse(&bytes).is_none());
        let mut prefixed = b"orb_".to_vec();
        prefixed.extend(&bytes);
        prop_assert!(Presented::parse(&prefixed).is_none());
    }
}
