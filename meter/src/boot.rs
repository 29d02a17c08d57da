//! Which start of the machine this is: in another one, what was not synced may be gone.

/// The running system's random name for its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId(pub u128);

impl BootId {
    /// This one; `None` where the system does not say.
    pub fn current() -> Option<BootId> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        BootId::parse(&text)
    }

    /// As much of it as a word holds.
    pub(crate) fn folded(self) -> u64 {
        (self.0 >> 64) as u64 ^ self.0 as u64
    }

    fn parse(text: &str) -> Option<BootId> {
        let digits: String = text.trim().chars().filter(|character| *character != '-').collect();
        if digits.len() != 32 {
            return None;
        }
        u128::from_str_radix(&digits, 16).ok().filter(|id| *id != 0).map(BootId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_which_start_it_is() {
        let id = BootId::parse("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n");
        assert_eq!(id, Some(BootId(0x0f1e_2d3c_4b5a_6978_8796_a5b4_c3d2_e1f0)));
        assert_eq!(BootId::parse(""), None);
        assert_eq!(BootId::parse("0f1e2d3c"), None);
        assert_eq!(BootId::current(), BootId::current());
    }
}
