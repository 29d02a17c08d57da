//! A share as written: `{ name = "requests", guarantee = 50, ceiling = "80%", per = "second" }`.

use super::fields::{Amount, Fields, Located};
use super::limit::LimitKind;
use crate::diagnostics::Place;

/// A limit that is a share of the limit of its name at a tenant above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) guarantee: Amount,
    pub(crate) guarantee_at: Place,
    /// `None`: all of the limit above.
    pub(crate) ceiling: Option<(Amount, Place)>,
    /// `None`: that of the limit above.
    pub(crate) per_ns: Option<u64>,
    pub(crate) burst: Option<u64>,
    pub(crate) guarantee_burst: Option<u64>,
}

/// The keys that only a share has.
pub(super) struct ShareFields {
    guarantee: Option<Located<Amount>>,
    ceiling: Option<Located<Amount>>,
    guarantee_burst: Option<Located<u64>>,
}

impl ShareFields {
    pub(super) fn read(fields: &mut Fields<'_, '_, '_>) -> Self {
        let most = u64::from(u32::MAX);
        ShareFields {
            guarantee: fields.amount("guarantee", most),
            ceiling: fields.amount("ceiling", most),
            guarantee_burst: fields.integer("guarantee_burst", 1, most),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.guarantee.is_some() || self.ceiling.is_some() || self.guarantee_burst.is_some()
    }

    /// The share; keys that do not go with it (`stray`: rate, concurrent) are findings.
    pub(super) fn finish(
        self,
        fields: &mut Fields<'_, '_, '_>,
        per_ns: Option<u64>,
        burst: Option<u64>,
        narrowed: bool,
        stray: [Option<&Located<u64>>; 2],
    ) -> Option<LimitKind> {
        let [rate, concurrent] = stray;
        if let Some(rate) = rate {
            fields.find(rate.place, "rate", "does not go with guarantee and ceiling");
        }
        if let Some(concurrent) = concurrent {
            let message =
                "a concurrency limit has no guarantee and no ceiling: shares are of rates";
            fields.find(concurrent.place, "concurrent", message);
        }
        let Some(guarantee) = self.guarantee else {
            // A guarantee that is there but wrong has a finding of its own.
            if !fields.has_failed() {
                let message = "ceiling and guarantee_burst go with guarantee only";
                fields.find(fields.place, "guarantee", message);
            }
            return None;
        };
        if narrowed {
            let message = "a share holds where the limit above holds: no apps, routes or each";
            fields.find(guarantee.place, "guarantee", message);
        }
        Some(LimitKind::Share(Share {
            guarantee: guarantee.value,
            guarantee_at: guarantee.place,
            ceiling: self.ceiling.map(|ceiling| (ceiling.value, ceiling.place)),
            per_ns,
            burst,
            guarantee_burst: self.guarantee_burst.map(|burst| burst.value),
        }))
    }
}
