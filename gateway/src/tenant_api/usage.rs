//! What a tenant and everything below it used, by period and meter.

use bytes::Bytes;
use jiff::tz::TimeZone;
use orbit_meter::clickhouse::nodes::{self, AWAY_AFTER};
use orbit_meter::clickhouse::own::{Others, OwnScope, UsagePlace, UsageRow};
use orbit_meter::clickhouse::{Store, StoreError};
use orbit_policy::{Aggregate, Snapshot};
use serde::Serialize;

use super::parameters::{Parameters, invalid};
use super::quotas::{self, Quota};
use super::span::{Per, Since, Span, rfc3339_s};
use super::{TenantApi, View, cursor, desk, json, unanswered};
use crate::api::words::rfc3339;
use crate::proxy::problem::Problem;

/// Rows of a page where the request does not say, and at most.
pub(super) const PAGE: (u32, u32) = (100, 1_000);
/// What usage is cut into; the first is what it is without a word.
pub(super) const PER: [(&str, Per); 4] =
    [("day", Per::Day), ("hour", Per::Hour), ("month", Per::Month), ("total", Per::Total)];
/// What usage is broken down into; as above.
pub(super) const BY: [(&str, &str); 4] =
    [("meter", "meter"), ("tenant", "tenant"), ("app", "app"), ("route", "route")];

/// What a list is about, and how far it can be trusted.
#[derive(Debug, Default, Serialize)]
pub(super) struct Scope {
    pub(super) tenant: String,
    /// Ids from the key's own tenant to the chosen one.
    pub(super) path: String,
    /// First hour.
    pub(super) from: String,
    /// First hour that is not in it.
    pub(super) to: String,
    /// The zone of days and months.
    pub(super) zone: String,
    pub(super) per: &'static str,
    pub(super) at: String,
    /// What happened before this is all there; `None` while that is not known.
    pub(super) complete_until: Option<String>,
}

/// The answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Usage {
    #[serde(flatten)]
    pub(super) scope: Scope,
    pub(super) by: &'static str,
    /// As they stand now, whatever was asked for and shipped.
    pub(super) quotas: Vec<Quota>,
    /// Oldest period first.
    pub(super) rows: Vec<Row>,
    /// Brings the next page; `None` on the last one.
    pub(super) next_cursor: Option<String>,
}

/// One meter in one period.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    /// When the period starts.
    pub(super) period: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    pub(super) meter: String,
    /// How its values become the quantity.
    pub(super) aggregate: &'static str,
    /// What one of the quantity is; empty where nothing says.
    pub(super) unit: String,
    pub(super) requests: u64,
    pub(super) quantity: String,
    /// Of a gauge: the highest level, and the one at the end of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<String>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

/// A list that a request asks for, or goes on with.
pub(super) struct List<P> {
    pub(super) view: View,
    pub(super) per: Per,
    pub(super) span: Span,
    pub(super) zone: TimeZone,
    /// Rows of a page.
    pub(super) rows: u32,
    /// The last row of the page before.
    pub(super) after: Option<P>,
    /// What its cursors are bound to.
    of: String,
}

impl<P: Serialize + serde::de::DeserializeOwned> List<P> {
    /// Reads what `name`, broken down `by`, is asked for.
    pub(super) fn read(
        view: View,
        parameters: &Parameters,
        per: &[(&'static str, Per)],
        since: Since,
        (name, by): (&str, &str),
    ) -> Result<List<P>, Box<Problem>> {
        let zone = view.chosen().zone().clone();
        let per = parameters.word("per", per)?;
        let rows = parameters.number("limit", PAGE.0, PAGE.1)?;
        let zone_name = zone.iana_name().unwrap_or("UTC");
        let of = format!("{name} {} {} {by} {zone_name}", view.tenant, per.as_str());
        let span = Span::read(parameters, since, &zone, view.at.unix_us);
        let (span, after) = match parameters.get("cursor") {
            None => (span?, None),
            Some(text) => {
                let (first, place) = cursor::read(text, &of)?;
                let differs = |name, of_page: fn(Span) -> i64| match &span {
                    Ok(span) => parameters.get(name).is_some() && of_page(*span) != of_page(first),
                    Err(_) => false,
                };
                if differs("from", |span| span.from_s) || differs("to", |span| span.to_s) {
                    return Err(invalid("cursor", "is of another `from` or `to`"));
                }
                (first, Some(place))
            }
        };
        Ok(List { view, per, span, zone, rows, after, of })
    }

    /// The question for one row more than the page has.
    pub(super) fn question(&self) -> OwnScope {
        OwnScope {
            root: self.view.chosen().path.to_string(),
            from_s: self.span.from_s,
            to_s: self.span.to_s,
            timezone: self.zone_name(),
            has_whole_hours: self.span.has_whole_hours(&self.zone),
            now_us: self.view.at.unix_us,
            per: self.per.as_str(),
            rows: self.rows + 1,
            timeout: desk::TIMEOUT,
        }
    }

    /// Cuts the row too many off, and says how the list goes on if there was one.
    pub(super) fn cut<R>(&self, rows: &mut Vec<R>, place: impl Fn(&R) -> P) -> Option<String> {
        if rows.len() <= self.rows as usize {
            return None;
        }
        rows.truncate(self.rows as usize);
        rows.last().map(|last| cursor::write(&self.of, self.span, place(last)))
    }

    /// What the answer says of itself.
    pub(super) fn scope(&self, complete_until_us: Option<i64>) -> Scope {
        Scope {
            tenant: self.view.tenant.clone(),
            path: self.view.path(),
            from: rfc3339_s(self.span.from_s),
            to: rfc3339_s(self.span.to_s),
            zone: self.zone_name(),
            per: self.per.as_str(),
            at: rfc3339(self.view.at.unix_us),
            complete_until: complete_until_us.map(rfc3339),
        }
    }

    fn zone_name(&self) -> String {
        self.zone.iana_name().unwrap_or("UTC").to_owned()
    }
}

/// Event time below which everything of every node is in the database. To be asked before the rows
/// are, or it would promise what they do not have.
pub(super) async fn watermark(store: &Store, now_us: i64) -> Result<Option<i64>, StoreError> {
    Ok(nodes::overall(&store.nodes().await?, now_us, AWAY_AFTER).watermark_us)
}

impl TenantApi {
    /// `GET /orbit/v1/usage`.
    pub(super) async fn usage(
        &self,
        view: View,
        parameters: &Parameters,
    ) -> Result<Bytes, Box<Problem>> {
        let by = parameters.word("by", &BY)?;
        let list: List<UsagePlace> =
            List::read(view, parameters, &PER, Since::Month, ("usage", by))?;
        let (question, now_us) = (list.question(), list.view.at.unix_us);
        let (store, after) = (self.store.clone(), list.after.clone());
        let others = others(&list.view.snapshot);
        let root = list.view.own().root().to_owned();
        let asked = self.desk.ask(&root, async move {
            let complete = watermark(&store, now_us).await?;
            Ok((complete, store.own_usage(&question, by, &others, after.as_ref()).await?))
        });
        let (complete_us, mut rows) = asked.await.map_err(|error| unanswered(&error))?;
        let place = |row: &UsageRow| (row.period, row.part.clone(), row.meter.clone());
        let next_cursor = list.cut(&mut rows, place);
        let rows = rows.into_iter().map(|row| describe(&list.view.snapshot, row, by)).collect();
        let quotas = quotas::standing(&list.view);
        Ok(json(&Usage { scope: list.scope(complete_us), by, quotas, rows, next_cursor }))
    }
}

/// The meters whose figure for a period is no sum.
fn others(snapshot: &Snapshot) -> Others {
    let of = |aggregate| {
        let meters = snapshot.meters().iter().filter(|meter| meter.aggregate == aggregate);
        meters.map(|meter| meter.id.to_string()).collect()
    };
    Others {
        distinct: of(Aggregate::Distinct),
        largest: of(Aggregate::Max),
        latest: of(Aggregate::Last),
        counted: of(Aggregate::Count),
        gauges: of(Aggregate::Gauge),
    }
}

fn describe(snapshot: &Snapshot, row: UsageRow, by: &'static str) -> Row {
    // A meter that is gone from the documents is told as what it was when nothing said more.
    let known = snapshot.meter_id(&row.meter).map(|id| snapshot.meter(id));
    let part = |name| (by == name).then(|| row.part.clone());
    Row {
        period: rfc3339_s(row.period),
        tenant: part("tenant"),
        app: part("app"),
        route: part("route"),
        aggregate: known.map_or(Aggregate::Sum, |meter| meter.aggregate).as_str(),
        unit: known.map_or_else(String::new, |meter| meter.unit.to_string()),
        meter: row.meter,
        requests: row.requests,
        quantity: row.quantity,
        peak: row.peak,
        level: row.level,
        request_bytes: row.request_bytes,
        response_bytes: row.response_bytes,
    }
}
