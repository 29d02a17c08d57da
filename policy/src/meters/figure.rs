//! Figures as headers write them: decimal numbers, to the last digit.

/// One unit, in units of 1e-9.
pub const UNIT_NANO: i128 = 1_000_000_000;
/// Digits after the point.
const SCALE: usize = 9;
/// Digits before it: Decimal(38, 9).
const MAX_WHOLE_DIGITS: usize = 29;

/// A decimal number such as `12.5`, in units of 1e-9; at most nine digits after the point.
pub fn nano(text: &[u8]) -> Option<i128> {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next());
    if whole.is_empty() || fraction.is_some_and(<[u8]>::is_empty) {
        return None;
    }
    let fraction = fraction.unwrap_or_default();
    if whole.len() > MAX_WHOLE_DIGITS || fraction.len() > SCALE {
        return None;
    }
    let zeros = std::iter::repeat_n(&b'0', SCALE - fraction.len());
    whole.iter().chain(fraction).chain(zeros).try_fold(0_i128, |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + i128::from(digit - b'0'))
    })
}

/// The same with a sign: a level may fall.
pub fn signed_nano(text: &[u8]) -> Option<i128> {
    match text.split_first() {
        Some((b'-', rest)) => nano(rest).map(|nano| -nano),
        Some((b'+', rest)) => nano(rest),
        _ => nano(text),
    }
}

/// A quantity in whole units, a part of one as one; nothing of one below zero.
pub fn whole_units(quantity_nano: i128) -> u64 {
    let units = quantity_nano.max(0).unsigned_abs().div_ceil(UNIT_NANO.unsigned_abs());
    u64::try_from(units).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{nano, signed_nano, whole_units};

    #[test]
    fn part_of_a_unit_is_charged_as_one() {
        let nano = 1_000_000_000;
        for (quantity, units) in
            [(0, 0), (1, 1), (nano, 1), (nano + 1, 2), (-nano, 0), (i128::MAX, u64::MAX)]
        {
            assert_eq!(whole_units(quantity), units, "{quantity}");
        }
    }

    #[test]
    fn every_digit_of_a_figure_counts() {
        for (text, value) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("007", 7_000_000_000),
            ("12.5", 12_500_000_000),
            ("0.000000001", 1),
            (
                "99999999999999999999999999999.999999999",
                99_999_999_999_999_999_999_999_999_999_999_999_999,
            ),
        ] {
            assert_eq!(nano(text.as_bytes()), Some(value), "{text}");
            assert_eq!(signed_nano(format!("-{text}").as_bytes()), Some(-value), "-{text}");
        }
        assert_eq!(signed_nano(b"+1.5"), Some(1_500_000_000));
    }

    #[test]
    fn what_is_no_decimal_says_nothing() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "0x1",
            "1,5",
            " 1",
            "1.2.3",
            "NaN",
            "0.0000000001",
            "100000000000000000000000000000",
            "\u{661}",
        ] {
            assert_eq!(nano(text.as_bytes()), None, "{text}");
        }
        for text in ["", "-", "--1", "+-1", "-1."] {
            assert_eq!(signed_nano(text.as_bytes()), None, "{text}");
        }
    }
}
