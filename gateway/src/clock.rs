//! The one clock: read once per request, handed on as a value.
//!
//! Limits are charged in monotonic time, events are dated in wall time. One reading gives both:
//! the wall clock is followed by an offset that is renewed once a second, so that a request
//! costs one clock read and a step of the wall clock is followed within a second.

mod stamp;

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use orbit_policy::Nanos;
pub use orbit_policy::Reading;
pub use stamp::Stamp;

/// How old the offset between the two clocks may become.
const RENEW_NS: u64 = 1_000_000_000;

/// Reads the wall clock, in unix microseconds.
type Wall = Box<dyn Fn() -> i64 + Send + Sync>;

/// The clock of this process.
pub struct Clock {
    base: Instant,
    wall: Wall,
    /// Unix microseconds at the base, as seen at the last renewal.
    base_unix_us: AtomicI64,
    renew_at_ns: AtomicU64,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Clock {
        Clock::following(wall_us)
    }

    /// The same with another wall clock than the machine's, in unix microseconds.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn following(wall: impl Fn() -> i64 + Send + Sync + 'static) -> Clock {
        let clock = Clock {
            base: Instant::now(),
            wall: Box::new(wall),
            base_unix_us: AtomicI64::new(0),
            renew_at_ns: AtomicU64::new(0),
        };
        clock.read();
        clock
    }

    /// Monotonic time.
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Wall time in unix microseconds.
    pub fn unix_us(&self) -> i64 {
        self.read().unix_us
    }

    /// Both.
    pub fn read(&self) -> Reading {
        let mono = self.now();
        let renew_at_ns = self.renew_at_ns.load(Ordering::Relaxed);
        if mono.0 >= renew_at_ns {
            self.renew(mono, renew_at_ns);
        }
        let since_us = (mono.0 / 1_000).cast_signed();
        Reading { mono, unix_us: self.base_unix_us.load(Ordering::Relaxed) + since_us }
    }

    fn renew(&self, mono: Nanos, renew_at_ns: u64) {
        let unix_us = (self.wall)();
        self.base_unix_us.store(unix_us - (mono.0 / 1_000).cast_signed(), Ordering::Relaxed);
        let next = mono.0 + RENEW_NS;
        // Whoever loses the race has stored an offset just as good.
        let _either = self.renew_at_ns.compare_exchange(
            renew_at_ns,
            next,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("base", &self.base).finish_non_exhaustive()
    }
}

/// The machine's wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn wall_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        // A clock set before 1970: dated there, so that nothing downstream is surprised.
        Err(_) => 0,
    }
}
