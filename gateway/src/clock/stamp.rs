//! Instants that outlive the process that took them.
//!
//! Within one boot of the machine the distance of two is measured by a clock that nobody can set
//! and that goes on in suspend; over a reboot only the wall clock is left. So a step of the wall
//! clock while a gateway restarts forgives no spent limit and freezes none.

use orbit_meter::boot::BootId;
use rustix::time::{ClockId, clock_gettime};

use super::Clock;

/// An instant another process can tell the distance to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The boot of the machine; 0 where it is not known.
    pub boot: u128,
    /// Nanoseconds since that boot.
    pub boot_ns: u64,
    /// Wall time in unix microseconds.
    pub unix_us: i64,
}

impl Stamp {
    /// This instant.
    pub fn take(clock: &Clock) -> Stamp {
        let boot = BootId::current().map_or(0, |id| id.0);
        let since = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (since.tv_sec.cast_unsigned(), since.tv_nsec.cast_unsigned());
        let boot_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Stamp { boot, boot_ns, unix_us: clock.unix_us() }
    }

    /// Nanoseconds from `earlier` to this one; 0 if the clock says it was not earlier.
    pub fn nanos_since(&self, earlier: &Stamp) -> u64 {
        if self.boot != 0 && self.boot == earlier.boot {
            return self.boot_ns.saturating_sub(earlier.boot_ns);
        }
        let us = self.unix_us.saturating_sub(earlier.unix_us);
        u64::try_from(us).unwrap_or(0).saturating_mul(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_boot_the_wall_clock_does_not_count_and_over_a_reboot_it_never_goes_back() {
        let stamp = |boot, boot_ns, unix_us| Stamp { boot, boot_ns, unix_us };
        let earlier = stamp(7, 1_000, 1_000);
        assert_eq!(stamp(7, 1_500, 9_000).nanos_since(&earlier), 500);
        assert_eq!(stamp(7, 900, 9_000).nanos_since(&earlier), 0);
        assert_eq!(stamp(8, 10, 9_000).nanos_since(&earlier), 8_000_000);
        assert_eq!(stamp(8, 10, 900).nanos_since(&earlier), 0);
        let unknown = stamp(0, 1_000, 1_000);
        assert_eq!(stamp(0, 5_000, 3_000).nanos_since(&unknown), 2_000_000);
        assert_eq!(stamp(8, 0, i64::MAX).nanos_since(&stamp(7, 0, i64::MIN)), u64::MAX);
    }

    #[test]
    fn this_machine_names_its_boot() {
        let clock = Clock::start();
        let (first, second) = (Stamp::take(&clock), Stamp::take(&clock));
        assert_ne!(first.boot, 0);
        assert!(second.nanos_since(&first) < 60_000_000_000);
    }
}
