//! M4: the usage database may be away when the gateway starts; an embedded engine as soon as it has
//! kept something.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use orbit_gateway::settings::{ClickHouse, ClickHouseMode};
use orbit_gateway::storage::{Storage, StorageError};

const PROGRAM: &str = env!("CARGO_BIN_EXE_orbit");
/// After this a state that should come is not coming.
const BOUND: Duration = Duration::from_mins(1);

fn settings(data: &Path) -> ClickHouse {
    ClickHouse {
        mode: ClickHouseMode::Embedded,
        data: data.to_owned(),
        http_port: 0,
        tcp_port: 0,
        max_memory_bytes: 2 << 30,
        ..ClickHouse::default()
    }
}

#[test]
fn m4_an_engine_that_does_not_start_is_waited_for_but_for_the_first_time() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("clickhouse");
    let start = || Storage::start(&settings(&data), Path::new(PROGRAM));
    // In the way of a file that the engine needs.
    let obstacle = data.join("users.xml");
    fs::create_dir_all(&obstacle).unwrap();
    for _ in 0..2 {
        let first = start().map(drop);
        assert!(matches!(first, Err(StorageError::Engine(_))), "{first:?}");
    }
    fs::remove_dir(&obstacle).unwrap();
    start().unwrap().stop(BOUND).unwrap();

    fs::remove_file(&obstacle).unwrap();
    fs::create_dir(&obstacle).unwrap();
    let storage = start().unwrap();
    let status = storage.handle().status();
    assert!(!status.reachable && !status.migrated, "{status:?}");
    fs::remove_dir(&obstacle).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
    let began = Instant::now();
    while !storage.handle().status().migrated {
        assert!(began.elapsed() < BOUND, "{:?}", storage.handle().status());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(storage.handle().status().reachable);
    storage.stop(BOUND).unwrap();

    // What nobody can wait for is still an error.
    let wrong = ClickHouse { library: Some("/nowhere".into()), ..settings(&data) };
    let error = Storage::start(&wrong, Path::new(PROGRAM)).map(drop);
    assert!(matches!(error, Err(StorageError::Engine(_))), "{error:?}");
}

#[test]
fn m4_a_database_that_neither_answers_nor_refuses_is_not_waited_for() {
    // The system accepts for it, and nobody reads.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let settings = ClickHouse {
        mode: ClickHouseMode::External,
        url: Some(format!("http://{}", silent.local_addr().unwrap())),
        ..ClickHouse::default()
    };
    #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
    let began = Instant::now();
    let storage = Storage::start(&settings, Path::new(PROGRAM)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    storage.stop(BOUND).unwrap();
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
}
