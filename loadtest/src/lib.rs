//! The load generator's parts: fake upstreams, an open-loop generator, and the oracles that judge
//! a run (the ledger, the limit check, CPU per request, reloads under load).
//!
//! It knows the gateway only over HTTP and ClickHouse only over its HTTP interface, through a
//! reader of its own: an oracle that shared code with what it judges would share its mistakes.
//! It speaks to loopback addresses only.

mod admin;
pub mod clock;
pub mod compare;
pub mod cpu;
mod fetch;
pub mod fresh_keys;
pub mod generator;
pub mod ingest;
pub mod keys;
pub mod ledger;
pub mod limit;
pub mod progress;
pub mod reload;
pub mod report;
pub mod scenario;
pub mod target;
pub mod upstream;
