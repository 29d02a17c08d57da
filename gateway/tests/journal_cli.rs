//! `orbit journal` through the real binary: looking beside a running journal, finding every damage,
//! and shipping a dead gateway's journal into the real engine exactly once (M2).

#![allow(clippy::print_stdout, reason = "a random test prints its seed")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use orbit_meter::clickhouse::engine::Engine;
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};
use orbit_meter::event::{Event, Flags, Kind, Method};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use serde_json::Value;
use tokio::runtime::Runtime;

const BINARY: &str = env!("CARGO_BIN_EXE_orbit");
/// 2026-11-30T23:00:00Z.
const BASE_US: i64 = 1_796_079_600_000_000;
/// Requests that a dead gateway had refused and not journalled.
const REFUSED: u64 = 7;

fn open(directory: &Path) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 1 << 20,
        max_bytes: 256 << 20,
        sync_interval: Duration::from_millis(20),
        ..JournalSettings::new(directory)
    };
    Journal::open(settings).expect("the journal opens")
}

fn event(number: u64) -> Event<'static> {
    Event {
        ts_us: BASE_US + number.cast_signed(),
        request_id: (u128::from(number) << 1 | 1).to_be_bytes(),
        kind: Kind::Request,
        method: Method::Get,
        status: 200,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 1_000_000_000,
        request_bytes: number,
        response_bytes: 4_096,
        duration_us: 1_234,
        upstream_us: 1_000,
        tenant: "acme-brasil",
        path: "acme/acme-brasil",
        plan: "growth",
        key_id: "0123456789",
        app: "crm",
        route: "contacts",
        meter: "api_calls",
        reason: "",
    }
}

/// What a gateway that was killed leaves: a copy of its files while it had them open.
fn dead(home: &Path, count: u64) -> PathBuf {
    let (living, dead) = (home.join("living"), home.join("dead"));
    let journal = open(&living);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    for _ in 0..REFUSED {
        refusals.count(BASE_US, "acme", "acme", "growth", "crm", "contacts", "limit", 429);
    }
    for number in 0..count {
        journal.append(&event(number)).expect("room");
    }
    fs::create_dir(&dead).expect("made");
    for entry in fs::read_dir(&living).expect("a directory") {
        let entry = entry.expect("readable");
        match fs::copy(entry.path(), dead.join(entry.file_name())) {
            // A spare segment that was not needed any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.expect("copied")),
        }
    }
    dead
}

fn orbit(arguments: &[&str], directory: &Path) -> Output {
    Command::new(BINARY)
        .arg("journal")
        .args(arguments)
        .arg("--directory")
        .arg(directory)
        .env_remove("ORBIT_CONFIG")
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[track_caller]
fn inspected(directory: &Path) -> Value {
    let output = orbit(&["inspect", "--format", "json"], directory);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn inspect_looks_beside_a_running_journal_and_changes_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("journal");
    let journal = open(&directory);
    for number in 0..20_000 {
        journal.append(&event(number)).expect("room");
    }
    let running = inspected(&directory);
    assert_eq!(running["in_use_by"], std::process::id());
    assert_eq!(running["node"], journal.node());
    assert_eq!((&running["epoch"], &running["is_closed"]), (&1.into(), &false.into()));
    let lane = &running["lanes"][0];
    assert_eq!((&lane["first_sequence"], &lane["next_sequence"]), (&0.into(), &20_000.into()));
    assert_eq!(lane["oldest_us"], BASE_US);
    assert_eq!(lane["newest_us"], BASE_US + 19_999);
    assert_eq!(lane["pending_events"], 20_000);
    assert!(lane["segments"].as_u64() > Some(1), "{lane}");
    let verified = orbit(&["verify"], &directory);
    assert!(verified.status.success(), "{}", stderr(&verified));
    assert!(stdout(&verified).starts_with("ok: 20000 events in "), "{}", stdout(&verified));
    // It still is the journal it was.
    journal.append(&event(20_000)).expect("room");
    drop(journal);

    let closed = inspected(&directory);
    assert_eq!((&closed["in_use_by"], &closed["is_closed"]), (&Value::Null, &true.into()));
    assert_eq!(closed["losses"], Value::Array(Vec::new()));
    let text = stdout(&orbit(&["inspect"], &directory));
    for part in [": closed\n", "20001 events pending", "0..20001", "2026-11-30T23:00:00.000Z"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(inspected(&directory), closed, "nothing changed");

    let config = home.path().join("orbit.toml");
    fs::write(&config, format!("[journal]\ndirectory = {directory:?}\n")).expect("written");
    let output = Command::new(BINARY)
        .args(["journal", "inspect", "--config"])
        .arg(&config)
        .output()
        .expect("the binary runs");
    assert_eq!(stdout(&output), text, "{}", stderr(&output));
    let missing = orbit(&["inspect"], &home.path().join("nowhere"));
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("nowhere"), "{}", stderr(&missing));
}

#[test]
fn verify_names_the_place_of_every_damage() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = dead(home.path(), 20_000);
    let whole = orbit(&["verify"], &directory);
    assert!(stdout(&whole).starts_with("ok: 20000 events in "), "{}", stdout(&whole));
    let entries = fs::read_dir(&directory).expect("a directory");
    // In the order of the lane, which is that of the index in their headers; spare ones have no
    // committed offset.
    let mut segments: Vec<(u32, PathBuf)> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|it| it == "segment"))
        .filter_map(|path| {
            let bytes = fs::read(&path).expect("readable");
            let index = u32::from_le_bytes(bytes.get(28..32)?.try_into().ok()?);
            (*bytes.get(64..72)? != [0; 8]).then_some((index, path))
        })
        .collect();
    segments.sort();
    let segments: Vec<PathBuf> = segments.into_iter().map(|(_, path)| path).collect();
    let write = |path: &Path, at: u64| {
        let file = fs::File::options().write(true).open(path).expect("there");
        file.write_all_at(&[0xFF; 2], at).expect("writable");
    };
    // A row of the first segment, and the header of the second.
    write(&segments[0], 500_000);
    write(&segments[1], 20);
    let found = orbit(&["verify"], &directory);
    assert_eq!(found.status.code(), Some(1));
    let text = stdout(&found);
    let [header, row] = text.lines().collect::<Vec<_>>()[..] else { panic!("two: {text}") };
    let expected = format!("{}:0: the segment's header is damaged", segments[1].display());
    assert_eq!(header, expected);
    let place = row.strip_prefix(&format!("{}:", segments[0].display())).expect("the file");
    let (offset, _) = place.split_once(':').expect("an offset");
    let offset: u64 = offset.parse().expect("a number");
    assert!((499_000..=500_000).contains(&offset), "{row}");
    assert!(row.contains("lane 0 sequence ") && row.contains("are unreadable"), "{row}");
    assert!(stderr(&found).starts_with("orbit: 2 places are damaged"), "{}", stderr(&found));
}

/// An engine that outlives what ships to it.
struct Database {
    engine: Engine,
    runtime: Runtime,
    home: tempfile::TempDir,
}

impl Database {
    fn start() -> Database {
        let home = tempfile::tempdir().expect("a directory");
        let engine =
            testing::start(&home.path().join("engine"), Path::new(BINARY), &["clickhouse"]);
        let builder = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let database = Database { engine, runtime: builder.expect("a runtime"), home };
        let migrated =
            database.runtime.block_on(database.store().migrate(&MigrateOptions::default()));
        migrated.expect("the schema");
        database
    }

    fn store(&self) -> Store {
        Store::new(&self.engine.settings()).expect("valid settings")
    }

    fn value(&self, sql: &str) -> String {
        let text = self.runtime.block_on(self.store().query_text(sql, "TSV"));
        text.unwrap_or_else(|error| panic!("{sql}: {error}")).trim_end().to_owned()
    }

    /// Settings that ship to it in batches of `max_rows`.
    fn config(&self, max_rows: u64) -> PathBuf {
        let settings = self.engine.settings();
        let password = self.home.path().join("password");
        fs::write(&password, &settings.password).expect("written");
        let config = self.home.path().join("orbit.toml");
        let text = format!(
            "[clickhouse]\nmode = \"external\"\nurl = {:?}\nuser = {:?}\ndatabase = {:?}\n\
             password_file = \"{}\"\n[ship]\nmax_rows = {max_rows}\n",
            settings.url,
            settings.user,
            settings.database,
            password.display()
        );
        fs::write(&config, text).expect("written");
        config
    }

    #[track_caller]
    fn assert_exactly(&self, count: u64) {
        let sql = "SELECT count(), uniqExact(request_id), sum(request_bytes) FROM usage_events \
                   WHERE meter != 'refusals' SETTINGS optimize_use_projections = 0";
        let sum = count * count.saturating_sub(1) / 2;
        assert_eq!(self.value(sql), format!("{count}\t{count}\t{sum}"));
    }
}

fn replay(directory: &Path, config: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["journal", "replay", "--directory"]).arg(directory).arg("--config").arg(config);
    command
}

/// Killed if the test fails.
struct Replaying(Child);

impl Drop for Replaying {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn m2_a_replay_killed_in_the_middle_and_run_again_ships_every_event_once() {
    const COUNT: u64 = 200_000;
    let database = Database::start();
    let home = tempfile::tempdir().expect("a directory");
    let directory = dead(home.path(), COUNT);
    let config = database.config(4_000);

    let dry = replay(&directory, &config).arg("--dry-run").output().expect("the binary runs");
    assert!(dry.status.success(), "{}", stderr(&dry));
    assert!(stdout(&dry).contains(&format!("would ship {COUNT} events to ")), "{}", stdout(&dry));
    database.assert_exactly(0);

    let rows = || database.value("SELECT count() FROM usage_events").parse::<u64>().expect("rows");
    let seed = std::process::id();
    println!("seed {seed}");
    for round in 1..4 {
        let target = rows() + 1 + u64::from(seed) * round * 7_919 % (COUNT / 5);
        let child = replay(&directory, &config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut replaying = Replaying(child.expect("the binary runs"));
        while rows() < target {
            assert!(replaying.0.try_wait().expect("a child").is_none(), "it ended too early");
        }
        replaying.0.kill().expect("alive until now");
        replaying.0.wait().expect("killed");
    }
    let last = replay(&directory, &config).output().expect("the binary runs");
    assert!(last.status.success(), "{}", stderr(&last));
    assert!(stdout(&last).contains("nothing is left in "), "{}", stdout(&last));
    database.assert_exactly(COUNT);
    let gaps = "SELECT count(), max(sequence) + 1, uniqExact(epoch) FROM usage_events \
                WHERE meter != 'refusals'";
    assert_eq!(database.value(gaps), format!("{COUNT}\t{COUNT}\t1"), "M3");
    let refused = "SELECT count(), sum(requests) FROM usage_events WHERE meter = 'refusals'";
    assert_eq!(database.value(refused), format!("1\t{REFUSED}"));

    let empty = inspected(&directory);
    assert_eq!(empty["is_closed"], true);
    let lanes = empty["lanes"].as_array().expect("lanes");
    assert!(lanes.iter().all(|lane| lane["pending_events"] == 0), "{lanes:?}");
    let again = replay(&directory, &config).output().expect("the binary runs");
    assert!(stdout(&again).starts_with("shipped 0 events"), "{}", stdout(&again));
    database.assert_exactly(COUNT);
}

/// Settings with an embedded engine in `data`.
fn embedded(home: &Path, data: &Path) -> PathBuf {
    let config = home.join("orbit.toml");
    let text = format!(
        "[clickhouse]\ndata = \"{}\"\nhttp_port = 0\ntcp_port = 0\n\
         max_memory_bytes = 2147483648\n",
        data.display()
    );
    fs::write(&config, text).expect("written");
    config
}

#[test]
fn a_replay_ships_into_the_engine_that_runs() {
    const COUNT: u64 = 5_000;
    let database = Database::start();
    let home = tempfile::tempdir().expect("a directory");
    let directory = dead(home.path(), COUNT);
    let config = embedded(home.path(), &database.home.path().join("engine"));
    let done = replay(&directory, &config).output().expect("the binary runs");
    assert!(done.status.success(), "{}", stderr(&done));
    database.assert_exactly(COUNT);
}

#[test]
fn a_replay_starts_the_embedded_engine_and_stops_it() {
    const COUNT: u64 = 5_000;
    let home = tempfile::tempdir().expect("a directory");
    let directory = dead(home.path(), COUNT);
    let data = home.path().join("engine");
    let config = embedded(home.path(), &data);
    let done = replay(&directory, &config).output().expect("the binary runs");
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(
        stdout(&done).starts_with(&format!("shipped {} events", COUNT + 1)),
        "{}",
        stdout(&done)
    );

    let engine = testing::start(&data, Path::new(BINARY), &["clickhouse"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let store = Store::new(&engine.settings()).expect("valid settings");
    let sql = "SELECT count(), uniqExact(request_id) FROM usage_events";
    let rows = runtime.expect("a runtime").block_on(store.query_text(sql, "TSV"));
    let rows = rows.expect("answered");
    assert_eq!(rows.trim_end(), format!("{0}\t{0}", COUNT + 1), "and one of refusals");
}

#[test]
fn a_replay_refuses_what_is_in_use_and_what_is_no_journal() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("orbit.toml");
    fs::write(&config, "").expect("written");
    let directory = home.path().join("journal");
    let journal = open(&directory);
    for arguments in [&["--dry-run"][..], &[]] {
        let refused = replay(&directory, &config).args(arguments).output().expect("it runs");
        assert_eq!(refused.status.code(), Some(1));
        let text = stderr(&refused);
        let pid = std::process::id();
        assert!(text.contains(&format!("is in use by process {pid}")), "{text}");
    }
    drop(journal);
    let nothing = home.path().join("nothing");
    fs::create_dir(&nothing).expect("made");
    let refused = replay(&nothing, &config).output().expect("the binary runs");
    assert!(stderr(&refused).contains("there is no journal in "), "{}", stderr(&refused));
    assert_eq!(fs::read_dir(&nothing).expect("there").count(), 0, "nothing was made");
}
