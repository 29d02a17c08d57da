//! What was refused to a tenant and everything below it, and why: the newest first.

use bytes::Bytes;
use orbit_meter::clickhouse::own::{RefusalPlace, RefusalRow};
use serde::Serialize;

use super::parameters::Parameters;
use super::span::{Per, Since, rfc3339_s};
use super::usage::{List, Scope, watermark};
use super::{TenantApi, View, json, unanswered};
use crate::proxy::problem::Problem;

/// What refusals are cut into; the first is what they are without a word.
pub(super) const PER: [(&str, Per); 4] =
    [("hour", Per::Hour), ("day", Per::Day), ("month", Per::Month), ("total", Per::Total)];

/// The answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Refusals {
    #[serde(flatten)]
    pub(super) scope: Scope,
    /// Newest period first.
    pub(super) rows: Vec<Row>,
    /// Brings the next page; `None` on the last one.
    pub(super) next_cursor: Option<String>,
}

/// Refusals of one kind in one period.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    /// When the period starts.
    pub(super) period: String,
    pub(super) reason: String,
    /// `None` where the request had no route.
    pub(super) app: Option<String>,
    pub(super) route: Option<String>,
    pub(super) tenant: String,
    /// How many requests.
    pub(super) refusals: u64,
}

impl TenantApi {
    /// `GET /orbit/v1/refusals`.
    pub(super) async fn refusals(
        &self,
        view: View,
        parameters: &Parameters,
    ) -> Result<Bytes, Box<Problem>> {
        let list: List<RefusalPlace> =
            List::read(view, parameters, &PER, Since::Day, ("refusals", ""))?;
        let (question, now_us) = (list.question(), list.view.at.unix_us);
        let (store, after) = (self.store.clone(), list.after.clone());
        let root = list.view.own().root().to_owned();
        let asked = self.desk.ask(&root, async move {
            let complete = watermark(&store, now_us).await?;
            Ok((complete, store.own_refusals(&question, after.as_ref()).await?))
        });
        let (complete_us, mut rows) = asked.await.map_err(|error| unanswered(&error))?;
        let next_cursor = list.cut(&mut rows, |row: &RefusalRow| {
            let RefusalRow { period, reason, app, route, tenant, .. } = row.clone();
            (period, reason, app, route, tenant)
        });
        let rows = rows.into_iter().map(describe).collect();
        Ok(json(&Refusals { scope: list.scope(complete_us), rows, next_cursor }))
    }
}

fn describe(row: RefusalRow) -> Row {
    let known = |id: String| (!id.is_empty()).then_some(id);
    Row {
        period: rfc3339_s(row.period),
        reason: row.reason,
        app: known(row.app),
        route: known(row.route),
        tenant: row.tenant,
        refusals: row.requests,
    }
}
