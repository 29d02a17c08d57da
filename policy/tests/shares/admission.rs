//! Random trees against the plain model: admitted is what the model admits, no bound is passed, and
//! a refused request changes nothing (P1, P2). Half of the trees are as deep as a tree may be.

use orbit_policy::snapshot::LimitState;
use orbit_policy::{ApiKey, Decision, Nanos, Policy, Reason};

use crate::model::{Held, Limit, Share, admit, assert_bound};
use crate::{Random, decide, key, policy};

const CASES: usize = 100_000;
const REQUESTS: usize = 12;
/// As deep as a tree may be.
const DEPTH: usize = 8;
const TENANTS: u64 = 10;

/// A tree as it is written and as the model sees it.
struct Tree {
    text: String,
    limits: Vec<Limit>,
    tenants: Vec<Tenant>,
    /// In hundredths: what of each limit is not guaranteed to anybody yet.
    free: Vec<u64>,
}

struct Tenant {
    /// 1 for a root.
    depth: usize,
    /// Limits on the way up, narrowest first, the plan's not among them.
    own: Vec<usize>,
    /// The plan's, last on the chain.
    plan: Vec<usize>,
}

impl Tenant {
    fn chain(&self) -> Vec<usize> {
        [&self.own[..], &self.plan].concat()
    }
}

const NAMES: [&str; 2] = ["a", "b"];
/// The least percentage: eight levels of less would take too long to refill.
const LEAST: u64 = 20;

impl Tree {
    fn random(random: &mut Random) -> Tree {
        let mut tree =
            Tree { text: String::new(), limits: Vec::new(), tenants: Vec::new(), free: Vec::new() };
        let plans: Vec<_> = (0..2).map(|_| (random.one_in(2)).then(|| plain(random))).collect();
        for (index, limit) in plans.iter().enumerate() {
            let limit = limit.as_ref().map_or_else(String::new, |(text, _)| named(text, NAMES[0]));
            tree.text +=
                &format!("[[plan]]\nid = \"p{index}\"\napps = [\"crm\"]\nlimits = [{limit}]\n");
        }
        let is_deep = random.one_in(2);
        let least = if is_deep { DEPTH as u64 } else { 2 };
        for index in 0..random.within(least, TENANTS) as usize {
            let last = (index as u64).checked_sub(1);
            let parent = last.map(|last| {
                let is_next = is_deep && index < DEPTH;
                if is_next { last as usize } else { random.within(0, last) as usize }
            });
            let parent = parent.filter(|parent| tree.tenants[*parent].depth < DEPTH);
            tree.grow(index, parent, &plans, random);
        }
        tree
    }

    fn grow(
        &mut self,
        index: usize,
        parent: Option<usize>,
        plans: &[Option<(String, Held)>],
        random: &mut Random,
    ) {
        let buys = parent.is_none() || random.one_in(8);
        let plan = random.within(0, 1) as usize;
        self.text += &format!("[[tenant]]\nid = \"t{index}\"\n");
        if let Some(parent) = parent {
            self.text += &format!("parent = \"t{parent}\"\n");
        }
        if buys {
            self.text += &format!("plan = \"p{plan}\"\n");
        }
        let mut above = parent.map_or_else(Vec::new, |parent| self.tenants[parent].own.clone());
        let mut of_plan = match parent {
            Some(parent) if !buys => self.tenants[parent].plan.clone(),
            _ => Vec::new(),
        };
        let shareable: Vec<usize> = above.iter().chain(&of_plan).copied().collect();
        let mut written = String::new();
        let mut own = Vec::new();
        for name in NAMES {
            if random.one_in(3) {
                continue;
            }
            let whole = shareable.iter().copied().find(|at| self.limits[*at].name == name);
            let (text, limit) = match whole {
                Some(of) if self.free[of] >= LEAST && !random.one_in(4) => {
                    self.share(name, of, random)
                }
                _ => {
                    let (text, held) = plain(random);
                    (named(&text, name), Limit::plain(name, held))
                }
            };
            written += &text;
            own.push(self.add(limit));
        }
        self.text += &format!("limits = [{written}]\n");
        own.append(&mut above);
        if buys {
            // Every plan's limit has the first name.
            let limit = plans[plan].as_ref().map(|(_, held)| Limit::plain(NAMES[0], *held));
            of_plan = limit.map(|limit| self.add(limit)).into_iter().collect();
        }
        let depth = parent.map_or(1, |parent| self.tenants[parent].depth + 1);
        self.tenants.push(Tenant { depth, own, plan: of_plan });
    }

    fn add(&mut self, limit: Limit) -> usize {
        self.limits.push(limit);
        self.free.push(100);
        self.limits.len() - 1
    }

    fn share(&mut self, name: &str, of: usize, random: &mut Random) -> (String, Limit) {
        let percent = random.within(LEAST, self.free[of]);
        self.free[of] -= percent;
        let ceiling = random.within(percent, 100);
        let mut text =
            format!("{{ name = \"{name}\", guarantee = \"{percent}%\", ceiling = \"{ceiling}%\"");
        let mut burst = |key: &str| {
            random.one_in(2).then(|| {
                let burst = random.within(1, 20);
                text += &format!(", {key} = {burst}");
                burst
            })
        };
        let (own, guaranteed) = (burst("burst"), burst("guarantee_burst"));
        let whole = &self.limits[of];
        let guarantee = whole.guarantee().part(percent, guaranteed);
        let ceiling = whole.held.part(ceiling, own);
        (text + " },", Limit::share(name, ceiling, guarantee, of))
    }
}

fn plain(random: &mut Random) -> (String, Held) {
    let (rate, burst) = (random.within(1, 50), random.within(1, 20));
    let text = format!("{{ name = \"NAME\", rate = {rate}, per = \"second\", burst = {burst} }},");
    (text, Held::plain(rate, burst))
}

fn named(text: &str, name: &str) -> String {
    text.replace("NAME", name)
}

/// What is left at every limit of a tenant, guarantees included.
fn left(policy: &Policy, tenant: usize, now: u64) -> Vec<(String, u64)> {
    let usage = policy.load().usage(&format!("t{tenant}"), Nanos(now)).expect("a tenant");
    let left = usage.into_iter().map(|limit| match limit.state {
        LimitState::Rate { remaining, .. } => (limit.name, remaining),
        other => panic!("{other:?}"),
    });
    left.collect()
}

/// The same by the model.
fn expected(tree: &Tree, tenant: usize, now: u64) -> Vec<(String, u64)> {
    let chain = tree.tenants[tenant].chain();
    let mut left = Vec::new();
    for at in chain {
        let limit = &tree.limits[at];
        if let Some(Share { guarantee, .. }) = &limit.share {
            left.push((format!("{}:guarantee", limit.name), guarantee.left(now)));
        }
        left.push((limit.name.clone(), limit.tokens.left(now)));
    }
    left
}

#[test]
fn p1_p2_random_trees_admit_what_the_plain_model_admits() {
    let mut random = Random::printed();
    let (mut admitted, mut refused, mut deepest) = (0, 0, 0);
    let keys: Vec<(ApiKey, String)> = (0..TENANTS).map(|at| key(&format!("t{at}"))).collect();
    for case in 0..CASES {
        let mut tree = Tree::random(&mut random);
        let mut text = tree.text.clone();
        for (_, table) in &keys[..tree.tenants.len()] {
            text += table;
        }
        let policy = policy(&text);
        deepest += usize::from(tree.tenants.iter().any(|tenant| tenant.depth == DEPTH));
        let mut now = 0;
        for _ in 0..REQUESTS {
            now += random.within(0, 50_000_000) * random.within(0, 2);
            let tenant = random.within(0, tree.tenants.len() as u64 - 1) as usize;
            let cost = if random.one_in(4) { 3 } else { 1 };
            let decision = decide(&policy, &keys[tenant].0, cost, now);
            let chain = tree.tenants[tenant].chain();
            let granted = admit(&mut tree.limits, &chain, cost.into(), now);
            assert_eq!(matches!(decision, Decision::Admit(_)), granted, "{case} at {now}\n{text}");
            assert_eq!(left(&policy, tenant, now), expected(&tree, tenant, now), "{text}");
            if granted {
                admitted += 1;
                continue;
            }
            refused += 1;
            let Decision::Deny(denial) = decision else { unreachable!() };
            let Reason::Limited(limited) = denial.reason else { panic!("{:?}", denial.reason) };
            let Some(ready_at) = limited.ready_at else { continue };
            // Promised is the first instant at which the same request is admitted.
            for (at, ready) in [(ready_at.0 - 1, false), (ready_at.0, true)] {
                let mut then = tree.limits.clone();
                assert_eq!(admit(&mut then, &chain, cost.into(), at), ready, "{at}\n{text}");
            }
        }
        (0..tree.limits.len()).for_each(|at| assert_bound(&tree.limits, at));
    }
    println!(
        "{admitted} admitted, {refused} refused, {deepest} of {CASES} trees as deep as may be"
    );
    assert!(admitted > CASES && refused > CASES, "{admitted} admitted, {refused} refused");
    assert!(deepest > CASES / 3, "{deepest} of {CASES} trees as deep as may be");
}
