//! Active users: as many as the plan has, and not one more; whoever is known goes on.

use serde_json::json;

use crate::rights::known;
use crate::table::{Row, Table, admitted, exceeded};
use crate::world::{Ask, World, get};

/// Of a plan without a figure so many are let in.
const MANY: u64 = 261;

/// A user from a place of their own, so that no address takes too much.
fn user(number: u64) -> Ask {
    let (high, low) = (number / 250, number % 250);
    get("/crm").by_user(&format!("user-{number}")).at_address(&format!("10.0.{high}.{low}"))
}

pub(crate) fn to_the_user(world: &World, table: &mut Table) {
    for (tenant, cap) in
        [("padaria", Some(50)), ("vandelay", Some(200)), ("globex", None), ("hooli", None)]
    {
        let mut look = |what: &str, ask: Ask, answer| {
            let name = format!("{what} of {tenant}");
            table.row(world, &Row { name, tenant, ask, answer });
        };
        look("the first user", known("/crm"), admitted());
        for number in 2..=cap.unwrap_or(MANY) {
            look(&format!("user {number}"), user(number), admitted());
        }
        let Some(cap) = cap else { continue };
        let full = || {
            exceeded(json!({
                "quota": "plan/users", "meter": "active_users", "limit": cap, "used": cap,
                "period": "month", "tenant": tenant, "violated-policies": ["plan/users"],
            }))
        };
        look("one user more", user(cap + 1), full());
        look("somebody who does not say who", get("/crm"), full());
        look("a known user", user(cap), admitted());
        look("the first user again", known("/crm"), admitted());
        look("an app without users", get("/finance"), admitted());
    }
}
