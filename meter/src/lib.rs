//! What a tenant did: from an answered request to a row in ClickHouse, counted exactly once.
//!
//! - [`event`]: one row per answered request, and its binary layout.
//! - [`journal`]: where the row is kept before the client can have seen the end of its answer.
//! - [`refusals`]: refused requests, counted per second instead of written one by one.
//! - [`ingest`]: usage that did not pass the proxy, each event of a sender counted once.
//! - [`counts`]: counts of quotas that outlive the process.
//! - [`ship`]: moves rows from the journal to ClickHouse exactly once.
//! - [`members`]: who was counted on a meter of distinct members, kept over a restart.
//! - [`audit`]: asks ClickHouse whether they are there, each once and unchanged.
//!
//! Only this crate names ClickHouse; it knows nothing of the proxy.

pub mod audit;
pub mod boot;
pub mod causes;
pub mod clickhouse;
mod clock;
pub mod counts;
mod durable;
pub mod event;
pub mod ingest;
pub mod journal;
pub mod members;
pub mod refusals;
pub mod ship;
mod slots;
mod words;
