//! The rows of a run, each held against the event it must be.

use std::time::Duration;

use hashbrown::HashMap;
use http_body_util::BodyExt;
use serde::Serialize;

use super::IngestRun;
use crate::clock::Clock;
use crate::ledger::RequestId;
use crate::ledger::table::{Patience, Table, TableError};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Request id, quantity and requests in RowBinary.
const ROW_BYTES: usize = 16 + 16 + 4;
/// Offending ids that are listed; all are counted.
const MAX_EXAMPLES: usize = 5;

/// How the rows compare with the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Rows of the run's meter.
    pub rows: u64,
    /// Different events among them.
    pub distinct: u64,
    /// Events without a row.
    pub missing: u64,
    /// Rows beyond an event's first.
    pub doubled: u64,
    /// Rows of no event.
    pub strangers: u64,
    /// Rows with another quantity, number of requests or tenant.
    pub altered: u64,
    /// Sum of the quantities, in units of 1e-9, as rows say.
    pub quantity_nano: i128,
    /// The same as it was sent.
    pub sent_nano: i128,
    /// The first offending ids.
    pub examples: Vec<String>,
}

/// Waits until ClickHouse has caught up with a run, then reads and compares every row.
pub async fn check(
    table: &Table,
    run: &IngestRun,
    patience: &Patience,
    watch: &mut dyn FnMut(u64),
) -> Result<Counted, TableError> {
    settle(table, run, patience, watch).await?;
    let numbers = 0..run.events;
    let mut open: HashMap<[u8; 16], (u64, u32)> =
        numbers.map(|number| (run.request_id(number), (number, 0))).collect();
    let mut counted = Counted {
        sent_nano: (0..run.events).map(|number| run.quantity_nano(number)).sum(),
        ..Counted::default()
    };
    let sql = format!(
        "SELECT request_id, quantity, requests FROM usage_events WHERE {} FORMAT RowBinary",
        condition(run)
    );
    read(table, &sql, |row| counted.take(row, &mut open, run)).await?;
    for (id, _) in open.iter().filter(|(_, (_, rows))| *rows == 0) {
        counted.missing += 1;
        counted.note("missing", *id);
    }
    counted.distinct = open.values().filter(|(_, rows)| *rows > 0).count() as u64;
    let elsewhere = format!("{} AND tenant != '{}'", condition(run), run.tenant);
    counted.altered += number(table, &elsewhere).await?;
    Ok(counted)
}

impl Counted {
    /// Whether each event counted once, with what was sent.
    pub fn is_clean(&self) -> bool {
        let wrong = self.missing + self.doubled + self.strangers + self.altered;
        wrong == 0 && self.quantity_nano == self.sent_nano
    }

    fn take(
        &mut self,
        row: &[u8; ROW_BYTES],
        open: &mut HashMap<[u8; 16], (u64, u32)>,
        run: &IngestRun,
    ) {
        let word = |at: usize| -> u128 {
            let bytes: [u8; 16] = *row[at..].first_chunk().expect("a row is longer");
            u128::from_le_bytes(bytes)
        };
        // A UUID is two little-endian words, the upper first.
        let id = word(0).rotate_left(64).to_be_bytes();
        let quantity_nano = word(16).cast_signed();
        let requests = u32::from_le_bytes(*row[32..].first_chunk().expect("a row is as long"));
        self.rows += 1;
        self.quantity_nano += quantity_nano;
        let Some((number, rows)) = open.get_mut(&id) else {
            self.strangers += 1;
            return self.note("no event", id);
        };
        *rows += 1;
        if *rows > 1 {
            self.doubled += 1;
            self.note("doubled", id);
        } else if (requests, quantity_nano) != (1, run.quantity_nano(*number)) {
            self.altered += 1;
            self.note("altered", id);
        }
    }

    fn note(&mut self, what: &str, id: [u8; 16]) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(format!("{what}: {}", RequestId(id)));
        }
    }
}

fn condition(run: &IngestRun) -> String {
    format!("kind = 'ingested' AND meter = '{}'", run.meter())
}

/// Waits until all rows are there and nothing changes any more.
async fn settle(
    table: &Table,
    run: &IngestRun,
    patience: &Patience,
    watch: &mut dyn FnMut(u64),
) -> Result<(), TableError> {
    let clock = Clock::start();
    let (mut rows, mut changed_ns) = (0, clock.now_ns());
    loop {
        // Between two lives of the gateway its engine may be away: no reason to give up.
        let now = match number(table, &condition(run)).await {
            Ok(now) => now,
            Err(error) if clock.now_ns() > patience.limit.as_nanos() as u64 => return Err(error),
            Err(_) => rows,
        };
        watch(now);
        if now != rows {
            (rows, changed_ns) = (now, clock.now_ns());
        }
        let complete = rows >= run.events;
        let quiet = if complete { patience.quiet_complete } else { patience.limit };
        if clock.now_ns() - changed_ns >= quiet.as_nanos() as u64 {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// How many rows there are.
async fn number(table: &Table, condition: &str) -> Result<u64, TableError> {
    let sql = format!("SELECT count() FROM usage_events WHERE {condition} FORMAT TSV");
    match table.numbers::<1>(&sql).await?[..] {
        [[count]] => Ok(count),
        _ => Err(TableError::Malformed { expected: "a number" }),
    }
}

/// Gives every row of the answer to `each`.
async fn read(
    table: &Table,
    sql: &str,
    mut each: impl FnMut(&[u8; ROW_BYTES]),
) -> Result<(), TableError> {
    let mut body = table.query(sql).await?.into_body();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(TableError::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        pending.extend_from_slice(data);
        let (rows, rest) = pending.as_chunks::<ROW_BYTES>();
        rows.iter().for_each(&mut each);
        let rest = rest.len();
        pending.drain(..pending.len() - rest);
    }
    if pending.is_empty() { Ok(()) } else { Err(TableError::Malformed { expected: "rows" }) }
}
