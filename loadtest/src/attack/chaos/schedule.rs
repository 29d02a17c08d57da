//! Which attack comes when: a list made from a seed before the first of them, and the same for the
//! same seed.
//!
//! The attacks of one kind are spread over the run, each at a random moment of its share of the
//! time, so that as many happen as were asked for. Kinds know nothing of each other: they overlap
//! as chance will have it, and the gateway is killed while ClickHouse is down.

use std::time::Duration;

use crate::fault::Fault;
use crate::random::Random;

/// Who is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The gateway.
    Gateway,
    /// ClickHouse.
    Engine,
}

/// What is done, in an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill(Victim),
    /// Started again.
    Start(Victim),
    /// SIGSTOP.
    Stop(Victim),
    /// SIGCONT.
    Continue(Victim),
    /// What the proxy does to connections from now on.
    Fault(Fault),
    /// All connections through the proxy are reset.
    Reset,
    /// The disk is filled.
    Fill,
    /// On the full disk, the gateway is killed and started.
    Restart,
    /// And emptied again.
    Free,
}

/// How much of what, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where all of it comes from.
    pub seed: u64,
    /// The time in which it all happens.
    pub length: Duration,
    /// Kills of the gateway.
    pub gateway_kills: u32,
    /// Kills of ClickHouse.
    pub engine_kills: u32,
    /// Stops of each.
    pub stops: u32,
    /// Spans in which the proxy misbehaves.
    pub faults: u32,
    /// Spans in which the disk is full; in each the gateway is killed once more.
    pub fills: u32,
}

/// A moment, from the beginning, and what happens then.
pub type Moment = (Duration, Action);

/// The attacks in their order.
pub fn schedule(plan: &Plan) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut random = Random::new(plan.seed);
    for (victim, kills, dead_ms) in [
        (Victim::Gateway, plan.gateway_kills, 0..600),
        (Victim::Engine, plan.engine_kills, 0..4000),
    ] {
        let spans = spread(plan, kills, dead_ms, &mut random);
        for (from, to) in spans {
            moments.extend([(from, Action::Kill(victim)), (to, Action::Start(victim))]);
        }
        let spans = spread(plan, plan.stops, 200..3000, &mut random);
        for (from, to) in spans {
            moments.extend([(from, Action::Stop(victim)), (to, Action::Continue(victim))]);
        }
    }
    let spans = spread(plan, plan.faults, 50..4000, &mut random);
    for (from, to) in spans {
        match fault(&mut random) {
            Some(fault) => {
                moments.extend([(from, Action::Fault(fault)), (to, Action::Fault(Fault::Pass))]);
            }
            None => moments.push((from, Action::Reset)),
        }
    }
    let spans = spread(plan, plan.fills, 1000..6000, &mut random);
    for (from, to) in spans {
        let between = (from + to) / 2;
        moments.extend([(from, Action::Fill), (between, Action::Restart), (to, Action::Free)]);
    }
    // Stable, so that of two in the same instant the one that was planned first comes first.
    moments.sort_by_key(|(at, _)| *at);
    moments
}

/// So many spans, each within its share of the time: it begins in the first 60 % of it and ends
/// before the share does.
fn spread(
    plan: &Plan,
    count: u32,
    lasts_ms: std::ops::Range<u64>,
    random: &mut Random,
) -> Vec<(Duration, Duration)> {
    let share_us = plan.length.as_micros() as u64 / u64::from(count.max(1));
    (0..u64::from(count))
        .map(|number| {
            let from_us = number * share_us + random.within(0..share_us * 6 / 10);
            let longest_us = share_us * 4 / 10;
            let lasts_us = random.within(lasts_ms.start * 1000..lasts_ms.end * 1000);
            let to_us = from_us + lasts_us.min(longest_us.saturating_sub(1));
            (Duration::from_micros(from_us), Duration::from_micros(to_us))
        })
        .collect()
}

/// A fault; `None` resets what there is.
fn fault(random: &mut Random) -> Option<Fault> {
    Some(match random.within(0..6) {
        0 => Fault::Refuse,
        1 => Fault::Stall,
        // Within an insert's header, within its block, or some inserts later.
        2 => {
            let most = [500, 8_000, 200_000][random.within(0..3) as usize];
            Fault::Cut { after_bytes: random.within(0..most) }
        }
        3 => Fault::Swallow,
        4 => Fault::Delay(Duration::from_millis(random.within(1..300))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan {
            seed,
            length: Duration::from_mins(10),
            gateway_kills: 100,
            engine_kills: 30,
            stops: 40,
            faults: 120,
            fills: 10,
        }
    }

    #[test]
    fn a_seed_always_brings_the_same_attacks() {
        assert_eq!(schedule(&plan(7)), schedule(&plan(7)));
        assert_ne!(schedule(&plan(7)), schedule(&plan(8)));
    }

    #[test]
    fn as_many_happen_as_were_asked_for_and_every_one_ends() {
        for seed in 0..50 {
            let moments = schedule(&plan(seed));
            assert!(moments.is_sorted_by_key(|(at, _)| *at));
            assert!(moments.iter().all(|(at, _)| *at < plan(seed).length));
            let count = |wanted: fn(&Action) -> bool| {
                moments.iter().filter(|(_, action)| wanted(action)).count()
            };
            assert_eq!(count(|a| *a == Action::Kill(Victim::Gateway)), 100);
            assert_eq!(count(|a| *a == Action::Kill(Victim::Engine)), 30);
            assert_eq!(count(|a| matches!(a, Action::Stop(_))), 80);
            let disk = moments.iter().filter_map(|(_, action)| match action {
                Action::Fill | Action::Restart | Action::Free => Some(*action),
                _ => None,
            });
            let story = [Action::Fill, Action::Restart, Action::Free];
            assert!(disk.eq(story.into_iter().cycle().take(30)));
            for victim in [Victim::Gateway, Victim::Engine] {
                // Never killed while it is dead: that would be no kill.
                let lives = moments.iter().filter_map(|(_, action)| match action {
                    Action::Kill(who) if *who == victim => Some(false),
                    Action::Start(who) if *who == victim => Some(true),
                    _ => None,
                });
                assert!(lives.enumerate().all(|(place, alive)| alive == (place % 2 == 1)));
            }
        }
    }

    #[test]
    fn attacks_overlap() {
        let moments = schedule(&plan(1));
        let (mut engine, mut both) = (true, 0);
        for (_, action) in moments {
            match action {
                Action::Kill(Victim::Engine) => engine = false,
                Action::Start(Victim::Engine) => engine = true,
                Action::Kill(Victim::Gateway) if !engine => both += 1,
                _ => {}
            }
        }
        assert!(both > 0, "the gateway is killed while ClickHouse is down");
    }
}
