//! Shipping against the real engine: every event once, whatever dies between.

#[path = "ship/death.rs"]
mod death;
#[path = "journal/disk.rs"]
mod disk;
#[path = "ship/drain.rs"]
mod drain;
#[path = "ship/faults.rs"]
mod faults;
#[path = "ship/fixture.rs"]
mod fixture;
#[path = "ship/full.rs"]
mod full;
#[path = "ship/listing.rs"]
mod listing;
#[path = "ship/losses.rs"]
mod losses;
#[path = "ship/nodes.rs"]
mod nodes;
#[path = "ship/proof.rs"]
mod proof;
#[path = "ship/proxy.rs"]
mod proxy;
#[path = "ship/token.rs"]
mod token;

use orbit_meter::clickhouse::testing;

#[test]
fn engine_process() {
    testing::serve_if_asked();
}
