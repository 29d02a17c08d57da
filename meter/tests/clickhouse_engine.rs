//! The embedded engine as its users meet it: starting, users' rights, stopping, crashing, a full disk.

#[path = "journal/disk.rs"]
mod disk;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use orbit_meter::clickhouse::engine::{Engine, EngineError, EngineSettings};
use orbit_meter::clickhouse::{ClickHouseSettings, testing};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn engine_process() {
    testing::serve_if_asked();
}

fn start(data: &Path) -> Engine {
    testing::start_self(data, "engine_process")
}

/// The raw answer of the HTTP interface to a query of `user`.
fn ask(engine: &Engine, user: &str, password: &str, query: &str) -> String {
    let mut stream =
        TcpStream::connect(("127.0.0.1", engine.http_port())).expect("the engine listens");
    let request = format!(
        "POST / HTTP/1.0\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
         Content-Length: {}\r\n\r\n{query}",
        query.len()
    );
    stream.write_all(request.as_bytes()).expect("the engine reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the engine answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer has a body");
    body.trim_end().to_owned()
}

fn ask_as(engine: &Engine, who: &ClickHouseSettings, query: &str) -> String {
    ask(engine, &who.user, &who.password, query)
}

#[test]
fn starts_serves_and_stops_cleanly() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let orbit = engine.settings();
    assert_eq!(ask_as(&engine, &orbit, "SELECT 1 + 1"), "2");
    assert_eq!(
        ask_as(&engine, &orbit, "SELECT value FROM system.settings WHERE name = 'async_insert'"),
        "0"
    );
    assert!(engine.exited().is_none());
    engine.stop(PATIENCE).expect("a clean stop");
}

#[test]
fn secrets_are_private_and_kept() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let (orbit, finance) = (engine.settings(), engine.finance_settings());
    for name in ["orbit.password", "finance.password", "users.xml", "config.xml"] {
        let mode = fs::metadata(data.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let command = fs::read_to_string(format!("/proc/{}/cmdline", engine.pid())).expect("cmdline");
    let users = fs::read_to_string(data.path().join("users.xml")).expect("users.xml");
    let shown = format!("{engine:?} {orbit:?} {finance:?}");
    for secret in [&orbit.password, &finance.password] {
        assert!(!command.contains(secret.as_str()) && !shown.contains(secret.as_str()));
        assert!(!users.contains(secret.as_str()), "users.xml holds hashes only");
    }
    engine.stop(PATIENCE).expect("a clean stop");
    let engine = start(data.path());
    assert_eq!(engine.settings().password, orbit.password);
    assert_eq!(engine.finance_settings().password, finance.password);
}

#[test]
fn users_may_do_their_work_and_nothing_else() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let (orbit, finance) = (engine.settings(), engine.finance_settings());
    for query in [
        "CREATE DATABASE orbit",
        "CREATE TABLE orbit.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE DATABASE other",
        "CREATE TABLE other.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "INSERT INTO orbit.t VALUES (1)",
    ] {
        assert_eq!(ask_as(&engine, &orbit, query), "", "{query}");
    }
    assert_eq!(ask_as(&engine, &finance, "SELECT a FROM orbit.t"), "1");
    let denied = |who: &ClickHouseSettings, query: &str| {
        let answer = ask_as(&engine, who, query);
        assert!(
            answer.contains("ACCESS_DENIED") || answer.contains("READONLY"),
            "{}: {query}: {answer}",
            who.user
        );
    };
    for query in [
        "INSERT INTO orbit.t VALUES (2)",
        "DROP TABLE orbit.t",
        "ALTER TABLE orbit.t DELETE WHERE 1",
        "CREATE TABLE orbit.u (a UInt8) ENGINE = MergeTree ORDER BY a",
        "SELECT a FROM other.t",
        "SELECT name FROM system.users",
        "SELECT query FROM system.processes",
        "SELECT * FROM system.server_settings",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SYSTEM STOP LISTEN HTTP",
        "KILL QUERY WHERE 1",
    ] {
        denied(&finance, query);
    }
    let raised = ask_as(&engine, &finance, "SELECT 1 SETTINGS max_memory_usage = 0");
    assert!(raised.contains("SETTING_CONSTRAINT_VIOLATION"), "{raised}");
    for query in [
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "CREATE USER eve",
        "SYSTEM SHUTDOWN",
    ] {
        denied(&orbit, query);
    }
}

#[test]
fn nobody_gets_in_without_a_password() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    for (user, password) in [("orbit", ""), ("finance", ""), ("orbit", "guess"), ("", "")] {
        let answer = ask(&engine, user, password, "SELECT 1");
        assert!(
            answer.contains("AUTHENTICATION_FAILED")
                || answer.contains("USER_SESSION_LIMIT_EXCEEDED"),
            "{user:?}: {answer}"
        );
    }
    // `default` has no password, but its only session is the engine's own.
    for query in ["SELECT 1", "SYSTEM STOP LISTEN HTTP", "SELECT * FROM system.users"] {
        let answer = ask(&engine, "default", "", query);
        assert!(answer.contains("USER_SESSION_LIMIT_EXCEEDED"), "{query}: {answer}");
    }
    assert_eq!(ask_as(&engine, &engine.settings(), "SELECT 1"), "1");
}

#[test]
fn acknowledged_rows_survive_a_kill() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let orbit = engine.settings();
    assert_eq!(ask_as(&engine, &orbit, "CREATE DATABASE orbit"), "");
    assert_eq!(
        ask_as(&engine, &orbit, "CREATE TABLE orbit.t (a UInt64) ENGINE = MergeTree ORDER BY a"),
        ""
    );
    let insert = "INSERT INTO orbit.t SELECT number FROM numbers(100000)";
    assert_eq!(ask_as(&engine, &orbit, insert), "");
    engine.kill();
    let engine = start(data.path());
    assert_eq!(
        ask_as(&engine, &orbit, "SELECT count(), sum(a) FROM orbit.t"),
        "100000\t4999950000"
    );
}

#[test]
fn the_query_log_survives_a_restart() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let orbit = engine.settings();
    assert_eq!(ask_as(&engine, &orbit, "SELECT 'find me again'"), "find me again");
    assert_eq!(ask_as(&engine, &orbit, "SYSTEM FLUSH LOGS"), "");
    engine.stop(PATIENCE).expect("a clean stop");
    let engine = start(data.path());
    // The table is attached when it is first written to in this life.
    assert_eq!(ask_as(&engine, &orbit, "SYSTEM FLUSH LOGS"), "");
    let found = "SELECT count() FROM system.query_log WHERE type = 'QueryFinish' \
                 AND query = 'SELECT \\'find me again\\''";
    assert_eq!(ask_as(&engine, &orbit, found), "1");
}

/// On a disk without a free block, as often as it takes; what was kept is there, and when there is room
/// it is written to again. A table that had no room when it was made does not stand in the way.
#[test]
fn m4_an_engine_starts_on_a_full_disk() {
    if !disk::in_own_namespace("m4_an_engine_starts_on_a_full_disk") {
        return;
    }
    let disk = disk::Disk::new(256);
    let data = disk.root().join("clickhouse");
    let engine = start(&data);
    let orbit = engine.settings();
    let table = "CREATE TABLE orbit.t (a UInt8) ENGINE = MergeTree ORDER BY a";
    for query in ["CREATE DATABASE orbit", table, "INSERT INTO orbit.t VALUES (1)"] {
        assert_eq!(ask_as(&engine, &orbit, query), "", "{query}");
    }
    let filler = disk.fill("filler");
    let insert = "INSERT INTO orbit.t VALUES (2)";
    let refused = ask_as(&engine, &orbit, insert);
    assert!(refused.contains("NOT_ENOUGH_SPACE"), "{refused}");
    let unmade = ask_as(&engine, &orbit, &table.replace("orbit.t", "orbit.u"));
    assert!(unmade.contains("No space left on device"), "{unmade}");
    engine.kill();
    let definitions = fs::canonicalize(data.join("metadata/orbit")).expect("there");
    fs::write(definitions.join("unmade.sql"), "").expect("an empty file needs no block");
    for _ in 0..3 {
        let engine = start(&data);
        assert_eq!(ask_as(&engine, &engine.settings(), "SELECT a FROM orbit.t"), "1");
        engine.kill();
    }
    let engine = start(&data);
    fs::remove_file(filler).expect("there");
    let orbit = engine.settings();
    assert_eq!(ask_as(&engine, &orbit, insert), "");
    assert_eq!(ask_as(&engine, &orbit, "SELECT sum(a) FROM orbit.t"), "3");
    engine.stop(PATIENCE).expect("a clean stop");
}

#[test]
fn one_directory_has_one_engine() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let first = start(data.path());
    let program = std::env::current_exe().expect("a running test has a file");
    let settings = EngineSettings {
        start_timeout: Duration::from_millis(500),
        ..EngineSettings::new(data.path())
    };
    let arguments = ["--exact", "engine_process", "--nocapture", "--"];
    let error = Engine::start(&settings, &program, &arguments).expect_err("it is in use");
    assert!(matches!(error, EngineError::Silent { .. }), "{error}");
    // A stop that is under way is waited for.
    first.stop(PATIENCE).expect("a clean stop");
    start(data.path()).stop(PATIENCE).expect("a clean stop");
}

#[test]
fn a_busy_port_is_named() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let settings = EngineSettings {
        http_port: port,
        // A port of its own would be retried; both given is the operator's choice.
        tcp_port: port,
        ..EngineSettings::new(data.path())
    };
    let program = std::env::current_exe().expect("a running test has a file");
    let arguments = ["--exact", "engine_process", "--nocapture", "--"];
    let error = Engine::start(&settings, &program, &arguments).expect_err("the port is taken");
    assert!(error.to_string().contains("Address already in use"), "{error}");
}

#[test]
fn a_missing_library_says_what_to_do() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let settings = EngineSettings {
        library: Some(data.path().join("libchdb.so")),
        ..EngineSettings::new(data.path())
    };
    let error = Engine::start(&settings, Path::new("/bin/true"), &["x"]).expect_err("no library");
    let text = error.to_string();
    assert!(text.contains("make engine") && text.contains("npm"), "{text}");
}

#[test]
fn a_child_that_does_something_else_is_reported_with_its_words() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let settings = EngineSettings::new(data.path());
    let arguments = ["-c", "echo wrong program >&2; exit 3", "sh"];
    let error = Engine::start(&settings, Path::new("/bin/sh"), &arguments).expect_err("no engine");
    assert!(matches!(error, EngineError::Died { .. }), "{error}");
    assert!(error.to_string().contains("wrong program"), "{error}");
}

/// A program that starts an engine and is then killed takes the engine with it.
#[test]
fn the_engine_dies_with_its_parent() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut parent = std::process::Command::new(std::env::current_exe().expect("a file"))
        .args(["--exact", "parent_process", "--nocapture"])
        .env("ORBIT_TEST_PARENT_DATA", data.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the parent starts");
    let mut said = String::new();
    let mut output = parent.stdout.take().expect("piped");
    let mut byte = [0_u8; 1];
    while !said.ends_with(" ready\n") && output.read(&mut byte).expect("readable") == 1 {
        said.push(char::from(byte[0]));
    }
    assert!(said.ends_with(" ready\n"), "the parent said {said:?}");
    parent.kill().expect("the parent is ours");
    parent.wait().expect("the parent is ours");
    // A directory has one engine at a time: that a second one starts shows that the first is gone.
    start(data.path()).stop(PATIENCE).expect("a clean stop");
}

#[test]
fn parent_process() {
    let Some(data) = std::env::var_os("ORBIT_TEST_PARENT_DATA") else { return };
    // Started by a thread that ends at once: the engine must live as long as the process.
    let engine = std::thread::spawn(move || start(Path::new(&data))).join().expect("started");
    let mut stdout = std::io::stdout();
    writeln!(stdout, "\nengine {} ready", engine.pid()).expect("the test reads");
    stdout.flush().expect("the test reads");
    engine.wait(PATIENCE);
}
