//! Weighted round robin as a fixed sequence: smooth, and one look-up per request.

/// Server indexes, each as often as its weight (over their common divisor), spread so that a
/// server of weight 3 beside one of weight 1 gives `0 0 1 0` and not `0 0 0 1`.
pub(super) fn spread(weights: &[u32]) -> Box<[u16]> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0_i64; weights.len()];
    let turn = |_| {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        // The first of those with the most credit.
        let best = (0..credit.len()).rev().max_by_key(|index| credit[*index]).unwrap_or_default();
        credit[best] -= total;
        best as u16
    };
    (0..total).map(turn).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn weights_are_kept_and_turns_are_spread() {
        assert_eq!(*spread(&[1, 1]), [0, 1]);
        assert_eq!(*spread(&[3, 1]), [0, 0, 1, 0]);
        assert_eq!(*spread(&[500, 500]), [0, 1]);
        let wheel = spread(&[5, 3, 2]);
        let count = |server| wheel.iter().filter(|s| **s == server).count();
        assert_eq!([count(0), count(1), count(2)], [5, 3, 2]);
    }
}
