//! Active users by the real binary: the plan's figure to the unit under concurrent clients, over
//! `kill -9` and restarts, and the same in ClickHouse (**P1**, **P3**, **M1**).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/up.rs"]
mod up;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gateway::upstream;
use orbit_policy::ApiKey;
use up::Up;

/// The plan's users.
const CAP: usize = 50;
const CLIENTS: usize = 16;
/// After this a state that should come is not coming.
const BOUND: std::time::Duration = std::time::Duration::from_mins(1);

/// Two teams of one holding, whose plan has [`CAP`] users.
fn prepare(directory: &Path, keys: &[ApiKey; 2]) {
    let upstream = upstream();
    let mut policy = format!(
        "[[plan]]\nid = \"small\"\nusers = {CAP}\napps = [\"crm\"]\n\
         [[app]]\nid = \"crm\"\nend_user_header = \"X-User\"\n\
         [[upstream]]\nid = \"u\"\npeers = [{{ address = \"{upstream}\" }}]\n\
         [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
         [[tenant]]\nid = \"acme\"\nplan = \"small\"\n"
    );
    for (team, key) in ["north", "south"].iter().zip(keys) {
        policy.push_str(&format!(
            "[[tenant]]\nid = \"{team}\"\nparent = \"acme\"\n\
             [[key]]\nid = \"{}\"\ntenant = \"{team}\"\nhash = \"{}\"\n",
            key.id, key.hash
        ));
    }
    // `orbit up` makes keys for these.
    for tenant in ["acme-web", "acme-marketing", "acme-retail", "acme-brasil", "padaria"] {
        policy.push_str(&format!("[[tenant]]\nid = \"{tenant}\"\nparent = \"acme\"\n"));
    }
    std::fs::create_dir(directory.join("policy")).unwrap();
    std::fs::write(directory.join("policy/all.toml"), policy).unwrap();
    up::settings(directory);
}

/// A running `orbit up` and what is asked of it.
struct Orbit(Up);

impl Orbit {
    fn start(directory: &Path) -> Orbit {
        Orbit(Up::start(&directory.join("orbit.toml"), &directory.join("data")))
    }

    fn kill(self) {
        self.0.kill();
    }

    /// Status and body of a request of this user, or of nobody.
    fn ask(&self, key: &ApiKey, user: Option<usize>) -> (u16, String) {
        let user = user.map(|user| format!("X-User: user-{user}\r\n")).unwrap_or_default();
        let fields = format!("Authorization: Bearer {}\r\n{user}", key.reveal());
        let answer = exchange(self.0.proxy, "GET / HTTP/1.1", &fields, "");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// What the finance user sees.
    fn query(&self, directory: &Path, sql: &str) -> String {
        let password = up::secret(directory, "data/clickhouse/finance.password");
        let fields = format!("X-ClickHouse-User: finance\r\nX-ClickHouse-Key: {password}\r\n");
        // HTTP/1.0: the answer is not chunked.
        let answer = exchange(self.0.database, "POST / HTTP/1.0", &fields, sql);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(&head[9..12], "200", "{sql}: {body}");
        body.trim().to_owned()
    }

    /// Waits until the query's answer is as expected.
    fn wait_for(&self, directory: &Path, sql: &str, expected: &str) {
        #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
        let started = std::time::Instant::now();
        loop {
            let answer = self.query(directory, sql);
            if answer == expected {
                return;
            }
            assert!(started.elapsed() < BOUND, "{sql}: {answer:?} and not {expected:?}");
            std::thread::yield_now();
        }
    }
}

fn exchange(address: SocketAddr, line: &str, fields: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        socket,
        "{line}\r\nHost: orbit\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Every user asks twice, through both teams, from sixteen clients at once. Returns which were ever
/// admitted and how often each was refused.
fn storm(
    orbit: &Orbit,
    keys: &[ApiKey; 2],
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
                    match orbit.ask(key, Some(user)).0 {
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
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let keys = [ApiKey::generate("test").unwrap(), ApiKey::generate("test").unwrap()];
    prepare(directory, &keys);
    let orbit = Orbit::start(directory);

    let (admitted, refused) = storm(&orbit, &keys, 67);
    assert_eq!(admitted.len(), CAP, "P1: exactly the plan's users");
    for user in &admitted {
        assert!(!refused.contains_key(user), "a user that is known was refused: {user}");
    }
    assert_eq!(refused.len(), 67 - CAP);
    let stranger = 1_000;
    let (status, body) = orbit.ask(&keys[0], Some(stranger));
    assert_eq!(status, 429);
    for part in ["quota-exceeded", "users", "50"] {
        assert!(body.contains(part), "{part} is not in {body}");
    }
    assert_eq!(orbit.ask(&keys[0], None).0, 200, "who is nobody takes no place");

    let mut orbit = orbit;
    for _ in 0..2 {
        orbit.kill();
        orbit = Orbit::start(directory);
        assert_eq!(orbit.ask(&keys[0], Some(stranger)).0, 429, "P3: no place came free");
        let (again, _) = storm(&orbit, &keys, 67);
        assert_eq!(again, admitted, "P3: the same users go on");
    }

    let count = "SELECT uniqExact(request_id) FROM orbit.usage_events \
                 WHERE meter = 'active_users' AND bitAnd(flags, 64) != 0";
    orbit.wait_for(directory, count, &CAP.to_string());
    let below = format!("{count} AND has(splitByChar('/', path), 'acme')");
    assert_eq!(orbit.query(directory, &below), CAP.to_string());
    for team in ["north", "south"] {
        // Every user that was admitted came by both teams.
        orbit.wait_for(directory, &format!("{count} AND tenant = '{team}'"), &CAP.to_string());
    }
}
