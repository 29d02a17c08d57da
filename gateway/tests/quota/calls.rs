//! A monthly quota of calls is used up under a kill: it goes on from where it was, within the requests
//! in flight, and ends exact against ClickHouse (**P1**, **P3**). `loadtest quota` is the long form.

use std::sync::atomic::{AtomicU64, Ordering};

use orbit_policy::ApiKey;

use crate::orbit::{Home, Orbit, wait_until};

const LIMIT: u64 = 4_000;
const CLIENTS: u64 = 16;

/// Sixteen clients ask until each was refused ten times or gets no answer. Counts what was answered
/// with 200 in `answered`.
fn use_up(orbit: &Orbit, key: &ApiKey, answered: &AtomicU64, meanwhile: impl FnOnce()) {
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut refused = 0;
                while refused < 10 {
                    match orbit.send(key, "GET", "/", "", b"").0 {
                        200 => _ = answered.fetch_add(1, Ordering::Relaxed),
                        429 => refused += 1,
                        0 => return,
                        status => panic!("{status}"),
                    }
                }
            });
        }
        meanwhile();
    });
}

#[test]
fn p1_p3_a_quota_goes_on_after_a_kill_at_60_percent_and_ends_exact() {
    let calls = format!(
        "quotas = [{{ name = \"calls\", meter = \"api_calls\", limit = {LIMIT}, per = \"month\" }}]"
    );
    let home = Home::new(&calls, &["north"]);
    let key = &home.keys[0];
    let answered = AtomicU64::new(0);
    let orbit = Orbit::start(&home);
    use_up(&orbit, key, &answered, || {
        while answered.load(Ordering::Relaxed) < LIMIT * 6 / 10 {
            std::thread::yield_now();
        }
        orbit.stop_hard();
    });
    drop(orbit);
    let before = answered.load(Ordering::Relaxed);
    let orbit = Orbit::start(&home);
    let used = orbit.used(key, "calls");
    assert!((before..=before + CLIENTS).contains(&used), "{used} are used, {before} were answered");
    use_up(&orbit, key, &answered, || {});
    let first = answered.load(Ordering::Relaxed);
    assert!(first <= LIMIT && first + CLIENTS >= LIMIT, "{first} of {LIMIT}");
    // What was in flight and has no row comes back, and only that.
    let sum = "SELECT toUInt64(sum(quantity)) FROM orbit.usage_events \
               WHERE kind = 'request' AND meter = 'api_calls'";
    wait_until(|| {
        use_up(&orbit, key, &answered, || {});
        let counted = orbit.query(sum);
        if counted == LIMIT.to_string() { Ok(()) } else { Err(format!("{counted} of {LIMIT}")) }
    });
    assert_eq!(orbit.used(key, "calls"), LIMIT);
    let all = answered.load(Ordering::Relaxed);
    assert!(all <= LIMIT && all + CLIENTS >= LIMIT, "{all} of {LIMIT}");
    assert_eq!(orbit.send(key, "GET", "/", "", b"").0, 429);
}
