//! Guarantees that are worth less than they seem: no mistakes, and perhaps not what was meant.
//!
//! A request that costs more than a guarantee's burst is never secured by it. And a guarantee secures
//! the limits it is of, but no other: where one of those allows less than what is guaranteed below
//! it, whoever is first uses it up.

use std::fmt::Write;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::grow::Grower;
use crate::catalogue::shares::{Made, Rate};
use crate::documents::{LimitKind, Share};
use crate::snapshot::{Control, EVERYWHERE, Level, Slot};

/// Routes that are named one by one.
const NAMED: usize = 3;

/// Where a limit stands, and its label.
type Place = (u32, u32);

/// A share, and the limit that it and all it is a share of are of.
struct Of<'s> {
    made: &'s Made,
    whole: Place,
}

/// What is guaranteed of one limit below a tenant.
struct Below<'s> {
    sum: Rate,
    /// The same of those whose plan is the tenant's.
    subscribed: Rate,
    /// The last of the shares, in the order of the documents.
    last: &'s Made,
}

impl Grower<'_, '_, '_, '_> {
    /// Doubts about shares, where anybody asks for them.
    pub(super) fn doubt_shares(&mut self) {
        if !self.findings.asks_for_doubts() {
            return;
        }
        let made = std::mem::take(&mut self.shares.made);
        for made in &made {
            if let Some(message) = self.too_dear(made) {
                self.findings.doubt(self.share(made).guarantee_at, self.key(made), message);
            }
        }
        let mut shares: HashMap<Place, Of<'_>, FixedState> = HashMap::default();
        for made in &made {
            let whole = shares.get(&made.of).map_or(made.of, |outer| outer.whole);
            shares.insert((made.tenant, made.label), Of { made, whole });
        }
        for ((tenant, whole), below) in self.below(&shares) {
            for message in self.narrower(tenant, whole, &below, &shares) {
                let at = self.share(below.last).guarantee_at;
                self.findings.doubt(at, self.key(below.last), message);
            }
        }
    }

    /// The routes that the tenant may use and that cost more than is ever guaranteed.
    fn too_dear(&self, made: &Made) -> Option<String> {
        let burst = made.guarantee.terms.burst;
        let rights = &self.grown[made.tenant as usize].as_ref()?.tenant.rights;
        let scope = (made.scope != EVERYWHERE).then(|| self.limits.scopes.get(made.scope));
        let dear = (0..).zip(&self.limits.routes.routes).filter(|(index, route)| {
            u64::from(route.cost) > burst
                && rights.routes.contains(*index)
                && scope.is_none_or(|scope| scope.contains(*index))
        });
        let mut dear = dear.map(|(_, route)| route);
        let mut message = String::new();
        for route in dear.by_ref().take(NAMED) {
            let joint = if message.is_empty() { "" } else { ", " };
            let _infallible = write!(message, "{joint}`{}` ({})", route.id, route.cost);
        }
        let more = dear.count();
        if message.is_empty() {
            return None;
        }
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!(
            "nothing is guaranteed to routes that cost more than the guarantee's burst of {burst}: \
             {message}{more}; write a larger `guarantee_burst`"
        ))
    }

    /// What is guaranteed below each tenant, by the limit it is of: a share of a share is part of that.
    fn below<'s>(
        &self,
        shares: &HashMap<Place, Of<'s>, FixedState>,
    ) -> HashMap<(u32, Place), Below<'s>, FixedState> {
        let mut below: HashMap<_, Below<'s>, FixedState> = HashMap::default();
        for Of { made, whole } in shares.values() {
            let is_nested = shares.contains_key(&made.of);
            let rate = made.guarantee.rate;
            let mut subscribed = !self.has_plan(made.tenant);
            let mut up = self.parents[made.tenant as usize];
            while let Some(tenant) = up {
                let fresh = || Below { sum: Rate::NONE, subscribed: Rate::NONE, last: made };
                let below = below.entry((tenant, *whole)).or_insert_with(fresh);
                below.sum = below.sum.plus(rate);
                below.subscribed =
                    below.subscribed.plus(if subscribed { rate } else { Rate::NONE });
                if self.share(below.last).guarantee_at < self.share(made).guarantee_at {
                    below.last = made;
                }
                subscribed &= !self.has_plan(tenant);
                // From there on it is part of what that one guarantees.
                up = self.parents[tenant as usize].filter(|_| !(is_nested && tenant == made.of.0));
            }
        }
        below
    }

    fn has_plan(&self, tenant: u32) -> bool {
        self.grown[tenant as usize].as_ref().is_some_and(|grown| grown.tenant.has_own_plan)
    }

    /// The limits at a tenant that are not of `whole` and allow less than is guaranteed of it below.
    fn narrower(
        &self,
        tenant: u32,
        whole: Place,
        below: &Below<'_>,
        shares: &HashMap<Place, Of<'_>, FixedState>,
    ) -> Vec<String> {
        let Some(grown) = &self.grown[tenant as usize] else { return Vec::new() };
        let labels = &self.limits.labels;
        let doc = &self.docs[tenant as usize];
        let rate = |slot: &Slot| -> Option<Rate> {
            if slot.level == Level::Plan {
                let limit = grown.plan_limits.iter().find(|limit| limit.label() == slot.label)?;
                return Some(Rate::new(limit.written()));
            }
            if let Some(share) = shares.get(&(tenant, slot.label)) {
                return Some(share.made.ceiling.rate);
            }
            let name = &labels.get(slot.label).name;
            let limit = doc.limits.iter().find(|limit| *limit.name.value == **name)?;
            Some(Rate::new(limit.written))
        };
        let mut narrower = Vec::new();
        for slot in grown.tenant.chain.iter().filter(|slot| slot.owner == tenant) {
            let place = (tenant, slot.label);
            let is_secured =
                place == whole || shares.get(&place).is_some_and(|share| share.whole == whole);
            let holds = slot.scope == EVERYWHERE || slot.scope == below.last.scope;
            let is_rate = matches!(slot.control, Control::Bucket { .. });
            let Some(rate) = rate(slot).filter(|_| is_rate && holds && !is_secured) else {
                continue;
            };
            let sum = if slot.level == Level::Plan { below.subscribed } else { below.sum };
            if rate < sum {
                let per_ns = below.last.per_ns;
                narrower.push(format!(
                    "`{}` of `{}` allows {} to all below it, and of `{}` {} are guaranteed there: \
                     others can use up what is guaranteed",
                    labels.get(slot.label).full,
                    doc.id.value,
                    rate.show(per_ns),
                    labels.get(whole.1).full,
                    sum.show(per_ns)
                ));
            }
        }
        narrower
    }

    fn share(&self, made: &Made) -> Share {
        match self.docs[made.tenant as usize].limits[made.limit].kind {
            LimitKind::Share(share) => share,
            _ => unreachable!("a share was made of it"),
        }
    }

    fn key(&self, made: &Made) -> String {
        let id = &self.docs[made.tenant as usize].id.value;
        format!("tenant.{id}.limits[{}].guarantee", made.limit)
    }
}
