//! What would grant a refused route, against trying it: each plan and each add-on is bought in a copy
//! of the documents, and named if and only if the route is open there.
#![allow(clippy::print_stdout, reason = "random tests print their seed")]

use std::net::{IpAddr, Ipv4Addr};

use orbit_policy::quota::InMemory;
use orbit_policy::snapshot::Missing;
use orbit_policy::{ApiKey, Body, Call, Decision, Denial, Nanos, Policy, PolicySettings, Source};

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const TIERS: [&str; 3] = ["basic", "complete", "premium"];
const FEATURES: [&str; 2] = ["f", "g"];
/// The first instant of 2030, unix microseconds.
const NOW_US: i64 = 1_893_456_000_000_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    /// From the seed in `ORBIT_SEED`, or a new one; printed, so that a failure can be repeated.
    fn printed() -> Random {
        use std::hash::{BuildHasher, RandomState};
        let given = std::env::var("ORBIT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("ORBIT_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn some<'n>(&mut self, names: &[&'n str]) -> Vec<&'n str> {
        names.iter().copied().filter(|_| self.one_in(2)).collect()
    }
}

#[derive(Clone)]
struct PlanOf {
    id: usize,
    version: u32,
    public: bool,
    count: Option<usize>,
    tier: usize,
    apps: Vec<&'static str>,
    features: Vec<&'static str>,
}

/// What a tenant agreed to.
#[derive(Clone)]
struct Contract {
    /// As it is written; `None` for the tenant below.
    plan: Option<String>,
    addons: Vec<usize>,
    apps: Option<Vec<&'static str>>,
    overrides: String,
}

#[derive(Clone)]
struct World {
    plans: Vec<PlanOf>,
    /// Apps and features.
    addons: Vec<(Vec<&'static str>, Vec<&'static str>)>,
    /// App, tier, feature.
    routes: Vec<(&'static str, usize, Option<&'static str>)>,
    root: Contract,
    below: Contract,
}

fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    names.join(", ")
}

impl World {
    fn random(random: &mut Random) -> World {
        let mut plans = Vec::new();
        for id in 0..4 {
            // A newer version is offered, and perhaps one that is not yet.
            for version in 1..=1 + random.below(3) as u32 {
                plans.push(PlanOf {
                    id,
                    version,
                    public: !random.one_in(4),
                    count: (!random.one_in(3)).then(|| 1 + random.below(3)),
                    tier: random.below(3),
                    apps: random.some(&APPS),
                    features: random.some(&FEATURES),
                });
            }
        }
        let contract = |random: &mut Random, plan: Option<String>| {
            let overrides = match random.below(6) {
                0 => "api_tier = \"complete\"".to_owned(),
                1 => "app_count = \"unlimited\"".to_owned(),
                2 => "app_count = 1".to_owned(),
                3 => format!("features = [{}]", quoted(&random.some(&FEATURES))),
                _ => String::new(),
            };
            Contract {
                plan,
                addons: (0..3).filter(|_| random.one_in(4)).collect(),
                apps: random.one_in(2).then(|| random.some(&APPS)),
                overrides,
            }
        };
        let plan = format!("p{}@1", random.below(4));
        let tier_of_route = |random: &mut Random| random.below(3);
        let routes = (0..4).map(|_| {
            let feature = random.one_in(2).then(|| FEATURES[random.below(2)]);
            (APPS[random.below(4)], tier_of_route(random), feature)
        });
        let routes = routes.collect();
        World {
            plans,
            addons: (0..3).map(|_| (random.some(&APPS), random.some(&FEATURES))).collect(),
            routes,
            root: contract(random, Some(plan)),
            below: contract(random, None),
        }
    }

    fn text(&self, key: &str) -> String {
        let mut text = String::new();
        for app in APPS {
            text += &format!("[[app]]\nid = \"{app}\"\n");
        }
        for PlanOf { id, version, public, count, tier, apps, features } in &self.plans {
            text += &format!("[[plan]]\nid = \"p{id}\"\nversion = {version}\npublic = {public}\n");
            match version {
                2 => text += "from = \"2029-06-01\"\n",
                3 => text += "from = \"2030-06-01\"\n",
                _ => {}
            }
            if let Some(count) = count {
                text += &format!("app_count = {count}\n");
            }
            let tier = TIERS[*tier];
            let (apps, features) = (quoted(apps), quoted(features));
            text += &format!("api_tier = \"{tier}\"\napps = [{apps}]\nfeatures = [{features}]\n");
        }
        for (id, (apps, features)) in self.addons.iter().enumerate() {
            let (apps, features) = (quoted(apps), quoted(features));
            text +=
                &format!("[[addon]]\nid = \"x{id}\"\napps = [{apps}]\nfeatures = [{features}]\n");
        }
        // So that every feature is one.
        text += "[[plan]]\nid = \"unseen\"\npublic = false\napps = []\nfeatures = [\"f\", \"g\"]\n";
        text += "[[upstream]]\nid = \"u\"\npeers = [{ address = \"127.0.0.1:1\" }]\n";
        for (index, (app, tier, feature)) in self.routes.iter().enumerate() {
            text += &format!(
                "[[route]]\nid = \"r{index}\"\npath = \"/r{index}\"\napp = \"{app}\"\n\
                 upstream = \"u\"\ntier = \"{}\"\n",
                TIERS[*tier]
            );
            if let Some(feature) = feature {
                text += &format!("feature = \"{feature}\"\n");
            }
        }
        for (id, contract) in [("t", &self.root), ("u", &self.below)] {
            let Contract { plan, addons, apps, overrides } = contract;
            text += &format!("[[tenant]]\nid = \"{id}\"\n");
            match plan {
                Some(plan) => text += &format!("plan = \"{plan}\"\nsince = \"2029-12-31\"\n"),
                None => text += "parent = \"t\"\n",
            }
            let addons: Vec<_> = addons.iter().map(|addon| format!("x{addon}")).collect();
            text += &format!("addons = [{}]\n", quoted(&addons));
            if let Some(apps) = apps {
                text += &format!("apps = [{}]\n", quoted(apps));
            }
            text += &format!("overrides = {{ {overrides} }}\n");
        }
        text + key
    }

    /// The tenant `below` or the root, with `app` activated wherever apps are listed.
    fn activating(&self, app: &'static str) -> World {
        let mut world = self.clone();
        for contract in [&mut world.root, &mut world.below] {
            if let Some(apps) = contract.apps.as_mut().filter(|apps| !apps.contains(&app)) {
                apps.push(app);
            }
        }
        world
    }

    /// The version of a plan that somebody gets who comes now.
    fn offered(&self, id: usize) -> &PlanOf {
        let begun = self.plans.iter().filter(|plan| plan.id == id && plan.version < 3);
        begun.max_by_key(|plan| plan.version).expect("the first version is offered since ever")
    }
}

fn policy(text: String) -> Policy {
    let settings =
        PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() };
    let shown = text.clone();
    Policy::new(&[Source { file: "t.toml".into(), text }], &settings, NOW_US)
        .unwrap_or_else(|found| panic!("{found}\n{shown}"))
}

fn ask(policy: &Policy, key: &ApiKey, route: usize) -> Result<(), Box<Denial>> {
    let decision = policy.decide(&Call {
        key: Some(key.reveal().as_bytes()),
        host: "api.example.com",
        path: &format!("/r{route}"),
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|_| None,
        now: Nanos(0),
        unix_us: NOW_US,
    });
    match decision {
        Decision::Admit(_) => Ok(()),
        Decision::Deny(denial) => Err(Box::new(denial)),
    }
}

#[test]
fn what_is_named_grants_the_route_by_itself_and_nothing_else_does() {
    let mut random = Random::printed();
    let key = ApiKey::generate("test").expect("a key");
    let (mut named, mut none, mut not_alone) = (0, 0, 0);
    for case in 0..4_000 {
        let world = World::random(&mut random);
        let is_below = random.one_in(2);
        let tenant = if is_below { "u" } else { "t" };
        let (id, hash) = (&key.id, &key.hash);
        let table = format!("[[key]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nhash = \"{hash}\"\n");
        let first = policy(world.text(&table));
        for route in 0..world.routes.len() {
            let Err(denial) = ask(&first, &key, route) else { continue };
            let (granted, missing) = (denial.granted_by(), denial.missing());
            assert!(!missing.is_empty());
            let activated = world.activating(world.routes[route].0);
            let admits = |world: &World| ask(&policy(world.text(&table)), &key, route).is_ok();
            let only_to_activate = admits(&activated);
            assert_eq!(missing == [Missing::Activation], only_to_activate, "{case} {missing:?}");
            let (mut plans, mut addons) = (Vec::new(), Vec::new());
            if !only_to_activate {
                let own = world.root.plan.as_deref().expect("a plan");
                for id in 0..4 {
                    let offered = world.offered(id);
                    let named = format!("p{id}@{}", offered.version);
                    let is_own = own.starts_with(&format!("p{id}@"));
                    if named == own || !is_own && !offered.public {
                        continue;
                    }
                    let mut bought = activated.clone();
                    bought.root.plan = Some(format!("p{id}"));
                    if admits(&bought) {
                        plans.push(if is_own { named } else { format!("p{id}") });
                    }
                }
                for addon in 0..3 {
                    let mut bought = activated.clone();
                    let buyer = if is_below { &mut bought.below } else { &mut bought.root };
                    buyer.addons.push(addon);
                    if admits(&bought) {
                        addons.push(format!("x{addon}"));
                    }
                }
            }
            let text = world.text("");
            assert_eq!(granted.plans, plans, "{case} /r{route} of {tenant}: {missing:?}\n{text}");
            assert_eq!(granted.addons, addons, "{case} /r{route} of {tenant}: {missing:?}\n{text}");
            named += plans.len() + addons.len();
            none += usize::from(plans.is_empty() && addons.is_empty());
            not_alone += usize::from(missing.len() > 1 && plans.is_empty() && addons.is_empty());
        }
    }
    println!("{named} named, {none} by nothing, {not_alone} of them by nothing alone");
    assert!(named > 1_000 && none > 1_000 && not_alone > 500, "{named}, {none}, {not_alone}");
}
