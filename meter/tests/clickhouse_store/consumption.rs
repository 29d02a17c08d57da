//! What was used, as quotas are told it, against sums over the same rows.

use std::collections::BTreeMap;
use std::time::Duration;

use orbit_meter::clickhouse::BlockBuilder;
use orbit_meter::clickhouse::consumption::{self, Span};
use orbit_meter::event::{Flags, Kind};

use super::Fixture;
use super::rows::{MONTH, NOVEMBER_US, Random, Row};

const HOUR_US: i64 = 3_600_000_000;
const NANO: i128 = 1_000_000_000;

fn rows(seed: u64) -> Vec<Row> {
    let mut random = Random(seed);
    (0..3_000)
        .map(|sequence| {
            let mut row = Row::plain(sequence, "north", random.below(720 * 3600));
            row.id.node = 1 + random.below(3) as u32;
            row.id.epoch = 1 + random.below(3) as u32;
            row.labels[1] = ["acme/north", "acme", "globex/south", "padaria"]
                [random.below(4) as usize]
                .to_owned();
            row.labels[6] = ["api_calls", "processing"][random.below(2) as usize].to_owned();
            row.quantity_nano = i128::from(random.below(5_000_000_000));
            match random.below(8) {
                0 => row.kind = Kind::Refused,
                1 => row.kind = Kind::Ingested,
                2 => row.flags = Flags::MEMBER.bits(),
                3 => row.flags = Flags::MEASURED.bits(),
                _ => {}
            }
            row
        })
        .collect()
}

#[tokio::test]
async fn consumption_is_that_of_everybody_else_in_the_span() {
    let seed = 0x0b17;
    println!("seed {seed}");
    let (fixture, rows) = (Fixture::new().await, rows(seed));
    let mut builder = BlockBuilder::new();
    for row in &rows {
        row.push_into(&mut builder);
    }
    fixture.store.insert_block(&builder.finish(1, MONTH), "1").await.expect("inserted");
    let roots = ["acme".to_owned(), "globex".to_owned()];
    {
        let span = Span {
            from_us: NOVEMBER_US + 5 * HOUR_US + 1,
            to_us: NOVEMBER_US + 400 * HOUR_US,
            roots: &roots,
            except: (2, 3),
        };
        let mut expected: BTreeMap<(String, String), [u64; 4]> = BTreeMap::new();
        let counts = |row: &&Row| {
            row.kind != Kind::Refused
                && row.flags != Flags::MEMBER.bits()
                && (span.from_us..span.to_us).contains(&row.ts_us)
                && row.labels[1] != "padaria"
                && (row.id.node != 2 || row.id.epoch != 3)
        };
        for row in rows.iter().filter(counts) {
            let sums = expected.entry((row.labels[1].clone(), row.labels[6].clone())).or_default();
            sums[0] += ((row.quantity_nano + NANO - 1) / NANO) as u64;
            sums[1] += row.request_bytes;
            sums[2] += row.response_bytes;
            sums[3] += 1;
        }
        let read = consumption::read(&fixture.store, &span, Duration::from_mins(1)).await;
        let read: BTreeMap<_, _> = read
            .expect("it answers")
            .into_iter()
            .map(|c| ((c.path, c.meter), [c.quantity, c.request_bytes, c.response_bytes, c.rows]))
            .collect();
        assert_eq!(read, expected);
        assert!(read.len() >= 6, "{read:?}");
    }
    let nobody = Span { from_us: 0, to_us: 1, roots: &[], except: (0, 0) };
    let read = consumption::read(&fixture.store, &nobody, Duration::from_mins(1)).await;
    assert_eq!(read.expect("nothing is asked"), []);
}
