//! What a world does, by the book.

use std::collections::{BTreeMap, BTreeSet};

use orbit_policy::Reading;

use crate::worlds::{AtLimit, Limit, Quota, ROUTES, World};
use crate::zones::Zones;

/// A token bucket as it is described: tokens come back at their rate, up to the burst.
struct Bucket {
    interval_ns: u64,
    burst: u64,
    /// When it would be full if nothing came.
    full_at_ns: u64,
}

impl Bucket {
    fn new(limit: &Limit) -> Bucket {
        let interval_ns = 86_400_000_000_000_u64.div_ceil(limit.rate);
        Bucket { interval_ns, burst: limit.burst, full_at_ns: 0 }
    }

    fn has(&self, cost: u64, now_ns: u64) -> bool {
        self.full_at_ns.max(now_ns) + cost * self.interval_ns
            <= now_ns + self.burst * self.interval_ns
    }

    fn take(&mut self, cost: u64, now_ns: u64) {
        self.full_at_ns = self.full_at_ns.max(now_ns) + cost * self.interval_ns;
    }
}

/// A quota where it stands.
struct Standing {
    owner: usize,
    of_plan: bool,
    quota: Quota,
    /// Zone, period and billing day.
    calendar: (usize, usize, u8),
    grant: Option<(i64, u64)>,
    throttle: Bucket,
    used: BTreeMap<i64, u64>,
    /// The window it is in, and what was rolled over into it.
    current: Option<(i64, u64)>,
    /// The windows it was ever in, or that something came late for.
    seen: BTreeSet<i64>,
}

struct Rate {
    owner: usize,
    of_plan: bool,
    bucket: Bucket,
}

pub(crate) struct Model<'w> {
    world: &'w World,
    zones: &'w Zones,
    quotas: Vec<Standing>,
    rates: Vec<Rate>,
    /// Requests in flight below each tenant.
    open: Vec<u64>,
}

/// What refused a request.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// The ends of the windows of quotas that did.
    pub(crate) ends_us: Vec<i64>,
    pub(crate) by_limits: bool,
}

/// Used, start and end of the window, granted, rolled over, and of the last window it was in before
/// its start, end and use.
pub(crate) type Figures = (u64, i64, i64, u64, u64, Option<(i64, i64, u64)>);

impl Standing {
    fn granted(&self, start_us: i64, end_us: i64) -> u64 {
        let within = |at_s: i64| (start_us..end_us).contains(&(at_s * 1_000_000));
        self.grant.filter(|(at_s, _)| within(*at_s)).map_or(0, |(_, amount)| amount)
    }

    fn used_in(&self, start_us: i64) -> u64 {
        self.used.get(&start_us).copied().unwrap_or(0)
    }

    /// Moves on to the window of an instant, if that is newer.
    fn enter(&mut self, zones: &Zones, unix_us: i64) {
        let (start_us, _, before_us) = zones.window(self.calendar, unix_us);
        let extra = match self.current {
            None => 0,
            Some((current_us, _)) if current_us >= start_us => return,
            Some((current_us, extra)) => {
                // What the window before leaves; of one nobody was in, all of it.
                let extra = if current_us == before_us { extra } else { 0 };
                let used = if current_us == before_us { self.used_in(before_us) } else { 0 };
                let granted = self.granted(before_us, start_us);
                let left = (self.quota.limit + granted + extra).saturating_sub(used);
                left.min(self.quota.roll_over)
            }
        };
        self.current = Some((start_us, extra));
        self.seen.insert(start_us);
    }

    /// Counts in the window an instant lies in, unless that is long over.
    fn add(&mut self, zones: &Zones, amount: u64, at_us: i64) {
        self.enter(zones, at_us);
        let (start_us, ..) = zones.window(self.calendar, at_us);
        *self.used.entry(start_us).or_default() += amount;
        self.seen.insert(start_us);
    }

    /// The units it wants of a request; `None`: it does not look at it.
    fn wants(&self, route: usize) -> Option<u64> {
        let route = &ROUTES[route];
        match self.quota.meter {
            "data_in" => Some(1),
            meter if meter != route.meter => None,
            "visits" => Some(1),
            _ => (route.cost > 0).then_some(route.cost),
        }
    }

    fn debits(&self) -> bool {
        self.quota.meter != "data_in"
    }
}

impl<'w> Model<'w> {
    pub(crate) fn new(world: &'w World, zones: &'w Zones) -> Model<'w> {
        let (mut quotas, mut rates) = (Vec::new(), Vec::new());
        for (owner, tenant) in world.tenants.iter().enumerate() {
            let chain = world.chain(owner);
            let zone = chain.iter().find_map(|at| world.tenants[*at].zone).unwrap_or(0);
            let anchor = chain.iter().find_map(|at| world.tenants[*at].anchor).unwrap_or(1);
            let plan = tenant.plan.map(|plan| &world.plans[plan]);
            let bought = plan.into_iter().flat_map(|plan| &plan.quotas);
            let own = tenant.quotas.iter().map(|quota| (false, quota));
            for (of_plan, quota) in own.chain(bought.map(|quota| (true, quota))) {
                let has_grant = tenant.quotas.first().is_some_and(|first| first.name == quota.name);
                quotas.push(Standing {
                    owner,
                    of_plan,
                    calendar: (zone, quota.period, anchor),
                    // A grant goes to the tenant's own quota of the name.
                    grant: tenant.grant.filter(|_| has_grant && !of_plan),
                    throttle: Bucket::new(&quota.throttle),
                    used: BTreeMap::new(),
                    current: None,
                    seen: BTreeSet::new(),
                    quota: quota.clone(),
                });
            }
            let bought = plan.into_iter().flat_map(|plan| &plan.limits);
            let own = tenant.limits.iter().map(|limit| (false, limit));
            for (of_plan, limit) in own.chain(bought.map(|limit| (true, limit))) {
                rates.push(Rate { owner, of_plan, bucket: Bucket::new(limit) });
            }
        }
        Model { world, zones, quotas, rates, open: vec![0; world.tenants.len()] }
    }

    /// Whether what stands at `owner` holds a tenant.
    fn holds(world: &World, owner: usize, of_plan: bool, tenant: usize) -> bool {
        if of_plan { world.buyer(tenant) == owner } else { world.chain(tenant).contains(&owner) }
    }

    pub(crate) fn decide(
        &mut self,
        tenant: usize,
        route: usize,
        now: Reading,
    ) -> Result<(), Refused> {
        let (world, zones) = (self.world, self.zones);
        let (cost, now_ns, unix_us) = (ROUTES[route].cost, now.mono.0, now.unix_us);
        let mut refused = Refused::default();
        let mut slow = Vec::new();
        for (place, standing) in self.quotas.iter_mut().enumerate() {
            let is_held = Model::holds(world, standing.owner, standing.of_plan, tenant);
            let Some(wants) = standing.wants(route).filter(|_| is_held) else { continue };
            if standing.quota.at_limit == AtLimit::Bill {
                continue;
            }
            standing.enter(zones, unix_us);
            let (start_us, end_us, _) = zones.window(standing.calendar, unix_us);
            let (_, extra) = standing.current.expect("it was entered");
            let granted = standing.granted(start_us, end_us);
            let allowance = standing.quota.limit + granted + extra + standing.quota.grace;
            if standing.used_in(start_us) + wants <= allowance {
                continue;
            }
            if standing.quota.at_limit == AtLimit::Throttle {
                if cost > 0 && !standing.throttle.has(cost, now_ns) {
                    refused.by_limits = true;
                }
                slow.push(place);
            } else {
                refused.ends_us.push(end_us);
            }
        }
        for rate in &self.rates {
            let is_held = Model::holds(world, rate.owner, rate.of_plan, tenant);
            refused.by_limits |= is_held && cost > 0 && !rate.bucket.has(cost, now_ns);
        }
        for at in world.chain(tenant) {
            let most = world.tenants[at].concurrent;
            refused.by_limits |= most.is_some_and(|most| self.open[at] >= most);
        }
        if refused.by_limits || !refused.ends_us.is_empty() {
            return Err(refused);
        }
        for (place, standing) in self.quotas.iter_mut().enumerate() {
            let is_held = Model::holds(world, standing.owner, standing.of_plan, tenant);
            let Some(wants) = standing.wants(route).filter(|_| is_held) else { continue };
            if standing.debits() {
                standing.add(zones, wants, unix_us);
            }
            if slow.contains(&place) && cost > 0 {
                standing.throttle.take(cost, now_ns);
            }
        }
        for rate in &mut self.rates {
            if cost > 0 && Model::holds(world, rate.owner, rate.of_plan, tenant) {
                rate.bucket.take(cost, now_ns);
            }
        }
        world.chain(tenant).into_iter().for_each(|at| self.open[at] += 1);
        Ok(())
    }

    /// A request of a tenant is over.
    pub(crate) fn leave(&mut self, tenant: usize) {
        self.world.chain(tenant).into_iter().for_each(|at| self.open[at] -= 1);
    }

    /// What was used besides, dated so.
    pub(crate) fn charge(&mut self, tenant: usize, meter: &str, amount: u64, at_us: i64) {
        for standing in self.quotas.iter_mut().filter(|standing| standing.quota.meter == meter) {
            if Model::holds(self.world, standing.owner, standing.of_plan, tenant) {
                standing.add(self.zones, amount, at_us);
            }
        }
    }

    pub(crate) fn roll(&mut self, unix_us: i64) {
        self.quotas.iter_mut().for_each(|standing| standing.enter(self.zones, unix_us));
    }

    pub(crate) fn quotas(&self) -> usize {
        self.quotas.len()
    }

    /// A quota's figures at an instant, by its tenant's id and its full name.
    pub(crate) fn standing(&self, tenant: &str, full_name: &str, unix_us: i64) -> Figures {
        let (level, name) = full_name.split_once('/').expect("a level and a name");
        let is_it = |standing: &&Standing| {
            format!("t{}", standing.owner) == tenant
                && standing.of_plan == (level == "plan")
                && standing.quota.name == name
        };
        let standing = self.quotas.iter().find(is_it).expect("a quota of the world");
        let (start_us, end_us, _) = self.zones.window(standing.calendar, unix_us);
        let (_, extra) = standing.current.expect("it was rolled");
        let last = standing.seen.range(..start_us).next_back();
        (
            standing.used_in(start_us),
            start_us,
            end_us,
            standing.granted(start_us, end_us),
            extra,
            last.map(|last_us| {
                let (_, end_us, _) = self.zones.window(standing.calendar, *last_us);
                (*last_us, end_us, standing.used_in(*last_us))
            }),
        )
    }
}
