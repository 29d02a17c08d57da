//! The decision: identity alone, chains of 1 to 7 limits, many threads on one tenant, and
//! catalogues of a thousand and a million tenants. `governor` stands beside ours in each group
//! where it does comparable work (it has neither identity nor a tree).
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use governor::{Quota, RateLimiter};
use orbit_benches::{catalogue, chain, example, settings, users};
use orbit_policy::{ApiKey, Body, Call, Decision, Nanos, Policy};

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

fn call(key: &ApiKey, now: u64) -> Call<'_> {
    Call {
        key: Some(key.reveal().as_bytes()),
        host: "api.example.com",
        path: "/crm/contacts/17",
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|_| None,
        now: Nanos(now),
        unix_us: now.cast_signed() / 1_000,
    }
}

fn admit(policy: &Policy, key: &ApiKey, now: u64) {
    match policy.decide(&call(key, now)) {
        Decision::Admit(admission) => drop(black_box(admission)),
        Decision::Deny(denial) => panic!("{:?}", denial.reason),
    }
}

fn identify(c: &mut Criterion) {
    let mut group = c.benchmark_group("identify");
    let (policy, key) = chain(1);
    let snapshot = policy.load();
    let good = key.reveal().as_bytes();
    group.bench_function("a known key", |b| b.iter(|| snapshot.identify(black_box(Some(good)))));
    let stranger = ApiKey::generate("bench").expect("randomness");
    let unknown = stranger.reveal().as_bytes();
    group.bench_function("an unknown key", |b| {
        b.iter(|| snapshot.identify(black_box(Some(unknown))));
    });
    group.bench_function("not a key", |b| {
        b.iter(|| snapshot.identify(black_box(Some(b"orb_live_nonsense"))));
    });
    group.finish();
}

fn levels(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide by levels");
    for levels in 1..=7 {
        let (policy, key) = chain(levels);
        let mut now = 0;
        group.bench_with_input(BenchmarkId::new("orbit", levels), &levels, |b, _| {
            b.iter(|| {
                now += 1_000;
                admit(&policy, &key, now);
            });
        });
        let quota = Quota::per_second(NonZeroU32::new(u32::MAX).expect("not zero"));
        let limiters: Vec<_> = (0..levels).map(|_| RateLimiter::direct(quota)).collect();
        group.bench_with_input(
            BenchmarkId::new("governor, limits only", levels),
            &levels,
            |b, _| {
                b.iter(|| limiters.iter().all(|limiter| black_box(limiter.check()).is_ok()));
            },
        );
    }
    group.finish();
}

/// Decisions per thread and second while every core works on one tenant.
fn hot_tenant(c: &mut Criterion) {
    let mut group = c.benchmark_group("one hot tenant");
    let (policy, key) = chain(7);
    let clock = AtomicU64::new(0);
    group.bench_function("orbit, seven levels, one thread", |b| {
        b.iter(|| admit(&policy, &key, clock.fetch_add(1_000, Ordering::Relaxed)));
    });
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    group.bench_function(format!("orbit, seven levels, {threads} threads"), |b| {
        b.iter_custom(|iterations| {
            contended(threads, iterations, || {
                admit(&policy, &key, clock.fetch_add(1_000, Ordering::Relaxed));
            })
        });
    });
    let quota = Quota::per_second(NonZeroU32::new(u32::MAX).expect("not zero"));
    let limiter = RateLimiter::direct(quota);
    group.bench_function(format!("governor, one limit, {threads} threads"), |b| {
        b.iter_custom(|iterations| {
            contended(threads, iterations, || {
                let _either = black_box(limiter.check());
            })
        });
    });
    group.finish();
}

/// Time for `iterations` on this thread while the others do the same work.
#[expect(clippy::disallowed_methods, reason = "criterion asks for a measured time")]
fn contended(threads: usize, iterations: u64, work: impl Fn() + Sync) -> Duration {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        let start = Instant::now();
        (0..iterations).for_each(|_| work());
        let elapsed = start.elapsed();
        done.store(true, Ordering::Relaxed);
        elapsed
    })
}

/// A request of a known user along the whole chain of the example configuration.
fn whole_example(c: &mut Criterion) {
    let (policy, key) = example("acme-web");
    let mut now = 0;
    c.bench_function("the example configuration, its deepest team", |b| {
        b.iter(|| {
            // Slow enough for the narrowest of its limits.
            now += 2_000_000_000;
            let header = |name: &str| (name == "x-end-user").then_some(&b"maria"[..]);
            let decision = policy.decide(&Call { header: &header, ..call(&key, now) });
            match decision {
                Decision::Admit(admission) => drop(black_box(admission)),
                Decision::Deny(denial) => panic!("{:?}", denial.reason),
            }
        });
    });
}

/// Quotas of active users: a user who is known, on three levels, and a request of nobody.
fn members(c: &mut Criterion) {
    let mut group = c.benchmark_group("active users");
    let (policy, key) = users();
    let names: Vec<String> =
        (0..50_000).map(|number| format!("user-{number}@example.com")).collect();
    let admit = |name: Option<&String>| {
        let header = |field: &str| name.filter(|_| field == "x-user").map(String::as_bytes);
        match policy.decide(&Call { header: &header, ..call(&key, 1_000) }) {
            Decision::Admit(admission) => drop(black_box(admission)),
            Decision::Deny(denial) => panic!("{:?}", denial.reason),
        }
    };
    for name in &names {
        admit(Some(name));
    }
    group.bench_function("nobody, three quotas", |b| b.iter(|| admit(None)));
    group.bench_function("one known user, three quotas", |b| b.iter(|| admit(Some(&names[0]))));
    let mut turn = names.iter().cycle();
    group.bench_function("one of 50 000 known users, three quotas", |b| {
        b.iter(|| admit(turn.next()));
    });
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    group.bench_function(format!("one known user, three quotas, {threads} threads"), |b| {
        b.iter_custom(|iterations| contended(threads, iterations, || admit(Some(&names[0]))));
    });
    group.finish();
}

fn many_tenants(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide by catalogue size");
    for tenants in [1_000, 1_000_000] {
        let (sources, keys) = catalogue(tenants, 1, 1_000);
        let policy = Policy::new(&sources, &settings(), 0).expect("valid");
        drop(sources);
        let mut now = 0;
        let mut turn = keys.iter().cycle();
        group.bench_function(format!("{tenants} tenants, a thousand of them asking"), |b| {
            b.iter(|| {
                now += 1_000;
                admit(&policy, turn.next().expect("a cycle"), now);
            });
        });
        let one = &keys[0];
        group.bench_function(format!("{tenants} tenants, one of them asking"), |b| {
            b.iter(|| {
                now += 1_000;
                admit(&policy, one, now);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, identify, levels, hot_tenant, members, whole_example, many_tenants);
criterion_main!(benches);
