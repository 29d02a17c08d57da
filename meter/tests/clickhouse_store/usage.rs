//! The named queries and the dashboards' views: their numbers, and that they read the projection.

use std::collections::BTreeMap;

use orbit_meter::clickhouse::{BlockBuilder, StoreError, queries};
use orbit_meter::event::Kind;

use super::Fixture;
use super::rows::{MONTH, NOVEMBER_US, Random, Row};

const FROM: (&str, &str) = ("from", "2026-11-01 00:00:00");
const TO: (&str, &str) = ("to", "2026-12-01 00:00:00");
const UTC: (&str, &str) = ("timezone", "UTC");
const HOUR_S: u64 = 3_600;

/// Thirty days of a small holding, in several blocks, so that there are several parts.
fn november() -> Vec<Row> {
    let mut random = Random(11);
    let tenants = ["north", "south", "west", "o'brien"];
    (0..20_000)
        .map(|sequence| {
            let tenant = tenants[random.below(4) as usize];
            let mut row = Row::plain(sequence, tenant, random.below(720 * HOUR_S));
            if tenant == "west" {
                "acme/acme-chile/west".clone_into(&mut row.labels[1]);
            }
            row.labels[5] = format!("route-{}", random.below(3));
            row.duration_us = 1_000 * (1 + random.below(100) as u32);
            match random.below(10) {
                0 => {
                    row.kind = Kind::Refused;
                    row.status = 429;
                    row.requests = 1 + random.below(50) as u32;
                    row.quantity_nano = i128::from(row.requests) * 1_000_000_000;
                    "refusals".clone_into(&mut row.labels[6]);
                    ["burst", "daily"][random.below(2) as usize].clone_into(&mut row.labels[7]);
                }
                1 => {
                    row.kind = Kind::Ingested;
                    row.quantity_nano = i128::from(random.below(1_000_000_000_000));
                    "storage".clone_into(&mut row.labels[6]);
                }
                2 => row.status = 503,
                3 => row.status = 404,
                _ => {}
            }
            row
        })
        .collect()
}

pub(crate) async fn with_november() -> (Fixture, Vec<Row>) {
    let fixture = Fixture::new().await;
    let rows = november();
    let mut builder = BlockBuilder::new();
    for (batch, chunk) in rows.chunks(6_000).enumerate() {
        for row in chunk {
            row.push_into(&mut builder);
        }
        let block = builder.finish(batch as u64, MONTH);
        fixture.store.insert_block(&block, &format!("{batch}")).await.expect("inserted");
    }
    (fixture, rows)
}

fn day(row: &Row) -> String {
    format!("2026-11-{:02}", 1 + (row.ts_us - NOVEMBER_US) / 86_400_000_000)
}

/// Sums of a group: quantity, requests, request bytes, response bytes, events.
#[derive(Default)]
struct Sums(i128, u64, u64, u64, u64);

impl Sums {
    fn add(&mut self, row: &Row) {
        self.0 += row.quantity_nano;
        self.1 += u64::from(row.requests);
        self.2 += row.request_bytes;
        self.3 += row.response_bytes;
        self.4 += 1;
    }

    fn text(&self) -> String {
        let (whole, fraction) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let quantity = format!("{whole}.{fraction:09}");
        // ClickHouse leaves trailing zeros of a Decimal away.
        let quantity = quantity.trim_end_matches('0').trim_end_matches('.');
        format!("{quantity}\t{}\t{}\t{}\t{}", self.1, self.2, self.3, self.4)
    }
}

fn expected<'a, K: Ord>(
    rows: impl IntoIterator<Item = &'a Row>,
    key: impl Fn(&Row) -> K,
    line: impl Fn(&K, &Sums) -> String,
) -> String {
    let mut groups: BTreeMap<K, Sums> = BTreeMap::new();
    for row in rows {
        groups.entry(key(row)).or_default().add(row);
    }
    groups.iter().map(|(key, sums)| line(key, sums) + "\n").collect()
}

#[tokio::test]
async fn usage_by_tenant_meter_and_day() {
    let (fixture, rows) = with_november().await;
    let ask = async |tenant: &str| {
        let parameters = [FROM, TO, UTC, ("tenant", tenant)];
        let result = fixture.store.named("usage_by_tenant_meter_day", &parameters, "TSVRaw").await;
        result.expect("a named query")
    };
    let want = |tenant: &str| {
        let chosen = rows.iter().filter(|row| tenant.is_empty() || row.labels[0] == tenant);
        expected(
            chosen,
            |row| (row.labels[0].clone(), row.labels[6].clone(), day(row)),
            |(tenant, meter, day), sums| format!("{tenant}\t{meter}\t{day}\t{}", sums.text()),
        )
    };
    for tenant in ["", "north", "o'brien", "nobody", "' OR 1 --"] {
        assert_eq!(ask(tenant).await, want(tenant), "{tenant:?}");
    }
}

#[tokio::test]
async fn days_are_those_of_the_zone() {
    let fixture = Fixture::new().await;
    let mut builder = BlockBuilder::new();
    // 02:30 UTC on the 2nd is 23:30 on the 1st in São Paulo.
    Row::plain(0, "north", 86_400 + 2 * HOUR_S + 1_800).push_into(&mut builder);
    Row::plain(1, "north", 86_400 + 3 * HOUR_S).push_into(&mut builder);
    fixture.store.insert_block(&builder.finish(1, MONTH), "1").await.expect("inserted");
    let parameters = [FROM, TO, ("timezone", "America/Sao_Paulo"), ("tenant", "north")];
    let result = fixture.store.named("usage_by_tenant_meter_day", &parameters, "TSVRaw").await;
    let days: Vec<String> = result
        .expect("a named query")
        .lines()
        .filter_map(|line| line.split('\t').nth(2).map(str::to_owned))
        .collect();
    assert_eq!(days, ["2026-11-01", "2026-11-02"]);
}

#[tokio::test]
async fn usage_by_level_of_the_tree() {
    let (fixture, rows) = with_november().await;
    for (depth, root) in [(1, ""), (2, ""), (3, "acme/acme-brasil"), (5, ""), (2, "acme/acme")] {
        let depth_text = depth.to_string();
        let parameters = [FROM, TO, UTC, ("depth", &depth_text), ("root", root)];
        let got = fixture.store.named("usage_by_level_meter_month", &parameters, "TSVRaw").await;
        let below = format!("{root}/");
        let chosen = rows.iter().filter(|row| root.is_empty() || row.labels[1].starts_with(&below));
        let want = expected(
            chosen,
            |row| {
                let node: Vec<&str> = row.labels[1].split('/').take(depth).collect();
                (node.join("/"), row.labels[6].clone())
            },
            |(node, meter), sums| format!("{node}\t{meter}\t{MONTH}\t{}", sums.text()),
        );
        assert_eq!(got.expect("a named query"), want, "depth {depth} below {root:?}");
    }
}

#[tokio::test]
async fn refusals_by_reason() {
    let (fixture, rows) = with_november().await;
    let parameters = [FROM, TO, ("tenant", "north")];
    let got = fixture.store.named("refusals_by_reason", &parameters, "TSVRaw").await;
    let chosen = rows.iter().filter(|row| row.kind == Kind::Refused && row.labels[0] == "north");
    let want = expected(
        chosen,
        |row| (row.labels[7].clone(), row.labels[5].clone()),
        |(reason, route), sums| format!("{reason}\tnorth\tcrm\t{route}\t{}", sums.1),
    );
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&got.expect("a named query")), sorted(&want));
}

#[tokio::test]
async fn finance_runs_the_named_queries_from_the_projection() {
    let (fixture, _) = with_november().await;
    let settings = fixture.engine.finance_settings();
    let client = clickhouse::Client::default()
        .with_url(settings.url)
        .with_user(settings.user)
        .with_password(settings.password)
        .with_database(settings.database);
    let parameters =
        [FROM, TO, UTC, ("tenant", "north"), ("depth", "2"), ("root", "acme/acme-brasil")];
    for query in queries::all().iter().filter(|query| query.is_hourly) {
        let run = async |sql: &str| {
            let mut query = client.query_raw(sql);
            for (name, value) in parameters {
                query = query.param(name, value);
            }
            let bytes = query.fetch_bytes("TSVRaw").expect("sent").collect().await;
            String::from_utf8(bytes.expect("answered").into()).expect("UTF-8")
        };
        let plan = run(&format!("EXPLAIN {}", query.sql)).await;
        assert!(plan.contains("usage_by_hour"), "{}: {plan}", query.name);
        let raw = run(&format!("{} SETTINGS optimize_use_projections = 0", query.sql)).await;
        let raw_plan =
            run(&format!("EXPLAIN {} SETTINGS optimize_use_projections = 0", query.sql)).await;
        assert!(!raw_plan.contains("usage_by_hour"), "{}: {raw_plan}", query.name);
        assert!(raw.lines().count() > 1, "{}: {raw}", query.name);
        assert_eq!(run(query.sql).await, raw, "{}: projection and rows", query.name);
    }
}

#[tokio::test]
async fn queries_are_found_by_name_only() {
    let fixture = Fixture::new().await;
    let error = fixture.store.named("no_such", &[], "TSV").await.expect_err("no such query");
    assert!(matches!(error, StoreError::UnknownQuery { .. }), "{error}");
    // A parameter that is left out is the server's to report.
    let error = fixture.store.named("refusals_by_reason", &[FROM, TO], "TSV").await;
    assert!(error.expect_err("no tenant").to_string().contains("tenant"));
}

#[tokio::test]
async fn dashboards_show_what_happened() {
    let (fixture, rows) = with_november().await;
    let total = |chosen: fn(&Row) -> bool| -> u64 {
        rows.iter().filter(|row| chosen(row)).map(|row| u64::from(row.requests)).sum()
    };
    let per_minute = "SELECT sum(requests), sum(refused), sum(client_errors), sum(server_errors), \
                      sum(aborted) FROM requests_per_minute WHERE minute >= '2026-11-01 00:00:00'";
    let want = format!(
        "{}\t{}\t{}\t{}\t0",
        total(|row| row.kind != Kind::Ingested),
        total(|row| row.kind == Kind::Refused),
        total(|row| row.kind == Kind::Request && row.status == 404),
        total(|row| row.kind == Kind::Request && row.status == 503),
    );
    assert_eq!(fixture.value(per_minute).await, want);

    let top = "SELECT tenant, requests FROM top_tenants_per_day \
               WHERE day = '2026-11-07' AND place = 1";
    let mut of_the_day: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| day(row) == "2026-11-07") {
        *of_the_day.entry(&row.labels[0]).or_default() += u64::from(row.requests);
    }
    let most = of_the_day.iter().max_by_key(|(_, requests)| **requests).expect("some");
    assert_eq!(fixture.value(top).await, format!("{}\t{}", most.0.replace('\'', "\\'"), most.1));
    let plan = fixture.value(&format!("EXPLAIN {top}")).await;
    assert!(plan.contains("usage_by_hour"), "{plan}");

    let latency = "SELECT count(), sum(requests), max(max_ms), min(p50_ms) > 0, \
                   countIf(p50_ms > p99_ms) FROM latency_per_route_and_hour \
                   WHERE hour < '2026-11-02 00:00:00' AND route = 'route-1'";
    let first_day: Vec<&Row> = rows
        .iter()
        .filter(|row| {
            row.kind == Kind::Request && day(row) == "2026-11-01" && row.labels[5] == "route-1"
        })
        .collect();
    let hours: std::collections::BTreeSet<i64> =
        first_day.iter().map(|row| row.ts_us / 3_600_000_000).collect();
    let slowest = first_day.iter().map(|row| row.duration_us / 1_000).max().expect("some");
    let want = format!("{}\t{}\t{slowest}\t1\t0", hours.len(), first_day.len());
    assert_eq!(fixture.value(latency).await, want);
}

#[tokio::test]
async fn long_results_come_line_by_line() {
    let (fixture, rows) = with_november().await;
    let sql = "SELECT sequence FROM usage_events ORDER BY sequence";
    let mut lines = fixture.store.query_lines(sql, "TSV").expect("sent");
    let mut next = 0;
    while let Some(line) = lines.next_line().await.expect("a line") {
        assert_eq!(line, next.to_string());
        next += 1;
    }
    assert_eq!(next, rows.len());
    let failing =
        "SELECT throwIf(number = 200000) FROM numbers(1000000) SETTINGS max_block_size = 1000";
    let mut lines = fixture.store.query_lines(failing, "TSV").expect("sent");
    let error = loop {
        match lines.next_line().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a result that broke off was taken for a whole one"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Some(395), "{error}");
    let error = fixture.store.query_text(failing, "TSV").await.expect_err("the same at once");
    assert_eq!(error.code(), Some(395), "{error}");
}
