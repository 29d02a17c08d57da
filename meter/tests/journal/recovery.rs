//! A recovery that is killed at any of its writes is as good as one that never began.

#![allow(clippy::print_stdout, reason = "a child tells its parent, a random test its seed")]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use orbit_meter::boot::{Boot, BootId};
use orbit_meter::journal::{Journal, LaneKey, LossCause};

use super::log::Log;
use super::sample::{event, read_all, segment_files, settings, snapshot};

const CHILD: &str = "ORBIT_JOURNAL_RECOVERY_CHILD";

fn boot(id: u128) -> Boot {
    Boot { id: Some(BootId(id)), began_us: 0 }
}

/// Not a test of its own: opens a journal and says what was logged.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let log = Log::start();
    let journal = Journal::open_under(settings(directory.as_ref()), &boot(2)).expect("opens");
    println!("\n{}", log.text());
    std::mem::forget(journal);
    std::process::exit(0);
}

/// Several lanes with a torn end, as a power failure leaves them.
fn leave(directory: &Path, home: &Path) {
    let living = home.join("living");
    let journal = Journal::open_under(settings(&living), &boot(1)).expect("opens");
    let barrier = Barrier::new(3);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (journal, barrier) = (&journal, &barrier);
            scope.spawn(move || {
                for number in 0..400 {
                    let number = thread * 1_000 + number;
                    journal.append(&event(number, "acme/acme-brasil")).expect("room");
                    if number % 1_000 == 0 {
                        barrier.wait();
                    }
                }
            });
        }
    });
    snapshot(&living, directory);
    journal.close();
    let mut torn = 0;
    for path in segment_files(directory) {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("there");
        let mut page = [0; 96];
        if file.read_exact_at(&mut page, 0).is_err() {
            // One that was being made when the copy was taken.
            continue;
        }
        let committed = u64::from_le_bytes(page[64..72].try_into().expect("eight bytes"));
        if (7_000..28_000).contains(&committed) {
            file.write_all_at(&[0; 300], committed - 2_000).expect("writable");
            torn += 1;
        }
    }
    assert!(torn > 0, "a last segment is torn");
}

type Found = (Vec<(u16, u64)>, Vec<(LaneKey, u64, u64, u64, LossCause)>);

fn found(directory: &Path) -> Found {
    let journal = Journal::open_under(settings(directory), &boot(2)).expect("opens");
    let seen = read_all(&journal).into_iter().map(|seen| (seen.id.lane, seen.id.sequence));
    let losses = journal.losses();
    assert!(losses.iter().all(|loss| loss.since_us <= loss.until_us), "{losses:?}");
    let mut losses: Vec<_> = losses
        .into_iter()
        .map(|it| (it.lane, it.first_sequence, it.events, it.bytes, it.cause))
        .collect();
    losses.sort_unstable();
    (seen.collect(), losses)
}

/// Opens in a child; `kill` is strace's word for when. What the child said, if it lived.
fn open_in_child(directory: &Path, kill: Option<(&str, u32)>) -> Option<String> {
    let binary = std::env::current_exe().expect("this binary");
    let mut command = Command::new(if kill.is_some() { "strace" } else { "env" });
    if let Some((call, nth)) = kill {
        command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        command.arg(format!("trace={call}")).arg("-e");
        command.arg(format!("inject={call}:signal=KILL:when={nth}")).arg("--");
    }
    command.arg(binary).args(["--exact", "recovery::victim", "--nocapture", "--test-threads=1"]);
    let done = command.env(CHILD, directory).output().expect("strace, and this binary");
    let said = String::from_utf8(done.stdout).expect("text");
    done.status.success().then_some(said)
}

#[test]
fn m1_a_recovery_killed_at_any_of_its_writes_loses_nothing_and_forgets_no_loss() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let base = home.path().join("base");
    leave(&base, home.path());
    let unharmed = home.path().join("unharmed");
    snapshot(&base, &unharmed);
    let expected = found(&unharmed);
    let power = expected.1.iter().filter(|loss| loss.4 == LossCause::Power).count();
    assert_eq!(power, 3, "every lane: {:?}", expected.1);
    assert!(expected.1.len() > power, "and a torn end: {:?}", expected.1);

    let mut kills = 0;
    for call in ["pwrite64", "fdatasync", "fsync", "ftruncate", "unlink"] {
        for nth in 1..100 {
            let directory = home.path().join(format!("{call}.{nth}"));
            snapshot(&base, &directory);
            let said = open_in_child(&directory, Some((call, nth)));
            let (events, losses) = found(&directory);
            assert_eq!(losses, expected.1, "killed at {call} {nth}");
            assert!(events == expected.0, "killed at {call} {nth}: {} events", events.len());
            std::fs::remove_dir_all(&directory).expect("removable");
            if said.is_some() {
                break;
            }
            kills += 1;
        }
    }
    println!("{kills} kills");
    assert!(kills > 15, "{kills} kills");
}

#[test]
fn a_recovery_says_what_it_did_and_reads_what_it_has_read_only_once() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path().join("journal");
    leave(&directory, home.path());
    let field = |said: &str, name: &str| -> u64 {
        let line = said.lines().find(|line| line.contains("journal opened")).expect("logged");
        let (_, rest) = line.split_once(&format!(" {name}=")).expect("the field");
        rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    };
    let first = open_in_child(&directory, None).expect("lives");
    assert!(field(&first, "scanned_bytes") > 0 && field(&first, "cut_bytes") > 0, "{first}");
    assert!(field(&first, "took_ms") < 60_000, "{first}");
    let (events, segments) = (field(&first, "pending_events"), field(&first, "segments"));
    assert!(events > 1_100 && segments > 3, "{first}");
    let second = open_in_child(&directory, None).expect("lives");
    assert_eq!((field(&second, "scanned_bytes"), field(&second, "cut_bytes")), (0, 0), "{second}");
    assert_eq!(field(&second, "pending_events"), events, "{second}");
}
