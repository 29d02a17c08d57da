//! A quantity as it is written, to the last digit: never a float on the way.

/// Fraction digits of a quantity: its unit is 1e-9.
const SCALE: i32 = 9;
/// Digits of a quantity, fraction included: Decimal(38, 9).
const MAX_DIGITS: u32 = 38;
/// Longest text that is read.
const MAX_BYTES: usize = 128;

/// Text that is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QuantityError {
    /// Not a decimal number.
    #[error("is not a decimal number such as 12.5")]
    NotANumber,
    /// Below zero.
    #[error("is negative")]
    Negative,
    /// More fraction digits than a quantity keeps.
    #[error("has more than 9 digits after the point")]
    TooPrecise,
    /// More digits than a quantity keeps.
    #[error("has more than 29 digits before the point")]
    TooLarge,
}

/// The quantity in units of 1e-9. Takes JSON's grammar for numbers, and leading zeros.
pub(super) fn nano(text: &str) -> Result<i128, QuantityError> {
    if text.len() > MAX_BYTES {
        return Err(QuantityError::NotANumber);
    }
    let (is_negative, magnitude) = match text.strip_prefix('-') {
        Some(magnitude) => (true, magnitude),
        None => (false, text),
    };
    let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (magnitude, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if are_digits(fraction) => (whole, fraction),
        Some(_) => return Err(QuantityError::NotANumber),
        None => (mantissa, ""),
    };
    if !are_digits(whole) {
        return Err(QuantityError::NotANumber);
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    if is_negative {
        return Err(QuantityError::Negative);
    }
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    // All of them at most MAX_BYTES.
    let [trailing, fraction] = [trailing, fraction.len()].map(|count| (count as u32).cast_signed());
    let shift = SCALE + exponent + trailing - fraction;
    let Ok(shift) = u32::try_from(shift) else { return Err(QuantityError::TooPrecise) };
    if significant.len() as u32 + shift > MAX_DIGITS {
        return Err(QuantityError::TooLarge);
    }
    let value: i128 = significant.parse().map_err(|_| QuantityError::TooLarge)?;
    Ok(value * 10_i128.pow(shift))
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An exponent of at most four digits: one that is longer is no quantity's.
fn exponent_of(text: &str) -> Result<i32, QuantityError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !are_digits(digits) || digits.len() > 4 {
        return Err(QuantityError::NotANumber);
    }
    let value: i32 = digits.parse().map_err(|_| QuantityError::NotANumber)?;
    Ok(if text.starts_with('-') { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_counts() {
        let exact: [(&str, i128); 14] = [
            ("1", 1_000_000_000),
            ("0", 0),
            ("-0.0", 0),
            ("0.000000001", 1),
            ("0.1", 100_000_000),
            ("007", 7_000_000_000),
            ("1e3", 1_000_000_000_000),
            ("1.5E-3", 1_500_000),
            ("1e-9", 1),
            ("10e-10", 1),
            ("1.0000000000000", 1_000_000_000),
            ("1e+21", 1_000_000_000_000_000_000_000_000_000_000),
            (
                "123456789012345678901234567.123456789",
                123_456_789_012_345_678_901_234_567_123_456_789,
            ),
            (
                "99999999999999999999999999999.999999999",
                99_999_999_999_999_999_999_999_999_999_999_999_999,
            ),
        ];
        for (text, value) in exact {
            assert_eq!(nano(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_kept_exactly_is_refused() {
        for (text, error) in [
            ("-1", QuantityError::Negative),
            ("-0.000000001", QuantityError::Negative),
            ("0.0000000001", QuantityError::TooPrecise),
            ("0.30000000000000004", QuantityError::TooPrecise),
            ("1e-10", QuantityError::TooPrecise),
            ("100000000000000000000000000000", QuantityError::TooLarge),
            ("1e29", QuantityError::TooLarge),
            ("1e9999", QuantityError::TooLarge),
            ("1e10000", QuantityError::NotANumber),
        ] {
            assert_eq!(nano(text), Err(error), "{text}");
        }
        for text in ["", "-", ".5", "5.", "+1", "1 ", "0x10", "NaN", "1e", "1e+", "1.2.3", "١"] {
            assert_eq!(nano(text), Err(QuantityError::NotANumber), "{text}");
        }
        assert_eq!(nano(&"0".repeat(200)), Err(QuantityError::NotANumber));
    }
}
