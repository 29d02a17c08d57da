//! Stand-in until orbit_meter::ship exists.
#![allow(missing_docs, unused, clippy::pedantic, reason = "stand-in")]
use std::{io, sync::Arc, time::Duration};

use orbit_meter::{clickhouse::Store, journal::Journal};
#[derive(Default)]
pub(crate) struct ShipSettings {
    pub(crate) max_rows: u32,
    pub(crate) max_delay: Duration,
    pub(crate) x: u8,
}
pub(crate) struct Shipper;
pub(crate) struct ShipperHandle;
impl Shipper {
    pub(crate) fn start(_: Arc<Journal>, _: Store, _: ShipSettings) -> io::Result<ShipperHandle> {
        Ok(ShipperHandle)
    }
}
impl ShipperHandle {
    pub(crate) fn stop(&self, _: Duration) -> bool {
        true
    }
    pub(crate) fn status(&self) {}
}
