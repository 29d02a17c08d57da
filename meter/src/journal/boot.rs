//! Which run of the machine this is.
//!
//! The kernel draws a new id whenever the machine starts. What a process wrote survives its own
//! death in the kernel's memory, and the machine's only on the disk: so an opening that did not end
//! cleanly may have lost something exactly when the machine's run is another one now.

use std::fs;

use crate::boot::BootId;
use crate::clock;

const STAT: &str = "/proc/stat";

/// A run of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's id of it.
    pub id: String,
    /// When it began, unix microseconds, by today's clock.
    pub began_us: i64,
}

impl Boot {
    /// The one this process runs in. Where the kernel does not say, an id that equals no other: a
    /// loss is then suspected too often and never overlooked.
    pub fn current() -> Boot {
        let id = if let Some(BootId(id)) = BootId::current() {
            format!("{id:032x}")
        } else {
            tracing::warn!("the machine's boot id is unknown");
            format!("unknown-{}", clock::unix_us())
        };
        let began_us = fs::read_to_string(STAT).ok().as_deref().and_then(began_us);
        Boot { id, began_us: began_us.unwrap_or_else(clock::unix_us) }
    }
}

/// `btime` of /proc/stat, which is rounded to seconds: up, as it serves as an upper bound.
fn began_us(stat: &str) -> Option<i64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some((line.trim().parse::<i64>().ok()? + 1) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_which_run_this_is_and_since_when() {
        let boot = Boot::current();
        assert_eq!(boot, Boot::current());
        assert_eq!(boot.id.len(), 32, "{boot:?}");
        assert!(boot.began_us > 1_600_000_000_000_000 && boot.began_us < clock::unix_us());
        assert_eq!(began_us("cpu 1 2\nbtime 17\nctxt 5\n"), Some(18_000_000));
        assert_eq!(began_us("cpu 1 2\n"), None);
    }
}
