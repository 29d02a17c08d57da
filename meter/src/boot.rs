//! Which run of the machine this is.
//!
//! The kernel draws a new id whenever the machine starts. What a process wrote survives its own
//! death in the kernel's memory, and the machine's only on the disk: so what was not synced may be
//! gone exactly when the machine's run is another one now.

use std::fmt;

use crate::clock;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const STAT: &str = "/proc/stat";

/// The kernel's random name for a run of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId(pub u128);

impl BootId {
    /// That of this one; `None` where the kernel does not say.
    pub fn current() -> Option<BootId> {
        BootId::parse(&std::fs::read_to_string(BOOT_ID).ok()?)
    }

    /// As much of it as a word holds.
    pub(crate) fn folded(self) -> u64 {
        (self.0 >> 64) as u64 ^ self.0 as u64
    }

    /// Reads 32 hexadecimal digits; dashes are skipped.
    pub(crate) fn parse(text: &str) -> Option<BootId> {
        let digits: String = text.trim().chars().filter(|character| *character != '-').collect();
        if digits.len() != 32 {
            return None;
        }
        u128::from_str_radix(&digits, 16).ok().filter(|id| *id != 0).map(BootId)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A run of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// Its name. Where the kernel does not say, it equals no other: a loss is then suspected too
    /// often and never overlooked.
    pub id: Option<BootId>,
    /// When it began, unix microseconds, by today's clock.
    pub began_us: i64,
}

impl Boot {
    /// The one this process runs in.
    pub fn current() -> Boot {
        let id = BootId::current();
        if id.is_none() {
            tracing::warn!("the machine's boot id is unknown");
        }
        let began_us = std::fs::read_to_string(STAT).ok().as_deref().and_then(began_us);
        Boot { id, began_us: began_us.unwrap_or_else(clock::unix_us) }
    }

    /// Whether whatever was written under that name was written in this run.
    pub(crate) fn is(&self, id: Option<BootId>) -> bool {
        self.id.is_some() && self.id == id
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
        let id = BootId::parse("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n");
        assert_eq!(id, Some(BootId(0x0f1e_2d3c_4b5a_6978_8796_a5b4_c3d2_e1f0)));
        assert_eq!(BootId::parse(&id.expect("just seen").to_string()), id);
        assert_eq!(BootId::parse(""), None);
        assert_eq!(BootId::parse("0f1e2d3c"), None);
        let boot = Boot::current();
        assert_eq!(boot, Boot::current());
        assert!(boot.is(boot.id) && !boot.is(id), "{boot:?}");
        assert!(boot.began_us > 1_600_000_000_000_000 && boot.began_us < clock::unix_us());
        assert_eq!(began_us("cpu 1 2\nbtime 17\nctxt 5\n"), Some(18_000_000));
        assert_eq!(began_us("cpu 1 2\n"), None);
    }

    #[test]
    fn a_run_without_a_name_is_no_other() {
        let unknown = Boot { id: None, began_us: 0 };
        assert!(!unknown.is(None) && !unknown.is(Some(BootId(1))));
    }
}
