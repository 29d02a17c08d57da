//! Quotas by the real binary: to the unit, over `kill -9`, between nodes, and the same in ClickHouse.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/up.rs"]
mod up;

mod calls;
mod million;
mod nodes;
mod orbit;
mod storage;
mod users;
