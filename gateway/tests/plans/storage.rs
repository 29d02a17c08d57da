//! Storage: the plan's figure to the byte, refused before the body is read where its length is known
//! and while it streams where not.

use serde_json::json;

use crate::table::{Row, Table, admitted, exceeded};
use crate::world::{Body, World, get, post};

const GB: u64 = 1_000_000_000;
/// What is left of the plan's.
const LEFT: u64 = 1_000;

pub(crate) fn to_the_byte(world: &World, table: &mut Table) {
    for (tenant, limit) in
        [("padaria", Some(100 * GB)), ("vandelay", Some(500 * GB)), ("globex", None)]
    {
        let level = limit.map_or(1_000_000 * GB, |limit| limit - LEFT);
        world.event("storage", tenant, &format!("{tenant}-level"), &json!({ "quantity": level }));
        let mut look = |what: &str, ask, answer| {
            let name = format!("{what} of {tenant}");
            table.row(world, &Row { name, tenant, ask, answer });
        };
        let upload = |body| post("/documents", body);
        if let Some(limit) = limit {
            let full = |used| {
                exceeded(json!({
                    "quota": "plan/storage", "meter": "storage", "limit": limit, "used": used,
                    "tenant": tenant, "violated-policies": ["plan/storage"],
                }))
            };
            look("a byte too many, unread", upload(Body::Announced(LEFT + 1)), full(level));
            let streamed = upload(Body::Streamed(LEFT as usize + 1));
            look("a byte too many, as it streams", streamed, exceeded(json!({ "limit": limit })));
            look("the last bytes", upload(Body::Sent(LEFT as usize)), admitted());
            look("one byte more", upload(Body::Announced(1)), full(limit));
            look("a look at what is full", get("/documents"), admitted());
        } else {
            look("any number of bytes", upload(Body::Sent(LEFT as usize)), admitted());
        }
    }
}
