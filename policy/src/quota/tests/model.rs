//! Quotas against a plain model that counts in a map.

use std::collections::HashMap;

use super::*;
use crate::calendar::Window;
use crate::random::Random;

/// A quota as the model knows it.
struct Plain {
    name: &'static str,
    meter: &'static str,
    per: &'static str,
    calendar: Calendar,
    limit: u64,
    grace: u64,
    roll_over: u64,
    grants: Vec<(i64, u64)>,
    at_limit: &'static str,
    /// Tokens left at the throttle; none come back, since time stands still for buckets here.
    tokens: u64,
    /// The window it is in, and what was rolled over into it.
    current: Option<(Window, u64)>,
    used: HashMap<i64, u64>,
}

const STEPS: usize = 120_000;
const TOKENS: u64 = 1_000;
const TENANTS: [&str; 2] = ["holding", "team"];

impl Plain {
    fn granted(&self, window: &Window) -> u64 {
        self.grants.iter().filter(|(at_us, _)| window.contains(*at_us)).map(|(_, n)| n).sum()
    }

    fn used(&self) -> u64 {
        self.current.map_or(0, |(window, _)| self.used.get(&window.start_us).copied().unwrap_or(0))
    }

    /// Moves on to the window of an instant, if that is newer.
    fn enter(&mut self, at_us: i64) {
        let window = self.calendar.window(at_us);
        match self.current {
            None => self.current = Some((window, 0)),
            Some((current, extra)) if window.start_us > current.start_us => {
                let before = self.calendar.window(window.start_us - 1);
                let limit = self.limit + self.granted(&before);
                let left = if before.start_us == current.start_us {
                    (limit + extra).saturating_sub(self.used())
                } else {
                    limit
                };
                self.current = Some((window, left.min(self.roll_over)));
            }
            Some(_) => {}
        }
    }

    /// Counts a request, in the window the quota is in.
    fn debit(&mut self, amount: u64, at_us: i64) {
        self.enter(at_us);
        if let Some((window, _)) = self.current {
            *self.used.entry(window.start_us).or_default() += amount;
        }
    }

    /// Counts anything else, in the window it is dated in.
    fn add(&mut self, amount: u64, at_us: i64) {
        self.enter(at_us);
        let window = self.calendar.window(at_us);
        *self.used.entry(window.start_us).or_default() += amount;
    }

    /// What may be used, grace included, for a request at an instant.
    fn allowance(&mut self, at_us: i64) -> u64 {
        self.enter(at_us);
        let window = self.calendar.window(at_us);
        let (current, extra) = self.current.expect("it was entered");
        let granted = if current.start_us == window.start_us { self.granted(&window) } else { 0 };
        self.limit + granted + extra + self.grace
    }

    fn text(&self) -> String {
        let Plain { name, meter, per, limit, roll_over, at_limit, .. } = self;
        let mut text = format!(
            "{{ name = \"{name}\", meter = \"{meter}\", limit = {limit}, per = \"{per}\", \
             at_limit = \"{at_limit}\", roll_over = {roll_over}"
        );
        if self.grace > 0 {
            text.push_str(&format!(", grace = {}", self.grace));
        }
        if *at_limit == "throttle_to" {
            text.push_str(&format!(
                ", throttle = {{ rate = 1_000, per = \"day\", burst = {TOKENS} }}"
            ));
        }
        text + " }"
    }
}

/// Narrowest first: two of the team, two of the holding, one of the plan.
fn quotas() -> Vec<Plain> {
    let zones = jiff::tz::TimeZoneDatabase::bundled();
    let quota = |name, meter, per: &'static str, zone, at_limit| {
        let period = match per {
            "hour" => Period::Hour,
            "day" => Period::Day,
            "month" => Period::Month,
            _ => Period::BillingPeriod,
        };
        let zone = zones.get(zone).expect("a zone");
        Plain {
            name,
            meter,
            per,
            calendar: Calendar::new(zone, period, 31),
            limit: 20,
            grace: 0,
            roll_over: 0,
            grants: Vec::new(),
            at_limit,
            tokens: TOKENS,
            current: None,
            used: HashMap::new(),
        }
    };
    vec![
        quota("hourly", "api_calls", "hour", "Australia/Lord_Howe", "block"),
        quota("billed", "api_calls", "month", "Australia/Lord_Howe", "allow_and_bill"),
        quota("daily", "api_calls", "day", "America/Sao_Paulo", "throttle_to"),
        quota("bytes", "data_in", "day", "America/Sao_Paulo", "block"),
        quota("paid", "api_calls", "billing_period", "America/Sao_Paulo", "block"),
    ]
}

fn text(quotas: &[Plain]) -> String {
    let list = |quotas: &[Plain]| quotas.iter().map(Plain::text).collect::<Vec<_>>().join(",\n");
    let holding = format!(
        "zone = \"America/Sao_Paulo\"\nbilling_day = 31\nquotas = [{}]",
        list(&quotas[2..4])
    );
    let team = format!("zone = \"Australia/Lord_Howe\"\nquotas = [{}]", list(&quotas[..2]));
    let mut grants = String::new();
    for (quota, tenant) in quotas.iter().zip([1, 1, 0, 0, 0]) {
        for (at_us, amount) in &quota.grants {
            let at = jiff::Timestamp::from_microsecond(*at_us).expect("an instant");
            grants.push_str(&format!(
                "[[grant]]\ntenant = \"{}\"\nquota = \"{}\"\namount = {amount}\nat = \"{at}\"\n",
                TENANTS[tenant], quota.name
            ));
        }
    }
    documents(&list(&quotas[4..]), &holding, &team, &grants)
}

/// What [`Policy::roll`] does.
fn enter(quotas: &mut [Plain], at_us: i64) {
    for quota in quotas {
        quota.enter(at_us);
    }
}

/// Whether the model admits a request, which it then counts.
fn admits(quotas: &mut [Plain], meter: &str, cost: u64, at_us: i64) -> bool {
    let mut admitted = true;
    let mut throttled = vec![false; quotas.len()];
    for (quota, throttled) in quotas.iter_mut().zip(&mut throttled) {
        let counts = quota.meter == meter || quota.meter == "data_in";
        if quota.at_limit == "allow_and_bill" || !counts || (quota.meter == meter && cost == 0) {
            continue;
        }
        let wanted = if quota.meter == meter { cost } else { 1 };
        let is_open = quota.allowance(at_us) >= quota.used() + wanted;
        if !is_open && quota.at_limit == "throttle_to" {
            *throttled = true;
            admitted &= quota.tokens >= cost;
        } else {
            admitted &= is_open;
        }
    }
    if admitted {
        for (quota, throttled) in quotas.iter_mut().zip(throttled) {
            if quota.meter == meter && cost > 0 {
                if quota.at_limit == "allow_and_bill" || throttled {
                    quota.add(cost, at_us);
                } else {
                    quota.debit(cost, at_us);
                }
            }
            if throttled {
                quota.tokens -= cost;
            }
        }
    }
    admitted
}

fn change(quotas: &mut [Plain], random: &mut Random, now_us: i64) {
    let quota = &mut quotas[random.below(5) as usize];
    match random.below(5) {
        0 => quota.limit = random.below(60),
        1 if quota.at_limit != "allow_and_bill" => quota.grace = random.below(5),
        2 => quota.roll_over = random.below(30),
        3 => {
            quota.grants.retain(|(at_us, _)| *at_us > now_us - 60 * 24 * HOUR_US);
            let at_us =
                now_us + random.below(6 * 24 * 3_600).cast_signed() * 1_000_000 - 72 * HOUR_US;
            quota.grants.push((at_us, 1 + random.below(10)));
        }
        _ => {
            quota.at_limit = match (quota.at_limit, random.below(2)) {
                ("block", 0) => "throttle_to",
                ("throttle_to", 0) => {
                    // A bucket that is taken out is gone, as with any limit.
                    quota.tokens = TOKENS;
                    "block"
                }
                (same, _) => same,
            };
        }
    }
}

fn compare(policy: &Policy, quotas: &mut [Plain], at_us: i64) {
    let snapshot = policy.load();
    let views = snapshot.quotas_of("team", at_us).expect("the tenant is there");
    assert_eq!(views.len(), quotas.len());
    for (view, quota) in views.iter().zip(quotas) {
        quota.enter(at_us);
        let window = quota.calendar.window(at_us);
        let extra = quota.current.expect("it was entered").1;
        let expected = (quota.name, quota.used(), quota.limit, quota.granted(&window), extra);
        let seen_window = view.window.expect("it has windows");
        let (granted, extra) = (seen_window.granted, seen_window.rolled_over);
        let seen = (view.name, view.used, view.limit, granted, extra);
        assert_eq!(seen, expected, "at {at_us}");
        let bounds = (seen_window.start_us, seen_window.end_us);
        assert_eq!(bounds, (window.start_us, window.end_us));
    }
}

/// P1, P2 and P3 at once: every decision, and what it leaves behind, is the model's.
#[test]
fn p1_p2_p3_a_hundred_thousand_steps_are_those_of_a_plain_model() {
    let mut random = Random::printed();
    let mut quotas = quotas();
    let policy = policy_in(InMemory::shared(), &text(&quotas));
    // From before the end of summer time in one zone to after its start in the other.
    let mut now_us = 1_518_000_000_000_000;
    let (mut admitted, mut refused) = (0, 0);
    for step in 0..STEPS {
        now_us += match random.below(400) {
            0 => {
                // Nobody is away for longer without being rolled in between.
                policy.roll(now_us);
                enter(&mut quotas, now_us);
                random.below(40 * 24).cast_signed() * HOUR_US
            }
            1..=9 => random.below(30 * 3_600).cast_signed() * 1_000_000,
            _ => random.below(300).cast_signed() * 1_000_000,
        };
        // Now and then a request is late.
        let late_us =
            if random.below(20) == 0 { random.below(7_200).cast_signed() * 1_000_000 } else { 0 };
        let at_us = now_us - late_us;
        match random.below(40) {
            0 => compare(&policy, &mut quotas, now_us),
            1 => {
                policy.roll(now_us);
                enter(&mut quotas, now_us);
                let amount = random.below(12);
                policy.charge_event(&event("holding/team", "api_calls", now_us), amount, now_us);
                for quota in quotas.iter_mut().filter(|quota| quota.meter == "api_calls") {
                    quota.add(amount, now_us);
                }
            }
            2 if random.below(8) == 0 => {
                change(&mut quotas, &mut random, now_us);
                apply_at(&policy, &text(&quotas), now_us);
            }
            _ => {
                let (path, meter, cost) = match random.below(8) {
                    0 => ("/three", "api_calls", 3),
                    1 => ("/report", "reports", 1),
                    2 => ("/free", "api_calls", 0),
                    _ => ("/", "api_calls", 1),
                };
                let expected = admits(&mut quotas, meter, cost, at_us);
                match ask(&policy, path, at_us) {
                    Decision::Admit(admission) => {
                        assert!(expected, "step {step}: {path} at {at_us}");
                        admitted += 1;
                        let bytes = random.below(3);
                        let meter = admission.permit.snapshot().meter_id("data_in");
                        policy.charge(&admission.permit, meter.expect("a meter"), bytes, at_us);
                        quotas[3].add(bytes, at_us);
                    }
                    Decision::Deny(denial) => {
                        assert!(!expected, "step {step}: {path} at {at_us}: {:?}", denial.reason);
                        refused += 1;
                    }
                }
            }
        }
    }
    compare(&policy, &mut quotas, now_us);
    assert!(admitted > STEPS / 10 && refused > STEPS / 10, "{admitted} and {refused}");
}
