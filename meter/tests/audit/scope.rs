//! Windows of time, single tenants, retention, and tables that are not there.

use orbit_meter::audit::{AuditError, Check, Options, Scope, Verdict, audit};
use orbit_meter::clickhouse::{ClickHouseSettings, MigrateOptions, Store};

use crate::{BEGIN_US, END_US, Fixture, SECOND_US, found, of};

#[tokio::test]
async fn a_window_sees_its_own_and_says_what_it_cannot() {
    let fixture = Fixture::new();
    let stage = fixture.whole("windows").await;
    // Plan 3 begins 3000 s after the first event.
    stage.change("usage_events DELETE WHERE node = 1 AND lane = 0 AND sequence = 1700").await;
    let damaged_us = BEGIN_US + 3400 * SECOND_US;
    let window = |from_us: i64, to_us: i64| Scope {
        from_us: Some(from_us),
        to_us: Some(to_us),
        ..Scope::default()
    };
    let report = stage.audit(window(BEGIN_US, BEGIN_US + 2000 * SECOND_US)).await;
    assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
    assert_eq!(of(&report, Check::Batches).checked, 6, "two plans of each node, one in two months");
    assert_eq!(of(&report, Check::Sequences).checked, 4000);
    assert_eq!(report.watermark.claim, "all of the scope is below the watermark");
    let limited: Vec<Check> =
        report.checks.iter().filter(|c| c.limited.is_some()).map(|c| c.check).collect();
    assert_eq!(
        limited,
        [Check::Ranges, Check::Lanes, Check::Sequences, Check::Ingested, Check::Projection],
        "{report:#?}"
    );

    // A batch that overlaps the window is compared whole.
    let report = stage.audit(window(damaged_us, damaged_us + SECOND_US)).await;
    assert_eq!(found(&report), ["batches missing_rows"]);
    let report = stage.audit(window(damaged_us + 60 * SECOND_US, END_US)).await;
    assert_eq!(found(&report), ["batches missing_rows"]);

    // A batch that was written down late is in scope by that alone.
    let late = Scope { written_from_us: Some(0), ..window(0, SECOND_US) };
    assert_eq!(found(&stage.audit(late).await), ["batches missing_rows"]);
    let early = window(0, SECOND_US);
    assert_eq!(stage.audit(early).await.verdict, Verdict::Clean);

    // A plan of other times between two of the window is no gap; one that is not there is.
    let stage = fixture.whole("backdated").await;
    stage
        .run(
            "INSERT INTO usage_batches SELECT * REPLACE(min_ts - INTERVAL 9 DAY AS min_ts, \
             max_ts - INTERVAL 9 DAY AS max_ts, written_at + INTERVAL 1 SECOND AS written_at) \
             FROM usage_batches FINAL WHERE node = 1 AND plan = 1",
        )
        .await;
    let all = window(BEGIN_US, END_US);
    assert_eq!(of(&stage.audit(all.clone()).await, Check::Ranges).wrong, 0);
    stage.change("usage_batches DELETE WHERE node = 1 AND plan = 1").await;
    assert_eq!(of(&stage.audit(all).await, Check::Ranges).wrong, 2);
}

#[tokio::test]
async fn a_tenants_audit_is_of_rows_only() {
    let fixture = Fixture::new();
    let stage = fixture.whole("tenants").await;
    stage
        .run(
            "INSERT INTO usage_events SELECT * FROM usage_events \
             WHERE node = 1 AND lane = 0 AND sequence = 20",
        )
        .await;
    let of_tenant = |tenant: &str| Scope { tenant: Some(tenant.to_owned()), ..Scope::default() };
    // Row 40 is of team-1.
    let report = stage.audit(of_tenant("team-1")).await;
    assert_eq!(found(&report), ["sequences doubled_rows", "ingested doubled_event"]);
    let report = stage.audit(of_tenant("acme")).await;
    assert_eq!(found(&report), ["sequences doubled_rows", "ingested doubled_event"]);
    assert_eq!(of(&report, Check::Sequences).checked, 8001);
    let report = stage.audit(of_tenant("team-2")).await;
    assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
    assert_eq!(of(&report, Check::Sequences).checked, 2 * 1333);
    for check in [Check::Batches, Check::Unlisted, Check::Ranges, Check::Lanes] {
        assert!(!of(&report, check).asked);
        assert!(of(&report, check).limited.is_some());
    }
    assert!(of(&report, Check::Projection).checked > 0);
}

#[tokio::test]
async fn what_retention_took_is_not_missing() {
    let fixture = Fixture::new();
    let stage = fixture.empty("retention").await;
    let now_us = stage.store.query_text("SELECT toUnixTimestamp64Micro(now64(6))", "TSV").await;
    let now_us: i64 = now_us.expect("an answer").trim().parse().expect("a number");
    let begin_us = now_us - 90 * 24 * 3600 * SECOND_US;
    stage.fill(1, begin_us).await;
    // Kept for a month from now on: the beginning has left, the rest is leaving.
    let schema = "schema_migrations UPDATE applied_at = applied_at - INTERVAL 1 YEAR WHERE 1";
    stage.change(schema).await;
    let options = MigrateOptions { ttl_months: Some(1) };
    stage.store.migrate(&options).await.expect("a retention");
    stage.change("usage_events DELETE WHERE node = 1 AND sequence < 1500").await;
    stage.change("usage_batches DELETE WHERE node = 1 AND plan = 0").await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), Vec::<String>::new(), "{report:#?}");
    assert_eq!(of(&report, Check::Batches).checked, 0);
    let notes = &of(&report, Check::Batches).notes;
    assert!(notes[0].contains(" batches are past retention"), "{notes:?}");
}

#[tokio::test]
async fn a_missing_schema_or_server_is_an_error_that_says_so() {
    let fixture = Fixture::new();
    let nowhere = ClickHouseSettings { database: "nowhere".into(), ..fixture.engine.settings() };
    let store = Store::new(&nowhere).expect("valid settings");
    let error = audit(&store, &Options::default(), &mut |_| {}).await.expect_err("no database");
    assert!(matches!(error, AuditError::Schema(_)), "{error:?}");
    assert!(error.to_string().contains("orbit migrate"), "{error}");

    let settings = fixture.engine.settings();
    fixture.engine.kill();
    let store = Store::new(&settings).expect("valid settings");
    let error = audit(&store, &Options::default(), &mut |_| {}).await.expect_err("no server");
    assert!(matches!(error, AuditError::Store { .. }), "{error:?}");
}
