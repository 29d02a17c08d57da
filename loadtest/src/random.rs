//! Numbers that are the same for the same seed, on every machine and in every version.
//!
//! SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). A run's
//! seed is printed, and brings the same attacks in the same order again.

use std::hash::{BuildHasher, RandomState};

/// A sequence of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A seed nobody chose.
    pub fn seed() -> u64 {
        // Short enough to be typed again.
        RandomState::new().hash_one(std::process::id()) >> 32
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number of `range`, its end not included; its start when it is empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        // The bias of a remainder is below 2^-30 for the widths in use here.
        range.start + self.next_u64() % width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_brings_the_same_numbers() {
        let mut random = Random::new(1_234_567);
        // From the reference implementation.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.next_u64(), random.next_u64()], expected);
        assert!((0..1000).all(|_| (5..9).contains(&random.within(5..9))));
        assert_eq!(random.within(7..7), 7);
    }
}
