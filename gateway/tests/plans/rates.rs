//! Rates and bursts: exactly the burst at once; as many in flight as are allowed.

use serde_json::json;

use crate::rights::known;
use crate::table::{Table, admitted, exceeded};
use crate::world::{Answer, Ask, World, get, until};

/// What was spent of a bucket until it refused.
pub(crate) struct Drained {
    pub(crate) admitted: u64,
    pub(crate) refusal: Answer,
    /// At least as long as it took.
    pub(crate) took_s: f64,
}

/// A bucket and what each request takes from it.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) per_second: f64,
    pub(crate) burst: u64,
    pub(crate) cost: u64,
}

impl Terms {
    /// Asks until it is refused.
    pub(crate) fn drain(self, world: &World, tenant: &str, ask: impl Fn() -> Ask) -> Drained {
        #[expect(clippy::disallowed_methods, reason = "what fills meanwhile is allowed for")]
        let started = std::time::Instant::now();
        let mut admitted = 0;
        loop {
            let refusal = world.send(tenant, &ask());
            // An endless burst would be one, too.
            if refusal.status != 200 || admitted > 10 * self.burst {
                return Drained { admitted, refusal, took_s: started.elapsed().as_secs_f64() };
            }
            admitted += 1;
        }
    }

    /// The burst, and what came in while it was spent: nothing at all unless the machine is slow.
    pub(crate) fn judge(self, table: &mut Table, name: &str, drained: &Drained) {
        let Terms { per_second, burst, cost } = self;
        let least = burst / cost;
        let most = ((burst as f64 + per_second * drained.took_s) / cost as f64) as u64;
        let is_exact = (least..=most).contains(&drained.admitted);
        let fact = format!("{} admitted, {least} to {most} may be", drained.admitted);
        let expected = if is_exact { fact.clone() } else { "exactly the burst".to_owned() };
        table.same(name, &fact, &expected);
    }
}

pub(crate) fn bursts(world: &World, table: &mut Table) {
    let search = Terms { per_second: 20.0, burst: 40, cost: 5 };
    let drained = search.drain(world, "bursting", || known("/crm/search"));
    search.judge(table, "the burst of Essentials in searches", &drained);
    let refused = |limit: &str| exceeded(json!({ "limit": limit, "violated-policies": [limit] }));
    table.judge("after the burst of Essentials", &drained.refusal, &refused("plan/requests"));

    let bulk = Terms { per_second: 50.0, burst: 150, cost: 20 };
    let from = |address: &'static str| move || known("/crm/bulk").at_address(address);
    let drained = bulk.drain(world, "one-address", from("10.1.1.1"));
    bulk.judge(table, "the burst of one address", &drained);
    table.judge("after the burst of one address", &drained.refusal, &refused("plan/address"));
    let other = world.send("one-address", &from("10.1.1.2")());
    table.judge("another address meanwhile", &other, &admitted());
}

/// Twenty in flight on Essentials.
pub(crate) fn parallel(world: &World, table: &mut Table) {
    const MOST: usize = 20;
    std::thread::scope(|scope| {
        let hold = || world.send("parallel", &get("/projects/hold"));
        let held: Vec<_> = (0..MOST).map(|_| scope.spawn(hold)).collect();
        let waiting = until(|| match world.upstream.waiting() {
            MOST => Ok(MOST),
            other => Err(other),
        });
        table.same("requests in flight", &waiting, &Ok(MOST));
        let one_more = world.send("parallel", &get("/projects"));
        let limit = "plan/parallel";
        let refused = exceeded(json!({ "limit": limit, "violated-policies": [limit] }));
        table.judge("one more in flight", &one_more, &refused);
        world.upstream.release();
        for held in held {
            table.judge("in flight", &held.join().unwrap(), &admitted());
        }
    });
    let after = world.patiently("parallel", &get("/projects"));
    table.judge("once they are answered", &after, &admitted());
}
