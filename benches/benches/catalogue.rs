//! Loading a catalogue of 100 000 tenants and 300 000 keys, and what it costs in memory.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::print_stdout, reason = "the memory figures go beside criterion's own lines")]

use std::fmt::Write;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use orbit_benches::{catalogue, settings};
use orbit_policy::{Policy, Reading, Source, check};

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

const TENANTS: usize = 100_000;
const KEYS_EACH: usize = 3;

/// Bytes the program has allocated and not freed.
fn allocated() -> usize {
    jemalloc_ctl::epoch::advance().expect("jemalloc keeps statistics");
    jemalloc_ctl::stats::allocated::read().expect("jemalloc keeps statistics")
}

/// As many tenants in holdings of a hundred, each of which has a share of its holding's plan, and fifty
/// changes of plan for each holding.
fn changing() -> Vec<Source> {
    let mut text = String::from("[[app]]\nid = \"crm\"\n");
    for (plan, rate) in [("p", 1_000), ("q", 2_000)] {
        writeln!(
            text,
            "[[plan]]\nid = \"{plan}\"\nlimits = [{{ name = \"requests\", rate = {rate} }}]"
        )
        .expect("writing to a string");
    }
    for index in 0..TENANTS {
        let holding = index - index % 100;
        let tenant = if index == holding {
            let change = |day: usize| {
                format!(
                    "[[change]]\ntenant = \"t{holding}\"\nat = \"20{}-{:02}-01\"\nplan = \"{}\"\n",
                    30 + day / 12,
                    day % 12 + 1,
                    ["p", "q"][day % 2]
                )
            };
            let changes: String = (0..50).map(change).collect();
            format!("[[tenant]]\nid = \"t{index}\"\nplan = \"p\"\n{changes}")
        } else {
            format!(
                "[[tenant]]\nid = \"t{index}\"\nparent = \"t{holding}\"\n\
                 limits = [{{ name = \"requests\", guarantee = \"1%\" }}]\n"
            )
        };
        text.push_str(&tenant);
    }
    vec![Source { file: "changing.toml".into(), text }]
}

fn load(c: &mut Criterion) {
    let (sources, _) = catalogue(TENANTS, KEYS_EACH, 0);
    let text: usize = sources.iter().map(|source| source.text.len()).sum();
    let before = allocated();
    let policy = Policy::new(&sources, &settings(), 0).expect("valid");
    let bytes = allocated() - before;
    let keys = TENANTS * KEYS_EACH;
    println!(
        "catalogue of {TENANTS} tenants and {keys} keys: {} MB of documents, {} MB in memory, {} bytes per key",
        text / 1_000_000,
        bytes / 1_000_000,
        bytes / keys
    );
    let mut group = c.benchmark_group("catalogue of 100 000 tenants, 300 000 keys");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("check", |b| b.iter(|| check(&sources, 0).expect("valid")));
    group.bench_function("apply over itself", |b| {
        b.iter(|| policy.apply(&sources, Reading::default).expect("valid"));
    });
    let sources = changing();
    group.bench_function("check, 99 000 shares of plans over 50 000 changes", |b| {
        b.iter(|| check(&sources, 0).expect("valid"));
    });
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
