//! Every kind of damage, planted with SQL, and what the audit calls it.

use orbit_meter::audit::{Check, Progress, Scope, Verdict, audit};
use orbit_meter::clickhouse::nodes::NodeState;
use tokio::sync::Notify;

use crate::{Fixture, ROWS, Stage, found, of, text, waiting};

/// Ids of the first batch of node 1, and of one in the second month.
const FIRST: u64 = 7 << 32;
const SECOND_MONTH: u64 = (7 << 32) + 5;

#[tokio::test]
async fn m2_m3_a_whole_table_is_clean() {
    let fixture = Fixture::new();
    let report = fixture.whole("whole").await.audit(Scope::default()).await;
    assert_eq!(found(&report), Vec::<String>::new(), "{report:#?}");
    assert_eq!((report.verdict, report.findings), (Verdict::Clean, 0));
    let checked = |check| of(&report, check).checked;
    let rows = 2 * ROWS.unsigned_abs();
    assert_eq!(checked(Check::Batches), 10, "one of four plans is in two months");
    assert_eq!(checked(Check::Ranges), 8);
    assert_eq!(checked(Check::Lanes), 4);
    for check in [Check::Unlisted, Check::Sequences] {
        assert_eq!(checked(check), rows, "{check:?}");
    }
    assert_eq!(checked(Check::Ingested), rows / 10 - 4, "a member may be seen by both nodes");
    assert_eq!(checked(Check::OpenParts), 12);
    assert!(checked(Check::Projection) >= 4);
    assert!(report.checks.iter().all(|check| check.asked && check.limited.is_none()));
    assert_eq!(report.watermark.time.as_deref(), Some("2026-11-01T00:36:40Z"));
    assert_eq!(report.watermark.nodes.len(), 2);
    assert!(report.watermark.claim.contains("from 2026-11-01T00:36:40Z on"));

    // Nothing at all is clean as well, and claims nothing.
    let nothing = fixture.empty("nothing").await.audit(Scope::default()).await;
    assert_eq!(nothing.verdict, Verdict::Clean, "{nothing:#?}");
    assert!(nothing.watermark.claim.contains("nothing is claimed"));
}

#[tokio::test]
async fn m2_every_damage_to_rows_is_named() {
    let fixture = Fixture::new();
    let one = format!("batch_id = {FIRST} AND lane = 0 AND sequence = 20");

    let stage = fixture.whole("deleted").await;
    stage.change(&format!("usage_events DELETE WHERE {one}")).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["batches missing_rows", "sequences missing_rows"]);
    assert_eq!(
        text(&report, Check::Batches),
        format!("batch {FIRST} of node 1, month 202610: 1 of 1000 rows are missing")
    );
    assert!(
        text(&report, Check::Sequences).starts_with("node 1 epoch 3 lane 0: 1 sequences up to")
    );
    assert_eq!((report.verdict, report.findings), (Verdict::Findings, 2));

    // The first of a lane is missed too, and so is a whole batch.
    let stage = fixture.whole("deleted_first").await;
    stage.change("usage_events DELETE WHERE node = 2 AND lane = 1 AND sequence = 0").await;
    stage.change(&format!("usage_events DELETE WHERE batch_id = {SECOND_MONTH}")).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["batches missing_rows", "sequences missing_rows"]);
    assert_eq!(of(&report, Check::Batches).wrong, 2);

    let stage = fixture.whole("doubled").await;
    stage.run(&format!("INSERT INTO usage_events SELECT * FROM usage_events WHERE {one}")).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(
        found(&report),
        ["batches extra_rows", "sequences doubled_rows", "ingested doubled_event"],
        "sequence 20 of lane 0 is an ingested event"
    );
    assert_eq!(text(&report, Check::Sequences), "node 1 epoch 3 lane 0: 1 rows are there twice");

    let stage = fixture.whole("altered").await;
    stage.change(&format!("usage_events UPDATE quantity = quantity + 1 WHERE {one}")).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["batches different_content"]);
    assert!(text(&report, Check::Batches).contains("quantity"), "{report:#?}");

    // Two rows' bytes exchanged: every sum is right, the digest is not.
    let stage = fixture.whole("exchanged").await;
    stage
        .change(
            "usage_events UPDATE response_bytes = 854 - response_bytes \
             WHERE node = 1 AND lane = 0 AND sequence IN (30, 31)",
        )
        .await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["batches different_content"]);
    assert!(text(&report, Check::Batches).contains("content differs: digest"), "{report:#?}");
}

#[tokio::test]
async fn m2_every_damage_to_events_is_named() {
    let fixture = Fixture::new();

    // The same event again, by another node, as a row in its own right.
    let stage = fixture.whole("ingested").await;
    stage
        .change(
            "usage_events UPDATE request_id = (SELECT request_id FROM usage_events \
             WHERE node = 1 AND lane = 0 AND sequence = 20) \
             WHERE node = 2 AND lane = 0 AND sequence = 40",
        )
        .await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["ingested doubled_event"]);
    assert!(text(&report, Check::Ingested).contains("is there 2 times"), "{report:#?}");

    let stage = fixture.whole("parts").await;
    stage.change("usage_events UPDATE requests = 1 WHERE node = 1 AND flags = 8").await;
    stage.change("usage_events UPDATE requests = 0 WHERE node = 2 AND flags = 16").await;
    let report = stage.audit(Scope::default()).await;
    let kinds = ["batches different_content", "open_parts part_counts", "open_parts open_counts"];
    assert_eq!(sorted(found(&report)), sorted(kinds.map(str::to_owned).to_vec()));
    assert_eq!(of(&report, Check::OpenParts).wrong, 3);

    let stage = fixture.whole("further").await;
    stage.change("usage_events UPDATE requests = 1 WHERE node = 1 AND flags = 32").await;
    stage.change("usage_events UPDATE request_bytes = 1 WHERE node = 2 AND flags = 64").await;
    let report = stage.audit(Scope::default()).await;
    let kinds = ["batches different_content", "open_parts measured_counts"];
    assert_eq!(sorted(found(&report)), sorted(kinds.map(str::to_owned).to_vec()));
    assert_eq!(of(&report, Check::OpenParts).wrong, 3);
}

fn sorted(mut kinds: Vec<String>) -> Vec<String> {
    kinds.sort();
    kinds.dedup();
    kinds
}

#[tokio::test]
async fn m3_every_damage_to_the_manifest_is_named() {
    let fixture = Fixture::new();

    let stage = fixture.whole("unlisted").await;
    stage.change(&format!("usage_batches DELETE WHERE batch_id = {FIRST}")).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["unlisted unlisted_batch", "ranges gap"], "{report:#?}");
    assert!(text(&report, Check::Unlisted).contains(&format!("batch {FIRST} of node 1")));
    assert_eq!(of(&report, Check::Ranges).wrong, 2, "one for each lane");

    // Of a plan with two batches, one.
    let stage = fixture.whole("half_listed").await;
    stage.change("usage_batches DELETE WHERE plan = 1 AND node = 1 AND month = 202611").await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["unlisted unlisted_batch", "ranges plan_count"]);

    let stage = fixture.whole("overlap").await;
    relist(&stage, "ranges.first - 10", 2).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["ranges plan_count", "ranges overlap"]);

    let stage = fixture.whole("gap").await;
    relist(&stage, "ranges.first + 10", 2).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["ranges plan_count", "ranges gap"]);
    assert!(of(&report, Check::Ranges).findings.iter().any(|finding| {
        finding.text == "node 1 epoch 3 lane 0: sequences 1000 to 1009 (10 events) are in no plan"
    }));
}

/// What no gap shows: what is missing at the end of a lane, or with all of an opening, in the rows and
/// in the manifest alike.
#[tokio::test]
async fn m3_a_missing_end_of_a_lane_and_a_missing_opening_are_found() {
    let fixture = Fixture::new();
    let stage = fixture.whole("ends").await;
    stage.change("usage_events DELETE WHERE node = 1 AND sequence >= 1500").await;
    stage.change("usage_batches DELETE WHERE node = 1 AND plan = 3").await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["lanes missing_end"], "{report:#?}");
    assert_eq!(
        of(&report, Check::Lanes).findings[1].text,
        "node 1 epoch 3 lane 1: sequences 1500 to 1999 (500 events) were shipped, and are in no plan"
    );
    for table in ["usage_events", "usage_batches"] {
        stage.change(&format!("{table} DELETE WHERE node = 2")).await;
    }
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["lanes missing_end", "lanes missing_lane"], "{report:#?}");
    assert_eq!((of(&report, Check::Lanes).wrong, report.findings), (4, 4));

    // A window sees what was shipped in it.
    let now_us = jiff::Timestamp::now().as_microsecond();
    let hour_us = 3_600_000_000;
    let window =
        |from_us, to_us| Scope { from_us: Some(from_us), to_us: Some(to_us), ..Scope::default() };
    let lately = stage.audit(window(now_us - hour_us, now_us + hour_us)).await;
    assert_eq!(of(&lately, Check::Lanes).wrong, 4);
    let before = stage.audit(window(now_us - 2 * hour_us, now_us - hour_us)).await;
    assert_eq!(of(&before, Check::Lanes).checked, 0);
}

/// Lists plan 2 of node 1 again with other first sequences.
async fn relist(stage: &Stage, first: &str, plan: u64) {
    let first = first.replace("ranges.first", "r.3");
    stage
        .run(&format!(
            "INSERT INTO usage_batches SELECT * REPLACE(\
             arrayMap(r -> (r.1, r.2, {first}, r.4), ranges) AS ranges, \
             written_at + INTERVAL 1 SECOND AS written_at) \
             FROM usage_batches FINAL WHERE node = 1 AND plan = {plan}"
        ))
        .await;
}

#[tokio::test]
async fn m1_losses_are_findings_and_explain_what_is_missing() {
    let fixture = Fixture::new();
    let since = "'2026-10-31 23:30:00', '2026-10-31 23:40:00'";

    let stage = fixture.whole("losses").await;
    stage
        .run(&format!(
            "INSERT INTO usage_losses VALUES (1, 3, 1, 2000, 'power', 0, 0, {since}, now64(3))"
        ))
        .await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["losses power"]);
    assert!(text(&report, Check::Losses).contains(
        "at most the time from 2026-10-31T23:30:00Z to 2026-10-31T23:40:00Z was not yet"
    ));

    let stage = fixture.whole("nobodys").await;
    for (cause, epoch, events) in [("header", 0, 0), ("uncounted", 3, 7)] {
        stage
            .run(&format!(
                "INSERT INTO usage_losses VALUES \
                 (1, {epoch}, 65535, 31, '{cause}', {events}, 90, {since}, now64(3))"
            ))
            .await;
    }
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["losses header", "losses uncounted"]);
    let losses = &of(&report, Check::Losses).findings;
    assert!(losses[0].text.starts_with("node 1: file 1f of the journal"), "{losses:#?}");
    assert!(losses[1].text.starts_with("node 1 epoch 3: at least 7 answers"), "{losses:#?}");

    // Ten events of a plan that could not be read: skipped, and known to be lost.
    let stage = fixture.whole("skipped").await;
    stage.change("usage_events DELETE WHERE node = 1 AND lane = 0 AND sequence < 10").await;
    let relisted = format!(
        "INSERT INTO usage_batches SELECT b.batch_id, b.node, b.plan, b.month, r.n, r.lo, r.hi, \
         r.req, r.q, r.rb, r.sb, r.d, b.ranges, 10, b.written_at + INTERVAL 1 SECOND \
         FROM (SELECT * FROM usage_batches FINAL WHERE batch_id = {FIRST}) AS b CROSS JOIN \
         (SELECT count() AS n, min(ts) AS lo, max(ts) AS hi, sum(requests) AS req, \
         sum(quantity) AS q, sum(request_bytes) AS rb, sum(response_bytes) AS sb, \
         sum({}) AS d FROM usage_events WHERE batch_id = {FIRST}) AS r",
        orbit_meter::clickhouse::native::ROW_DIGEST
    );
    stage.run(&relisted).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["ranges unexplained_skip", "sequences missing_rows"]);
    stage
        .run(&format!(
            "INSERT INTO usage_losses VALUES (1, 3, 0, 0, 'damaged', 10, 900, {since}, now64(3))"
        ))
        .await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["losses damaged"], "{report:#?}");

    // A plan of which nothing could be read has no batch at all.
    let stage = fixture.whole("nothing_left").await;
    for table in ["usage_events", "usage_batches"] {
        let plan = if table == "usage_events" { "intDiv(sequence, 500)" } else { "plan" };
        stage.change(&format!("{table} DELETE WHERE node = 1 AND {plan} = 0")).await;
    }
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["ranges gap", "sequences missing_rows"]);
    for lane in [0, 1] {
        stage
            .run(&format!(
                "INSERT INTO usage_losses VALUES (1, 3, {lane}, 0, 'damaged', 500, 9, {since}, \
                 now64(3))"
            ))
            .await;
    }
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["losses damaged"], "{report:#?}");
}

#[tokio::test]
async fn what_a_node_has_not_confirmed_yet_is_no_finding() {
    let fixture = Fixture::new();
    let last = FIRST + 7;

    // A node that is away confirms when it is back.
    let stage = fixture.whole("away").await;
    stage.silence(1).await;
    stage.told(1, 1500).await;
    stage.change(&format!("usage_batches DELETE WHERE batch_id = {last}")).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
    let notes = &of(&report, Check::Unlisted).notes;
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("unconfirmed: 1000 rows of 1 batches of node 1"), "{notes:?}");
    let node = &report.watermark.nodes[0];
    assert_eq!((node.node, node.away, node.backlog_events), (1, true, 7));
    assert_eq!(report.watermark.held_by, Some(1));

    // One that was given up will not.
    stage.say(1, NodeState::Retired, 7).await;
    let report = stage.audit(Scope::default()).await;
    assert_eq!(found(&report), ["unlisted unlisted_batch"]);
    assert_eq!(report.watermark.held_by, Some(2));

    // One that is there does so in a moment.
    let stage = fixture.whole("in_flight").await;
    stage.told(1, 1500).await;
    stage
        .run(&format!(
            "CREATE TABLE later ENGINE = Memory AS SELECT * FROM usage_batches FINAL \
             WHERE batch_id = {last}"
        ))
        .await;
    stage.change(&format!("usage_batches DELETE WHERE batch_id = {last}")).await;
    let looking = Notify::new();
    let mut progress = |progress: Progress| {
        if progress.check == Check::Unlisted {
            looking.notify_one();
        }
    };
    let options = waiting(std::time::Duration::from_mins(1));
    let confirm = async {
        looking.notified().await;
        stage.run("INSERT INTO usage_batches SELECT * FROM later").await;
    };
    let (report, ()) = tokio::join!(audit(&stage.store, &options, &mut progress), confirm);
    let report = report.expect("an audit");
    assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
}
