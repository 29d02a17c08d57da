//! What a tenant asks about itself: usage and refusals of its part of the tree, page by page.
//!
//! Guarantees that a question reads only rows of the given root and below (**S1**), runs read-only
//! within its time and memory, and ends on the server as soon as nobody waits for it. Every text
//! goes to the server as a parameter, never as part of a query.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::store::{Reading, Store, StoreError};

/// The text of [`Store::own_usage`]'s query.
pub const USAGE: &str = include_str!("queries/own_usage.sql");
/// As above, of levels that last.
pub const GAUGES: &str = include_str!("queries/own_gauges.sql");
/// As above, of meters that do not add up.
pub const FIGURES: &str = include_str!("queries/own_figures.sql");
/// The text of [`Store::own_refusals`]'s query.
pub const REFUSALS: &str = include_str!("queries/own_refusals.sql");
/// In those queries, what makes them read sums of hours.
const HOUR_OF_ROW: &str = "toStartOfHour(ts)";
/// What one question may take from the server, in bytes; a page of a year of a large tree takes a
/// small part of it.
const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// Whole hours of one part of the tree, and how they are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnScope {
    /// Path of the node.
    pub root: String,
    /// First hour, unix seconds.
    pub from_s: i64,
    /// First hour that is not asked for, unix seconds.
    pub to_s: i64,
    /// The IANA zone whose hours, days and months are meant.
    pub timezone: String,
    /// Whether hours of that zone begin with those of UTC: else rows are read and not sums of hours.
    pub has_whole_hours: bool,
    /// Now, unix microseconds: what lasts has lasted until then.
    pub now_us: i64,
    /// `hour`, `day`, `month` or `total`.
    pub per: &'static str,
    /// Rows of a page.
    pub rows: u32,
    /// How long the server may take.
    pub timeout: Duration,
}

/// The meters whose figure for a period is no sum of what rows say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// How many different members there were.
    pub distinct: Vec<String>,
    /// The largest value.
    pub largest: Vec<String>,
    /// The latest value.
    pub latest: Vec<String>,
    /// How many values there were.
    pub counted: Vec<String>,
    /// Levels that last. A level is a tenant's: they are not broken down by app or route.
    pub gauges: Vec<String>,
}

/// Where in the usage of a scope a row stands: its period, part and meter.
pub type UsagePlace = (i64, String, String);

/// Where among the refusals of a scope a row stands: its period, reason, app, route and tenant.
pub type RefusalPlace = (i64, String, String, String, String);

/// Usage of one meter in one period.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UsageRow {
    /// Start of the period, unix seconds.
    pub period: i64,
    /// The tenant, app or route it is broken down into; empty without.
    pub part: String,
    /// The meter.
    #[serde(rename = "meter_id")]
    pub meter: String,
    /// Requests.
    pub requests: u64,
    /// The quantity on the meter, a decimal number that no float could hold; of a gauge, how long
    /// which level lasted, in units times hours.
    pub quantity: String,
    /// Of a gauge: the highest level.
    #[serde(default)]
    pub peak: Option<String>,
    /// Of a gauge: the level at the end of the period, or now.
    #[serde(default)]
    pub level: Option<String>,
    /// Body bytes of requests.
    pub request_bytes: u64,
    /// Body bytes of answers.
    pub response_bytes: u64,
}

/// Refusals of one kind in one period.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RefusalRow {
    /// Start of the period, unix seconds.
    pub period: i64,
    /// Why.
    #[serde(rename = "reason_id")]
    pub reason: String,
    /// The app, where it was known.
    #[serde(rename = "app_id")]
    pub app: String,
    /// The route, where it was known.
    #[serde(rename = "route_id")]
    pub route: String,
    /// Whose requests.
    #[serde(rename = "tenant_id")]
    pub tenant: String,
    /// How many.
    pub requests: u64,
}

impl Store {
    /// A page of usage, oldest period first; `by` is `tenant`, `app`, `route` or `meter`. `after`
    /// is the last row of the page before.
    pub async fn own_usage(
        &self,
        scope: &OwnScope,
        by: &'static str,
        others: &Others,
        after: Option<&UsagePlace>,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let first = (-1, String::new(), String::new());
        let (period, part, meter) = after.unwrap_or(&first);
        let place = [
            ("by", by.to_owned()),
            ("after_period", period.to_string()),
            ("after_part", part.clone()),
            ("after_meter", meter.clone()),
        ];
        let Others { distinct, largest, latest, counted, gauges } = others;
        let figures = list(&[distinct, largest, latest, counted]);
        let mut parameters = vec![("others", list(&[distinct, largest, latest, counted, gauges]))];
        parameters.extend(place.clone());
        let mut rows: Vec<UsageRow> = self.own_page(&scope.fit(USAGE), scope, &parameters).await?;
        if !figures.is_empty() {
            let mut parameters = vec![
                ("figures", figures),
                ("distinct", list(&[distinct])),
                ("largest", list(&[largest])),
                ("latest", list(&[latest])),
            ];
            parameters.extend(place.clone());
            rows.extend(self.own_page::<UsageRow>(FIGURES, scope, &parameters).await?);
        }
        let until_us = scope.now_us.min(scope.to_s.saturating_mul(1_000_000));
        let is_of_tenants = matches!(by, "tenant" | "meter");
        if !gauges.is_empty() && is_of_tenants && until_us > scope.from_s * 1_000_000 {
            let mut parameters =
                vec![("gauges", list(&[gauges])), ("until_us", until_us.to_string())];
            parameters.extend(place);
            rows.extend(self.own_page::<UsageRow>(GAUGES, scope, &parameters).await?);
        }
        // Each list has the first rows of its own, so the first of all are among them.
        let place = |a: &UsageRow, b: &UsageRow| {
            (a.period, &a.part, &a.meter).cmp(&(b.period, &b.part, &b.meter))
        };
        rows.sort_by(place);
        rows.truncate(scope.rows as usize);
        Ok(rows)
    }

    /// A page of refusals, newest period first. `after` is the last row of the page before.
    pub async fn own_refusals(
        &self,
        scope: &OwnScope,
        after: Option<&RefusalPlace>,
    ) -> Result<Vec<RefusalRow>, StoreError> {
        let none = String::new;
        // Past any period, and still a number whose negative is one.
        let first = (i64::MAX, none(), none(), none(), none());
        let (period, reason, app, route, tenant) = after.unwrap_or(&first);
        let own = [
            ("after_period", period.to_string()),
            ("after_reason", reason.clone()),
            ("after_app", app.clone()),
            ("after_route", route.clone()),
            ("after_tenant", tenant.clone()),
        ];
        self.own_page(&scope.fit(REFUSALS), scope, &own).await
    }

    async fn own_page<T: DeserializeOwned>(
        &self,
        sql: &str,
        scope: &OwnScope,
        own: &[(&'static str, String)],
    ) -> Result<Vec<T>, StoreError> {
        let mut parameters = vec![
            ("root", scope.root.clone()),
            ("from_s", scope.from_s.to_string()),
            ("to_s", scope.to_s.to_string()),
            ("timezone", scope.timezone.clone()),
            ("per", scope.per.to_owned()),
            ("rows", scope.rows.to_string()),
        ];
        parameters.extend_from_slice(own);
        let settings = [
            ("max_execution_time", scope.timeout.as_secs().max(1).to_string()),
            ("max_memory_usage", MAX_MEMORY_BYTES.to_string()),
            ("max_threads", "2".to_owned()),
            ("output_format_json_quote_64bit_integers", "0".to_owned()),
            ("output_format_json_quote_decimals", "1".to_owned()),
        ];
        let reading = Reading {
            sql,
            parameters: &parameters,
            settings: &settings,
            format: "JSONEachRow",
            timeout: scope.timeout,
        };
        let text = self.read(&reading).await?;
        let read = |line: &str| {
            serde_json::from_str(line).map_err(|_| StoreError::Answer {
                expected: "a row of a tenant's own",
                got: line.chars().take(200).collect(),
            })
        };
        text.lines().map(read).collect()
    }
}

impl OwnScope {
    /// A query of sums of hours, or the same of rows where hours are not those of UTC.
    fn fit(&self, sql: &'static str) -> Cow<'static, str> {
        if self.has_whole_hours { sql.into() } else { sql.replace(HOUR_OF_ROW, "ts").into() }
    }
}

/// Meters in one parameter.
fn list(kinds: &[&Vec<String>]) -> String {
    let meters: Vec<&str> = kinds.iter().copied().flatten().map(String::as_str).collect();
    meters.join("\u{1f}")
}
