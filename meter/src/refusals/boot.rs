//! Which run of the machine this is: what was in memory before is gone in any other.

/// The kernel's name for this run (random(4)), as much of it as a word holds; 0 where it gives
/// none, which is never the same run.
pub(super) fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.ok().and_then(|text| parse(&text)).unwrap_or(0)
}

fn parse(text: &str) -> Option<u64> {
    let digits: String = text.trim().chars().filter(|&it| it != '-').collect();
    let id = u128::from_str_radix(&digits, 16).ok()?;
    Some((id >> 64) as u64 ^ id as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_the_machine_has_one_name() {
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), 0, "Linux has a name");
        let text = "c0ffee00-0000-4000-8000-000000000001\n";
        assert_eq!(parse(text), Some(0x40ff_ee00_0000_4001));
        assert_eq!(parse("none"), None);
        assert_eq!(parse(""), None);
    }
}
