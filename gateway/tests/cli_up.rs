//! `orbit up` from start to stop with the real engine: what it prints works, what it answers is in
//! the usage database, and nothing it started is left.

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/up.rs"]
mod up;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use gateway::upstream;
use rustix::process::{Pid, Signal, kill_process};
use up::Up;

/// How long rows may take to arrive; they take a second.
const PATIENCE_STEPS: u32 = 300;
const STEP: Duration = Duration::from_millis(100);

/// The demonstration's tenants and one route, as small as they can be.
fn policy(upstream: std::net::SocketAddr) -> String {
    let plan = format!(
        "[[plan]]\nid = \"business\"\napps = [\"crm\"]\n\
         [[app]]\nid = \"crm\"\n[[app]]\nid = \"ai\"\n\
         [[upstream]]\nid = \"apps\"\npeers = [{{ address = \"{upstream}\" }}]\n\
         [[route]]\nid = \"crm\"\napp = \"crm\"\npath = \"/crm\"\nupstream = \"apps\"\n\
         [[route]]\nid = \"ai\"\napp = \"ai\"\npath = \"/ai\"\nupstream = \"apps\"\n"
    );
    let tree = [
        ("acme", "plan = \"business\""),
        ("acme-brasil", "parent = \"acme\""),
        ("acme-retail", "parent = \"acme-brasil\""),
        ("acme-marketing", "parent = \"acme-retail\""),
        ("acme-web", "parent = \"acme-marketing\""),
        ("padaria", "plan = \"business\""),
    ];
    let tenants = tree.map(|(id, place)| format!("[[tenant]]\nid = \"{id}\"\n{place}\n"));
    plan + &tenants.concat()
}

/// As a user starts it: in its directory, with its settings.
fn start(home: &Path) -> Up {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orbit"));
    command.current_dir(home);
    command.args(["up", "--config", "orbit.toml", "--demo-listen", "127.0.0.1:0"]);
    command.env("ORBIT_LIBCHDB", library());
    Up::run(command)
}

/// The only child process of the only thread that has one.
fn engine_pid(up: &Up) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", up.pid())).expect("it runs");
    let children = tasks.flatten().find_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    });
    children.and_then(Pid::from_raw).expect("the engine is a child")
}

/// The engine's library, or a plain word about what is missing.
fn library() -> PathBuf {
    if let Some(named) = std::env::var_os("ORBIT_LIBCHDB") {
        return named.into();
    }
    let below = "deploy/clickhouse/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so";
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join(below))
        .find(|file| file.exists());
    found.unwrap_or_else(|| panic!("the ClickHouse engine is not installed: run `make engine`"))
}

/// One request on a connection of its own; the status and the whole answer.
fn ask(address: SocketAddr, target: &str, fields: &str, body: &str) -> (u16, String) {
    speak("HTTP/1.1", address, target, fields, body)
}

fn speak(
    version: &str,
    address: SocketAddr,
    target: &str,
    fields: &str,
    body: &str,
) -> (u16, String) {
    let mut socket = TcpStream::connect(address).expect("it listens");
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = format!(
        "{method} {target} {version}\r\nHost: orbit\r\nConnection: close\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answered");
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok()).expect("a status");
    (status, answer)
}

/// Asks the engine as finance does.
fn query(home: &Path, address: SocketAddr, sql: &str) -> String {
    let password = fs::read_to_string(home.join("data/clickhouse/finance.password"));
    let fields = format!(
        "X-ClickHouse-User: finance\r\nX-ClickHouse-Key: {}\r\n",
        password.expect("made").trim()
    );
    // The old version's answers are never chunked: the rest is the result.
    let (status, answer) = speak("HTTP/1.0", address, "/?default_format=TSV", &fields, sql);
    assert_eq!(status, 200, "{answer}");
    answer.split_once("\r\n\r\n").expect("a body").1.trim_end().to_owned()
}

#[test]
fn everything_starts_records_and_stops() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let settings = "\
[server]
listen = [\"127.0.0.1:0\"]
[admin]
listen = \"127.0.0.1:0\"
[ingest]
listen = \"127.0.0.1:0\"
[clickhouse]
http_port = 0
tcp_port = 0
max_memory_bytes = 2147483648
[journal]
segment_bytes = 1048576
";
    fs::write(home.join("orbit.toml"), settings).expect("written");
    fs::create_dir(home.join("policy")).expect("made");
    fs::write(home.join("policy/all.toml"), policy(upstream())).expect("written");

    let up = start(home);
    let key = up.tour.lines().find_map(|line| line.trim().strip_prefix("orb_demo_"));
    let authorization = format!("Authorization: Bearer orb_demo_{}\r\n", key.expect("shown"));
    let Up { proxy, admin, database: engine, .. } = up;

    let (status, answer) = ask(proxy, "/crm/hello", &authorization, "");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(ask(proxy, "/crm/hello", "", "").0, 401);
    assert_eq!(ask(proxy, "/ai/hello", &authorization, "").0, 403);

    let token = fs::read_to_string(home.join("data/admin.token")).expect("made");
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    let (status, ready) = ask(admin, "/readyz", &bearer, "");
    assert_eq!(status, 200, "{ready}");

    let rows = "SELECT tenant, path, route, toString(kind), status, sum(requests) FROM \
                orbit.usage_events WHERE tenant = 'acme-web' AND kind = 'request' GROUP BY ALL";
    let expected = "acme-web\tacme/acme-brasil/acme-retail/acme-marketing/acme-web\tcrm\trequest\
                    \t200\t1";
    let arrived = (0..PATIENCE_STEPS).any(|_| {
        thread::sleep(STEP);
        query(home, engine, rows) == expected
    });
    assert!(arrived, "{}", query(home, engine, rows));
    let (status, usage) = ask(admin, "/v1/tenants/acme-brasil/usage", &bearer, "");
    assert_eq!(status, 200, "{usage}");
    assert!(
        usage.contains("\"meter\":\"api_calls\"") && usage.contains("\"requests\":1"),
        "{usage}"
    );

    // The engine dies; requests go on, and it is started again on the same ports.
    kill_process(engine_pid(&up), Signal::KILL).expect("it runs");
    assert_eq!(ask(proxy, "/crm/meanwhile", &authorization, "").0, 200);
    let back = (0..PATIENCE_STEPS).any(|_| {
        thread::sleep(STEP);
        let (status, ready) = ask(admin, "/readyz", &bearer, "");
        assert_eq!(status, 200, "the database is no reason to take the gateway out: {ready}");
        ready.contains("\"engine_restarts\":1") && ready.contains("\"reachable\":true")
    });
    assert!(back, "{}", ask(admin, "/readyz", &bearer, "").1);

    let mode = |name: &str| {
        let metadata = fs::metadata(home.join(name)).expect("there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("data"), 0o700);
    for secret in ["data/demo.env", "data/admin.token", "data/clickhouse/finance.password"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }

    // A request right before the end: it must be in the database after the next start.
    assert_eq!(ask(proxy, "/crm/last", &authorization, "").0, 200);
    assert_eq!(up.stop(Signal::TERM), "\nStopped.\n");
    for address in [proxy, admin, engine] {
        assert!(TcpStream::connect(address).is_err(), "{address} still listens");
    }

    let again = start(home);
    assert!(!again.tour.contains("orb_demo_"), "keys are shown once: {}", again.tour);
    assert!(again.tour.contains("data/demo.env"), "{}", again.tour);
    let count = "SELECT sum(requests) FROM orbit.usage_events WHERE tenant = 'acme-web' AND \
                 kind = 'request'";
    // The last flush had it shipped before the engine stopped: there is nothing to wait for.
    assert_eq!(query(home, again.database, count), "3");
    again.stop(Signal::INT);
}
