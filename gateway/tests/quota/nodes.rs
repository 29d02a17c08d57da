//! Two nodes of one database share what a plan has, and a node that lost its state begins with what
//! the rows say (**P3**).

use orbit_policy::ApiKey;

use crate::orbit::{Home, Orbit, wait_until};
use crate::users::{ask, storm};

/// Waits until a node knows that so much of a quota is used.
fn knows(orbit: &Orbit, key: &ApiKey, name: &str, used: u64) {
    wait_until(|| match orbit.used(key, name) {
        seen if seen == used => Ok(()),
        seen => Err(format!("{seen} of {name} are used, and not {used}")),
    });
}

#[test]
fn p3_nodes_share_users_calls_and_storage_and_a_lost_state_is_no_amnesty() {
    let plan = "users = 50\nstorage_gb = 1\nquotas = [{ name = \"calls\", meter = \"api_calls\", \
                limit = 1_000, per = \"month\" }]";
    let home = Home::new(plan, &["north", "south"]);
    let first = Orbit::start(&home);
    let second = first.beside(&home, "second");
    let key = &home.keys[0];
    let (admitted, refused) = storm(&first, &home.keys, 40);
    assert_eq!((admitted.len(), refused.len()), (40, 0));
    assert_eq!(first.send(key, "POST", "/docs", "", &[b'x'; 1_000]).0, 200);
    // 4 x 40 requests, and the upload of a user with no name.
    let calls = 4 * 40 + 1;
    assert_eq!(first.used(key, "calls"), calls);
    for (name, used) in [("users", 41), ("calls", calls), ("storage", 1_000)] {
        knows(&second, key, name, used);
    }
    // Nine places are left for both, at whichever node.
    let strangers: Vec<u16> = (100..112).map(|user| ask(&second, key, Some(user)).0).collect();
    assert_eq!(strangers.iter().filter(|status| **status == 200).count(), 9, "{strangers:?}");
    let known = admitted.iter().map(|user| ask(&second, key, Some(*user)).0);
    assert!(known.into_iter().all(|status| status == 200), "who is known to one is to the other");
    let calls = calls + 9 + 40;
    for orbit in [&first, &second] {
        knows(orbit, key, "users", 50);
        knows(orbit, key, "calls", calls);
    }
    assert_eq!(ask(&first, key, Some(500)).0, 429);

    first.kill();
    std::fs::remove_dir_all(home.path("data/state")).unwrap();
    let first = Orbit::start(&home);
    for (name, used) in [("users", 50), ("calls", calls), ("storage", 1_000)] {
        knows(&first, key, name, used);
    }
    assert_eq!(ask(&first, key, Some(501)).0, 429);
    assert_eq!(ask(&first, key, Some(100)).0, 200);
}
