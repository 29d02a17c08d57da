//! M1 under power failure: what is gone is bounded, and said.

#![allow(clippy::print_stdout, reason = "a child tells its parent, a random test its seed")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orbit_meter::boot::{Boot, BootId};
use orbit_meter::journal::{Journal, JournalSettings, Loss, LossCause};

use super::disk::{Disk, in_own_namespace};
use super::sample::{event, read_all, settings, snapshot};

const VICTIM: &str = "ORBIT_JOURNAL_POWER_VICTIM";
const SYNC_INTERVAL: Duration = Duration::from_millis(50);
/// Far longer than a round takes: an opening that is less up to date than this does not sync.
const HANGING: Duration = Duration::from_secs(20);

#[allow(clippy::disallowed_methods, reason = "a test of what the clock says")]
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_micros()).expect("a clock before 2262")
}

fn on_disk(directory: &Path) -> JournalSettings {
    JournalSettings {
        segment_bytes: 1 << 20,
        max_bytes: 160 << 20,
        sync_interval: SYNC_INTERVAL,
        ..settings(directory)
    }
}

fn another_run(id: u128) -> Boot {
    Boot { id: Some(BootId(id)), began_us: now_us() }
}

/// Not a test of its own: journals from two threads as fast as it can, and says of each event that
/// it was appended, where and when. Without the variable, there is nothing to do.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(VICTIM) else { return };
    let journal = Journal::open(on_disk(directory.as_ref())).expect("opens");
    // The harness has begun a line.
    println!();
    let write = |journal: &Journal, first: u64| {
        for number in first.. {
            let Ok(id) = journal.append(&event(number, "acme/acme-brasil")) else {
                std::thread::park();
                continue;
            };
            let mut line = format!("e {} {} {}\n", id.lane, id.sequence, now_us());
            if number % 512 == 511 {
                line.push_str(&format!("s {}\n", journal.status().synced_us));
            }
            if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                std::process::exit(0);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(&journal, 0));
        scope.spawn(|| write(&journal, 1 << 40));
    });
}

/// What the victim said.
#[derive(Default)]
struct Said {
    /// Of each lane, when its events were appended, by sequence.
    lanes: BTreeMap<u16, Vec<i64>>,
    /// Up to when it believed everything to be synced.
    synced_us: i64,
}

impl Said {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["e", lane, sequence, time_us] => {
                let Ok(lane) = lane.parse() else { return };
                let times = self.lanes.entry(lane).or_default();
                if sequence.parse() == Ok(times.len()) {
                    times.extend(time_us.parse::<i64>());
                }
            }
            ["s", time_us] => {
                let time_us = time_us.parse().unwrap_or(0);
                self.synced_us = self.synced_us.max(time_us);
            }
            _ => {}
        }
    }

    fn events(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }
}

fn start_victim(directory: &Path) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "power::victim", "--nocapture", "--test-threads=1"])
        .env(VICTIM, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines.map_while(Result::ok))
}

#[test]
fn m1_a_power_failure_costs_what_was_not_synced_and_says_so() {
    if !in_own_namespace("power::m1_a_power_failure_costs_what_was_not_synced_and_says_so") {
        return;
    }
    let mut seed = u64::from(getrandom());
    println!("seed {seed}");
    for round in 0..8_u32 {
        // From the very first event to some tens of thousands.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let target = 1 + (seed >> 33) as usize % (4_usize << (2 * round.min(7)));
        power_failure(target);
    }
}

fn getrandom() -> u32 {
    now_us() as u32
}

fn power_failure(target: usize) {
    let disk = Disk::new(256);
    let directory = disk.root().join("journal");
    let (mut child, mut lines) = start_victim(&directory);
    let mut said = Said::default();
    while said.events() < target {
        said.take(&lines.next().expect("the victim writes on"));
    }
    let down_us = now_us();
    disk.cut_power();
    child.kill().expect("alive until now");
    child.wait().expect("killed");
    lines.for_each(|line| said.take(&line));
    let disk = disk.unmounted().mounted();

    let journal = Journal::open_under(on_disk(&directory), &another_run(9)).expect("opens");
    let mut there: BTreeMap<u16, BTreeSet<u64>> = BTreeMap::new();
    for seen in read_all(&journal) {
        assert!(there.entry(seen.id.lane).or_default().insert(seen.id.sequence), "once: {seen:?}");
    }
    let losses = journal.losses();
    for (&lane, times) in &said.lanes {
        // A victim of a real failure would not have lived to begin this lane.
        if times.first().is_none_or(|&first_us| first_us >= down_us) {
            continue;
        }
        let there = there.remove(&lane).unwrap_or_default();
        let gone = assert_lane(lane, times, &there, &losses, &said, down_us);
        let age_us = down_us - gone.since_us;
        println!(
            "of {} events of lane {lane}: {} there, synced {age_us} us before",
            times.len(),
            there.len()
        );
    }
    assert_told_until_noted(&journal, &disk, &losses);
}

/// Checks one lane and returns its loss.
fn assert_lane(
    lane: u16,
    times: &[i64],
    there: &BTreeSet<u64>,
    losses: &[Loss],
    said: &Said,
    down_us: i64,
) -> Loss {
    let of_lane: Vec<&Loss> = losses.iter().filter(|loss| loss.lane.lane == lane).collect();
    let power: Vec<&&Loss> = of_lane.iter().filter(|loss| loss.cause == LossCause::Power).collect();
    let [gone] = power[..] else { panic!("one loss of power for lane {lane}, not {losses:?}") };
    // The times hold: nothing older than the loss is missing, and it is no older than promised.
    for (sequence, &time_us) in (0..).zip(times) {
        assert!(time_us >= gone.since_us || there.contains(&sequence), "{sequence} of {gone:?}");
    }
    assert!(gone.since_us >= said.synced_us, "{gone:?}, {} was marked", said.synced_us);
    let age = Duration::from_micros(u64::try_from(down_us - gone.since_us).unwrap_or(0));
    assert!(age < HANGING, "synced {age:?} before the failure");
    assert!(gone.until_us >= down_us && gone.until_us <= now_us(), "{gone:?}");
    assert_eq!((gone.events, gone.bytes), (0, 0), "nobody knows");
    // It is the tail: before it, everything is there or told exactly.
    assert!(there.last().is_none_or(|&last| last < gone.first_sequence), "{gone:?}");
    let damaged = |sequence: u64| {
        let is_in = |loss: &&&Loss| {
            let range = loss.first_sequence..loss.first_sequence + loss.events;
            loss.cause == LossCause::Damaged && range.contains(&sequence)
        };
        of_lane.iter().any(|loss| is_in(&loss))
    };
    for sequence in 0..gone.first_sequence {
        assert!(there.contains(&sequence) || damaged(sequence), "{sequence}: {of_lane:?}");
    }
    **gone
}

/// A crash right after the opening, and a clean end, leave the losses told; noting them ends it.
fn assert_told_until_noted(journal: &Arc<Journal>, disk: &Disk, losses: &[Loss]) {
    let directory = disk.root().join("journal");
    let run = another_run(9);
    let is_power = |loss: &Loss| loss.cause == LossCause::Power;
    let power: Vec<Loss> = losses.iter().filter(|loss| is_power(loss)).copied().collect();
    let told = |journal: &Journal| -> Vec<Loss> {
        journal.losses().into_iter().filter(is_power).collect()
    };

    let crashed = disk.root().join("crashed");
    snapshot(&directory, &crashed);
    let again = Journal::open_under(on_disk(&crashed), &run).expect("opens");
    assert_eq!(told(&again), power, "after a crash");
    again.close();

    journal.close();
    let again = Journal::open_under(on_disk(&directory), &run).expect("opens");
    assert_eq!(told(&again), power, "after a clean end");
    again.losses_noted(&power).expect("writable");
    assert_eq!(told(&again), power, "still told by this opening");
    again.close();
    let last = Journal::open_under(on_disk(&directory), &run).expect("opens");
    assert_eq!(told(&last), [], "noted elsewhere");
}

/// What the journal says of a copy taken while it was open.
fn losses_of_a_copy(boot: &Boot, is_closed: bool) -> Vec<Loss> {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (directory, copy) = (home.path().join("journal"), home.path().join("copy"));
    let journal = Journal::open_under(settings(&directory), &another_run(1)).expect("opens");
    for number in 0..10 {
        journal.append(&event(number, "")).expect("room");
    }
    if is_closed {
        journal.close();
    }
    snapshot(&directory, &copy);
    let opened = Journal::open_under(settings(&copy), boot).expect("opens");
    assert_eq!(read_all(&opened).len(), 10);
    opened.losses()
}

#[test]
fn m1_only_another_run_of_the_machine_after_an_unclean_end_is_a_power_failure() {
    let before_us = now_us();
    assert_eq!(losses_of_a_copy(&another_run(1), false), [], "a kill");
    assert_eq!(losses_of_a_copy(&another_run(2), true), [], "a clean end");
    let losses = losses_of_a_copy(&another_run(2), false);
    let [loss] = losses[..] else { panic!("one lane, not {losses:?}") };
    assert_eq!((loss.lane.lane, loss.first_sequence), (0, 10));
    assert_eq!((loss.cause, loss.events, loss.bytes), (LossCause::Power, 0, 0));
    assert!(before_us <= loss.since_us && loss.since_us <= loss.until_us, "{loss:?}");
    assert!(loss.until_us <= now_us(), "{loss:?}");
}
