//! What quotas count while a gateway runs, what the rows say they should, and what reconciliation
//! makes of it: one definition (policy/src/quota/counted.rs), over random traffic, real sockets and
//! the real engine (**P3**).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod gateway;
mod model;
mod world;

use std::collections::BTreeMap;

use gateway::Gateway;
use model::Figure;
use orbit_policy::snapshot::Level;
use serde_json::{Value, json};
use world::{TENANTS, World};

/// Tenant, whether of its plan, name, meter.
type Place = (String, bool, String, String);

/// Whether the journal may be full. What finds no room is summed, under the second of the first: in
/// parts of units it is less than each rounded up, and what an event says of a level in the meantime
/// would come after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Some,
    None,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// From the seed in `ORBIT_SEED`, or a new one; printed, so that a failure can be repeated.
    #[expect(clippy::print_stderr, reason = "a test that fails shows its seed")]
    fn printed() -> Random {
        let given = std::env::var("ORBIT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) << 20);
        eprintln!("ORBIT_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// What quotas say they have counted.
fn live(gateway: &Gateway) -> BTreeMap<Place, u64> {
    let mut live = BTreeMap::new();
    gateway.policy.each_quota(gateway.clock.unix_us(), &mut |view| {
        let of_plan = view.level == Level::Plan;
        let place =
            (view.tenant.to_owned(), of_plan, view.full_name.to_owned(), view.meter.to_owned());
        live.insert(place, view.used);
    });
    live
}

/// What they should, by the rows that are in the database.
fn expected(gateway: &Gateway, world: &World) -> BTreeMap<Place, u64> {
    let rows = gateway.rows();
    let mut expected = BTreeMap::new();
    gateway.policy.each_quota(gateway.clock.unix_us(), &mut |view| {
        let of_plan = view.level == Level::Plan;
        let window = view.window.map(|window| (window.start_us, window.end_us));
        let figure = Figure { tenant: view.tenant, of_plan, meter: view.meter, window };
        let place =
            (view.tenant.to_owned(), of_plan, view.full_name.to_owned(), view.meter.to_owned());
        expected.insert(place, figure.of(&rows, world));
    });
    expected
}

fn differing(
    live: &BTreeMap<Place, u64>,
    expected: &BTreeMap<Place, u64>,
) -> Vec<(Place, u64, u64)> {
    assert_eq!(live.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let pairs = live.iter().zip(expected.values());
    let differ = pairs.filter(|((_, live), expected)| live != expected);
    differ.map(|((place, live), expected)| (place.clone(), *live, *expected)).collect()
}

/// One request of anybody, in one of many ways.
fn request(gateway: &Gateway, random: &mut Random, world: &World, room: Room) -> u16 {
    let tenant = *random.pick(&TENANTS);
    let route = *random.pick(&["/one", "/three", "/visits", "/reports", "/other"]);
    let kind =
        *random.pick(&["fixed", "fixed", "chunked", "events", "none", "fails", "cut", "away"]);
    let mut fields = String::new();
    let weights = match room {
        Room::Some => ["0.5", "2", "many"],
        Room::None => {
            fields.push_str("X-Whole: yes\r\n");
            ["5", "2", "many"]
        }
    };
    for (field, values) in
        [("X-Weight", &weights[..]), ("X-Import", &["yes"]), ("X-User", &["ana", "bo", "cy", "di"])]
    {
        if random.below(2) == 0 {
            fields.push_str(&format!("{field}: {}\r\n", random.pick(values)));
        }
    }
    let bytes = [0, 0, 7, 300][random.below(4) as usize];
    let body = if random.below(3) == 0 && bytes > 0 {
        fields.push_str("Transfer-Encoding: chunked\r\n");
        format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes))
    } else {
        fields.push_str(&format!("Content-Length: {bytes}\r\n"));
        "x".repeat(bytes)
    };
    gateway.ask(&world.keys[tenant], "POST", &format!("{route}/{kind}"), &fields, &body)
}

/// A batch of events on any meter, dated now, late or ahead.
fn events(gateway: &Gateway, random: &mut Random, number: &mut u64, room: Room) {
    let now_us = gateway.clock.unix_us();
    let all: Vec<Value> = (0..=random.below(5))
        .map(|_| {
            *number += 1;
            let tenant = *random.pick(&TENANTS);
            let all = [
                "api_calls",
                "visits",
                "reports",
                "weight",
                "imports",
                "processing",
                "data_in",
                "data_out",
                "active_users",
                "storage",
                "seats",
            ];
            let levels = if room == Room::None { 2 } else { 0 };
            let meter = *random.pick(&all[..all.len() - levels]);
            let hour_us: i64 = 3_600_000_000;
            let is_level = matches!(meter, "storage" | "seats");
            let at_us = match random.below(6) {
                // No further back than changes of a level are remembered one by one.
                1.. if is_level => now_us - random.below(20_000).cast_signed(),
                0 => now_us - random.below(30 * 60_000_000).cast_signed(),
                1 => now_us - random.below(30 * 24).cast_signed() * hour_us,
                2 => now_us + random.below(1_500_000).cast_signed(),
                _ => now_us - random.below(500_000).cast_signed(),
            };
            let data = match meter {
                "active_users" => json!({ "member": random.pick(&["ana", "eve", "fay"]) }),
                _ => json!({ "quantity": random.pick(&["1", "2.5", "40"]) }),
            };
            gateway.comes(at_us);
            let at = jiff::Timestamp::from_microsecond(at_us).unwrap().to_string();
            json!({
                "specversion": "1.0", "id": number.to_string(), "source": "/test",
                "type": meter, "subject": tenant, "time": at, "data": data,
            })
        })
        .collect();
    gateway.events(&Value::from(all));
}

fn traffic(
    gateway: &Gateway,
    random: &mut Random,
    world: &World,
    steps: u32,
    number: &mut u64,
    room: Room,
) -> BTreeMap<u16, u32> {
    let mut statuses = BTreeMap::new();
    for _ in 0..steps {
        if random.below(6) == 0 {
            events(gateway, random, number, room);
        } else {
            *statuses.entry(request(gateway, random, world, room)).or_default() += 1;
        }
    }
    gateway.quiet();
    statuses
}

/// What the next process would begin with, by the same reading of rows.
fn of_the_next_process(gateway: &Gateway) -> BTreeMap<Place, u64> {
    let bases = gateway.read_counts();
    let mut next = BTreeMap::new();
    gateway.policy.each_quota(gateway.clock.unix_us(), &mut |view| {
        if let Some(amount) = bases.get(&view.key) {
            let of_plan = view.level == Level::Plan;
            let (tenant, name) = (view.tenant.to_owned(), view.full_name.to_owned());
            next.insert((tenant, of_plan, name, view.meter.to_owned()), *amount);
        }
    });
    next
}

#[test]
fn p3_live_counts_and_those_of_rows_are_one_definition() {
    let mut random = Random::printed();
    let mut world = World::new();
    let mut number = 0;
    let gateway = Gateway::start(&world.text());
    // All of it is this process's to count.
    gateway.ship();
    let statuses = traffic(&gateway, &mut random, &world, 350, &mut number, Room::Some);
    for status in [200, 429, 502] {
        assert!(statuses.contains_key(&status), "{statuses:?}");
    }
    // Tenants move, in the middle of it.
    for _ in 0..4 {
        world.move_somebody(&mut random);
        gateway.apply(&world.text());
        traffic(&gateway, &mut random, &world, 60, &mut number, Room::Some);
    }
    gateway.flush();
    let rows = expected(&gateway, &world);
    let wrong = differing(&live(&gateway), &rows);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows.values().filter(|count| **count > 0).count() > 40, "{rows:#?}");

    // The journal is full for a while: what is served is summed.
    gateway.next_second();
    gateway.stop_shipping();
    let mut before = None;
    while before != Some(gateway.appended()) {
        before = Some(gateway.appended());
        traffic(&gateway, &mut random, &world, 30, &mut number, Room::None);
    }
    traffic(&gateway, &mut random, &world, 60, &mut number, Room::None);
    gateway.ship();
    traffic(&gateway, &mut random, &world, 60, &mut number, Room::None);
    gateway.flush();
    let wrong = differing(&live(&gateway), &expected(&gateway, &world));
    assert!(wrong.is_empty(), "{wrong:#?}");
    let kinds = model::kinds(&gateway.rows());
    let has = |flag: u8| kinds.keys().any(|(_, flags)| flags & flag != 0);
    assert!([1, 2, 4, 8, 16, 32, 64].into_iter().all(has), "rows of every kind: {kinds:?}");

    // Quotas come and change, plans come and go; then rows are read.
    for _ in 0..6 {
        world.change_quotas(&mut random);
        gateway.apply(&world.text());
        traffic(&gateway, &mut random, &world, 40, &mut number, Room::Some);
    }
    let plans_changed = world.change_plans(&mut random);
    gateway.apply(&world.text());
    traffic(&gateway, &mut random, &world, 60, &mut number, Room::Some);
    gateway.flush();
    let reconciler = gateway.reconcile();
    let may_be_more = |place: &Place| plans_changed && place.1 && place.3 == "active_users";
    gateway.wait_until(|| {
        let wrong = differing(&live(&gateway), &expected(&gateway, &world));
        let wrong = wrong.iter().filter(|(place, live, expected)| {
            // Who is in a set stays there until its window ends.
            !(may_be_more(place) && live > expected)
        });
        wrong.cloned().collect::<Vec<_>>()
    });
    // And it stays so, whatever comes.
    traffic(&gateway, &mut random, &world, 120, &mut number, Room::Some);
    gateway.flush();
    gateway.wait_until(|| {
        let wrong = differing(&live(&gateway), &expected(&gateway, &world));
        wrong.into_iter().filter(|(place, ..)| !may_be_more(place)).collect()
    });
    drop(reconciler);
    let rows = expected(&gateway, &world);
    for (place, amount) in of_the_next_process(&gateway) {
        assert_eq!(rows[&place], amount, "{place:?}");
    }
}
