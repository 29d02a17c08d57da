//! What a tenant agreed to: since when, on what terms, and what changes when.

use super::fields::{Count, Fields, Located, Text};
use super::kinds::{MAX_COUNT, STATUSES, SUPPORT, TIERS, limits};
use super::limit::LimitDoc;
use super::quota::{QuotaDoc, quotas};
use crate::dates::When;
use crate::diagnostics::Place;
use crate::price::{Currency, Money, Price, PricePeriod};
use crate::snapshot::{ApiTier, Status, SupportLevel};

/// The keys of a tenant that say what it agreed to.
#[derive(Debug, Default)]
pub(crate) struct ContractDoc<'i> {
    /// When it came onto its plan.
    pub(crate) since: Option<Located<When>>,
    /// Activated apps, in order. `None`: those of the plan, or of the tenant above.
    pub(crate) apps: Option<Vec<Located<Text<'i>>>>,
    pub(crate) overrides: Overrides<'i>,
    pub(crate) trial: Option<TrialDoc<'i>>,
}

/// What stands in the place of the plan's.
#[derive(Debug, Default)]
pub(crate) struct Overrides<'i> {
    pub(crate) figures: OwnFigures,
    /// All of them: `None` where they are the plan's.
    pub(crate) features: Option<Vec<Located<Text<'i>>>>,
    /// Each in the place of what the plan has under its name, or beside it.
    pub(crate) limits: Vec<LimitDoc<'i>>,
    pub(crate) quotas: Vec<QuotaDoc<'i>>,
}

/// Figures that stand in the place of the plan's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct OwnFigures {
    pub(crate) users: Option<Count>,
    pub(crate) app_count: Option<Count>,
    pub(crate) storage_gb: Option<Count>,
    pub(crate) api_tier: Option<ApiTier>,
    pub(crate) support: Option<SupportLevel>,
}

#[derive(Debug)]
pub(crate) struct TrialDoc<'i> {
    pub(crate) until: Located<When>,
    /// `None`: suspended.
    pub(crate) then: Option<Located<Text<'i>>>,
}

/// A change of a tenant at an instant.
#[derive(Debug)]
pub(crate) struct ChangeDoc<'i> {
    pub(crate) tenant: Located<Text<'i>>,
    pub(crate) at: ChangeAt,
    pub(crate) plan: Option<Located<Text<'i>>>,
    pub(crate) addons: Option<Vec<Located<Text<'i>>>>,
    pub(crate) apps: Option<Vec<Located<Text<'i>>>>,
    pub(crate) status: Option<Located<Status>>,
    /// In the place of all earlier ones.
    pub(crate) overrides: Option<Overrides<'i>>,
    pub(crate) place: Place,
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ChangeAt {
    /// Then.
    At(When),
    /// At the end of the billing period that contains this.
    PeriodEndOf(When),
}

const EFFECTIVE: &[(&str, ())] = &[("period_end", ())];
const PRICE_PERIODS: &[(&str, PricePeriod)] =
    &[("month", PricePeriod::Month), ("year", PricePeriod::Year)];
const SUSPENDED: &str = "suspended";

impl<'i> ContractDoc<'i> {
    pub(crate) fn read(fields: &mut Fields<'_, 'i, '_>) -> Self {
        ContractDoc {
            since: when(fields, "since"),
            apps: fields.texts("apps"),
            overrides: fields.table("overrides", Overrides::read).unwrap_or_default(),
            trial: fields.table("trial", TrialDoc::read),
        }
    }
}

impl<'i> Overrides<'i> {
    fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let mut count = |key| fields.count(key, MAX_COUNT).map(|count| count.value);
        let (users, app_count) = (count("users"), count("app_count"));
        let storage_gb = count("storage_gb");
        let api_tier = fields.word("api_tier", TIERS).map(|tier| tier.value);
        let support = fields.word("support", SUPPORT).map(|support| support.value);
        let features = fields.texts("features");
        let limits = limits(&mut fields);
        let quotas = quotas(&mut fields);
        let clean = fields.finish();
        let figures = OwnFigures { users, app_count, storage_gb, api_tier, support };
        clean.then_some(Overrides { figures, features, limits, quotas })
    }
}

impl<'i> TrialDoc<'i> {
    fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        fields.require("until");
        let until = when(&mut fields, "until");
        let then = fields.required_text("then");
        let clean = fields.finish();
        let (until, then) = (until?, then?);
        let then = (then.value != SUSPENDED).then_some(then);
        clean.then_some(TrialDoc { until, then })
    }
}

impl<'i> ChangeDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let place = fields.place;
        let tenant = fields.required_text("tenant");
        fields.for_people("title");
        let at = when(&mut fields, "at");
        let requested = when(&mut fields, "requested");
        let effective = fields.word("effective", EFFECTIVE);
        let plan = fields.text("plan");
        let addons = fields.texts("addons");
        let apps = fields.texts("apps");
        let status = fields.word("status", STATUSES);
        let overrides = fields.table("overrides", Overrides::read);
        let at = match (at, requested, effective) {
            (Some(at), None, None) => Some(ChangeAt::At(at.value)),
            (None, Some(requested), Some(_)) => Some(ChangeAt::PeriodEndOf(requested.value)),
            // A date that is there but wrong has a finding of its own.
            _ if fields.has_failed() => None,
            _ => {
                let message = "a change has either `at`, or `requested` and \
                               `effective = \"period_end\"`";
                fields.find(place, "at", message);
                None
            }
        };
        let nothing = plan.is_none()
            && addons.is_none()
            && apps.is_none()
            && status.is_none()
            && overrides.is_none();
        if nothing && !fields.has_failed() {
            let message = "a change has some of plan, addons, apps, status and overrides";
            fields.find(place, "plan", message);
        }
        let clean = fields.finish();
        let (tenant, at) = (tenant?, at?);
        clean.then_some(ChangeDoc { tenant, at, plan, addons, apps, status, overrides, place })
    }
}

/// A date or an instant.
pub(super) fn when(fields: &mut Fields<'_, '_, '_>, key: &'static str) -> Option<Located<When>> {
    let Located { value, place } = fields.text(key)?;
    if let Some(value) = When::parse(&value) {
        return Some(Located { value, place });
    }
    let message = "is neither a date such as \"2026-12-01\" nor an RFC 3339 instant such as \
                   \"2026-12-01T09:30:00-03:00\"";
    fields.find(place, key, message);
    None
}

/// `price = { amount = "499.00", currency = "BRL", per = "month" }`.
pub(super) fn price(fields: &mut Fields<'_, '_, '_>) -> Option<Price> {
    fields.table("price", |mut fields| {
        let amount = fields.required_text("amount");
        let currency = fields.required_text("currency");
        fields.require("per");
        let per = fields.word("per", PRICE_PERIODS);
        let currency = currency.and_then(|code| {
            let currency = Currency::of(&code.value);
            if currency.is_none() {
                fields.find(code.place, "currency", "is not a currency of ISO 4217 such as BRL");
            }
            currency
        });
        let amount = amount.zip(currency).and_then(|(text, currency)| {
            let amount = Money::parse(&text.value, currency);
            if amount.is_none() {
                let (code, digits) = (currency.code(), currency.digits());
                let message = format!(
                    "is not an amount of {code}: digits, and at most {digits} after a point"
                );
                fields.find(text.place, "amount", message);
            }
            amount
        });
        let clean = fields.finish();
        let (amount, per) = (amount?, per?.value);
        clean.then_some(Price { amount, per })
    })
}
