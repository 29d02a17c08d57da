//! A tenant's entitlements as JSON, for operators and for the tenant itself.

use orbit_policy::price::Price;
use orbit_policy::snapshot::{Activated, Addon, Change, Entitlements};
use serde_json::{Value, json};

use crate::api::words::rfc3339;

/// What a tenant is entitled to now, and what comes next.
pub(crate) fn entitlements_json(has: &Entitlements<'_>) -> Value {
    let figures = has.figures;
    json!({
        "plan": has.plan.id,
        "version": has.plan.version,
        "price": has.plan.price.as_ref().map(price_json),
        "status": has.status.as_str(),
        "trial_until": has.trial_until_us.map(rfc3339),
        "users": figures.users,
        "app_count": figures.app_count,
        "storage_gb": figures.storage_gb,
        "api_tier": figures.api_tier.as_str(),
        "support": figures.support.as_str(),
        "addons": has.addons.iter().map(|addon| addon_json(addon)).collect::<Vec<_>>(),
        "features": has.features,
        "apps": has.apps.iter().map(app_json).collect::<Vec<_>>(),
        "next_change": has.next_change.map(change_json),
    })
}

fn app_json(activated: &Activated<'_>) -> Value {
    let Activated { app, over_limit, granted } = activated;
    json!({ "id": app.id, "over_limit": over_limit, "granted": granted })
}

fn addon_json(addon: &Addon) -> Value {
    json!({ "id": addon.id, "title": addon.title, "price": addon.price.as_ref().map(price_json) })
}

fn change_json(change: &Change) -> Value {
    json!({ "at": rfc3339(change.at_us), "tenant": change.tenant, "change": change.what })
}

fn price_json(price: &Price) -> Value {
    let Price { amount, per } = price;
    json!({
        "amount": amount.to_string(),
        "currency": amount.currency.code(),
        "per": per.as_str(),
    })
}
