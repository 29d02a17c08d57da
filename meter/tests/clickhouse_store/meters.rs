//! The figures of one meter in a window, against plain models of what they mean.

use std::collections::BTreeSet;

use orbit_meter::clickhouse::BlockBuilder;
use orbit_meter::event::{Flags, Kind};

use super::Fixture;
use super::rows::{MONTH, NOVEMBER_US, Random, Row};

const UNIT: i128 = 1_000_000_000;
const HOUR_US: i64 = 3_600_000_000;

async fn insert(fixture: &Fixture, rows: &[Row], batch: u64) {
    let mut builder = BlockBuilder::new();
    for row in rows {
        row.push_into(&mut builder);
    }
    let block = builder.finish(batch, MONTH);
    fixture.store.insert_block(&block, &batch.to_string()).await.expect("inserted");
}

/// As ClickHouse writes a Decimal.
fn decimal(nano: i128) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let (whole, fraction) = (nano.abs() / UNIT, nano.abs() % UNIT);
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

async fn ask(
    fixture: &Fixture,
    query: &str,
    tenant: &str,
    meter: &str,
    window: [i64; 2],
    how: &str,
) -> String {
    let [from, to] = window.map(|us| us.to_string());
    let parameters = [
        ("from_us", from.as_str()),
        ("to_us", to.as_str()),
        ("tenant", tenant),
        ("meter", meter),
        ("aggregate", how),
    ];
    let parameters = &parameters[..if how.is_empty() { 4 } else { 5 }];
    let answer = fixture.store.named(query, parameters, "TSVRaw").await;
    answer.unwrap_or_else(|error| panic!("{query}: {error}")).trim_end().to_owned()
}

fn row(sequence: u64, path: &str, at_us: i64, meter: &str, nano: i128, flags: Flags) -> Row {
    let tenant = path.rsplit('/').next().expect("a tenant");
    let mut row = Row::plain(sequence, tenant, 0);
    path.clone_into(&mut row.labels[1]);
    meter.clone_into(&mut row.labels[6]);
    row.ts_us = NOVEMBER_US + at_us;
    row.quantity_nano = nano;
    row.flags = flags.bits();
    if flags.bits() & (Flags::MEASURED.bits() | Flags::MEMBER.bits() | Flags::PART.bits()) != 0 {
        row.requests = 0;
    }
    row
}

fn is_below(row: &Row, tenant: &str) -> bool {
    tenant.is_empty() || row.labels[1].split('/').any(|id| id == tenant)
}

const PATHS: [&str; 4] = ["acme", "acme/north", "acme/north/web", "globex/south"];

#[tokio::test]
async fn figures_are_those_of_a_plain_model() {
    let fixture = Fixture::new().await;
    let seed: u64 = std::process::id().into();
    let mut random = Random(seed);
    let summed = Flags::MEASURED.with(Flags::UNMETERED);
    let all = [
        Flags::NONE,
        Flags::NONE,
        Flags::MEASURED,
        summed,
        Flags::MEMBER,
        Flags::PART,
        Flags::OPEN,
    ];
    let rows: Vec<Row> = (0..3_000)
        .map(|sequence| {
            let flags = all[random.below(7) as usize];
            let nano = i128::from(random.below(5_000_000_000_000));
            let nano = if flags == Flags::PART { 0 } else { nano };
            let path = PATHS[random.below(4) as usize];
            let meter = ["spent", "other", "data_in"][random.below(3) as usize];
            // Few instants, so that many rows share one.
            let at_us = random.below(50).cast_signed() * 1_000_001;
            let mut row = row(sequence, path, at_us, meter, nano, flags);
            row.request_id = u128::from(random.below(200)).to_be_bytes();
            row.id.lane = random.below(3) as u16;
            row.request_bytes = random.below(10_000);
            row.response_bytes = random.below(10_000);
            row.kind = [Kind::Request, Kind::Request, Kind::Ingested, Kind::Refused]
                [random.below(4) as usize];
            row
        })
        .collect();
    for (batch, chunk) in rows.chunks(1_000).enumerate() {
        insert(&fixture, chunk, batch as u64).await;
    }
    for round in 0..40 {
        let ends = [0; 2].map(|_| NOVEMBER_US + random.below(52_000_000).cast_signed());
        let window = [ends[0].min(ends[1]), ends[0].max(ends[1])];
        let tenant = ["", "acme", "north", "web", "globex", "nobody"][random.below(6) as usize];
        let meter = ["spent", "data_in", "data_out"][random.below(3) as usize];
        let of_window = |row: &&Row| {
            (window[0]..window[1]).contains(&row.ts_us)
                && is_below(row, tenant)
                && row.kind != Kind::Refused
        };
        let has = |row: &Row, flag: Flags| Flags::from_bits(row.flags).contains(flag);
        let mine: Vec<&Row> = rows.iter().filter(of_window).collect();
        let ours = |row: &&&Row| row.labels[6] == meter && !has(row, Flags::MEMBER);
        let values = || mine.iter().filter(ours).filter(|row| !has(row, Flags::PART));
        let bytes = mine.iter().filter(|row| row.kind == Kind::Request).map(|row| match meter {
            "data_in" => i128::from(row.request_bytes),
            "data_out" => i128::from(row.response_bytes),
            _ => 0,
        });
        let bytes: i128 = bytes.sum();
        let count = |row: &&Row| match (has(row, Flags::MEASURED), has(row, Flags::UNMETERED)) {
            (true, true) => row.quantity_nano,
            (true, false) => UNIT,
            (false, _) => i128::from(row.requests) * UNIT,
        };
        let count: i128 = mine.iter().filter(ours).map(count).sum();
        let sum: i128 = mine.iter().filter(ours).map(|row| row.quantity_nano).sum();
        let max = values().map(|row| row.quantity_nano).max().unwrap_or(0);
        let place =
            |row: &&&Row| (row.ts_us, row.id.node, row.id.epoch, row.id.lane, row.id.sequence);
        let last = values().max_by_key(place).map_or(0, |row| row.quantity_nano);
        let members: BTreeSet<[u8; 16]> = mine
            .iter()
            .filter(|row| row.labels[6] == meter && has(row, Flags::MEMBER))
            .map(|row| row.request_id)
            .collect();
        for (how, want) in [
            ("count", count),
            ("sum", sum + bytes * UNIT),
            ("max", max),
            ("last", last),
            ("distinct", members.len() as i128 * UNIT),
        ] {
            let got = ask(&fixture, "meter_by_window", tenant, meter, window, how).await;
            assert_eq!(
                got,
                decimal(want),
                "seed {seed}, round {round}: {how} of {meter} of {tenant:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_unknown_aggregate_is_an_error() {
    let fixture = Fixture::new().await;
    let parameters =
        [("from_us", "0"), ("to_us", "1"), ("tenant", ""), ("meter", "m"), ("aggregate", "mean")];
    let answer = fixture.store.named("meter_by_window", &parameters, "TSV").await;
    assert!(answer.expect_err("no such aggregate").to_string().contains("mean"));
}

#[tokio::test]
async fn byte_hours_and_peak_are_what_they_should_be() {
    let fixture = Fixture::new().await;
    let gb = |count: i128| count * 1_000_000_000 * UNIT;
    let at = |hours: i64| (24 + hours) * HOUR_US;
    let change = Flags::MEASURED;
    let rows = [
        // Before the window 10 GB; 4 h later 30; two uploads of 5; told to be 20 at last.
        row(0, "acme/north", at(-3), "storage", gb(10), Flags::NONE),
        row(1, "acme/north", at(4), "storage", gb(30), Flags::NONE),
        row(2, "acme/north", at(6), "storage", gb(5), change),
        row(3, "acme/north", at(7), "storage", gb(5), change),
        row(4, "acme/north", at(8), "storage", gb(20), Flags::NONE),
        // Uploads only, and half of it deleted.
        row(5, "acme/south", at(5), "storage", gb(2), change),
        row(6, "acme/south", at(9), "storage", gb(-1), change),
        row(7, "globex", at(0), "storage", gb(100), Flags::NONE),
        row(8, "acme/north", at(1), "other", gb(100), Flags::NONE),
    ];
    insert(&fixture, &rows, 1).await;
    let window = [NOVEMBER_US + at(0), NOVEMBER_US + at(10)];
    let gauge = async |tenant: &str, window: [i64; 2]| {
        ask(&fixture, "gauge_by_window", tenant, "storage", window, "").await
    };
    // 4 h at 10, 2 at 30, 1 at 35, 1 at 40, 2 at 20; 4 h at 2, 1 at 1.
    assert_eq!(gauge("north", window).await, "215000000000\t40000000000\t20000000000");
    assert_eq!(gauge("south", window).await, "9000000000\t2000000000\t1000000000");
    assert_eq!(gauge("acme", window).await, "224000000000\t42000000000\t21000000000");
    assert_eq!(gauge("", window).await, "1224000000000\t142000000000\t121000000000");
    assert_eq!(gauge("nobody", window).await, "0\t0\t0");
    // Nothing happens in the window: the level lasts.
    let quiet = [NOVEMBER_US + at(20), NOVEMBER_US + at(20) + 90 * 60_000_000];
    assert_eq!(gauge("acme", quiet).await, "31500000000\t21000000000\t21000000000");
    let none = [NOVEMBER_US + at(-9), NOVEMBER_US + at(-8)];
    assert_eq!(gauge("acme", none).await, "0\t0\t0");
}

/// The level of one tenant at an instant, as far as it counts for `below`.
fn level(rows: &[&Row], tenant: &str, below: &str, at_us: i64) -> i128 {
    let place = |row: &&&Row| {
        let is_level = row.flags & Flags::MEASURED.bits() == 0;
        (row.ts_us, is_level, row.id.node, row.id.epoch, row.id.lane, row.id.sequence)
    };
    let mine = || rows.iter().filter(|row| row.labels[0] == tenant && row.ts_us <= at_us);
    let is_level = |row: &&&Row| row.flags & Flags::MEASURED.bits() == 0;
    let told = mine().filter(is_level).max_by_key(place);
    let since = told.map_or(i64::MIN, |row| row.ts_us);
    let changes = mine().filter(|row| !is_level(row) && row.ts_us > since);
    let sum = told.map_or(0, |row| row.quantity_nano)
        + changes.map(|row| row.quantity_nano).sum::<i128>();
    if mine().max_by_key(place).is_some_and(|row| is_below(row, below)) { sum } else { 0 }
}

#[tokio::test]
async fn gauges_are_those_of_a_plain_model() {
    let fixture = Fixture::new().await;
    let seed: u64 = std::process::id().into();
    let mut random = Random(seed);
    let mut all = Vec::new();
    for series in 0..12 {
        let meter = format!("gauge-{series}");
        let count = 1 + random.below(60);
        let rows = (0..count).map(|_| {
            // `web` moves from north to south and back.
            let path = ["acme", "acme/north", "acme/north/web", "acme/south/web", "globex"]
                [random.below(5) as usize];
            let flags = [Flags::NONE, Flags::MEASURED, Flags::MEASURED][random.below(3) as usize];
            let nano = i128::from(random.below(9_000_000_000_000_000_000)) * 1_000;
            let is_less = flags == Flags::MEASURED && random.below(3) == 0;
            let nano = if is_less { -nano } else { nano };
            // Instants that are often the same, over 20 days.
            let at_us = random.below(100).cast_signed() * 17_280_000_001;
            let mut row = row(0, path, at_us, &meter, nano, flags);
            row.id.lane = random.below(3) as u16;
            row
        });
        all.extend(rows);
    }
    for (sequence, row) in (0..).zip(&mut all) {
        row.id.sequence = sequence;
        row.request_id = u128::from(sequence).to_be_bytes();
    }
    for (batch, chunk) in all.chunks(200).enumerate() {
        insert(&fixture, chunk, batch as u64).await;
    }
    for round in 0..60 {
        let meter = format!("gauge-{}", random.below(12));
        let below = ["", "acme", "north", "south", "web", "globex"][random.below(6) as usize];
        let span = 21 * 24 * HOUR_US.unsigned_abs();
        let ends = [0; 2].map(|_| NOVEMBER_US + random.below(span).cast_signed());
        let [from, to] = [ends[0].min(ends[1]), ends[0].max(ends[1])];
        let rows: Vec<&Row> = all.iter().filter(|row| row.labels[6] == meter).collect();
        let total = |at_us| -> i128 {
            let tenants = ["acme", "north", "web", "globex"];
            tenants.iter().map(|tenant| level(&rows, tenant, below, at_us)).sum()
        };
        let mut instants: BTreeSet<i64> = rows.iter().map(|row| row.ts_us).collect();
        instants.retain(|at_us| (from..to).contains(at_us));
        instants.insert(from);
        let instants: Vec<i64> = instants.into_iter().collect();
        let mut product = Wide::default();
        let mut peak = i128::MIN;
        for (index, at_us) in instants.iter().enumerate() {
            let until = instants.get(index + 1).copied().unwrap_or(to);
            product.add(total(*at_us), until - at_us);
            peak = peak.max(total(*at_us));
        }
        let end = total(*instants.last().expect("the beginning"));
        let want = [product.hours(), peak, end].map(decimal).join("\t");
        let got = ask(&fixture, "gauge_by_window", below, &meter, [from, to], "").await;
        assert_eq!(
            got, want,
            "seed {seed}, round {round}: {meter} of {below:?} from {from} to {to}"
        );
    }
}

/// A sum of level x microseconds, whose hours fit where it does not.
#[derive(Default)]
struct Wide {
    hours: i128,
    rest: i128,
}

impl Wide {
    fn add(&mut self, nano: i128, us: i64) {
        let (us, hour) = (i128::from(us), i128::from(HOUR_US));
        // nano x us = (whole hours of nano) x us + the rest x us.
        self.hours += nano / hour * us;
        self.rest += nano % hour * us;
    }

    /// Truncated, as a Decimal's division is.
    fn hours(&self) -> i128 {
        let hour = i128::from(HOUR_US);
        let (whole, rest) = (self.hours + self.rest / hour, self.rest % hour);
        match (whole.signum(), rest.signum()) {
            (1, -1) => whole - 1,
            (-1, 1) => whole + 1,
            _ => whole,
        }
    }
}
