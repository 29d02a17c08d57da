//! From an event to bytes: the journal's append, and a row of a ClickHouse block.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orbit_benches::event;
use orbit_meter::clickhouse::native::BlockBuilder;
use orbit_meter::event::{EventId, View};
use orbit_meter::journal::{Journal, JournalSettings};

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

/// Appends to measure before the journal is made anew: within its bound of 4 GiB.
const APPENDS: u64 = 4_000_000;

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("journal");
    group.throughput(Throughput::Elements(1));
    let directory = tempfile::tempdir().expect("a directory");
    let mut made = 0;
    let open = |made: &mut u64| {
        *made += 1;
        let settings = JournalSettings::new(directory.path().join(made.to_string()));
        Journal::open(settings).expect("a journal")
    };
    let mut journal = open(&mut made);
    let mut left = APPENDS;
    let mut number = 0;
    group.bench_function("append", |b| {
        b.iter_custom(|iterations| {
            let mut elapsed = Duration::ZERO;
            let mut missing = iterations;
            while missing > 0 {
                if left == 0 {
                    journal.close();
                    std::fs::remove_dir_all(journal.directory()).expect("its own directory");
                    journal = open(&mut made);
                    left = APPENDS;
                }
                let turn = missing.min(left);
                elapsed += appends(&journal, turn, &mut number);
                left -= turn;
                missing -= turn;
            }
            elapsed
        });
    });
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "criterion asks for a measured time")]
fn appends(journal: &Journal, count: u64, number: &mut u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        *number += 1;
        black_box(journal.append(&event(*number))).expect("there is room");
    }
    start.elapsed()
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("row");
    group.throughput(Throughput::Elements(1));
    let row = |number| {
        let event = event(number);
        let mut row = vec![0; event.encoded_len().expect("short labels")];
        event.encode(&mut row);
        row
    };
    let mut buffer = row(7);
    group.bench_function("event to journal row", |b| {
        b.iter(|| black_box(event(7)).encode(&mut buffer));
    });
    let rows: Vec<Vec<u8>> = (0..100_000).map(row).collect();
    group.throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("100 000 journal rows to a Native block", |b| {
        let mut builder = BlockBuilder::new();
        b.iter(|| {
            for (sequence, row) in (0..).zip(&rows) {
                let view = View::decode(row).expect("an encoded row");
                builder.push(&EventId { node: 1, epoch: 1, lane: 0, sequence }, &view);
            }
            black_box(builder.finish(1, 202_611))
        });
    });
    group.finish();
}

criterion_group!(benches, append, encode);
criterion_main!(benches);
