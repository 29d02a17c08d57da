//! Letting a request in that is a new member to quotas of distinct meters.
//!
//! The locks of all the sets it is new to are taken first. Then the chain is walked as always, each
//! of those quotas asked again, and only when every level has granted is the member put into all of
//! the sets: into all or none (**P2**), and never one more than there is room for (**P1**).

use super::MAX_CHAIN;
use super::chain::{Chain, Looked, Walk};

impl Chain<'_, '_> {
    /// The second walk of a request that is new to these quotas.
    #[cold]
    pub(super) fn let_in(&self, looked: Looked) -> Walk {
        let newcomers = looked.newcomers;
        let quotas = |slots: u64| {
            let chosen = self.slots().filter(move |(index, _)| slots >> index & 1 == 1);
            chosen.filter_map(|(index, slot)| Some((index, slot.quota_here()?)))
        };
        let sets = quotas(newcomers).filter_map(|(_, quota)| quota.set());
        let turn = self.snapshot.members.turn(sets);
        let mut walk = self.take::<true, MAX_CHAIN>(looked);
        let Walk::Admitted { new, .. } = &mut walk else { return walk };
        let route = &self.snapshot.routes[self.route.0 as usize];
        let mut changed = 0_u64;
        for (index, quota) in quotas(newcomers) {
            let named = self.named.member(route, quota.rules.meter);
            let Some((place, member)) = named else { continue };
            if quota.let_in(&turn, member, self.call.unix_us) {
                *new |= 1 << place;
                changed |= 1 << index;
            }
        }
        drop(turn);
        quotas(changed).for_each(|(_, quota)| _ = quota.count(1, self.call.unix_us));
        walk
    }
}
