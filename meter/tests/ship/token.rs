//! ClickHouse killed between its token log and the rename of the part: the one moment in which a
//! deduplication token lies.
//!
//! The engine runs under strace, which lets it die in the very system call that would move the part
//! into place: `tmp_insert_...` to its final name. By then the token is in the log.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use orbit_meter::clickhouse::{BlockBuilder, InsertError, testing};
use orbit_meter::event::{EventId, View};

use super::fixture::{Fixture, PATIENCE, event};

/// Event 0 is of this month, and the first part of an empty table has this name.
const MONTH: u32 = 202_612;
const PART: &str = "202612_1_1_0";

/// An engine with the schema that dies by SIGKILL when it moves [`PART`] into place; returns the
/// directory of the table.
fn fatal_engine() -> (Fixture, PathBuf) {
    let strace = Command::new("strace").arg("-V").output();
    assert!(
        strace.is_ok_and(|output| output.status.success()),
        "this test needs strace to kill ClickHouse in one system call: apt-get install strace"
    );
    let mut fixture = Fixture::new();
    let table = fixture.value(
        "SELECT data_paths[1] FROM system.tables \
         WHERE database = 'orbit' AND name = 'usage_events'",
    );
    fixture.kill_engine();
    let renamed = format!("{table}tmp_insert_{PART}/");
    let this = std::env::current_exe().expect("this binary");
    let arguments = [
        "-f",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-P",
        &renamed,
        "-e",
        "trace=rename,renameat,renameat2",
        // Not executed, whenever the signal arrives.
        "-e",
        "inject=rename,renameat,renameat2:error=EIO:signal=SIGKILL",
        this.to_str().expect("text"),
        "--exact",
        "engine_process",
        "--nocapture",
        "--",
    ];
    let engine = testing::start(&fixture.engine_data(), Path::new("strace"), &arguments);
    fixture.use_engine(engine);
    (fixture, PathBuf::from(table))
}

/// It died exactly there: the token is in the log, and there is no part.
#[track_caller]
fn assert_torn(fixture: &Fixture, table: &Path) {
    let status = fixture.engine().wait(PATIENCE).expect("it dies");
    assert_eq!(status.signal(), Some(9), "{status}");
    let log = fs::read_to_string(table.join("deduplication_logs/deduplication_log_1.txt"));
    let log = log.expect("the log is there");
    assert!(log.contains(PART), "the token is in the log: {log}");
    assert!(!table.join(PART).exists(), "the part is not in place");
    assert!(table.join(format!("tmp_insert_{PART}")).exists(), "it was about to be");
}

/// Why a deduplication token alone is not enough.
#[test]
fn a_bare_resend_under_the_same_token_is_swallowed() {
    let (mut fixture, table) = fatal_engine();
    let event = event(0);
    let mut row = vec![0; event.encoded_len().expect("short labels")];
    event.encode(&mut row);
    let mut builder = BlockBuilder::new();
    let id = EventId { node: 1, epoch: 1, lane: 0, sequence: 0 };
    builder.push(&id, &View::decode(&row).expect("just encoded"));
    let block = builder.finish(7, MONTH);
    let store = fixture.store();
    let error = fixture.runtime.block_on(store.insert_block(&block, "seven"));
    let error = error.expect_err("the engine died");
    assert!(matches!(error, InsertError::Ambiguous(_)), "{error:?}");
    assert_torn(&fixture, &table);

    fixture.start_engine();
    let store = fixture.store();
    let resent = fixture.runtime.block_on(store.insert_block(&block, "seven"));
    resent.expect("it says that it has taken the block");
    assert_eq!(fixture.value("SELECT count() FROM usage_events"), "0", "and has not");
}

#[test]
fn m2_reading_first_ships_what_a_swallowed_token_would_have_lost() {
    let (mut fixture, table) = fatal_engine();
    let shipper = fixture.ship();
    // Fewer than ten: all of the first batch, and no second one before it.
    fixture.append(1);
    assert_torn(&fixture, &table);
    fixture.append(9);
    fixture.start_engine();
    shipper.flush(PATIENCE).expect("shipped");
    assert!(shipper.status().resends > 0, "it was sent again");
    fixture.assert_exact();
}

/// The same when the shipper dies with it.
#[test]
fn m2_so_does_the_next_process() {
    let (mut fixture, table) = fatal_engine();
    let shipper = fixture.ship();
    fixture.append(1);
    assert_torn(&fixture, &table);
    drop(shipper);
    fixture.reopen();
    fixture.start_engine();
    fixture.append(9);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert!(shipper.status().resends > 0, "it was sent again");
    fixture.assert_exact();
}
