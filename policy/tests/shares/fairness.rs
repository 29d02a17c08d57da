//! Who gets how much over half a minute of simulated time: three children with 50, 30 and 20 % of
//! 1000 a second.

use orbit_policy::{ApiKey, Policy};

use crate::{Random, SECOND, granted, key, policy};

const RATE: u64 = 1_000;
const BURST: u64 = 100;
const PERCENT: [u64; 3] = [50, 30, 20];
const SPAN_S: u64 = 30;

fn three() -> (Policy, Vec<ApiKey>) {
    let mut text = format!(
        "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n[[tenant]]\nid = \"h\"\nplan = \"p\"\n\
         limits = [{{ name = \"requests\", rate = {RATE}, burst = {BURST} }}]\n"
    );
    let mut keys = Vec::new();
    for (index, percent) in PERCENT.iter().enumerate() {
        let (key, table) = key(&format!("c{index}"));
        text += &format!(
            "[[tenant]]\nid = \"c{index}\"\nparent = \"h\"\n\
             limits = [{{ name = \"requests\", guarantee = \"{percent}%\" }}]\n{table}"
        );
        keys.push(key);
    }
    (policy(&text), keys)
}

/// How many of each child are admitted, and the most of all in any span less what the limit's rate
/// allows for it: what its burst and those of the guarantees came to.
fn run(offered_per_s: [u64; 3], random: &mut Random) -> ([u64; 3], u64) {
    let (policy, keys) = three();
    let mut arrivals = Vec::new();
    for (child, per_s) in offered_per_s.into_iter().enumerate().filter(|(_, per_s)| *per_s > 0) {
        let phase = random.within(0, SECOND / per_s);
        arrivals.extend((0..per_s * SPAN_S).map(|n| (phase + n * SECOND / per_s, child)));
    }
    arrivals.sort_unstable();
    let (mut admitted, mut ahead, mut most, mut last) = ([0; 3], 0_u64, 0, 0);
    let interval_ns = SECOND / RATE;
    for (at, child) in arrivals {
        ahead = ahead.saturating_sub(at - last);
        last = at;
        if granted(&policy, &keys[child], 1, at) {
            admitted[child] += 1;
            ahead += interval_ns;
            most = most.max(ahead.div_ceil(interval_ns));
        }
    }
    (admitted, most)
}

#[test]
fn fairness_each_child_has_its_guarantee_beside_a_greedy_one() {
    let mut random = Random::printed();
    for greedy in 0..3 {
        let mut offered = PERCENT.map(|percent| RATE * percent / 100 * 11 / 10);
        offered[greedy] = RATE * 5;
        let (admitted, most) = run(offered, &mut random);
        for (child, percent) in PERCENT.iter().enumerate() {
            let guaranteed = RATE * SPAN_S * percent / 100;
            let got = admitted[child];
            assert!(
                got * 100 >= guaranteed * 98,
                "{child} got {got} of {guaranteed}, {admitted:?}"
            );
            // What nobody left over, nobody borrowed.
            assert!(
                got * 100 <= guaranteed * 102,
                "{child} got {got} of {guaranteed}, {admitted:?}"
            );
        }
        // Bursts of the limit and of what it guarantees: all of it once more.
        assert!(most <= 2 * BURST, "{most} above the rate");
    }
}

#[test]
fn fairness_what_is_idle_is_borrowed_and_given_back_at_once() {
    let mut random = Random::printed();
    for (offered, borrower) in
        [([0, 0, RATE * 5], 2), ([RATE * 5, 0, 0], 0), ([0, 100, RATE * 5], 2)]
    {
        let (admitted, most) = run(offered, &mut random);
        let all = RATE * SPAN_S;
        let sum: u64 = admitted.iter().sum();
        assert!(sum * 100 >= all * 95 && sum <= all + 2 * BURST, "{admitted:?} of {all}");
        let others = offered.iter().enumerate().filter(|(child, _)| *child != borrower);
        for (child, per_s) in others {
            assert_eq!(admitted[child], per_s * SPAN_S, "asked for less than its guarantee");
        }
        assert!(most <= 2 * BURST, "{most} above the rate");
    }
}
