//! Rows for the tests: made from a seed, held owned, and written in three ways.

use std::fmt::Write as _;

use orbit_meter::clickhouse::BlockBuilder;
use orbit_meter::event::{Event, EventId, Flags, Kind, Method, View};

/// 2026-11-01T00:00:00Z, in unix microseconds.
pub(crate) const NOVEMBER_US: i64 = 1_793_491_200_000_000;
pub(crate) const MONTH: u32 = 202_611;
const MONTH_US: u64 = 30 * 86_400_000_000;

/// xorshift64*: enough for test data, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// An event that owns its strings, with its identity.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) id: EventId,
    pub(crate) ts_us: i64,
    pub(crate) request_id: [u8; 16],
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) status: u16,
    pub(crate) flags: u8,
    pub(crate) requests: u32,
    pub(crate) quantity_nano: i128,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) duration_us: u32,
    pub(crate) upstream_us: u32,
    /// tenant, path, plan, key id, app, route, meter, reason
    pub(crate) labels: [String; 8],
}

const KINDS: [Kind; 3] = [Kind::Request, Kind::Refused, Kind::Ingested];

impl Row {
    /// A plain request of `tenant`, `second` seconds into the month.
    pub(crate) fn plain(sequence: u64, tenant: &str, second: u64) -> Row {
        Row {
            id: EventId { node: 1, epoch: 1, lane: 0, sequence },
            ts_us: NOVEMBER_US + second.cast_signed() * 1_000_000,
            request_id: u128::from(sequence).to_be_bytes(),
            kind: Kind::Request,
            method: Method::Get,
            status: 200,
            flags: 0,
            requests: 1,
            quantity_nano: 1_000_000_000,
            request_bytes: 10,
            response_bytes: 100,
            duration_us: 1_500,
            upstream_us: 1_000,
            labels: [
                tenant.to_owned(),
                format!("acme/acme-brasil/{tenant}"),
                "business".to_owned(),
                "k000000001".to_owned(),
                "crm".to_owned(),
                "contacts".to_owned(),
                "api_calls".to_owned(),
                String::new(),
            ],
        }
    }

    /// Any row that a journal could hold, extremes included; strings from `vocabulary`.
    pub(crate) fn random(random: &mut Random, sequence: u64, vocabulary: &[String]) -> Row {
        let edge = |random: &mut Random| match random.below(4) {
            0 => 0,
            1 => u64::MAX,
            _ => random.next(),
        };
        let magnitude = 10_i128.pow(38) - 1;
        let quantity_nano = match random.below(5) {
            0 => magnitude,
            1 => -magnitude,
            2 => -i128::from(random.next()),
            3 => (i128::from(random.next()) << 60) % magnitude,
            _ => i128::from(random.below(5_000_000_000)),
        };
        let wide = (u128::from(random.next()) << 64) | u128::from(random.next());
        Row {
            id: EventId {
                node: edge(random) as u32,
                epoch: edge(random) as u32,
                lane: edge(random) as u16,
                sequence: edge(random) ^ sequence,
            },
            ts_us: NOVEMBER_US + random.below(MONTH_US).cast_signed(),
            request_id: wide.to_be_bytes(),
            kind: KINDS[random.below(3) as usize],
            method: Method::from_number(random.below(10) as u8).expect("ten methods"),
            status: edge(random) as u16,
            flags: edge(random) as u8,
            requests: edge(random) as u32,
            quantity_nano,
            request_bytes: edge(random),
            response_bytes: edge(random),
            duration_us: edge(random) as u32,
            upstream_us: edge(random) as u32,
            labels: std::array::from_fn(|_| {
                vocabulary[random.below(vocabulary.len() as u64) as usize].clone()
            }),
        }
    }

    fn event(&self) -> Event<'_> {
        let [tenant, path, plan, key_id, app, route, meter, reason] = &self.labels;
        Event {
            ts_us: self.ts_us,
            request_id: self.request_id,
            kind: self.kind,
            method: self.method,
            status: self.status,
            flags: Flags::from_bits(self.flags),
            requests: self.requests,
            quantity_nano: self.quantity_nano,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            duration_us: self.duration_us,
            upstream_us: self.upstream_us,
            tenant,
            path,
            plan,
            key_id,
            app,
            route,
            meter,
            reason,
        }
    }

    /// The row as the journal hands it to the encoder.
    pub(crate) fn push_into(&self, builder: &mut BlockBuilder) {
        let event = self.event();
        let mut bytes = vec![0; event.encoded_len().expect("short strings")];
        event.encode(&mut bytes);
        builder.push(&self.id, &View::decode(&bytes).expect("just encoded"));
    }

    /// The row as a line of JSONEachRow, by a way that has nothing in common with the encoder.
    pub(crate) fn json(&self, batch_id: u64) -> String {
        let kind = match self.kind {
            Kind::Request => "request",
            Kind::Refused => "refused",
            Kind::Ingested => "ingested",
        };
        let method = format!("{:?}", self.method).to_uppercase();
        let negative = if self.quantity_nano < 0 { "-" } else { "" };
        let nano = self.quantity_nano.unsigned_abs();
        let (whole, fraction) = (nano / 1_000_000_000, nano % 1_000_000_000);
        let id = self.request_id.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes every write");
            hex
        });
        let uuid =
            format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
        let seconds = self.ts_us.div_euclid(1_000_000);
        let micros = self.ts_us.rem_euclid(1_000_000);
        let [tenant, path, plan, key_id, app, route, meter, reason] = &self.labels;
        serde_json::json!({
            "node": self.id.node, "epoch": self.id.epoch, "lane": self.id.lane,
            "sequence": self.id.sequence, "ts": format!("{seconds}.{micros:06}"),
            "tenant": tenant, "path": path, "plan": plan, "key_id": key_id, "app": app,
            "route": route, "meter": meter, "kind": kind, "reason": reason, "method": method,
            "status": self.status, "flags": self.flags, "requests": self.requests,
            "quantity": format!("{negative}{whole}.{fraction:09}"),
            "request_bytes": self.request_bytes, "response_bytes": self.response_bytes,
            "duration_us": self.duration_us, "upstream_us": self.upstream_us,
            "request_id": uuid, "batch_id": batch_id,
        })
        .to_string()
    }
}
