//! What the manifest says, against the rows: M3 as anybody with a SQL client can check it.

use orbit_meter::clickhouse::native::ROW_DIGEST;

use super::fixture::Fixture;

/// Batches that differ from their rows, rows of no batch, and batches listed twice.
fn wrong_batches() -> String {
    format!(
        "SELECT count() FROM \
         (SELECT * FROM usage_batches FINAL) AS listed \
         FULL OUTER JOIN \
         (SELECT batch_id, groupUniqArray(toYYYYMM(ts)) AS months, count() AS found_rows, \
          min(ts) AS first_ts, max(ts) AS last_ts, sum(requests) AS found_requests, \
          sum(quantity) AS found_quantity, sum(request_bytes) AS found_in, \
          sum(response_bytes) AS found_out, sum({ROW_DIGEST}) AS found_digest, \
          groupUniqArray(node) AS nodes FROM usage_events GROUP BY batch_id) AS found \
         ON listed.batch_id = found.batch_id \
         WHERE rows != found_rows OR digest != found_digest OR requests != found_requests \
         OR quantity != found_quantity OR request_bytes != found_in \
         OR response_bytes != found_out OR (found_rows > 0 AND (nodes != [node] \
         OR months != [month] OR min_ts != first_ts OR max_ts != last_ts))"
    )
}

/// Plans whose batches disagree, or whose ranges are not as long as their rows and gaps.
const WRONG_PLANS: &str = "\
    SELECT count() FROM (SELECT plan, sum(rows) AS found, uniqExact(ranges, skipped) AS versions, \
    any(skipped) AS gaps, arraySum(r -> r.last - r.first + 1, any(ranges)) AS long \
    FROM usage_batches FINAL GROUP BY node, plan) WHERE versions != 1 OR found + gaps != long";

/// Lanes whose ranges do not follow each other from 0 to their last row.
const WRONG_LANES: &str = "\
    SELECT count() FROM (SELECT node, range.epoch AS epoch, range.lane AS lane, \
    arraySort(groupUniqArray((range.first, range.last))) AS parts, \
    arrayExists((part, index) -> part.1 != if(index = 1, 0, parts[index - 1].2 + 1), \
    parts, arrayEnumerate(parts)) AS broken, parts[-1].2 AS last \
    FROM usage_batches FINAL ARRAY JOIN ranges AS range GROUP BY node, epoch, lane) AS listed \
    FULL OUTER JOIN (SELECT node, epoch, lane, max(sequence) AS last FROM usage_events \
    GROUP BY node, epoch, lane) AS found USING (node, epoch, lane) \
    WHERE broken OR listed.last < found.last OR empty(parts)";

/// Hours in which bills and rows disagree.
const SUMS: &str = "\
    SELECT toStartOfHour(ts) AS hour, tenant, app, route, meter, kind, plan, path, count(), \
    sum(requests), sum(quantity), sum(request_bytes), sum(response_bytes) FROM usage_events \
    GROUP BY hour, tenant, app, route, meter, kind, plan, path ORDER BY ALL SETTINGS ";

impl Fixture {
    /// M3: the manifest agrees with the rows, every sequence is in it once, and so do the sums that
    /// bills are made of.
    #[track_caller]
    pub(crate) fn assert_proved(&self) {
        assert_eq!(self.value(&wrong_batches()), "0", "batches that differ from their rows");
        assert_eq!(self.value(WRONG_PLANS), "0", "plans that do not add up");
        assert_eq!(self.value(WRONG_LANES), "0", "lanes with gaps or overlaps");
        let listed = "SELECT count() = uniqExact(batch_id) FROM usage_batches FINAL";
        assert_eq!(self.value(listed), "1", "batches listed twice");
        let raw = self.value(&format!("{SUMS} optimize_use_projections = 0"));
        let billed = self.value(&format!("{SUMS} force_optimize_projection = 1"));
        assert_eq!(raw, billed, "the projection");
    }

    /// As many sequences were skipped, in as many plans, and losses explain as many.
    #[track_caller]
    pub(crate) fn assert_skipped(&self, events: u64) {
        let skipped = "SELECT sum(gaps) FROM (SELECT any(skipped) AS gaps FROM usage_batches FINAL \
                       GROUP BY node, plan)";
        assert_eq!(self.value(skipped), events.to_string(), "skipped");
        let lost = "SELECT sum(events) FROM usage_losses FINAL";
        assert_eq!(self.value(lost), events.to_string(), "lost");
    }
}
