//! Random trees against the plain model: admitted is what the model admits, no bound is passed, and
//! a refused request changes nothing (P1, P2).

use orbit_policy::snapshot::LimitState;
use orbit_policy::{ApiKey, Decision, Nanos, Policy, Reason};

use crate::model::{Limit, Tokens, admit, assert_bound};
use crate::{Random, SECOND, decide, key, policy};

/// A tree as it is written and as the model sees it.
struct Tree {
    text: String,
    limits: Vec<Limit>,
    tenants: Vec<Tenant>,
    /// In hundredths of a percent: what of each limit is not guaranteed to anybody yet.
    free: Vec<u64>,
}

struct Tenant {
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

impl Tree {
    fn random(random: &mut Random) -> Tree {
        let mut tree =
            Tree { text: String::new(), limits: Vec::new(), tenants: Vec::new(), free: Vec::new() };
        let plans: Vec<_> = (0..2).map(|_| (random.one_in(2)).then(|| plain(random))).collect();
        for (index, limit) in plans.iter().enumerate() {
            let limit = limit.as_ref().map_or("", |limit| &limit.0);
            tree.text +=
                &format!("[[plan]]\nid = \"p{index}\"\napps = [\"crm\"]\nlimits = [{limit}]\n");
        }
        for index in 0..random.within(2, 8) as usize {
            let parent = index.checked_sub(1).map(|last| random.within(0, last as u64) as usize);
            let parent = parent.filter(|parent| tree.tenants[*parent].depth < 7);
            tree.grow(index, parent, &plans, random);
        }
        tree
    }

    fn grow(
        &mut self,
        index: usize,
        parent: Option<usize>,
        plans: &[Option<(String, Tokens)>],
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
                Some(of) if self.free[of] >= 100 && !random.one_in(4) => {
                    self.share(name, of, random)
                }
                _ => {
                    let (text, tokens) = plain(random);
                    let limit = Limit { name: name.into(), share: None, tokens, admitted: vec![] };
                    (text.replace("NAME", name), limit)
                }
            };
            written += &text;
            own.push(self.add(limit));
        }
        self.text += &format!("limits = [{written}]\n");
        own.append(&mut above);
        if buys {
            // Every plan's limit has the first name.
            let limit = plans[plan].as_ref().map(|(_, tokens)| Limit {
                name: NAMES[0].into(),
                share: None,
                tokens: *tokens,
                admitted: vec![],
            });
            of_plan = limit.map(|limit| self.add(limit)).into_iter().collect();
        }
        let depth = parent.map_or(0, |parent| self.tenants[parent].depth + 1);
        self.tenants.push(Tenant { depth, own, plan: of_plan });
    }

    fn add(&mut self, limit: Limit) -> usize {
        self.limits.push(limit);
        self.free.push(10_000);
        self.limits.len() - 1
    }

    /// A share in whole percents; the model's terms come from the gateway's own account of them.
    fn share(&mut self, name: &str, of: usize, random: &mut Random) -> (String, Limit) {
        let guarantee = random.within(1, self.free[of] / 100);
        self.free[of] -= guarantee * 100;
        let ceiling = random.within(guarantee, 100);
        let mut text =
            format!("{{ name = \"{name}\", guarantee = \"{guarantee}%\", ceiling = \"{ceiling}%\"");
        if random.one_in(2) {
            text += &format!(", burst = {}", random.within(1, 20));
        }
        if random.one_in(2) {
            text += &format!(", guarantee_burst = {}", random.within(1, 20));
        }
        let unknown = Tokens::new(0, 0);
        let limit = Limit {
            name: name.into(),
            share: Some((unknown, of)),
            tokens: unknown,
            admitted: vec![],
        };
        (text + " },", limit)
    }

    /// Fills in the terms of shares from what each tenant's usage says of its own limits.
    fn learn(&mut self, policy: &Policy) {
        for (index, tenant) in self.tenants.iter().enumerate() {
            let id = format!("t{index}");
            let usage = policy.load().usage(&id, Nanos(0)).expect("a tenant");
            for limit in usage.iter().filter(|limit| limit.tenant == id) {
                let LimitState::Rate { interval_ns, burst, .. } = limit.state else { panic!() };
                let name = limit.name.strip_suffix(":guarantee");
                // A tenant's own stand before those of others.
                let at = tenant
                    .own
                    .iter()
                    .find(|at| self.limits[**at].name == name.unwrap_or(&limit.name));
                let Some(known) = at.map(|at| &mut self.limits[*at]) else { continue };
                let Some((guarantee, _)) = &mut known.share else { continue };
                let tokens = if name.is_some() { guarantee } else { &mut known.tokens };
                if limit.level.as_str() != "plan" {
                    *tokens = Tokens::new(interval_ns, burst);
                }
            }
        }
    }
}

fn plain(random: &mut Random) -> (String, Tokens) {
    let (rate, burst) = (random.within(1, 50), random.within(1, 20));
    let text = format!("{{ name = \"NAME\", rate = {rate}, per = \"second\", burst = {burst} }},");
    (text, Tokens::new(SECOND.div_ceil(rate), burst))
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
        if let Some((guarantee, _)) = &limit.share {
            left.push((format!("{}:guarantee", limit.name), guarantee.left(now)));
        }
        left.push((limit.name.clone(), limit.tokens.left(now)));
    }
    left
}

#[test]
fn p1_p2_random_trees_admit_what_the_plain_model_admits() {
    let mut random = Random::seeded();
    let (mut admitted, mut refused) = (0, 0);
    for _ in 0..10_000 {
        let mut tree = Tree::random(&mut random);
        let mut text = tree.text.replace("NAME", NAMES[0]);
        let keys: Vec<ApiKey> = (0..tree.tenants.len())
            .map(|index| {
                let (key, table) = key(&format!("t{index}"));
                text += &table;
                key
            })
            .collect();
        let policy = policy(&text);
        tree.learn(&policy);
        let mut now = 0;
        for _ in 0..40 {
            now += random.within(0, 50_000_000) * random.within(0, 2);
            let tenant = random.within(0, keys.len() as u64 - 1) as usize;
            let cost = if random.one_in(4) { 3 } else { 1 };
            let decision = decide(&policy, &keys[tenant], cost, now);
            let chain = tree.tenants[tenant].chain();
            let granted = admit(&mut tree.limits, &chain, cost.into(), now);
            assert_eq!(matches!(decision, Decision::Admit(_)), granted, "at {now}\n{text}");
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
    println!("{admitted} admitted, {refused} refused");
    assert!(admitted > 10_000 && refused > 10_000, "{admitted} admitted, {refused} refused");
}
