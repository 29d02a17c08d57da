//! `POST /v1/events` over real sockets, into a real journal: what is taken, what is refused and why,
//! and that each (source, id) counts once whatever dies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod answers;
mod death;
mod engine;
mod meters;
mod node;
mod once;
#[path = "../support/up.rs"]
mod up;
