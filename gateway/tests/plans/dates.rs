//! Figures as tenants and operators see them, statuses, trials, and changes at their instants.

use serde_json::{Value, json};

use crate::rights::known;
use crate::table::{Expected, Row, Table, admitted, forbidden, unpaid};
use crate::world::World;

/// What is sold, as it is shown to whoever has it.
pub(crate) fn figures_are_shown(world: &World, table: &mut Table) {
    for (tenant, plan, figures, version, price) in [
        ("padaria", "essentials", json!([50, 5, 100, "8/5", "basic"]), 1, "390.00"),
        ("acme", "business", json!([200, 10, 500, "12/7", "complete"]), 1, "1490.00"),
        ("vandelay", "business", json!([200, 10, 500, "12/7", "complete"]), 2, "1690.00"),
        ("globex", "enterprise", json!([null, null, null, "24/7", "premium"]), 1, "8900.00"),
        // The overrides in force since July.
        ("hooli", "business", json!([null, 12, 1_000, "12/7", "premium"]), 2, "1690.00"),
    ] {
        let members = ["users", "app_count", "storage_gb", "support", "api_tier"];
        let seen =
            |shown: &Value| Value::from(members.map(|member| shown[member].clone()).to_vec());
        let own = &world.limits(tenant)["plan"];
        table.same(&format!("the plan {tenant} sees"), &own["id"], &json!(plan));
        table.same(&format!("the figures {tenant} sees"), &seen(own), &figures);
        let told = entitlements(world, tenant);
        table.same(&format!("the figures of {tenant}"), &seen(&told), &figures);
        let terms = json!([told["version"], told["price"]["amount"], told["price"]["currency"]]);
        table.same(&format!("the terms of {tenant}"), &terms, &json!([version, price, "BRL"]));
    }
    let sold = &entitlements(world, "buyer")["addons"];
    let prices: Vec<Value> = sold
        .as_array()
        .unwrap()
        .iter()
        .map(|addon| json!([addon["id"], addon["price"]["amount"]]))
        .collect();
    let expected = json!([
        ["advanced-ai", "490.00"],
        ["premium-analytics", "290.00"],
        ["dedicated-backup", "350.00"],
        ["advanced-compliance", "690.00"],
        ["custom-integrations", "590.00"],
        ["dedicated-support", "2400.00"],
    ]);
    table.same("the prices of add-ons", &Value::from(prices), &expected);
    for (tenant, burst) in [("acme", 200), ("vandelay", 240), ("hooli", 400)] {
        let limits = world.limits(tenant);
        let of_plan = |limit: &&Value| limit["level"] == "plan" && limit["name"] == "requests";
        let found = limits["limits"].as_array().unwrap().iter().find(of_plan).cloned();
        let found = found.unwrap_or_default();
        table.same(&format!("the burst of {tenant}'s plan"), &found["burst"], &json!(burst));
    }
}

fn entitlements(world: &World, tenant: &str) -> Value {
    world.operators_view(&format!("/v1/tenants/{tenant}/usage"))["entitlements"].clone()
}

/// Who is served, and on which plan today.
pub(crate) fn statuses_and_changes(world: &mut World, table: &mut Table) {
    let row = |name: &str, tenant, path: &str, answer: Expected| Row {
        name: format!("{name}: {path} of {tenant}"),
        tenant,
        ask: known(path),
        answer,
    };
    let suspended = || forbidden("tenant-suspended", json!({}));
    let too_low = |plan: &str| forbidden("api-tier-too-low", json!({ "plan": plan }));
    for row in [
        row("suspended", "initech", "/crm", suspended()),
        row("unpaid", "unpaid", "/crm", unpaid()),
        row("on trial", "aurora", "/crm/bulk", admitted()),
        row("a trial that ended", "ended", "/crm", suspended()),
        row("a trial that ended on a plan", "went-down", "/crm", admitted()),
        row("a trial that ended on a plan", "went-down", "/crm/bulk", too_low("essentials")),
        row("upgraded in the past", "globex", "/crm/changes", admitted()),
        row("upgraded in the past", "upgraded", "/crm/bulk", admitted()),
        row("upgraded in the future", "upgraded", "/crm/changes", too_low("business")),
        row("down at a period's end to come", "vandelay", "/crm/bulk", admitted()),
        row("overrides since July", "hooli", "/crm/changes", admitted()),
    ] {
        table.row(world, &row);
    }
    let trial = entitlements(world, "aurora");
    let ends = json!("2099-12-01T03:00:00.000Z");
    table.same("when the trial ends in São Paulo", &trial["trial_until"], &ends);
    let next = entitlements(world, "vandelay")["next_change"].clone();
    let at = json!("2099-12-10T05:00:00.000Z");
    table.same("when a period ends in New York", &next["at"], &at);

    let back = "[[change]]\ntenant = \"initech\"\nat = \"2020-01-01\"\nstatus = \"active\"\n";
    world.change(&[], back);
    table.row(world, &row("reinstated", "initech", "/crm", admitted()));
}
