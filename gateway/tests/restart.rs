//! A restart is no amnesty (P3): the real binary, stopped in order and killed, and its limits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::print_stderr, reason = "the log of the gateways goes to that of the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use orbit_policy::ApiKey;
use rustix::process::{Pid, Signal, kill_process};

/// An upstream that answers everything, for as long as the test program runs.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
                drop(socket.write_all(answer.as_bytes()));
            });
        }
    });
    address
}

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

/// A running `orbit gateway`; killed with the test at the latest.
struct Gateway {
    child: Child,
    proxy: String,
    admin: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Gateway {
    fn start(home: &Home) -> Gateway {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orbit"))
            .arg("gateway")
            .arg("--config")
            .arg(home.path("orbit.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let serving = log.by_ref().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            eprintln!("{line}");
            (line["message"] == "serving").then_some(line)
        });
        let serving = serving.expect("it serves");
        let address =
            |field: &str| serving[field].as_str().unwrap().trim_matches(['[', ']']).to_owned();
        let (proxy, admin) = (address("proxy"), address("admin"));
        // Keeps the pipe open and empty.
        std::thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
        Gateway { child, proxy, admin }
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Status and `Retry-After` of one request of this key and client.
    fn ask(&self, key: &ApiKey, client: u8) -> (u16, Option<u64>) {
        let fields = format!(
            "Authorization: Bearer {}\r\nX-Forwarded-For: 10.1.2.{client}\r\n",
            key.reveal()
        );
        let answer = get(&self.proxy, "/", &fields);
        let retry = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("retry-after").then(|| value.trim().parse().unwrap())
        });
        (answer[9..12].parse().unwrap(), retry)
    }

    fn metrics(&self, home: &Home) -> String {
        let token = std::fs::read_to_string(home.path("data/token")).unwrap();
        get(&self.admin, "/metrics", &format!("Authorization: Bearer {}\r\n", token.trim()))
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

fn get(address: &str, path: &str, fields: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: orbit\r\nConnection: close\r\n{fields}\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn p3_a_restart_in_order_goes_on_where_it_was() {
    let home = Home::new("resume");
    let gateway = Gateway::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 9), 5);
    assert_eq!(gateway.granted(&home.clients, 1, 9), 3);
    assert_eq!(gateway.granted(&home.clients, 2, 1), 1);
    let (status, before) = gateway.ask(&home.slow, 1);
    assert_eq!(status, 429);
    gateway.stop();

    let gateway = Gateway::start(&home);
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
    let mut gateway = Gateway::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 4), 4);
    assert_eq!(gateway.granted(&home.clients, 1, 9), 3);
    gateway.wait_for_a_save(&home);
    for _ in 0..3 {
        gateway.kill();
        gateway = Gateway::start(&home);
        assert_eq!(gateway.granted(&home.clients, 1, 9), 0);
    }
    assert_eq!(gateway.granted(&home.slow, 1, 9), 1);
}

#[test]
fn p1_empty_refuses_after_kill_9_and_refills_at_the_rate() {
    let home = Home::new("empty");
    let gateway = Gateway::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 1), 1, "a first start is no crash");
    gateway.kill();

    let gateway = Gateway::start(&home);
    assert_eq!(gateway.granted(&home.slow, 1, 3), 0);
    assert_eq!(gateway.granted(&home.clients, 9, 3), 0, "a client that was never seen");
    let (status, retry) = gateway.ask(&home.slow, 1);
    assert!(status == 429 && (100..=120).contains(&retry.unwrap()), "{retry:?}");
    // The quick one has one more each second, and none at once.
    while gateway.ask(&home.quick, 1).0 != 200 {}
    assert!(gateway.granted(&home.quick, 1, 5) <= 1);
    gateway.stop();

    // In order: as it was, neither full nor emptied again.
    let gateway = Gateway::start(&home);
    let (status, later) = gateway.ask(&home.slow, 1);
    assert!(status == 429 && later <= retry, "{later:?} after {retry:?}");
    gateway.stop();
}
