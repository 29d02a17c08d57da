//! How fast blocks reach the embedded engine, beside the engine's own `INSERT ... SELECT` of the
//! same rows into the same kind of table, in one run:
//!
//! ```text
//! cargo run --release -p orbit-meter --example clickhouse_insert -- [ROWS] [DIRECTORY]
//! ```
//!
//! Rows are those of a plausible gateway: 1 000 tenants of very different size, 5 apps, 40 routes,
//! 4 writer lanes, event times in order but for a little jitter. With DIRECTORY the data is kept
//! there.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool for developers")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs};

use orbit_meter::clickhouse::engine::{self, Engine, ServeArguments};
use orbit_meter::clickhouse::{BlockBuilder, EncodedBlock, MigrateOptions, Store, testing};
use orbit_meter::event::{Event, EventId, Flags, Kind, Method, View};

/// 2026-11-01T00:00:00Z, in unix microseconds.
const NOVEMBER_US: i64 = 1_793_491_200_000_000;
const MONTH: u32 = 202_611;
const TENANTS: usize = 1_000;
const ROUTES: usize = 40;
/// Rounds of every measurement; the best one is shown, as the others had company.
const ROUNDS: usize = 3;

fn main() {
    let mut arguments = env::args_os().skip(1);
    if env::args_os().nth(1).is_some_and(|argument| argument == "serve") {
        arguments.next();
        let arguments = ServeArguments::parse(arguments).unwrap();
        engine::serve(&arguments).unwrap();
        return;
    }
    let rows = arguments.next().map_or(2_000_000, |rows| rows.to_str().unwrap().parse().unwrap());
    let kept = arguments.next().map(PathBuf::from);
    let scratch = env::temp_dir().join(format!("orbit-insert-{}", std::process::id()));
    let directory = kept.clone().unwrap_or_else(|| scratch.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&directory, rows));
    drop(runtime);
    if kept.is_none() {
        fs::remove_dir_all(&scratch).unwrap();
    }
}

async fn measure(directory: &Path, rows: usize) {
    let engine = testing::start(directory, &env::current_exe().unwrap(), &["serve"]);
    let store = Store::new(&engine.settings()).unwrap();
    store.migrate(&MigrateOptions::default()).await.unwrap();
    println!("{rows} rows, best of {ROUNDS}; CPU in seconds per million rows\n");
    println!("{:<52} {:>10} {:>8} {:>8}", "", "rows/s", "client", "server");
    let journal = Arc::new(Journal::new(rows));

    for block_rows in [50_000, 250_000, 500_000] {
        let name = format!("encode, blocks of {block_rows}");
        report(&name, &engine, rows, async || {
            let mut builder = BlockBuilder::new();
            for block in journal.blocks(block_rows) {
                assert!(!journal.encode(&mut builder, block).bytes().is_empty());
            }
        })
        .await;
    }
    let mut batch = 0;
    for block_rows in [50_000, 250_000, 500_000, 1_000_000] {
        let name = format!("encode and insert, blocks of {block_rows}");
        report(&name, &engine, rows, async || {
            store.execute("TRUNCATE TABLE usage_events").await.unwrap();
            let mut builder = BlockBuilder::new();
            for block in journal.blocks(block_rows) {
                batch += 1;
                let encoded = journal.encode(&mut builder, block);
                store.insert_block(&encoded, &format!("insert-{batch}")).await.unwrap();
            }
        })
        .await;
    }
    for (in_flight, block_rows) in [(1, 250_000), (1, 500_000), (2, 250_000), (2, 500_000)] {
        let name = format!("encoding meanwhile, {in_flight} in flight, blocks of {block_rows}");
        report(&name, &engine, rows, async || {
            store.execute("TRUNCATE TABLE usage_events").await.unwrap();
            overlapped(&store, &journal, block_rows, in_flight, &mut batch).await;
        })
        .await;
    }
    store.execute("CREATE TABLE IF NOT EXISTS copied AS usage_events").await.unwrap();
    for block_rows in [250_000, 500_000, 1_048_449] {
        let name = format!("INSERT SELECT, blocks of {block_rows}");
        report(&name, &engine, rows, async || {
            store.execute("TRUNCATE TABLE copied").await.unwrap();
            let sql = format!(
                "INSERT INTO copied SELECT * FROM usage_events SETTINGS async_insert = 0, \
                 min_insert_block_size_rows = {block_rows}, min_insert_block_size_bytes = 0"
            );
            store.execute(&sql).await.unwrap();
        })
        .await;
    }
    store.execute("OPTIMIZE TABLE usage_events FINAL").await.unwrap();
    let size = "SELECT round(sum(bytes_on_disk) / sum(rows), 2), count() FROM system.parts \
                WHERE active AND database = 'orbit' AND table = 'usage_events'";
    println!("\nbytes a row on disk, parts: {}", store.query_text(size, "TSV").await.unwrap());
}

/// A thread encodes the next block while `in_flight` are inserted.
async fn overlapped(
    store: &Store,
    journal: &Arc<Journal>,
    block_rows: usize,
    in_flight: usize,
    batch: &mut u64,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<EncodedBlock>(1);
    let journal = Arc::clone(journal);
    let encoder = std::thread::spawn(move || {
        let mut builder = BlockBuilder::new();
        for block in journal.blocks(block_rows) {
            sender.blocking_send(journal.encode(&mut builder, block)).unwrap();
        }
    });
    let mut inserts = tokio::task::JoinSet::new();
    while let Some(encoded) = receiver.recv().await {
        *batch += 1;
        let (store, token) = (store.clone(), format!("insert-{batch}"));
        inserts.spawn(async move { store.insert_block(&encoded, &token).await.unwrap() });
        if inserts.len() == in_flight {
            inserts.join_next().await.unwrap().unwrap();
        }
    }
    inserts.join_all().await;
    encoder.join().unwrap();
}

async fn report(name: &str, engine: &Engine, rows: usize, mut work: impl AsyncFnMut()) {
    let mut best: Option<(f64, f64, f64)> = None;
    for _ in 0..ROUNDS {
        let cpu = || (cpu_seconds("self"), cpu_seconds(&engine.pid().to_string()));
        let (start, before) = (Instant::now(), cpu());
        work().await;
        let (seconds, after) = (start.elapsed().as_secs_f64(), cpu());
        let round = (seconds, after.0 - before.0, after.1 - before.1);
        if best.is_none_or(|best| round.0 < best.0) {
            best = Some(round);
        }
    }
    let (seconds, client, server) = best.unwrap();
    let millions = rows as f64 / 1e6;
    println!(
        "{name:<52} {:>10.0} {:>8.2} {:>8.2}",
        rows as f64 / seconds,
        client / millions,
        server / millions
    );
}

/// User and system time of a process so far.
fn cpu_seconds(process: &str) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    let ticks: f64 = fields.split(' ').skip(11).take(2).map(|t| t.parse::<f64>().unwrap()).sum();
    ticks / TICKS_PER_SECOND
}

/// Rows as they lie in a journal, made beforehand.
struct Journal {
    bytes: Vec<u8>,
    rows: Vec<(EventId, std::ops::Range<usize>)>,
}

impl Journal {
    fn new(rows: usize) -> Self {
        let mut random = Random(42);
        let mut journal = Self { bytes: Vec::new(), rows: Vec::with_capacity(rows) };
        let paths: Vec<String> = (0..TENANTS)
            .map(|t| format!("holding-{}/company-{}/unit-{}/tenant-{t}", t % 7, t % 50, t % 300))
            .collect();
        let mut sequences = [0_u64; 4];
        for row in 0..rows {
            let lane = random.below(4) as usize;
            let sequence = sequences[lane];
            sequences[lane] += 1;
            let id = EventId { node: 0xdead_beef, epoch: 3, lane: lane as u16, sequence };
            journal.push(id, &mut random, row.cast_signed(), &paths);
        }
        journal
    }

    fn push(&mut self, id: EventId, random: &mut Random, row: isize, paths: &[String]) {
        // A few tenants make most of the traffic: the product of three is small most of the time.
        let skew = random.unit() * random.unit() * random.unit();
        let tenant = (skew * TENANTS as f64) as usize;
        let route = (tenant * 7 + random.below(6) as usize) % ROUTES;
        let refused = random.below(100) == 0;
        // Latency is about log-normal, around 12 ms; each route has its own size of answer.
        let normal = random.unit() + random.unit() + random.unit() + random.unit() - 2.0;
        let upstream_us = (12_000.0 * (normal * 1.7).exp()) as u32;
        let status = match random.below(200) {
            0 => 500,
            1..4 => 404,
            4..10 => 201,
            _ => 200,
        };
        let method = [Method::Get, Method::Get, Method::Get, Method::Post][route % 4];
        let post = method == Method::Post;
        let event = Event {
            ts_us: NOVEMBER_US + row as i64 * 200 + random.below(20_000).cast_signed(),
            request_id: ((u128::from(random.next()) << 64) | u128::from(random.next()))
                .to_be_bytes(),
            kind: if refused { Kind::Refused } else { Kind::Request },
            method,
            status: if refused { 429 } else { status },
            flags: if refused { Flags::GATEWAY_MADE } else { Flags::NONE },
            requests: if refused { 1 + random.below(200) as u32 } else { 1 },
            quantity_nano: 1_000_000_000,
            request_bytes: if post { 200 + random.below(800) } else { 0 },
            response_bytes: (route as u64 + 1) * 150 + random.below(1_000),
            duration_us: upstream_us + 80 + random.below(60) as u32,
            upstream_us,
            tenant: &paths[tenant][paths[tenant].rfind('/').unwrap() + 1..],
            path: &paths[tenant],
            plan: ["essentials", "business", "enterprise"][tenant % 3],
            key_id: &format!("k{:09}", tenant * 3 + random.below(3) as usize),
            app: ["crm", "erp", "billing", "search", "files"][route % 5],
            route: &format!("route-{route}"),
            meter: if refused { "refusals" } else { "api_calls" },
            reason: if refused { ["burst", "daily", "not_entitled"][route % 3] } else { "" },
        };
        let start = self.bytes.len();
        self.bytes.resize(start + event.encoded_len().unwrap(), 0);
        event.encode(&mut self.bytes[start..]);
        self.rows.push((id, start..self.bytes.len()));
    }

    fn blocks(&self, rows: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let total = self.rows.len();
        (0..total).step_by(rows).map(move |start| start..(start + rows).min(total))
    }

    fn encode(&self, builder: &mut BlockBuilder, block: std::ops::Range<usize>) -> EncodedBlock {
        let batch_id = 1_000_000 + block.start as u64;
        for (id, bytes) in &self.rows[block] {
            builder.push(id, &View::decode(&self.bytes[bytes.clone()]).unwrap());
        }
        builder.finish(batch_id, MONTH)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
