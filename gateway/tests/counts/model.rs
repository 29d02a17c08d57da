//! The definition, once more and plainly: what rows add up to at a quota.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{TENANTS, World};

const NANO: i128 = 1_000_000_000;

/// A row of the database.
pub(crate) struct Row {
    pub(crate) tenant: String,
    pub(crate) path: Vec<String>,
    pub(crate) meter: String,
    pub(crate) kind: String,
    pub(crate) flags: u8,
    pub(crate) requests: u64,
    pub(crate) nano: i128,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) ts_us: i64,
    pub(crate) request_id: String,
    /// Which of two of the same microsecond is later.
    pub(crate) place: (u32, u32, u32, u64),
}

/// A quota's figure.
pub(crate) struct Figure<'q> {
    pub(crate) tenant: &'q str,
    pub(crate) of_plan: bool,
    pub(crate) meter: &'q str,
    pub(crate) window: Option<(i64, i64)>,
}

const SUMMED: u8 = 4;
const MEASURED: u8 = 32;
const MEMBER: u8 = 64;

impl Figure<'_> {
    pub(crate) fn of(&self, rows: &[Row], world: &World) -> u64 {
        let Some((from_us, to_us)) = self.window else { return self.level(rows, world) };
        let mine = rows.iter().filter(|row| {
            row.kind != "refused"
                && (from_us..to_us).contains(&row.ts_us)
                && self.holds(&row.path, world)
        });
        let mut sum = 0;
        let mut members = BTreeSet::new();
        for row in mine {
            let is_on_meter = row.meter == self.meter;
            if row.flags & MEMBER != 0 {
                if is_on_meter {
                    members.insert(&row.request_id);
                }
                continue;
            }
            let units = ((row.nano + NANO - 1) / NANO) as u64;
            sum += match self.meter {
                "data_in" => row.request_bytes + if is_on_meter { units } else { 0 },
                "data_out" => row.response_bytes + if is_on_meter { units } else { 0 },
                _ if !is_on_meter => 0,
                "visits" | "imports" if row.flags & MEASURED == 0 => row.requests,
                "visits" | "imports" if row.flags & SUMMED == 0 => 1,
                _ => units,
            };
        }
        if self.meter == "active_users" { members.len() as u64 } else { sum }
    }

    /// Whether a row of this path counts here, as the tree is now.
    fn holds(&self, path: &[String], world: &World) -> bool {
        let Some(place) = path.iter().position(|id| id == self.tenant) else { return false };
        let below = &path[place + 1..];
        !self.of_plan || !below.iter().any(|id| world.plans.contains_key(&**id))
    }

    /// The own levels of all it holds now.
    fn level(&self, rows: &[Row], world: &World) -> u64 {
        let mut sum = 0;
        for tenant in TENANTS {
            let mut path: Vec<String> =
                world.chain(tenant).iter().map(|id| (*id).to_owned()).collect();
            path.reverse();
            if !self.holds(&path, world) {
                continue;
            }
            let mine: Vec<&Row> = rows
                .iter()
                .filter(|row| {
                    row.kind != "refused" && row.meter == self.meter && row.tenant == tenant
                })
                .collect();
            let told = mine.iter().filter(|row| row.flags & MEASURED == 0);
            let told = told.max_by_key(|row| (row.ts_us, row.place));
            let since = mine.iter().filter(|row| row.flags & MEASURED != 0);
            let since = since.filter(|row| told.is_none_or(|told| row.ts_us > told.ts_us));
            let level = told.map_or(0, |row| row.nano) + since.map(|row| row.nano).sum::<i128>();
            sum += level.div_euclid(NANO) + i128::from(level.rem_euclid(NANO) > 0);
        }
        sum.max(0) as u64
    }
}

/// How many rows of each kind there are, for who wonders.
pub(crate) fn kinds(rows: &[Row]) -> BTreeMap<(String, u8), usize> {
    let mut kinds = BTreeMap::new();
    for row in rows {
        *kinds.entry((row.kind.clone(), row.flags)).or_default() += 1;
    }
    kinds
}
