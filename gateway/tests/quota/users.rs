//! Active users: the plan's figure to the unit under concurrent clients, over `kill -9` and restarts,
//! and the same in ClickHouse (**P1**, **P3**, **M1**).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use orbit_policy::ApiKey;

use crate::orbit::{Home, Orbit};

/// The plan's users.
const CAP: usize = 50;
const CLIENTS: usize = 16;

/// Two teams of one holding, whose plan has [`CAP`] users.
pub(crate) fn home() -> Home {
    Home::new(&format!("users = {CAP}"), &["north", "south"])
}

/// Status and body of a request of this user, or of nobody.
pub(crate) fn ask(orbit: &Orbit, key: &ApiKey, user: Option<usize>) -> (u16, String) {
    let user = user.map(|user| format!("X-User: user-{user}\r\n")).unwrap_or_default();
    orbit.send(key, "GET", "/", &user, b"")
}

/// Every user asks twice, through both teams, from sixteen clients at once. Returns which were ever
/// admitted and how often each was refused.
pub(crate) fn storm(
    orbit: &Orbit,
    keys: &[ApiKey],
    users: usize,
) -> (BTreeSet<usize>, BTreeMap<usize, usize>) {
    let (admitted, refused) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeMap::new()));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= users * 4 {
                        return;
                    }
                    let (user, key) = (turn * 13 % users, &keys[turn / users % 2]);
                    match ask(orbit, key, Some(user)).0 {
                        200 => drop(admitted.lock().unwrap().insert(user)),
                        429 => *refused.lock().unwrap().entry(user).or_default() += 1,
                        status => panic!("{status}"),
                    }
                }
            });
        }
    });
    (admitted.into_inner().unwrap(), refused.into_inner().unwrap())
}

#[test]
fn p1_p3_fifty_users_and_not_one_more_over_kills_and_in_clickhouse() {
    let home = home();
    let orbit = Orbit::start(&home);

    let (admitted, refused) = storm(&orbit, &home.keys, 67);
    assert_eq!(admitted.len(), CAP, "P1: exactly the plan's users");
    for user in &admitted {
        assert!(!refused.contains_key(user), "a user that is known was refused: {user}");
    }
    assert_eq!(refused.len(), 67 - CAP);
    let stranger = 1_000;
    let (status, body) = ask(&orbit, &home.keys[0], Some(stranger));
    assert_eq!(status, 429);
    for part in ["quota-exceeded", "users", "50"] {
        assert!(body.contains(part), "{part} is not in {body}");
    }
    assert_eq!(ask(&orbit, &home.keys[0], None).0, 429, "who does not say is one more");

    let mut orbit = orbit;
    for _ in 0..2 {
        orbit.kill();
        orbit = Orbit::start(&home);
        assert_eq!(ask(&orbit, &home.keys[0], Some(stranger)).0, 429, "P3: no place came free");
        let (again, _) = storm(&orbit, &home.keys, 67);
        assert_eq!(again, admitted, "P3: the same users go on");
    }

    let count = "SELECT uniqExact(request_id) FROM orbit.usage_events \
                 WHERE meter = 'active_users' AND bitAnd(flags, 64) != 0";
    orbit.wait_for(count, &CAP.to_string());
    let below = format!("{count} AND has(splitByChar('/', path), 'acme')");
    assert_eq!(orbit.query(&below), CAP.to_string());
    for team in ["north", "south"] {
        // Every user that was admitted came by both teams.
        orbit.wait_for(&format!("{count} AND tenant = '{team}'"), &CAP.to_string());
    }
}
