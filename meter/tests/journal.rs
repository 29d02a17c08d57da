//! The journal through its public face: everything appended is read back, once, in order.

#[path = "journal/crash.rs"]
mod crash;
#[path = "journal/full.rs"]
mod full;
#[path = "journal/model.rs"]
mod model;
#[path = "journal/sample.rs"]
mod sample;
#[path = "journal/threads.rs"]
mod threads;
