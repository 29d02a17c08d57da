//! Alerts end to end: deliveries over real sockets, on real disks, by real processes that are
//! killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod deliveries;
mod disk;
#[path = "../support/gateway.rs"]
mod gateway;
mod processes;
mod receiver;
