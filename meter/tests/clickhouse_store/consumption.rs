//! What was used, who was seen and how high levels are, as quotas are told it, against sums over the
//! same rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use orbit_meter::clickhouse::BlockBuilder;
use orbit_meter::clickhouse::consumption::{self, Process, Span};
use orbit_meter::event::{Flags, Kind};
use orbit_policy::LevelRead;
use orbit_policy::quota::Sums;

use super::Fixture;
use super::rows::{MONTH, NOVEMBER_US, Random, Row};

const HOUR_US: i64 = 3_600_000_000;
const NANO: i128 = 1_000_000_000;
const MINUTE: Duration = Duration::from_mins(1);

async fn insert(fixture: &Fixture, rows: &[Row]) {
    for (batch, chunk) in rows.chunks(1_000).enumerate() {
        let mut builder = BlockBuilder::new();
        for row in chunk {
            row.push_into(&mut builder);
        }
        let block = builder.finish(batch as u64, MONTH);
        fixture.store.insert_block(&block, &batch.to_string()).await.expect("inserted");
    }
}

fn rows(seed: u64) -> Vec<Row> {
    let mut random = Random(seed);
    (0..3_000)
        .map(|sequence| {
            let mut row = Row::plain(sequence, "north", random.below(720 * 3600));
            row.id.node = 1 + random.below(3) as u32;
            row.id.epoch = 1 + random.below(3) as u32;
            for (label, values) in [
                (1, &["acme/north", "acme", "globex/south", "padaria"][..]),
                (2, &["business", "essentials"]),
                (6, &["api_calls", "processing"]),
            ] {
                let value = values[random.below(values.len() as u64) as usize];
                value.clone_into(&mut row.labels[label]);
            }
            row.quantity_nano = i128::from(random.below(5_000_000_000));
            let (flags, requests) = match random.below(9) {
                0 => (Flags::MEMBER, 0),
                1 => (Flags::MEASURED.with(Flags::ABORTED), 0),
                2 => (Flags::PART, 0),
                3 => (Flags::UNMETERED, 7),
                _ => (Flags::NONE, 1),
            };
            (row.flags, row.requests) = (flags.bits(), requests);
            match random.below(8) {
                0 => row.kind = Kind::Refused,
                1 => row.kind = Kind::Ingested,
                _ => {}
            }
            row
        })
        .collect()
}

#[tokio::test]
async fn consumption_is_that_of_everybody_else_in_the_span() {
    let seed = 0x0b17;
    let (fixture, rows) = (Fixture::new().await, rows(seed));
    insert(&fixture, &rows).await;
    let (from_us, to_us) = (NOVEMBER_US + 5 * HOUR_US + 1, NOVEMBER_US + 400 * HOUR_US);
    let except = Process { node: 2, epoch: 3 };
    for since_us in [i64::MIN / 2, NOVEMBER_US + 100 * HOUR_US] {
        let mut expected: BTreeMap<[String; 3], Sums> = BTreeMap::new();
        let counts = |row: &&Row| {
            row.kind != Kind::Refused
                && row.flags != Flags::MEMBER.bits()
                && (from_us..to_us).contains(&row.ts_us)
                && (row.id.node != 2 || row.id.epoch != 3 || row.ts_us < since_us)
        };
        for row in rows.iter().filter(counts) {
            let place = [1, 2, 6].map(|label: usize| row.labels[label].clone());
            let sums = expected.entry(place).or_default();
            let is_figure = row.flags & Flags::MEASURED.bits() != 0;
            sums.values += if is_figure { 1 } else { u64::from(row.requests) };
            sums.units += ((row.quantity_nano + NANO - 1) / NANO) as u64;
            sums.request_bytes += row.request_bytes;
            sums.response_bytes += row.response_bytes;
        }
        let mut read = BTreeMap::new();
        let span = Span { from_us, to_us };
        let visit = |c: consumption::Consumption| {
            assert_eq!(read.insert([c.path, c.plan, c.meter], c.sums), None);
        };
        let since_us = since_us.max(0);
        consumption::read(&fixture.store, span, except, since_us, MINUTE, visit)
            .await
            .expect("it answers");
        assert_eq!(read, expected);
        assert!(read.len() >= 12, "{read:?}");
    }
}

/// The half of an id that is a member: its register and the rest.
fn member(id: &[u8; 16]) -> (u64, u64) {
    let number = u128::from_le_bytes(*id) as u64;
    (number % 16_384, number >> 14)
}

#[tokio::test]
async fn members_are_shown_one_by_one_or_as_many_as_make_the_same_sketch() {
    let fixture = Fixture::new().await;
    let mut random = Random(7);
    let mut rows = Vec::new();
    let mut seen: BTreeMap<String, BTreeSet<[u8; 16]>> = BTreeMap::new();
    for sequence in 0..60_000 {
        let mut row = Row::plain(sequence, "north", random.below(2 * 3600));
        let path = ["acme/north", "acme", "acme"][random.below(3) as usize];
        path.clone_into(&mut row.labels[1]);
        let meter = ["users", "users", "devices"][random.below(3) as usize];
        meter.clone_into(&mut row.labels[6]);
        (row.flags, row.requests) = (Flags::MEMBER.bits(), 0);
        let few = if path == "acme" { 100_000 } else { 90 };
        let mut id = [0; 16];
        let mut name = Random(random.below(few));
        id[..8].copy_from_slice(&name.below(u64::MAX).to_be_bytes());
        id[8..].copy_from_slice(&name.below(u64::MAX).to_be_bytes());
        row.request_id = id;
        if row.labels[6] == "users" && row.ts_us < NOVEMBER_US + HOUR_US {
            seen.entry(path.to_owned()).or_default().insert(id);
        }
        rows.push(row);
    }
    insert(&fixture, &rows).await;
    let span = Span { from_us: NOVEMBER_US, to_us: NOVEMBER_US + HOUR_US };
    let mut shown: BTreeMap<String, BTreeSet<[u8; 16]>> = BTreeMap::new();
    let meters = ["users".to_owned(), "nobody".to_owned()];
    consumption::members(&fixture.store, span, &meters, 1_000, MINUTE, |one| {
        assert_eq!((&*one.meter, one.is_sketched), ("users", one.path == "acme"));
        assert!(shown.entry(one.path).or_default().insert(one.id), "each once");
    })
    .await
    .expect("it answers");
    assert_eq!(shown["acme/north"], seen["acme/north"]);
    let registers = |ids: &BTreeSet<[u8; 16]>| {
        let mut registers: HashMap<u64, u64> = HashMap::new();
        for (register, rest) in ids.iter().map(member) {
            let best = registers.entry(register).or_insert(rest);
            *best = rest.min(*best);
        }
        registers
    };
    let (shown, seen) = (&shown["acme"], &seen["acme"]);
    assert!(seen.len() > 5_000 && shown.len() < seen.len() && shown.is_subset(seen));
    assert_eq!(registers(shown), registers(seen));
}

#[tokio::test]
async fn levels_are_what_was_said_last_and_changed_since() {
    let fixture = Fixture::new().await;
    let mut random = Random(u64::from(std::process::id()));
    let mine = Process { node: 1, epoch: 2 };
    let mut rows = Vec::new();
    for sequence in 0..2_000 {
        let tenant = ["north", "south", "web", "bare"][random.below(4) as usize];
        let mut row = Row::plain(sequence, tenant, random.below(200));
        row.labels[1] = format!("acme/{tenant}");
        let meter = ["storage", "storage", "other"][random.below(3) as usize];
        meter.clone_into(&mut row.labels[6]);
        row.id.node = 1 + random.below(2) as u32;
        row.id.epoch = 1 + random.below(2) as u32;
        // `bare` has no event.
        let is_level = tenant != "bare" && random.below(40) == 0;
        row.flags = if is_level { 0 } else { Flags::MEASURED.bits() };
        row.requests = u32::from(is_level);
        let by = i128::from(random.below(9_000_000_000_000_000)) - 4_000_000_000_000_000;
        row.quantity_nano = if is_level { by.abs() } else { by };
        if random.below(20) == 0 {
            row.kind = Kind::Refused;
        }
        rows.push(row);
    }
    insert(&fixture, &rows).await;
    let mut expected: BTreeMap<String, LevelRead> = BTreeMap::new();
    let ours = |row: &&Row| row.labels[6] == "storage" && row.kind != Kind::Refused;
    for tenant in ["north", "south", "web", "bare"] {
        let all: Vec<&Row> =
            rows.iter().filter(ours).filter(|row| row.labels[0] == tenant).collect();
        let levels = all.iter().filter(|row| row.flags == 0);
        let told = levels.max_by_key(|row| (row.ts_us, row.id));
        let told_us = told.map(|row| row.ts_us);
        let since = all.iter().filter(|row| row.flags != 0 && Some(row.ts_us) > told_us);
        let own = all
            .iter()
            .filter(|row| row.flags != 0 && (row.id.node, row.id.epoch) == (mine.node, mine.epoch));
        let read = LevelRead {
            level_nano: told.map_or(0, |row| row.quantity_nano)
                + since.map(|row| row.quantity_nano).sum::<i128>(),
            told_us,
            own_nano: own.map(|row| row.quantity_nano).sum(),
        };
        expected.insert(tenant.to_owned(), read);
    }
    let read = consumption::levels(&fixture.store, "storage", mine, MINUTE).await;
    let read: BTreeMap<String, LevelRead> = read.expect("it answers").into_iter().collect();
    assert_eq!(read, expected, "seed {}", std::process::id());
    assert_eq!(read["bare"].told_us, None);
    let none = consumption::levels(&fixture.store, "nothing", mine, MINUTE).await;
    assert_eq!(none.expect("it answers"), []);
}
