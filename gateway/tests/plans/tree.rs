//! The hierarchy: a limit at each level of the holding is shared by everything below it, and refuses
//! in its name; a guaranteed share is there whatever others take.

use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use crate::rates::{Drained, Terms};
use crate::table::{Table, admitted, exceeded};
use crate::world::{Answer, Ask, World, get, until};

/// Each level from the top: its limit, and somebody below it who is refused by it.
const LEVELS: [(&str, &str, f64, u64, &str); 6] = [
    ("holding", "acme", 90.0, 180, "acme-web"),
    ("subsidiary", "acme-brasil", 70.0, 140, "acme-stores"),
    ("business_unit", "acme-retail", 50.0, 100, "acme-stores"),
    ("department", "acme-marketing", 30.0, 60, "acme-web"),
    ("team", "acme-web", 10.0, 20, "acme-shop"),
    ("project", "acme-shop", 5.0, 10, "acme-shop"),
];
/// Of a request to `/crm/bulk`, which every limit's burst is a multiple of.
const BULK: u64 = 20;
/// Of one to `/crm/search`, for a project that must not use up its team along with itself.
const SEARCH: u64 = 5;
/// Attempts in which nothing fills in between.
const ATTEMPTS: u32 = 10;

/// Each by another person from another address, whose own limits nobody touched.
fn ask(cost: u64) -> Ask {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let path = if cost == BULK { "/crm/bulk" } else { "/crm/search" };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    get(path).by_user(&format!("drain-{number}")).at_address(&format!("10.2.0.{number}"))
}

/// Waits until every bucket that holds a tenant is full.
fn rested(world: &World, tenant: &str) {
    let full = until(|| {
        let shown = world.limits(tenant);
        let limits = shown["limits"].as_array().unwrap();
        let is_full = |limit: &Value| {
            limit["kind"] != "rate"
                || limit["name"] == "daily"
                || limit["remaining"] == limit["burst"]
        };
        if limits.iter().all(is_full) { Ok(()) } else { Err(shown) }
    });
    full.unwrap();
}

/// Spends what a level has, and asks below it before there is room again.
fn spend(world: &World, terms: Terms, tenant: &str, below: &str) -> (Drained, Answer) {
    let room_s = terms.cost as f64 / terms.per_second;
    for _ in 0..ATTEMPTS {
        rested(world, tenant);
        rested(world, below);
        #[expect(clippy::disallowed_methods, reason = "whether anything filled in between")]
        let before = std::time::Instant::now();
        let drained = terms.drain(world, tenant, || ask(terms.cost));
        let answer = world.send(below, &ask(terms.cost));
        // Most of the time since the last one that was admitted.
        if before.elapsed().as_secs_f64() < room_s {
            return (drained, answer);
        }
    }
    panic!("this machine takes more than {room_s} s for a few requests");
}

pub(crate) fn each_level_refuses(world: &World, table: &mut Table) {
    for (level, tenant, per_second, burst, below) in LEVELS {
        let cost = if matches!(level, "team" | "project") { SEARCH } else { BULK };
        let terms = Terms { per_second, burst, cost };
        let (drained, answer) = spend(world, terms, tenant, below);
        let limit = format!("{level}/requests");
        terms.judge(table, &format!("the burst of the {level}"), &drained);
        let own = json!({
            "limit": limit, "level": level, "tenant": tenant, "violated-policies": [limit],
        });
        table.judge(&format!("after the burst of the {level}"), &drained.refusal, &exceeded(own));
        // Whose it is, is nobody's business below (S1).
        let owner = if below == tenant { json!(tenant) } else { Value::Null };
        let shared = json!({
            "limit": limit, "level": level, "tenant": owner, "violated-policies": [limit],
        });
        let name = format!("{below} below the {level} that is used up");
        table.judge(&name, &answer, &exceeded(shared));
    }
}

/// Ten a second of Acme's ninety are Chile's, and twenty at once, whatever the others took.
pub(crate) fn a_guarantee_is_there(world: &World, table: &mut Table) {
    let terms = Terms { per_second: 90.0, burst: 180, cost: BULK };
    rested(world, "acme-chile");
    let (drained, _) = spend(world, terms, "acme", "acme-stores");
    terms.judge(table, "the burst of the holding, again", &drained);
    let guaranteed = world.send("acme-chile", &ask(BULK));
    table.judge("a guaranteed share when all else is used up", &guaranteed, &admitted());
}

/// Of the team's crm five a second are one person's, and twenty at once.
pub(crate) fn one_person_cannot_take_it_all(world: &World, table: &mut Table) {
    let (ana, bia) = (get("/crm/bulk").by_user("ana"), get("/crm/bulk").by_user("bia"));
    // Ana has room again after four seconds, the team after two.
    for _ in 0..ATTEMPTS {
        rested(world, "acme-web");
        #[expect(clippy::disallowed_methods, reason = "whether Ana had room meanwhile")]
        let before = std::time::Instant::now();
        let first = world.send("acme-web", &ana);
        rested(world, "acme-web");
        let (second, other) = (world.send("acme-web", &ana), world.send("acme-web", &bia));
        if before.elapsed().as_secs_f64() < 4.0 {
            let limit = "team/person";
            let refused = exceeded(json!({ "limit": limit, "violated-policies": [limit] }));
            table.judge("a person's share", &first, &admitted());
            table.judge("more than a person's share", &second, &refused);
            table.judge("another person's share", &other, &admitted());
            return;
        }
    }
    panic!("this machine takes more than four seconds for a few requests");
}
