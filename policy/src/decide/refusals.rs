//! What one walk along a chain was refused by.

use super::{Call, Exhausted, Limited, Reason};
use crate::levels::LevelQuota;
use crate::quota;
use crate::time::Nanos;

/// The refusals of one walk: which limits, which of them holds longest, and until when.
#[derive(Default)]
pub(super) struct Refusals {
    longest: Option<(Limited, Option<quota::Exhausted>)>,
    violated: u64,
}

impl Refusals {
    pub(super) fn add(
        &mut self,
        slot: u8,
        remaining: u64,
        ready_at: Option<Nanos>,
        concurrency: bool,
    ) {
        let never = ready_at.is_none() && !concurrency;
        let limited = Limited { slot, violated: 0, remaining, ready_at, concurrency, never };
        self.note(limited, None);
    }

    pub(super) fn add_quota(&mut self, slot: u8, quota: &quota::Exhausted, call: &Call<'_>) {
        let ends_us = quota.ends_us.unwrap_or(i64::MAX);
        let ends_in_us = ends_us.saturating_sub(call.unix_us).max(0).cast_unsigned();
        let never = quota.never;
        let ready_at = (!never).then(|| call.now.plus(ends_in_us.saturating_mul(1_000)));
        let remaining = quota.limit.saturating_sub(quota.used);
        let limited = Limited { slot, violated: 0, remaining, ready_at, concurrency: false, never };
        self.note(limited, Some(*quota));
    }

    pub(super) fn add_level(&mut self, slot: u8, quota: &LevelQuota, rise: u64, used: u64) {
        let (limit, never) = (quota.limit, quota.is_too_much(rise));
        let remaining = limit.saturating_sub(used);
        let (violated, ready_at, concurrency) = (0, None, false);
        let limited = Limited { slot, violated, remaining, ready_at, concurrency, never };
        self.note(limited, Some(quota::Exhausted { used, limit, ends_us: None, never }));
    }

    fn note(&mut self, limited: Limited, quota: Option<quota::Exhausted>) {
        self.violated |= 1 << limited.slot;
        // Never outlasts a level, which has no end; that any instant, and any instant a permit that
        // may be free at once.
        let rank = |limited: &Limited, quota: &Option<quota::Exhausted>| {
            let is_level = quota.as_ref().is_some_and(|quota| quota.ends_us.is_none());
            (limited.never, is_level, limited.ready_at)
        };
        let new = rank(&limited, &quota);
        if self.longest.as_ref().is_none_or(|(longest, quota)| new > rank(longest, quota)) {
            self.longest = Some((limited, quota));
        }
    }

    pub(super) fn finish(self) -> Option<Reason> {
        let (limited, quota) = self.longest?;
        let limited = Limited { violated: self.violated, ..limited };
        Some(match quota {
            None => Reason::Limited(limited),
            Some(quota::Exhausted { used, limit, ends_us, .. }) => {
                Reason::QuotaExhausted(Exhausted { limited, used, limit, resets_us: ends_us })
            }
        })
    }
}
