//! The same by the book: a tree of limits, its shares, and what one request does to them.

use std::collections::HashSet;

use crate::SECOND;

/// A bucket: the instant at which it is full, and what it is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    pub(crate) full_at: u64,
    pub(crate) interval_ns: u64,
    pub(crate) burst: u64,
}

impl Tokens {
    fn force(&mut self, cost: u64, now: u64) {
        self.full_at = self.full_at.max(now) + cost * self.interval_ns;
    }

    fn take(&mut self, cost: u64, now: u64) -> bool {
        let mut after = *self;
        after.force(cost, now);
        let fits = after.full_at <= now + self.interval_ns * self.burst;
        if fits {
            *self = after;
        }
        fits
    }

    pub(crate) fn left(&self, now: u64) -> u64 {
        let full = self.interval_ns * self.burst;
        full.saturating_sub(self.full_at.saturating_sub(now)) / self.interval_ns
    }
}

/// What a limit is held to, by the book: its rate in millionths of a token a day, rounded down; the
/// time of a token in nanoseconds, rounded up; and its burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    micro_per_day: u128,
    interval_ns: u64,
    burst: u64,
}

impl Held {
    /// So many a second.
    pub(crate) fn plain(rate: u64, burst: u64) -> Held {
        let micro_per_day = u128::from(rate) * 86_400_000_000;
        Held { micro_per_day, interval_ns: SECOND.div_ceil(rate), burst }
    }

    /// A part of it: a token takes longer as the part is smaller, and of the burst it has its part,
    /// one token at least, unless it has another.
    pub(crate) fn part(self, percent: u64, burst: Option<u64>) -> Held {
        let part = self.micro_per_day * u128::from(percent) / 100;
        let interval_ns = (u128::from(self.interval_ns) * self.micro_per_day).div_ceil(part);
        let of_burst = u128::from(self.burst) * part / self.micro_per_day;
        let burst = burst.unwrap_or((of_burst as u64).max(1));
        Held { micro_per_day: part, interval_ns: interval_ns as u64, burst }
    }

    fn tokens(self) -> Tokens {
        Tokens { full_at: 0, interval_ns: self.interval_ns, burst: self.burst }
    }
}

/// A limit somewhere in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) held: Held,
    pub(crate) share: Option<Share>,
    pub(crate) tokens: Tokens,
    /// Admitted: when and how many.
    pub(crate) admitted: Vec<(u64, u64)>,
}

/// What is guaranteed, and the limit it is guaranteed of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    held: Held,
    pub(crate) guarantee: Tokens,
    of: usize,
}

impl Limit {
    pub(crate) fn plain(name: &str, held: Held) -> Limit {
        Limit { name: name.into(), held, share: None, tokens: held.tokens(), admitted: vec![] }
    }

    pub(crate) fn share(name: &str, ceiling: Held, guarantee: Held, of: usize) -> Limit {
        let share = Share { held: guarantee, guarantee: guarantee.tokens(), of };
        Limit { share: Some(share), ..Limit::plain(name, ceiling) }
    }

    /// What shares of it are parts of.
    pub(crate) fn guarantee(&self) -> Held {
        self.share.map_or(self.held, |share| share.held)
    }
}

/// Takes from every limit of a chain (narrowest first), or from none.
pub(crate) fn admit(limits: &mut [Limit], chain: &[usize], cost: u64, now: u64) -> bool {
    let before: Vec<Limit> = chain.iter().map(|at| limits[*at].clone()).collect();
    let mut secured = HashSet::new();
    for at in chain {
        let limit = &mut limits[*at];
        let is_secured = secured.contains(at);
        if let Some(Share { guarantee, of, .. }) = &mut limit.share
            && chain.contains(of)
        {
            if is_secured {
                guarantee.force(cost, now);
                secured.insert(*of);
            } else if guarantee.take(cost, now) {
                secured.insert(*of);
            }
        }
        if is_secured {
            limit.tokens.force(cost, now);
        } else if !limit.tokens.take(cost, now) {
            for (at, before) in chain.iter().zip(before) {
                limits[*at] = before;
            }
            return false;
        }
        limit.admitted.push((now, cost));
    }
    true
}

/// The bursts of everything guaranteed of a limit, directly or by a share of it.
fn guaranteed(limits: &[Limit], of: usize) -> u64 {
    let shares = (0..limits.len()).filter_map(|at| {
        let Share { guarantee, of: whole, .. } = limits[at].share?;
        (whole == of).then(|| guarantee.burst + guaranteed(limits, at))
    });
    shares.sum()
}

/// **P1**: over any span at most rate x span, the burst and the bursts of what is guaranteed below.
pub(crate) fn assert_bound(limits: &[Limit], at: usize) {
    let Limit { tokens, admitted, name, .. } = &limits[at];
    let bursts = tokens.burst + guaranteed(limits, at);
    for (index, (from, _)) in admitted.iter().enumerate() {
        let mut sum = 0;
        for (until, cost) in &admitted[index..] {
            sum += cost;
            let most = bursts + (until - from) / tokens.interval_ns;
            assert!(sum <= most, "{name}: {sum} admitted from {from} to {until}, at most {most}");
        }
    }
}
