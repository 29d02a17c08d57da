//! M1, M2: a refusal that a client saw is counted, once, whatever was killed and when.
//!
//! A child counts from several threads and reports each count on a pipe after it was made; it is
//! killed at random moments, again and again over the same directory.
#![allow(clippy::print_stdout, reason = "a random test prints its seed")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orbit_meter::event::{Event, Flags, Kind, Method, View};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;

const CHILD: &str = "ORBIT_REFUSALS_CHILD";
const THREADS: u8 = 4;
const KILLS: u64 = 40;
/// What the child writes: bytes that the test harness around it does not.
const STARTING: u8 = 0xFF;
const REFUSED: u8 = 0xFE;
const SERVED: u8 = 0xFD;
/// Long ago, so that the flushing thread finds every second over.
const NOW_US: i64 = 1_600_000_000_000_000;

fn open(directory: &Path) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 64 * 1024,
        max_bytes: 256 << 20,
        sync_interval: Duration::from_millis(20),
        ..JournalSettings::new(directory)
    };
    Journal::open(settings).expect("the journal opens")
}

/// Not a test of its own: the victim of the test below, which runs this binary again with the
/// variable set. Without it, there is nothing to do.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let out = std::io::stdout().as_fd().try_clone_to_owned().expect("a pipe");
    let report = |byte| File::from(out.try_clone().expect("a pipe")).write_all(&[byte]);
    if report(STARTING).is_err() {
        return;
    }
    let journal = open(directory.as_ref());
    let refusals = Arc::new(Refusals::open(Arc::clone(&journal)).expect("opens"));
    assert!(!refusals.is_volatile());
    let _flusher = refusals.start().expect("a thread");
    // A second is over after a few counts: rows are being written nearly all the time.
    let clock = AtomicI64::new(NOW_US);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (refusals, clock) = (&refusals, &clock);
            let mut out = File::from(out.try_clone().expect("a pipe"));
            scope.spawn(move || {
                for number in 0_u64.. {
                    let now_us = clock.fetch_add(130_000, Ordering::Relaxed);
                    let tenant = ["acme", "globex", "initech"][number as usize % 3];
                    let byte = if thread == 0 {
                        refusals.count_unmetered(&served(tenant, now_us));
                        SERVED
                    } else {
                        refusals.count(now_us, tenant, "a/b", "pro", "crm", "r", "limit", 429);
                        REFUSED
                    };
                    if out.write_all(&[byte]).is_err() {
                        return;
                    }
                    if number % 50 == 49 {
                        refusals.flush(i64::MAX).expect("room");
                    }
                }
            });
        }
    });
}

fn served(tenant: &str, ts_us: i64) -> Event<'_> {
    Event {
        ts_us,
        request_id: [7; 16],
        kind: Kind::Request,
        method: Method::Get,
        status: 200,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 2_000_000_000,
        request_bytes: 10,
        response_bytes: 20,
        duration_us: 30,
        upstream_us: 25,
        tenant,
        path: "a/b",
        plan: "pro",
        key_id: "0123456789",
        app: "crm",
        route: "r",
        meter: "api_calls",
        reason: "",
    }
}

#[test]
fn m1_m2_refusals_survive_sigkill_at_random_moments_and_are_counted_once() {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("random bytes");
    let mut random = Random(u64::from_le_bytes(seed) | 1);
    println!("seed {}", random.0);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut reported = Counts::default();
    let mut shipped = Counts::default();
    for kill in 0..KILLS {
        let mut victim = Victim::start(directory.path());
        victim.await_byte(STARTING);
        if random.below(4) == 0 {
            // While it opens and recovers, or just after.
            for _ in 0..random.below(3_000) {
                std::thread::yield_now();
            }
        } else {
            victim.await_reports(random.below(3_000));
        }
        let counts = victim.kill();
        reported.refused += counts.refused;
        reported.served += counts.served;
        if random.below(2) == 0 {
            ship(directory.path(), &mut shipped);
            assert_counted(&shipped, &reported, kill + 1);
        }
    }
    // Once more, for what the last one itself wrote.
    ship(directory.path(), &mut shipped);
    ship(directory.path(), &mut shipped);
    println!("{KILLS} kills, reported {reported:?}, journalled {shipped:?}");
    assert!(reported.refused > 1_000 && reported.served > 100, "{reported:?}");
    assert!(shipped.refused >= reported.refused && shipped.served >= reported.served);
    assert_counted(&shipped, &reported, KILLS);
}

/// Requests by what became of them.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    refused: u64,
    served: u64,
}

/// What is shipped lacks the rows of the last start, and never has more than was begun: a thread
/// may have counted, and died before it said so.
fn assert_counted(shipped: &Counts, reported: &Counts, kills: u64) {
    let threads = u64::from(THREADS);
    assert!(
        shipped.refused <= reported.refused + kills * (threads - 1),
        "{shipped:?} of {reported:?}"
    );
    assert!(shipped.served <= reported.served + kills, "{shipped:?} of {reported:?}");
}

/// A start of the gateway that ships what earlier ones left, removes it, and ends.
fn ship(directory: &Path, shipped: &mut Counts) {
    let journal = open(directory);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    for key in journal.lanes() {
        let mut reader = journal.reader(key, None).expect("a lane");
        while let Some(frame) = reader.read().expect("readable") {
            let row = View::decode(frame.row).expect("a row");
            let requests = u64::from(row.requests());
            let (unit_nano, sum) = match row.kind() {
                Kind::Refused => (1_000_000_000, &mut shipped.refused),
                _ => (2_000_000_000, &mut shipped.served),
            };
            assert_eq!(row.quantity_nano(), i128::from(requests) * unit_nano);
            *sum += requests;
        }
        journal.acknowledge(key, reader.position()).expect("removable");
        journal.retire(key).expect("removable");
    }
    assert!(journal.losses().is_empty(), "{:?}", journal.losses());
    refusals.flush(i64::MAX).expect("room");
    journal.close();
}

/// The child, killed with the test at the latest.
struct Victim {
    child: Child,
    out: ChildStdout,
    seen: BTreeMap<u8, u64>,
}

impl Victim {
    fn start(directory: &Path) -> Victim {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let out = child.stdout.take().expect("piped");
        Victim { child, out, seen: BTreeMap::new() }
    }

    /// Reads what there is, at least a byte; false at the end.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 256];
        let length = self.out.read(&mut bytes).expect("readable");
        for byte in &bytes[..length] {
            *self.seen.entry(*byte).or_default() += 1;
        }
        length > 0
    }

    fn seen(&self, byte: u8) -> u64 {
        self.seen.get(&byte).copied().unwrap_or(0)
    }

    fn await_byte(&mut self, byte: u8) {
        while self.seen(byte) == 0 {
            assert!(self.read(), "the victim writes on");
        }
    }

    fn await_reports(&mut self, count: u64) {
        while self.seen(REFUSED) + self.seen(SERVED) < count {
            assert!(self.read(), "the victim writes on");
        }
    }

    /// SIGKILL; what it had reported by then.
    fn kill(mut self) -> Counts {
        self.child.kill().expect("alive until now");
        self.child.wait().expect("killed");
        while self.read() {}
        Counts { refused: self.seen(REFUSED), served: self.seen(SERVED) }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Killed before, unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
