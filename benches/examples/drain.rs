//! How fast a full journal drains into the embedded engine, beside the engine's own
//! `INSERT ... SELECT` of the same rows into a table of the same kind, in the same run.
//!
//! ```text
//! cargo run --release -p orbit-benches --example drain [-- EVENTS [ROUNDS]]
//! ```
//!
//! Everything is the product's own: events appended to a journal by two threads, the shipper with
//! its durable plans and cursor, a migrated database with the billing projection. Exits with 1
//! when the median rate of draining is under half of the engine's own.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool for developers")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use orbit_benches::event;
use orbit_meter::clickhouse::engine::{self, Engine, ServeArguments};
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::ship::{ShipSettings, Shipper};

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

/// CPU seconds of this process and of the engine.
struct Cpu {
    here: f64,
    engine: f64,
}

impl Cpu {
    fn read(engine: &Engine) -> Cpu {
        let of = |pid: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            // The name, in parentheses, may hold anything; user and system time come after it.
            let fields: Vec<&str> = text[text.rfind(')').unwrap() + 2..].split(' ').collect();
            let ticks: f64 =
                fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
            // The kernel reports in hundredths of a second on every Linux.
            ticks / 100.0
        };
        Cpu { here: of("self"), engine: of(&engine.pid().to_string()) }
    }
}

/// Rows per second, and CPU seconds per million rows on both sides.
struct Rate {
    rows: f64,
    here: f64,
    engine: f64,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if env::args_os().nth(1).is_some_and(|argument| argument == "serve") {
        arguments.next();
        engine::serve(&ServeArguments::parse(arguments).unwrap()).unwrap();
        return ExitCode::SUCCESS;
    }
    let mut number = || arguments.next().map(|text| text.to_str().unwrap().parse::<u64>().unwrap());
    let events = number().unwrap_or(2_000_000);
    let rounds = number().unwrap_or(3);
    let directory = tempfile::tempdir().unwrap();
    let program = env::current_exe().unwrap();
    let engine = testing::start(&directory.path().join("engine"), &program, &["serve"]);
    let journal = Journal::open(JournalSettings::new(directory.path().join("journal"))).unwrap();

    let (mut drained, mut selected) = (Vec::new(), Vec::new());
    println!("{events} events a round; CPU in seconds per million rows\n");
    println!("{:<40} {:>12} {:>10} {:>10}", "", "rows/s", "here", "engine");
    for round in 0..rounds {
        let from = round * events;
        std::thread::scope(|scope| {
            for half in [from..from + events / 2, from + events / 2..from + events] {
                let journal = &journal;
                scope.spawn(move || {
                    half.for_each(|number| {
                        journal.append(&event(number)).unwrap();
                    });
                });
            }
        });
        drained.push(drain(&engine, &journal, events));
        selected.push(select(&engine, events));
        for (name, rates) in
            [("journal to engine", &drained), ("INSERT SELECT in the engine", &selected)]
        {
            let Rate { rows, here, engine } = rates.last().unwrap();
            println!(
                "{:<40} {rows:>12.0} {here:>10.2} {engine:>10.2}",
                format!("{name}, round {}", round + 1)
            );
        }
    }
    journal.close();
    let (drained, selected) = (median(&drained), median(&selected));
    let ratio = drained / selected;
    println!(
        "\nmedians: {drained:.0} and {selected:.0} rows/s, ratio {ratio:.2} (at least 0.50 is asked for)"
    );
    if ratio >= 0.5 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(rates: &[Rate]) -> f64 {
    let mut rows: Vec<f64> = rates.iter().map(|rate| rate.rows).collect();
    rows.sort_by(f64::total_cmp);
    rows[rows.len() / 2]
}

fn measured(engine: &Engine, events: u64, work: impl FnOnce()) -> Rate {
    let (before, start) = (Cpu::read(engine), Instant::now());
    work();
    let (seconds, after) = (start.elapsed().as_secs_f64(), Cpu::read(engine));
    let millions = events as f64 / 1e6;
    Rate {
        rows: events as f64 / seconds,
        here: (after.here - before.here) / millions,
        engine: (after.engine - before.engine) / millions,
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Ships what is in the journal; the shipper is what `orbit gateway` runs.
fn drain(engine: &Engine, journal: &Arc<Journal>, events: u64) -> Rate {
    let store = || Store::new(&engine.settings()).unwrap();
    block_on(async {
        let store = store();
        store.migrate(&MigrateOptions::default()).await.unwrap();
        store.execute("TRUNCATE TABLE usage_events").await.unwrap();
    });
    let rate = measured(engine, events, || {
        let settings = ShipSettings::default();
        let shipper = Shipper::start(Arc::clone(journal), store(), settings).unwrap();
        shipper.stop(Duration::from_mins(2)).unwrap();
    });
    assert_eq!(count(engine), events, "every event is a row");
    rate
}

fn count(engine: &Engine) -> u64 {
    let store = Store::new(&engine.settings()).unwrap();
    let text = block_on(store.query_text("SELECT count() FROM usage_events", "TSV")).unwrap();
    text.trim().parse().unwrap()
}

/// The engine copies as many rows, at its own pace, into a table made the same way.
fn select(engine: &Engine, events: u64) -> Rate {
    let store = Store::new(&engine.settings()).unwrap();
    block_on(async {
        store.execute("DROP TABLE IF EXISTS copied SYNC").await.unwrap();
        store.execute("CREATE TABLE copied AS usage_events").await.unwrap();
    });
    let copy = "INSERT INTO copied SELECT * FROM usage_events";
    let rate = measured(engine, events, || block_on(store.execute(copy)).unwrap());
    block_on(store.execute("DROP TABLE copied SYNC")).unwrap();
    rate
}
