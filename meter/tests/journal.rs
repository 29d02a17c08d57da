//! The journal through its public face: everything appended is read back, once, in order.

#[path = "journal/crash.rs"]
mod crash;
#[path = "journal/disk.rs"]
mod disk;
#[path = "journal/faults.rs"]
mod faults;
#[path = "journal/full.rs"]
mod full;
#[path = "journal/log.rs"]
mod log;
#[path = "journal/model.rs"]
mod model;
#[path = "journal/power.rs"]
mod power;
#[path = "journal/recovery.rs"]
mod recovery;
#[path = "journal/sample.rs"]
mod sample;
#[path = "journal/threads.rs"]
mod threads;
