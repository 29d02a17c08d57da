//! The proxy over real sockets: a real upstream, a real journal, real clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod answers;
mod entitlements;
mod full;
mod harness;
mod hostile;
mod http2;
mod lasting;
mod limits;
mod members;
mod meters;
mod own;
mod protocols;
mod quotas;
mod records;
mod storage;
mod unmetered;
mod upstreams;
mod watermark;
