//! Apps, API tiers and add-ons: what each plan opens, what it does not, and what would.

use serde_json::{Value, json};

use crate::table::{Expected, Row, Table, admitted, forbidden};
use crate::world::{Ask, PROBED, World, get};

/// Apps of Essentials, in its order.
const ESSENTIALS: [&str; 6] = ["crm", "finance", "projects", "documents", "people", "contracts"];
/// Further ones of Business that the example's eleventh tenant activates, in order.
const MORE: [&str; 6] = ["marketing", "helpdesk", "inventory", "automation", "reports", "fleet"];
/// Each add-on, its app, and the features of it that routes ask for.
const ADDONS: [(&str, &str); 6] = [
    ("advanced-ai", "ai"),
    ("premium-analytics", "analytics"),
    ("dedicated-backup", "backup"),
    ("advanced-compliance", "compliance"),
    ("custom-integrations", "integrations"),
    ("dedicated-support", "support"),
];

/// A request by somebody who is known already, so that no row meets the plan's users.
pub(crate) fn known(path: &str) -> Ask {
    get(path).by_user("known")
}

fn row(name: &str, tenant: &'static str, path: &str, answer: Expected) -> Row {
    Row { name: format!("{name}: {path} of {tenant}"), tenant, ask: known(path), answer }
}

fn granted_by(plans: &[&str], addons: &[&str]) -> Value {
    json!({ "plans": plans, "addons": addons })
}

/// As many apps as the plan has, and not one more.
pub(crate) fn apps(world: &World, table: &mut Table) {
    let path = |app: &str| format!("/{app}");
    for tenant in ["padaria", "six-apps"] {
        for app in &ESSENTIALS[..5] {
            table.row(world, &row("five apps", tenant, &path(app), admitted()));
        }
    }
    let members = json!({
        "app": "contracts", "plan": "essentials", "tenant": "six-apps", "app-limit": 5,
        "activated": ESSENTIALS, "granted-by": granted_by(&["business", "enterprise"], &[]),
    });
    let sixth = forbidden("app-limit-exceeded", members);
    table.row(world, &row("the sixth app", "six-apps", "/contracts", sixth));

    for app in ESSENTIALS {
        table.row(world, &row("a sixth app on Business", "vandelay", &path(app), admitted()));
    }
    for app in ESSENTIALS[..5].iter().chain(&MORE[..5]) {
        table.row(world, &row("ten apps", "eleven-apps", &path(app), admitted()));
    }
    let members = json!({
        "app": "fleet", "plan": "business", "app-limit": 10,
        "granted-by": granted_by(&["enterprise"], &[]),
    });
    let eleventh = forbidden("app-limit-exceeded", members);
    table.row(world, &row("the eleventh app", "eleven-apps", "/fleet", eleventh));

    let of_addons = ADDONS.map(|(_, app)| app);
    for app in ESSENTIALS.iter().chain(&MORE).chain(&of_addons) {
        table.row(world, &row("every app", "globex", &path(app), admitted()));
    }
    // Padaria has no room for another one; Business activates its first ten, and this is no such.
    for (tenant, app, activated, plans) in [
        ("padaria", "contracts", &ESSENTIALS[..5], &["enterprise"][..]),
        ("few-apps", "finance", &ESSENTIALS[..1], &[]),
    ] {
        let members = json!({
            "app": app, "activated": activated, "granted-by": granted_by(plans, &[]),
        });
        let not_yet = forbidden("app-not-activated", members);
        table.row(world, &row("an app not activated", tenant, &path(app), not_yet));
    }
}

/// Basic, complete and premium.
pub(crate) fn tiers(world: &World, table: &mut Table) {
    let tiers = ["basic", "complete", "premium"];
    let routes = ["/crm", "/crm/bulk", "/crm/changes"];
    let plans = ["essentials", "business", "enterprise"];
    for (has, tenant) in ["padaria", "vandelay", "globex"].into_iter().enumerate() {
        for (needs, path) in routes.into_iter().enumerate() {
            let answer = if needs <= has {
                admitted()
            } else {
                let members = json!({
                    "plan": plans[has], "api-tier": tiers[has], "needed-api-tier": tiers[needs],
                    "granted-by": granted_by(&plans[needs..], &[]),
                });
                forbidden("api-tier-too-low", members)
            };
            let name = format!("a {} API on the {} ones", tiers[needs], tiers[has]);
            table.row(world, &row(&name, tenant, path, answer));
        }
    }
}

/// Bought one by one: each opens its app and its features, and nothing of the next.
pub(crate) fn addons(world: &mut World, table: &mut Table) {
    let features: Vec<(&str, &str)> =
        [("ai", "gpt4"), ("ai", "claude")].into_iter().chain(PROBED).collect();
    let shown = world.limits("buyer");
    table.same("support of Business", &shown["plan"]["support"], &json!("12/7"));
    for bought in 0..=ADDONS.len() {
        for (place, (addon, app)) in ADDONS.into_iter().enumerate() {
            let has = place < bought;
            // What is far away yet was looked at in the first round.
            if bought > 0 && place > bought {
                continue;
            }
            let name = format!("{addon}{}", if has { " bought" } else { "" });
            let without = |plans: &[&str]| {
                let members = json!({ "app": app, "plan": "business", "granted-by": granted_by(plans, &[addon]) });
                forbidden("not-entitled", members)
            };
            let answer = if has { admitted() } else { without(&["enterprise"]) };
            table.row(world, &row(&name, "buyer", &format!("/{app}"), answer));
            for (_, feature) in features.iter().filter(|(of, _)| *of == app) {
                let path = format!("/{app}/{feature}");
                let answer = if has { admitted() } else { without(&[]) };
                table.row(world, &row(&name, "buyer", &path, answer));
                let answer = if has {
                    admitted()
                } else {
                    let members =
                        json!({ "feature": feature, "granted-by": granted_by(&[], &[addon]) });
                    forbidden("feature-not-included", members)
                };
                table.row(world, &row(&name, "great-buyer", &path, answer));
            }
        }
        if bought < ADDONS.len() {
            buy(world, bought);
        }
    }
    let shown = world.limits("buyer");
    table.same("support of dedicated support", &shown["plan"]["support"], &json!("24/7"));
}

/// Puts one more add-on into the tables of both buyers, and in force.
fn buy(world: &mut World, next: usize) {
    let listed = |count: usize| {
        let ids: Vec<&str> = ADDONS[..count].iter().map(|(id, _)| *id).collect();
        format!("addons = {ids:?}")
    };
    let (before, after) = (listed(next), listed(next + 1));
    let of = |plan: &str, addons: &str| format!("plan = \"{plan}\"\n{addons}");
    let changes = ["business@2", "enterprise"].map(|plan| (of(plan, &before), of(plan, &after)));
    let changes = [0, 1].map(|place| (&*changes[place].0, &*changes[place].1));
    world.change(&changes, "");
}
