//! A million active users, by requests and by events: counted within the stated error, in memory
//! that does not grow with them, over `kill -9`, and exactly in ClickHouse.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::orbit::{Home, Orbit, wait_until};

const USERS: u64 = 1_000_000;
/// Those that ask; the others are told by events.
const ASKING: u64 = 80_000;
const CLIENTS: u64 = 16;
const BATCH: u64 = 2_000;
/// Until here a set is exact, and what grows with it grows.
const EXACT: u64 = 65_536;
/// Four times the standard error of 0.81 %, per ten thousand.
const ERROR: u64 = 324;
/// From here on everything that takes events has its buffers.
const WARM: u64 = 300_000;
/// What the process may grow by after that, with all that remembers events.
const GROWTH_KIB: u64 = 16 * 1024;

/// Users of one run: others in every run.
struct Names(u64);

impl Names {
    /// From `ORBIT_SEED`, or new ones.
    fn new() -> Names {
        let given = std::env::var("ORBIT_SEED").ok().and_then(|seed| seed.parse().ok());
        #[expect(clippy::disallowed_methods, reason = "others in every run")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Names(given.unwrap_or(now.as_micros() as u64))
    }

    fn of(&self, user: u64) -> String {
        format!("user-{:x}-{user}", self.0)
    }
}

/// Has users ask, each once, from several connections that stay open.
fn ask(orbit: &Orbit, key: &str, names: &Names, users: std::ops::Range<u64>) {
    let next = AtomicU64::new(users.start);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut socket = BufReader::new(TcpStream::connect(orbit.proxy()).unwrap());
                loop {
                    let user = next.fetch_add(1, Ordering::Relaxed);
                    if user >= users.end {
                        return;
                    }
                    let request = format!(
                        "GET / HTTP/1.1\r\nHost: orbit\r\nAuthorization: Bearer {key}\r\n\
                         X-User: {}\r\n\r\n",
                        names.of(user)
                    );
                    socket.get_mut().write_all(request.as_bytes()).unwrap();
                    assert_eq!(answer(&mut socket), 200, "{user}");
                }
            });
        }
    });
}

/// Reads an answer. Returns its status.
fn answer(socket: &mut BufReader<TcpStream>) -> u16 {
    let (mut status, mut length) = (0, 0);
    let mut line = String::new();
    loop {
        line.clear();
        socket.read_line(&mut line).unwrap();
        match line.trim_end().split_once([' ', ':']) {
            Some(("HTTP/1.1", rest)) => status = rest[..3].parse().unwrap(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).unwrap();
    status
}

/// Tells of users by events.
fn tell(orbit: &Orbit, names: &Names, users: std::ops::Range<u64>) {
    for first in users.clone().step_by(BATCH as usize) {
        let event = |user: u64| {
            json!({
                "specversion": "1.0", "id": user.to_string(), "source": "test",
                "type": "active_users", "subject": "south",
                "data": { "member": names.of(user) },
            })
        };
        let batch: Vec<Value> = (first..users.end.min(first + BATCH)).map(event).collect();
        orbit.events(&Value::Array(batch));
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that fails shows its seed")]
fn a_million_users_are_counted_within_the_stated_error_in_bounded_memory() {
    let plan = "quotas = [{ name = \"users\", meter = \"active_users\", limit = 50_000, \
                per = \"year\", at_limit = \"allow_and_bill\" }]";
    let home = Home::new(plan, &["north", "south"]);
    let orbit = Orbit::start(&home);
    let (key, names) = (&home.keys[0], Names::new());
    let bearer = key.reveal().to_string();

    ask(&orbit, &bearer, &names, 0..EXACT);
    assert_eq!(orbit.used(&home.own, "users"), EXACT, "exact so far");
    ask(&orbit, &bearer, &names, EXACT..ASKING);
    // Whom a request brought is no other when an event does.
    tell(&orbit, &names, EXACT..WARM);
    let memory = orbit.memory_kib();
    tell(&orbit, &names, WARM..USERS);
    let used = orbit.used(&home.own, "users");
    let grown = orbit.memory_kib().saturating_sub(memory);
    let off = used.abs_diff(USERS) * 10_000 / USERS;
    println!("ORBIT_SEED={}: {used} users, off by {off}/10000; {memory} KiB + {grown}", names.0);
    assert!(off <= ERROR, "ORBIT_SEED={}: {used} users", names.0);
    assert!(grown <= GROWTH_KIB, "it grew by {grown} KiB");

    orbit.kill();
    let orbit = Orbit::start(&home);
    wait_until(|| match orbit.used(&home.own, "users") {
        again if again == used => Ok(()),
        again => Err(format!("{again} users, and {used} before the kill")),
    });
    let count = "SELECT uniqExact(request_id) FROM orbit.usage_events \
                 WHERE meter = 'active_users' AND bitAnd(flags, 64) != 0";
    orbit.wait_for(count, &USERS.to_string());
}
