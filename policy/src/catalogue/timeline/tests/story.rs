//! Random documents: nothing changes between the instants that are named, and a root is on what was
//! said last.

use std::fmt::Write;

use proptest::prelude::*;

use super::{sources, us};
use crate::check;
use crate::dates::{When, period_end_us};
use crate::snapshot::{Snapshot, Status};

/// A change in a random document: which tenant, the day, and what it says.
#[derive(Clone, Debug)]
struct Says {
    tenant: usize,
    day: i64,
    at_period_end: bool,
    plan: Option<usize>,
    addons: Option<Vec<usize>>,
    apps: Option<Vec<usize>>,
    status: Option<usize>,
    /// Overrides that say so many users; none at 0.
    overrides: Option<u64>,
}

const PLANS: [&str; 5] = ["small", "big", "big@1", "big@2", "all"];
const ADDONS: [&str; 2] = ["ex", "why"];
const APPS: [&str; 7] = ["a", "b", "c", "d", "e", "x", "y"];
const STATUSES: [&str; 3] = ["active", "unpaid", "suspended"];
const ZONES: [&str; 3] = ["UTC", "America/Sao_Paulo", "Europe/Berlin"];
const TENANTS: usize = 4;
const DAYS: i64 = 900;

/// A tenant in a random document: whether it is below the one before, its zone, its billing day,
/// and the last day of its trial with the plan after it.
type Told = (bool, usize, u8, Option<(i64, usize)>);

#[derive(Clone, Debug)]
struct Story {
    tenants: Vec<Told>,
    changes: Vec<Says>,
}

fn story() -> impl Strategy<Value = Story> {
    let some = |count: usize| prop::collection::vec(0..count, 0..4);
    let trial = prop::option::of((1..DAYS, 0..6_usize));
    let tenant = (any::<bool>(), 0..ZONES.len(), 1..=31_u8, trial);
    let change = (
        (0..TENANTS, 1..DAYS, any::<bool>()),
        prop::option::of(0..PLANS.len()),
        prop::option::of(some(ADDONS.len())),
        prop::option::of(some(APPS.len())),
        prop::option::of(0..STATUSES.len()),
        prop::option::of(0..99_u64),
    );
    let change = change.prop_map(|(when, plan, addons, apps, status, overrides)| {
        let (tenant, day, at_period_end) = when;
        Says { tenant, day, at_period_end, plan, addons, apps, status, overrides }
    });
    (prop::collection::vec(tenant, TENANTS), prop::collection::vec(change, 0..8))
        .prop_map(|(tenants, changes)| Story { tenants, changes })
}

/// A day counted from the first of 2025.
fn day(number: i64) -> String {
    let first = jiff::civil::date(2025, 1, 1);
    first.saturating_add(jiff::Span::new().days(number)).to_string()
}

impl Story {
    fn text(&self) -> String {
        let mut text = String::new();
        for (index, (below, zone, billing_day, trial)) in self.tenants.iter().enumerate() {
            let from = if *below && index > 0 {
                format!("parent = \"t{}\"", index - 1)
            } else {
                "plan = \"big\"".to_owned()
            };
            writeln!(
                text,
                "[[tenant]]\nid = \"t{index}\"\n{from}\nsince = \"{}\"\nzone = \"{}\"\n\
                 billing_day = {billing_day}",
                day(0),
                ZONES[*zone]
            )
            .expect("a string");
            if let Some((until, then)) = trial {
                let then = PLANS.get(*then).unwrap_or(&"suspended");
                let until = day(*until);
                writeln!(text, "trial = {{ until = \"{until}\", then = \"{then}\" }}")
                    .expect("a string");
            }
        }
        for says in &self.changes {
            text.push_str(&says.text());
        }
        text
    }
}

impl Says {
    /// A change says something: where nothing else does, that the tenant is active.
    fn says_status(&self) -> Option<usize> {
        let nothing = self.plan.is_none() && self.addons.is_none() && self.apps.is_none();
        let nothing = nothing && self.overrides.is_none();
        self.status.or_else(|| nothing.then_some(0))
    }

    fn text(&self) -> String {
        let date = day(self.day);
        let mut text = format!("[[change]]\ntenant = \"t{}\"\n", self.tenant);
        if self.at_period_end {
            write!(text, "requested = \"{date}\"\neffective = \"period_end\"\n").expect("a string");
        } else {
            writeln!(text, "at = \"{date}\"").expect("a string");
        }
        let list = |names: &[&str], chosen: &[usize]| {
            let names = chosen.iter().map(|index| format!("\"{}\"", names[*index]));
            names.collect::<Vec<_>>().join(", ")
        };
        if let Some(plan) = self.plan {
            writeln!(text, "plan = \"{}\"", PLANS[plan]).expect("a string");
        }
        if let Some(addons) = &self.addons {
            writeln!(text, "addons = [{}]", list(&ADDONS, addons)).expect("a string");
        }
        if let Some(apps) = &self.apps {
            writeln!(text, "apps = [{}]", list(&APPS, apps)).expect("a string");
        }
        if let Some(users) = &self.overrides {
            let users = if *users > 0 { format!("users = {users}") } else { String::new() };
            writeln!(text, "overrides = {{ {users} }}").expect("a string");
        }
        if let Some(status) = self.says_status() {
            writeln!(text, "status = \"{}\"", STATUSES[status]).expect("a string");
        }
        text
    }
}

impl Story {
    /// What the first tenant, a root, is on. By the book: look for the latest that was said.
    fn first_tenant_at(&self, at_us: i64) -> Own {
        let (_, zone, billing_day, trial) = &self.tenants[0];
        let zone = jiff::tz::TimeZoneDatabase::bundled().get(ZONES[*zone]).expect("a zone");
        let us = |number| When::parse(&day(number)).expect("a day").at_us(&zone);
        let instant = |says: &Says| {
            let said_us = us(says.day);
            if says.at_period_end { period_end_us(said_us, *billing_day, &zone) } else { said_us }
        };
        let said: Vec<_> = self.changes.iter().filter(|says| says.tenant == 0).collect();
        let past = || said.iter().filter(|says| instant(says) <= at_us).copied();
        let latest = |is: &dyn Fn(&Says) -> bool| {
            past().filter(|says| is(says)).max_by_key(|says| instant(says))
        };
        let plan = latest(&|says| says.plan.is_some());
        let mut on = plan.and_then(|says| says.plan).map_or("big", |plan| PLANS[plan]);
        let mut came_us = plan.map_or(us(0), instant);
        let word = latest(&|says| says.says_status().is_some());
        let mut status = word.and_then(Says::says_status).unwrap_or(0);
        if let Some((until, then)) = trial {
            let until_us = us(*until);
            let bought = said.iter().any(|says| says.plan.is_some() && instant(says) <= until_us);
            if !bought && until_us <= at_us {
                match PLANS.get(*then) {
                    Some(then) if plan.is_none() => (on, came_us) = (then, until_us),
                    Some(_) => {}
                    // Suspended, until a plan or a status is said from then on.
                    None => {
                        let later = past().filter(|says| instant(says) >= until_us);
                        let freed = later
                            .into_iter()
                            .any(|says| says.plan.is_some() || says.says_status().is_some());
                        status = if freed { status } else { 2 };
                    }
                }
            }
        }
        let second = came_us >= When::parse("2026-06-01").expect("a day").at_us(&zone);
        let plan = match on {
            "big" if second => "big@2".to_owned(),
            "big" => "big@1".to_owned(),
            pinned if pinned.contains('@') => pinned.to_owned(),
            other => format!("{other}@1"),
        };
        let addons = latest(&|says| says.addons.is_some()).and_then(|says| says.addons.clone());
        let mut addons: Vec<_> = addons.iter().flatten().map(|index| ADDONS[*index]).collect();
        addons.sort_unstable();
        addons.dedup();
        let own = latest(&|says| says.overrides.is_some()).and_then(|says| says.overrides);
        let of_plan = match &*plan {
            "small@1" => Some(50),
            "big@1" => Some(200),
            "big@2" => Some(220),
            _ => None,
        };
        let users = own.filter(|users| *users > 0).or(of_plan);
        (plan, addons, [Status::Active, Status::Unpaid, Status::Suspended][status], users)
    }
}

/// Plan, add-ons as a set, status and users.
type Own = (String, Vec<&'static str>, Status, Option<u64>);

/// What a snapshot says of it.
fn own(snapshot: &Snapshot, tenant: &str) -> Own {
    let has = snapshot.entitlements_of(snapshot.tenant(tenant).expect("a tenant"));
    let is = |name: &&&str| has.addons.iter().any(|addon| *addon.id == ***name);
    let mut addons: Vec<_> = ADDONS.iter().filter(is).copied().collect();
    addons.sort_unstable();
    (format!("{}@{}", has.plan.id, has.plan.version), addons, has.status, has.figures.users)
}

/// Everything that resolves, as text.
fn digest(snapshot: &Snapshot) -> String {
    let tenants = snapshot.tenants.iter().map(|tenant| {
        let has = snapshot.entitlements_of(tenant);
        format!("{tenant:?} {:?} {:?}\n", has.figures, has.next_change)
    });
    // Buckets are made anew for each.
    tenants.collect::<String>().replace("Bucket", "")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_resolves_differently_but_at_the_instants_that_are_named(
        story in story(),
        parts in prop::collection::vec(0.0..1.0_f64, 3),
    ) {
        let sources = sources(&story.text());
        let first_us = us("2024-12-01");
        let first = check(&sources, first_us);
        // Changes of one thing at one instant are refused.
        prop_assume!(first.is_ok());
        let mut snapshot = first.expect("valid");
        let mut steps = 0;
        loop {
            for tenant in &snapshot.tenants {
                let above = |id: &str| tenant.path.split('/').any(|above| above == id);
                let mut upcoming = snapshot.upcoming().iter();
                let next = upcoming.find(|change| change.tenant.as_deref().is_some_and(above));
                prop_assert_eq!(snapshot.entitlements_of(tenant).next_change, next);
            }
            let next_us = snapshot.next_change_us();
            let end_us = next_us.unwrap_or(us("2100-01-01"));
            let from_us = snapshot.at_us();
            for part in &parts {
                let between_us = from_us + ((end_us - from_us) as f64 * part) as i64;
                let again = check(&sources, between_us.min(end_us - 1)).expect("valid before");
                prop_assert_eq!(digest(&again), digest(&snapshot));
                prop_assert_eq!(again.next_change_us(), next_us);
                prop_assert_eq!(own(&again, "t0"), story.first_tenant_at(again.at_us()));
            }
            let Some(next_us) = next_us else { break };
            snapshot = check(&sources, next_us).expect("valid at any instant");
            prop_assert!(snapshot.next_change_us().is_none_or(|later_us| later_us > next_us));
            steps += 1;
        }
        prop_assert!(steps <= story.changes.len() + TENANTS + 1);
    }
}
