//! Quotas of API calls to the call: soft thresholds that are told and the forecast, `block` at the
//! very next call, a grace, and `allow_and_bill`.

use serde_json::{Value, json};

use crate::rights::known;
use crate::table::{Expected, Row, Table, admitted, exceeded};
use crate::world::{World, until};

/// A tenant and its plan's quota of calls in a month.
struct Quota<'w> {
    world: &'w World,
    tenant: &'static str,
    /// Calls so far.
    used: u64,
}

impl Quota<'_> {
    /// Reports calls that did not pass the proxy, up to so many.
    fn raise(&mut self, used: u64) {
        let (id, more) = (format!("{}-{used}", self.tenant), used - self.used);
        self.world.event("api_calls", self.tenant, &id, &json!({ "quantity": more }));
        self.used = used;
    }

    /// One call.
    fn call(&mut self, table: &mut Table, what: &str, answer: Expected) {
        let name = format!("{what} of {}", self.tenant);
        let row = Row { name, tenant: self.tenant, ask: known("/crm"), answer };
        table.row(self.world, &row);
        self.used += 1;
    }

    fn told(&self) -> Vec<Value> {
        let what = |alert: Value| {
            let data = &alert["data"];
            json!([alert["type"], data["threshold_percent"], data["used"], data["limit"]])
        };
        let told = self.world.upstream.told(self.tenant).into_iter().map(what);
        // The forecast depends on the day, and has a row of its own.
        told.filter(|alert| alert[0] != "capacity.forecast_exceeded").collect()
    }

    /// Waits until exactly these were told, in any order.
    fn tells(&self, table: &mut Table, what: &str, expected: &[Value]) {
        let sorted = |mut alerts: Vec<Value>| {
            alerts.sort_by_key(ToString::to_string);
            alerts
        };
        let expected = sorted(expected.to_vec());
        let told = until(|| match sorted(self.told()) {
            told if told == expected => Ok(told),
            told => Err(told),
        });
        let told = told.unwrap_or_else(|other| other);
        table.same(&format!("told {what} of {}", self.tenant), &told, &expected);
    }

    /// The part of the quota's window that is over.
    fn part_over(&self) -> f64 {
        let limits = self.world.limits(self.tenant);
        let quotas = limits["quotas"].as_array().unwrap();
        let quota = quotas.iter().find(|quota| quota["name"] == "api-calls").unwrap();
        let at_s = |time: &Value| {
            let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
            time.as_second() as f64
        };
        let [from, to] = ["from", "to"].map(|end| at_s(&quota[end]));
        (at_s(&limits["at"]) - from) / (to - from)
    }
}

pub(crate) fn to_the_call_and_told(world: &World, table: &mut Table) {
    essentials(world, table);

    let mut graced = Quota { world, tenant: "graced", used: 0 };
    graced.raise(20_199_999);
    graced.call(table, "the last call of the grace", admitted());
    graced.call(table, "a call beyond the grace", used_up("graced", 20_000_000, 20_200_000));

    let mut billed = Quota { world, tenant: "billed", used: 0 };
    billed.raise(499_999_999);
    billed.call(table, "the last call", admitted());
    billed.call(table, "a call to be billed", admitted());
    billed.call(table, "another to be billed", admitted());
    let left = world.limits("billed");
    let quota =
        left["quotas"].as_array().unwrap().iter().find(|quota| quota["name"] == "api-calls");
    let quota = quota.cloned().unwrap_or_default();
    let seen = json!([quota["used"], quota["remaining"], quota["at_limit"]]);
    table.same("what is to be billed", &seen, &json!([500_000_002, 0, "allow_and_bill"]));
    let kinds = |quota: &Quota| {
        let mut kinds: Vec<Value> = quota.told().iter().map(|alert| alert[0].clone()).collect();
        kinds.sort_by_key(ToString::to_string);
        kinds
    };
    for (quota, thresholds) in [(&graced, 2), (&billed, 1)] {
        let mut expected = vec![json!("quota.exhausted")];
        expected.extend(vec![json!("quota.threshold_crossed"); thresholds]);
        let told = until(|| match kinds(quota) {
            told if told == expected => Ok(told),
            told => Err(told),
        });
        let told = told.unwrap_or_else(|other| other);
        table.same(&format!("told at the end of {}", quota.tenant), &told, &expected);
    }
    let deliveries = until(|| {
        let seen = world.operators_view("/v1/alerts?state=delivered");
        let count = seen["deliveries"].as_array().map_or(0, Vec::len);
        if count >= 8 { Ok(()) } else { Err(seen.to_string()) }
    });
    table.same("what an operator sees of alerts", &deliveries, &Ok(()));
}

/// Two million calls a month, told at 80 % and 95 %, and not one more.
fn essentials(world: &World, table: &mut Table) {
    const LIMIT: u64 = 2_000_000;
    let threshold =
        |percent: u64| json!(["quota.threshold_crossed", percent, LIMIT * percent / 100, LIMIT]);
    let mut soft = Quota { world, tenant: "soft", used: 0 };
    soft.raise(LIMIT * 80 / 100 - 2);
    soft.call(table, "a call below 80 %", admitted());
    soft.call(table, "the call that is 80 %", admitted());
    soft.tells(table, "at 80 %", &[threshold(80)]);
    soft.raise(LIMIT * 95 / 100 - 1);
    soft.call(table, "the call that is 95 %", admitted());
    soft.tells(table, "at 95 %", &[threshold(80), threshold(95)]);
    soft.raise(LIMIT - 1);
    // In the first tenth of a window nothing is foretold.
    if soft.part_over() > 0.1 {
        let foretold = until(|| {
            let told = world.upstream.told("soft");
            let is_it = |alert: &Value| alert["type"] == "capacity.forecast_exceeded";
            if told.iter().any(is_it) { Ok(()) } else { Err(told) }
        });
        table.same("the signal that it will not be enough", &foretold, &Ok(()));
    }
    soft.call(table, "the last call", admitted());
    soft.call(table, "one call more", used_up("soft", LIMIT, LIMIT));
    let exhausted = json!(["quota.exhausted", null, LIMIT, LIMIT]);
    soft.tells(table, "at the end", &[threshold(80), threshold(95), exhausted]);
}

fn used_up(tenant: &str, limit: u64, used: u64) -> Expected {
    exceeded(json!({
        "quota": "plan/api-calls", "meter": "api_calls", "limit": limit, "used": used,
        "period": "month", "tenant": tenant, "violated-policies": ["plan/api-calls"],
    }))
}
