//! Random numbers for tests: each run another seed, printed, and the same run for the same seed.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// From the seed in `ORBIT_SEED`, or a new one; printed, so that a failure can be repeated.
    #[expect(clippy::print_stderr, reason = "a test that fails shows its seed")]
    pub(crate) fn printed() -> Random {
        let given = std::env::var("ORBIT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| getrandom::u64().expect("the system has random bytes"));
        eprintln!("ORBIT_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
