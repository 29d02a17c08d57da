//! A restart is no amnesty (P3): the real binary, stopped in order and killed, and its limits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "support/gateway.rs"]
mod gateway;

use std::path::PathBuf;

use gateway::{Gateway, upstream};
use orbit_policy::ApiKey;

/// A gateway's files, and a key for each of its tenants.
struct Home {
    directory: tempfile::TempDir,
    slow: ApiKey,
    quick: ApiKey,
    clients: ApiKey,
}

impl Home {
    /// Tenant `slow` has 30 an hour and 5 at once, `quick` one a second and 5 at once, `clients` 3
    /// an hour for each client.
    fn new(after_crash: &str) -> Home {
        let directory = tempfile::tempdir().unwrap();
        let key = || ApiKey::generate("test").unwrap();
        let home = Home { directory, slow: key(), quick: key(), clients: key() };
        let upstream = upstream();
        let mut policy = format!(
            "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n[[app]]\nid = \"crm\"\n\
             [[upstream]]\nid = \"u\"\npeers = [{{ address = \"{upstream}\" }}]\n\
             [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n"
        );
        for (tenant, key, limit) in [
            ("slow", &home.slow, "rate = 30, per = \"hour\", burst = 5"),
            ("quick", &home.quick, "rate = 1, per = \"second\", burst = 5"),
            ("clients", &home.clients, "rate = 3, per = \"hour\", each = \"client_ip\""),
        ] {
            policy.push_str(&format!(
                "[[tenant]]\nid = \"{tenant}\"\nplan = \"p\"\n\
                 limits = [{{ name = \"requests\", {limit} }}]\n\
                 [[key]]\nid = \"{}\"\ntenant = \"{tenant}\"\nhash = \"{}\"\n",
                key.id, key.hash
            ));
        }
        // Nothing listens at the database's port: the journal keeps what was served.
        let settings = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"data/token\"\n\
             [ingest]\nlisten = \"\"\n\
             [limits]\ndirectory = \"data/state\"\nafter_crash = \"{after_crash}\"\n\
             [journal]\ndirectory = \"data/journal\"\nsegment_bytes = 1048576\n\
             max_bytes = 67108864\n\
             [clickhouse]\nmode = \"external\"\nurl = \"http://127.0.0.1:1\"\n\
             [log]\nformat = \"json\"\n"
        );
        std::fs::create_dir(home.path("policy")).unwrap();
        std::fs::write(home.path("policy/all.toml"), policy).unwrap();
        std::fs::write(home.path("orbit.toml"), settings).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A running gateway and what is asked of it.
struct Running(Gateway);

impl Running {
    fn start(home: &Home) -> Running {
        Running(Gateway::start(&home.path("orbit.toml")))
    }

    fn stop(self) {
        self.0.stop();
    }

    fn kill(self) {
        self.0.kill();
    }

    /// Status and `Retry-After` of one request of this key and client.
    fn ask(&self, key: &ApiKey, client: u8) -> (u16, Option<u64>) {
        let fields = format!(
            "Authorization: Bearer {}\r\nX-Forwarded-For: 10.1.2.{client}\r\n",
            key.reveal()
        );
        let answer = gateway::ask(&self.0.proxy, "GET /", &fields).unwrap();
        let retry = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("retry-after").then(|| value.trim().parse().unwrap())
        });
        (gateway::status(&answer), retry)
    }

    fn metrics(&self, home: &Home) -> String {
        let token = std::fs::read_to_string(home.path("data/token")).unwrap();
        let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
        gateway::ask(&self.0.admin, "GET /metrics", &bearer).unwrap()
    }

    /// Until what was granted before is on the disk.
    fn wait_for_a_save(&self, home: &Home) {
        #[expect(clippy::disallowed_methods, reason = "compared with the gateway's own clock")]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        loop {
            let metrics = self.metrics(home);
            let saved = metrics.lines().find_map(|line| {
                line.strip_prefix("orbit_limit_state_saved_timestamp_seconds ")?.parse::<f64>().ok()
            });
            if saved.unwrap() > now.as_secs_f64() {
                return;
            }
        }
    }

    /// How many of `count` requests are granted.
    fn granted(&self, key: &ApiKey, client: u8, count: usize) -> usize {
        (0..count).filter(|_| self.ask(key, client).0 == 200).count()
    }
}

#[test]
fn p3_a_restart_in_order_goes_on_where_it_was() {
    let home = Home::new("resume");
    let gateway = Running::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 9), 5);
    assert_eq!(gateway.granted(&home.clients, 1, 9), 3);
    assert_eq!(gateway.granted(&home.clients, 2, 1), 1);
    let (status, before) = gateway.ask(&home.slow, 1);
    assert_eq!(status, 429);
    gateway.stop();

    let gateway = Running::start(&home);
    let (status, after) = gateway.ask(&home.slow, 1);
    assert_eq!(status, 429);
    // One comes back every two minutes; the promise goes on over the restart.
    let (before, after) = (before.unwrap(), after.unwrap());
    assert!(after <= before && before - after < 60, "{before} s before, {after} s after");
    assert_eq!(gateway.granted(&home.clients, 1, 9), 0);
    assert_eq!(gateway.granted(&home.clients, 2, 9), 2);
    assert_eq!(gateway.granted(&home.clients, 3, 9), 3);
    let metrics = gateway.metrics(&home);
    for name in ["orbit_limit_state_saved_timestamp_seconds", "orbit_limit_state_buckets"] {
        assert!(metrics.contains(&format!("\n{name} ")), "{name} is not in {metrics}");
    }
    gateway.stop();
}

#[test]
fn p3_kill_9_keeps_what_was_saved() {
    let home = Home::new("resume");
    let mut gateway = Running::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 4), 4);
    assert_eq!(gateway.granted(&home.clients, 1, 9), 3);
    gateway.wait_for_a_save(&home);
    for _ in 0..3 {
        gateway.kill();
        gateway = Running::start(&home);
        assert_eq!(gateway.granted(&home.clients, 1, 9), 0);
    }
    assert_eq!(gateway.granted(&home.slow, 1, 9), 1);
}

#[test]
fn p1_empty_refuses_after_kill_9_and_refills_at_the_rate() {
    let home = Home::new("empty");
    let gateway = Running::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 1), 1, "a first start is no crash");
    gateway.kill();

    let gateway = Running::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 3), 0);
    assert_eq!(gateway.granted(&home.clients, 9, 3), 0, "a client that was never seen");
    let (status, retry) = gateway.ask(&home.slow, 1);
    assert!(status == 429 && (100..=120).contains(&retry.unwrap()), "{retry:?}");
    // The quick one has one more each second, and none at once.
    while gateway.ask(&home.quick, 1).0 != 200 {}
    assert!(gateway.granted(&home.quick, 1, 5) <= 1);
    gateway.stop();

    // In order: as it was, neither full nor emptied again.
    let gateway = Running::start(&home);
    let (status, later) = gateway.ask(&home.slow, 1);
    assert!(status == 429 && later <= retry, "{later:?} after {retry:?}");
    gateway.stop();
}
