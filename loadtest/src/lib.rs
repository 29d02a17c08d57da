//! The load generator's parts: fake upstreams, an open-loop generator, the oracles that judge a
//! run (the ledger, the limit check, CPU per request, reloads under load), and attacks on a whole
//! Orbit under load.
//!
//! It knows the gateway only over HTTP and ClickHouse only over its HTTP interface, through a
//! reader of its own: an oracle that shared code with what it judges would share its mistakes.
//! It speaks to loopback addresses only.

mod admin;
pub mod attack;
pub mod clock;
pub mod compare;
pub mod cpu;
pub mod fault;
mod fetch;
pub mod fresh_keys;
pub mod generator;
pub mod ingest;
pub mod keys;
pub mod ledger;
pub mod limit;
pub mod load;
mod orbit_audit;
pub mod progress;
mod projection;
pub mod random;
pub mod reload;
pub mod report;
pub mod scenario;
pub mod stage;
pub mod target;
pub mod upstream;
