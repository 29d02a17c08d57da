//! What bills are made of, compared with the rows: the hourly sums that ClickHouse keeps beside
//! `usage_events` must be the sums of what is in it, to the last digit.

use crate::ledger::table::{Table, TableError};

/// What a group is, and what is summed: the projection's own columns.
const GROUPS: &str = "tenant, toStartOfHour(ts) AS hour, app, route, meter, kind, reason, plan, \
                      path, count(), sum(requests), sum(quantity), sum(request_bytes), \
                      sum(response_bytes)";
const KEYS: &str = "tenant, hour, app, route, meter, kind, reason, plan, path";
/// Differences that are shown; all are counted.
const MAX_SHOWN: usize = 5;

/// The outcome.
pub(crate) struct Compared {
    /// Groups compared.
    pub(crate) groups: u64,
    /// The first differences.
    pub(crate) differences: Vec<String>,
}

/// Compares them.
pub(crate) async fn compare(table: &Table) -> Result<Compared, TableError> {
    let sql = |settings| {
        format!(
            "SELECT {GROUPS} FROM usage_events GROUP BY {KEYS} ORDER BY ALL \
             SETTINGS {settings} FORMAT TSV"
        )
    };
    let rows = table.ask(&sql("optimize_use_projections = 0")).await?;
    // Fails when the projection is not used: then nothing would be compared.
    let sums =
        table.ask(&sql("optimize_use_projections = 1, force_optimize_projection = 1")).await?;
    Ok(differences(&rows, &sums))
}

fn differences(rows: &str, sums: &str) -> Compared {
    let set =
        |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (rows, sums) = (set(rows), set(sums));
    let differences = rows
        .symmetric_difference(&sums)
        .take(MAX_SHOWN)
        .map(|line| {
            let side = if rows.contains(line) { "rows" } else { "projection" };
            format!("projection: only the {side} say: {}", line.replace('\t', " "))
        })
        .collect();
    Compared { groups: rows.len() as u64, differences }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_differs_is_found_on_both_sides() {
        let rows = "acme\t10\nglobex\t7\n";
        assert!(differences(rows, rows).differences.is_empty());
        let found = differences(rows, "acme\t10\nglobex\t8\n");
        assert_eq!(found.groups, 2);
        let expected = ["projection: only the rows say: globex 7"];
        assert_eq!(found.differences[..1], expected);
        assert_eq!(found.differences.len(), 2);
        assert_eq!(differences(rows, "acme\t10\n").differences, expected);
    }
}
