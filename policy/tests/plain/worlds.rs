//! Random trees with random limits and quotas, as documents.

use orbit_policy::ApiKey;

use crate::zones::{ANCHORS, PERIODS, ZONES};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) meter: &'static str,
    pub(crate) cost: u64,
}

pub(crate) const ROUTES: [Route; 5] = [
    Route { path: "/one", meter: "api_calls", cost: 1 },
    Route { path: "/three", meter: "api_calls", cost: 3 },
    Route { path: "/free", meter: "api_calls", cost: 0 },
    Route { path: "/visits", meter: "visits", cost: 2 },
    Route { path: "/other", meter: "others", cost: 1 },
];

/// A token bucket: so many a day, so many at once.
#[derive(Clone)]
pub(crate) struct Limit {
    pub(crate) rate: u64,
    pub(crate) burst: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum AtLimit {
    Block,
    Bill,
    Throttle,
}

#[derive(Clone)]
pub(crate) struct Quota {
    pub(crate) name: String,
    pub(crate) meter: &'static str,
    /// A place among [`PERIODS`].
    pub(crate) period: usize,
    pub(crate) limit: u64,
    pub(crate) grace: u64,
    pub(crate) roll_over: u64,
    pub(crate) at_limit: AtLimit,
    pub(crate) throttle: Limit,
}

pub(crate) struct Tenant {
    pub(crate) parent: Option<usize>,
    /// Of its own.
    pub(crate) plan: Option<usize>,
    /// A place among [`ZONES`], of its own.
    pub(crate) zone: Option<usize>,
    pub(crate) anchor: Option<u8>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) concurrent: Option<u64>,
    pub(crate) quotas: Vec<Quota>,
    /// For its own first quota: an instant and an amount.
    pub(crate) grant: Option<(i64, u64)>,
}

#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) limits: Vec<Limit>,
    pub(crate) quotas: Vec<Quota>,
}

pub(crate) struct World {
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) keys: Vec<ApiKey>,
}

const PLANS: [&str; 2] = ["p", "q"];

fn limits(random: &mut Random) -> Vec<Limit> {
    let limit = |random: &mut Random| {
        let (rate, burst) = (1 + random.below(20_000), 3 + random.below(40));
        Limit { rate, burst }
    };
    (0..random.below(2)).map(|_| limit(random)).collect()
}

fn quotas(random: &mut Random, most: u64) -> Vec<Quota> {
    let count = random.below(most + 1);
    (0..count)
        .map(|number| {
            let at_limit =
                *random.pick(&[AtLimit::Block, AtLimit::Block, AtLimit::Bill, AtLimit::Throttle]);
            let grace = if at_limit == AtLimit::Bill { 0 } else { random.below(3) };
            Quota {
                name: format!("quota-{number}"),
                meter: random.pick::<&str>(&["api_calls", "api_calls", "visits", "data_in"]),
                period: random.below(PERIODS.len() as u64) as usize,
                limit: random.below(40),
                grace,
                roll_over: [0, random.below(20)][random.below(2) as usize],
                at_limit,
                throttle: Limit { rate: 1 + random.below(50_000), burst: 3 + random.below(10) },
            }
        })
        .collect()
}

impl World {
    pub(crate) fn new(random: &mut Random) -> World {
        let count = 1 + random.below(6) as usize;
        let tenants: Vec<Tenant> = (0..count)
            .map(|index| {
                let is_root = index == 0 || random.below(8) == 0;
                let parent = (!is_root).then(|| random.below(index as u64) as usize);
                let has_plan = is_root || random.below(5) == 0;
                let quotas = quotas(random, 2);
                Tenant {
                    parent,
                    plan: has_plan.then(|| random.below(2) as usize),
                    zone: (random.below(3) > 0).then(|| random.below(ZONES.len() as u64) as usize),
                    anchor: (random.below(2) > 0).then(|| *random.pick(&ANCHORS)),
                    limits: limits(random),
                    concurrent: (random.below(4) == 0).then(|| 1 + random.below(4)),
                    // Around the time at which the world is lived through.
                    grant: (!quotas.is_empty() && random.below(3) == 0).then(|| {
                        (
                            1_454_284_800 + random.below(100_000_000).cast_signed(),
                            1 + random.below(9),
                        )
                    }),
                    quotas,
                }
            })
            .collect();
        let plan = |random: &mut Random| Plan { limits: limits(random), quotas: quotas(random, 2) };
        let plans = vec![plan(random), plan(random)];
        let keys = tenants.iter().map(|_| ApiKey::generate("test").expect("randomness")).collect();
        World { tenants, plans, keys }
    }

    /// From a tenant to its root.
    pub(crate) fn chain(&self, tenant: usize) -> Vec<usize> {
        std::iter::successors(Some(tenant), |at| self.tenants[*at].parent).collect()
    }

    /// Ids from the root to a tenant.
    pub(crate) fn path(&self, tenant: usize) -> String {
        let ids: Vec<String> = self.chain(tenant).iter().rev().map(|at| format!("t{at}")).collect();
        ids.join("/")
    }

    /// Who has the plan that a tenant is on.
    pub(crate) fn buyer(&self, tenant: usize) -> usize {
        let chain = self.chain(tenant);
        *chain.iter().find(|at| self.tenants[**at].plan.is_some()).expect("a root has a plan")
    }

    pub(crate) fn plan_of(&self, tenant: usize) -> &'static str {
        PLANS[self.tenants[self.buyer(tenant)].plan.expect("a buyer has one")]
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "[[app]]\nid = \"a\"\n[[upstream]]\nid = \"u\"\n\
             peers = [{ address = \"127.0.0.1:1\" }]\n\
             [[meter]]\nid = \"visits\"\naggregate = \"count\"\nvalue = \"cost\"\n",
        );
        for Route { path, meter, cost } in ROUTES {
            let id = &path[1..];
            text.push_str(&format!(
                "[[route]]\nid = \"{id}\"\npath = \"{path}\"\napp = \"a\"\nupstream = \"u\"\n\
                 meter = \"{meter}\"\ncost = {cost}\n"
            ));
        }
        for (id, plan) in PLANS.iter().zip(&self.plans) {
            let (limits, quotas) = (limits_text(&plan.limits, None), quotas_text(&plan.quotas));
            text.push_str(&format!(
                "[[plan]]\nid = \"{id}\"\nlimits = [{limits}]\nquotas = [{quotas}]\n"
            ));
        }
        let mut grants = String::new();
        for (index, tenant) in self.tenants.iter().enumerate() {
            text.push_str(&format!("[[tenant]]\nid = \"t{index}\"\nlevel = \"project\"\n"));
            let mut field = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    text.push_str(&format!("{name} = {value}\n"));
                }
            };
            field("parent", tenant.parent.map(|parent| format!("\"t{parent}\"")));
            field("plan", tenant.plan.map(|plan| format!("\"{}\"", PLANS[plan])));
            field("zone", tenant.zone.map(|zone| format!("\"{}\"", ZONES[zone])));
            field("billing_day", tenant.anchor.map(|anchor| anchor.to_string()));
            let limits = limits_text(&tenant.limits, tenant.concurrent);
            let (quotas, key) = (quotas_text(&tenant.quotas), &self.keys[index]);
            text.push_str(&format!(
                "limits = [{limits}]\nquotas = [{quotas}]\n\
                 [[key]]\nid = \"{}\"\ntenant = \"t{index}\"\nhash = \"{}\"\n",
                key.id, key.hash
            ));
            if let Some((at_s, amount)) = tenant.grant {
                let at = jiff::Timestamp::from_second(at_s).expect("an instant");
                let quota = &tenant.quotas[0].name;
                grants.push_str(&format!(
                    "[[grant]]\ntenant = \"t{index}\"\nquota = \"{quota}\"\namount = {amount}\n\
                     at = \"{at}\"\n"
                ));
            }
        }
        text + &grants
    }
}

fn limits_text(limits: &[Limit], concurrent: Option<u64>) -> String {
    let rates = limits.iter().enumerate().map(|(number, Limit { rate, burst })| {
        format!("{{ name = \"rate-{number}\", rate = {rate}, per = \"day\", burst = {burst} }}")
    });
    let concurrent =
        concurrent.map(|most| format!("{{ name = \"parallel\", concurrent = {most} }}"));
    rates.chain(concurrent).collect::<Vec<_>>().join(", ")
}

fn quotas_text(quotas: &[Quota]) -> String {
    let quota = |quota: &Quota| {
        let Quota { name, meter, period, limit, grace, roll_over, at_limit, throttle } = quota;
        let per = PERIODS[*period];
        let mut text = format!(
            "{{ name = \"{name}\", meter = \"{meter}\", limit = {limit}, per = \"{per}\", \
             roll_over = {roll_over}"
        );
        if *grace > 0 {
            text.push_str(&format!(", grace = {grace}"));
        }
        text.push_str(&match at_limit {
            AtLimit::Block => String::new(),
            AtLimit::Bill => ", at_limit = \"allow_and_bill\"".to_owned(),
            AtLimit::Throttle => format!(
                ", at_limit = \"throttle_to\", throttle = {{ rate = {}, per = \"day\", burst = {} }}",
                throttle.rate, throttle.burst
            ),
        });
        text + " }"
    };
    quotas.iter().map(quota).collect::<Vec<_>>().join(", ")
}
