//! The six meters and both data volumes: used through the proxy and by events, and to the last digit
//! what finance's named queries say.

use serde_json::json;

use crate::table::Table;
use crate::upstream::HELLO;
use crate::world::{Body, World, get, post, until};

/// Whose figures nobody else adds to.
const TENANT: &str = "measured";

/// Uses each of them.
pub(crate) fn use_each_once(world: &World) {
    let served = |ask| {
        let answer = world.patiently(TENANT, &ask);
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.body, HELLO);
        let told = answer.head.to_ascii_lowercase();
        assert!(!told.contains("x-orbit-processing-ms"), "that is for us: {told}");
    };
    for user in ["ana", "bia", "caio", "ana"] {
        served(get("/crm").by_user(user));
    }
    served(get("/crm/search").by_user("bia"));
    served(get("/finance"));
    for _ in 0..3 {
        served(post("/automation/runs", Body::Sent(0)));
    }
    world.event("storage", TENANT, "level", &json!({ "quantity": 4_000 }));
    served(post("/documents", Body::Sent(1_500)));
    for (id, member) in ["sap", "shop", "sap"].into_iter().enumerate() {
        let id = format!("integration-{id}");
        world.event("active_integrations", TENANT, &id, &json!({ "member": member }));
    }
    world.event("processing", TENANT, "work", &json!({ "quantity": "100.25" }));
    world.event("ai_tokens", TENANT, "tokens", &json!({ "tokens": 812 }));
    world.event("automations", TENANT, "runs", &json!({ "quantity": 40 }));
}

/// Waits for each figure.
pub(crate) fn finance_has_each_figure(world: &World, table: &mut Table) {
    for (meter, aggregate, figure) in [
        ("active_users", "distinct", "3"),
        ("storage", "gauge", "5500"),
        // Seven of one each, and a search of five.
        ("api_calls", "sum", "11"),
        ("api_calls", "count", "7"),
        // Ten answers of 2.5 ms, and an event.
        ("processing", "sum", "125.25"),
        ("active_integrations", "distinct", "2"),
        ("automations", "sum", "43"),
        // The example's own, by its own field.
        ("ai_tokens", "sum", "812"),
        ("data_in", "sum", "1500"),
        ("data_out", "sum", "50"),
    ] {
        let found = until(|| match world.figure(TENANT, meter, aggregate) {
            found if found == figure => Ok(found),
            found => Err(found),
        });
        let name = format!("finance's {aggregate} of {meter}");
        table.same(&name, &found.unwrap_or_else(|other| other), &figure.to_owned());
    }
}
