//! Events sent to the ingest API again and again until they are acknowledged, and the proof that
//! each counted once.
//!
//! Owns the plan of a run: what each event is follows from the run and its number, so that clients,
//! retries and the check at the end agree without keeping anything. Shares no code with the gateway:
//! the request id a row must carry is computed here from the contract.

mod client;
mod report;
mod rows;

use std::time::Duration;

use sha2::{Digest, Sha256};

pub use client::{SendError, Sent, send};
pub use report::IngestReport;
pub use rows::{Counted, check};

use crate::keys::Secret;
use crate::target::Target;

/// One run.
#[derive(Clone, Debug)]
pub struct IngestRun {
    /// The ingest listener.
    pub target: Target,
    /// Its bearer token.
    pub token: Secret,
    /// Events in all.
    pub events: u64,
    /// Events of one request.
    pub batch: u64,
    /// Of a hundred acknowledged batches, so many are sent again.
    pub resend_percent: f64,
    /// Clients at a time.
    pub clients: u32,
    /// What chance follows.
    pub seed: u64,
    /// Whose usage it is.
    pub tenant: String,
    /// Each client waits so long after a batch.
    pub pause: Duration,
    /// With nothing acknowledged for so long, the run is given up.
    pub patience: Duration,
    /// What tells this run from every other: microseconds since the Unix epoch at its start.
    pub run: i64,
}

impl IngestRun {
    /// Batches in all.
    pub fn batches(&self) -> u64 {
        self.events.div_ceil(self.batch)
    }

    /// The numbers of a batch's events.
    fn numbers(&self, batch: u64) -> std::ops::Range<u64> {
        let start = batch * self.batch;
        start..(start + self.batch).min(self.events)
    }

    /// The meter, which no other run uses.
    pub fn meter(&self) -> String {
        format!("loadtest.{}", self.run)
    }

    fn source(&self) -> String {
        format!("/loadtest/{}", self.run)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.seed)
    }

    /// The quantity of an event in units of 1e-9: up to a million, any nine digits behind the point.
    fn quantity_nano(&self, number: u64) -> i128 {
        i128::from(Random::of(self.seed ^ number.rotate_left(32)).below(1_000_000_000_000_000))
    }

    /// What the row of an event must carry: the first half of SHA-256 over the source's length, the
    /// source and the id.
    fn request_id(&self, number: u64) -> [u8; 16] {
        let source = self.source();
        let length = (source.len() as u64).to_le_bytes();
        let text = [&length[..], source.as_bytes(), self.id(number).as_bytes()].concat();
        let digest: [u8; 32] = Sha256::digest(text).into();
        *digest.first_chunk().expect("16 of 32 bytes")
    }

    /// A batch as it is sent.
    fn body(&self, batch: u64) -> String {
        let (source, meter, tenant) = (self.source(), self.meter(), &self.tenant);
        let events = self.numbers(batch).map(|number| {
            let (id, nano) = (self.id(number), self.quantity_nano(number));
            let (whole, fraction) = (nano / 1_000_000_000, nano % 1_000_000_000);
            // Every second one as a bare number, which a float would spoil.
            let quote = if number.is_multiple_of(2) { "\"" } else { "" };
            format!(
                "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"{source}\",\
                 \"type\":\"{meter}\",\"subject\":\"{tenant}\",\
                 \"data\":{{\"quantity\":{quote}{whole}.{fraction:09}{quote}}}}}"
            )
        });
        format!("[{}]", events.collect::<Vec<_>>().join(","))
    }
}

/// SplitMix64: the same seed, the same run.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn of(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to before `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True so many times of a hundred.
    fn is_lucky(&mut self, percent: f64) -> bool {
        self.below(1_000_000) < (percent * 10_000.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> IngestRun {
        IngestRun {
            target: "http://127.0.0.1:1".parse().expect("a target"),
            token: Secret::new("t".to_owned()),
            events: 1_050,
            batch: 100,
            resend_percent: 10.0,
            clients: 1,
            seed: 7,
            tenant: "acme".to_owned(),
            pause: Duration::ZERO,
            patience: Duration::from_secs(1),
            run: 5,
        }
    }

    #[test]
    fn every_event_is_in_one_batch() {
        let run = run();
        let numbers: Vec<u64> = (0..run.batches()).flat_map(|batch| run.numbers(batch)).collect();
        assert_eq!(numbers, (0..1_050).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_is_json_and_its_ids_are_the_gateways() {
        let run = run();
        let body: serde_json::Value = serde_json::from_str(&run.body(10)).expect("JSON");
        assert_eq!(body.as_array().map(Vec::len), Some(50));
        assert_eq!(body[0]["id"], "7-1000");
        assert_eq!(
            run.request_id(1000),
            orbit_meter::ingest::request_id("/loadtest/5", "7-1000"),
            "the contract, written twice"
        );
    }

    #[test]
    fn chance_is_what_it_is_told_to_be() {
        let mut random = Random::of(3);
        let hits = (0..100_000).filter(|_| random.is_lucky(10.0)).count();
        assert!((9_000..11_000).contains(&hits), "{hits}");
        assert!(!(0..1_000).any(|_| random.is_lucky(0.0)));
        assert!((0..1_000).all(|_| random.is_lucky(100.0)));
    }
}
