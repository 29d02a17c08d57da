//! What a tenant asks about itself: the numbers, page by page, of its own part of the tree alone.

use std::collections::BTreeMap;
use std::time::Duration;

use orbit_meter::clickhouse::BlockBuilder;
use orbit_meter::clickhouse::own::{Others, OwnScope, REFUSALS, USAGE, UsageRow};
use orbit_meter::event::{Flags, Kind};

use super::Fixture;
use super::rows::{MONTH, NOVEMBER_US, Random, Row};
use super::usage::with_november;

const NOVEMBER_S: i64 = NOVEMBER_US / 1_000_000;
const DAY_S: i64 = 86_400;

fn scope(root: &str, per: &'static str) -> OwnScope {
    OwnScope {
        root: root.to_owned(),
        from_s: NOVEMBER_S,
        to_s: NOVEMBER_S + 30 * DAY_S,
        timezone: "UTC".to_owned(),
        has_whole_hours: true,
        now_us: i64::MAX,
        per,
        rows: 1_000,
        timeout: Duration::from_mins(1),
    }
}

fn is_below(row: &Row, root: &str) -> bool {
    row.labels[1] == root || row.labels[1].starts_with(&format!("{root}/"))
}

fn period(row: &Row, per: &str) -> i64 {
    let second = row.ts_us / 1_000_000;
    match per {
        "hour" => second - second % 3_600,
        "day" => second - second % DAY_S,
        _ => NOVEMBER_S,
    }
}

fn part(row: &Row, by: &str) -> String {
    match by {
        "tenant" => row.labels[0].clone(),
        "app" => row.labels[4].clone(),
        "route" => row.labels[5].clone(),
        _ => String::new(),
    }
}

fn decimal(nano: i128) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[tokio::test]
async fn usage_is_that_of_the_rows_and_of_nobody_else() {
    let (fixture, rows) = with_november().await;
    let none = Others::default();
    for (root, per, by) in [
        ("acme/acme-brasil", "day", "meter"),
        ("acme/acme-brasil", "month", "tenant"),
        ("acme/acme-chile/west", "hour", "route"),
        ("acme", "total", "app"),
        // Neither the start of an id nor a way out of the text finds anything.
        ("acme/acme-bras", "day", "meter"),
        ("", "day", "meter"),
        ("x' OR 1 --", "day", "meter"),
    ] {
        let got = fixture.store.own_usage(&scope(root, per), by, &none, None).await.expect("usage");
        let mut sums: BTreeMap<(i64, String, String), (i128, [u64; 3])> = BTreeMap::new();
        let ours = |row: &&Row| row.kind != Kind::Refused && is_below(row, root);
        for row in rows.iter().filter(ours) {
            let key = (period(row, per), part(row, by), row.labels[6].clone());
            let (quantity, counts) = sums.entry(key).or_default();
            *quantity += row.quantity_nano;
            let more = [u64::from(row.requests), row.request_bytes, row.response_bytes];
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        let mut want: Vec<UsageRow> = Vec::new();
        for ((period, part, meter), (quantity, [requests, request_bytes, response_bytes])) in sums {
            let quantity = decimal(quantity);
            want.push(UsageRow {
                period,
                part,
                meter,
                requests,
                quantity,
                peak: None,
                level: None,
                request_bytes,
                response_bytes,
            });
        }
        want.truncate(1_000);
        assert_eq!(got, want, "{root:?} per {per} by {by}");
        assert_eq!(want.is_empty(), !root.starts_with("acme") || root.ends_with("bras"));
    }
}

#[tokio::test]
async fn pages_together_are_the_whole_and_nothing_twice() {
    let (fixture, _) = with_november().await;
    let whole = scope("acme", "day");
    let page = OwnScope { rows: 7, ..whole.clone() };
    let store = &fixture.store;
    // One meter from the projection, one from the rows.
    let others = Others { largest: vec!["storage".to_owned()], ..Others::default() };

    let all = store.own_usage(&whole, "tenant", &others, None).await.expect("usage");
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let rows = store.own_usage(&page, "tenant", &others, after.as_ref()).await.expect("a page");
        let Some(last) = rows.last() else { break };
        after = Some((last.period, last.part.clone(), last.meter.clone()));
        seen.extend(rows);
    }
    assert_eq!(seen, all);

    let all = store.own_refusals(&whole, None).await.expect("refusals");
    assert!(all.windows(2).all(|pair| pair[0].period >= pair[1].period), "newest first");
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let rows = store.own_refusals(&page, after.as_ref()).await.expect("a page");
        let Some(last) = rows.last().cloned() else { break };
        after = Some((last.period, last.reason, last.app, last.route, last.tenant));
        seen.extend(rows);
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn refusals_are_those_of_the_rows() {
    let (fixture, rows) = with_november().await;
    let root = "acme/acme-brasil";
    let got = fixture.store.own_refusals(&scope(root, "day"), None).await.expect("refusals");
    let mut sums: BTreeMap<(i64, [String; 4]), u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.kind == Kind::Refused && is_below(row, root)) {
        let labels = [7, 4, 5, 0].map(|index: usize| row.labels[index].clone());
        *sums.entry((-period(row, "day"), labels)).or_default() += u64::from(row.requests);
    }
    let got: Vec<_> = got
        .into_iter()
        .map(|row| ((-row.period, [row.reason, row.app, row.route, row.tenant]), row.requests))
        .collect();
    assert_eq!(got, sums.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn meters_that_do_not_add_up_have_their_own_figures() {
    let fixture = Fixture::new().await;
    let mut builder = BlockBuilder::new();
    // Meter, second, flags, member or request, quantity.
    let odd = "o'brien\\x";
    for (sequence, (meter, second, flags, id, quantity)) in [
        ("users", 10, Flags::MEMBER, 7, 1),
        ("users", 20, Flags::MEMBER, 8, 1),
        // Seen by another node, too.
        ("users", 30, Flags::MEMBER, 7, 1),
        (odd, 10, Flags::NONE, 1, 5),
        (odd, 20, Flags::MEASURED, 2, 9),
        (odd, 30, Flags::NONE, 3, 4),
        (odd, 40, Flags::PART, 3, 0),
        ("last", 10, Flags::NONE, 4, 5),
        ("last", 20, Flags::MEASURED, 5, 3),
        ("runs", 10, Flags::NONE, 6, 50),
        ("runs", 20, Flags::MEASURED, 9, 70),
        // Four of them that had no room.
        ("runs", 30, Flags::MEASURED.with(Flags::UNMETERED), 0, 4),
        ("level", 20, Flags::NONE, 10, 70),
        ("plain", 20, Flags::NONE, 11, 70),
    ]
    .into_iter()
    .enumerate()
    {
        let mut row = Row::plain(sequence as u64, "north", second);
        row.labels[6] = meter.to_owned();
        row.flags = flags.bits();
        row.request_id = [id; 16];
        row.quantity_nano = quantity * 1_000_000_000;
        row.requests = u32::from(flags == Flags::NONE);
        row.push_into(&mut builder);
    }
    fixture.store.insert_block(&builder.finish(1, MONTH), "1").await.expect("inserted");
    let one = |meter: &str| vec![meter.to_owned()];
    let others = Others {
        distinct: one("users"),
        largest: one(odd),
        latest: one("last"),
        counted: one("runs"),
        gauges: one("level"),
    };
    let scope = scope("acme", "total");
    let rows = fixture.store.own_usage(&scope, "meter", &others, None).await.expect("usage");
    let figures: Vec<(&str, &str, u64)> =
        rows.iter().map(|row| (&*row.meter, &*row.quantity, row.requests)).collect();
    // A level of 70 from the 20th second on, for the rest of the month.
    let hours = "50399.611111111";
    let want = [
        ("last", "3", 1),
        ("level", hours, 1),
        (odd, "9", 2),
        ("plain", "70", 1),
        ("runs", "6", 1),
        ("users", "2", 0),
    ];
    assert_eq!(figures, want);
    let level = rows.iter().find(|row| row.meter == "level").expect("there");
    assert_eq!((level.peak.as_deref(), level.level.as_deref()), (Some("70"), Some("70")));
    let by_app = fixture.store.own_usage(&scope, "app", &others, None).await.expect("usage");
    assert!(by_app.iter().all(|row| row.meter != "level"), "a level is a tenant's");
}

#[tokio::test]
async fn days_and_months_are_those_of_the_zone() {
    let (fixture, _) = with_november().await;
    for per in ["day", "month"] {
        let zone = OwnScope { timezone: "America/Sao_Paulo".to_owned(), ..scope("acme", per) };
        let rows =
            fixture.store.own_usage(&zone, "meter", &Others::default(), None).await.expect("usage");
        // Midnight there is 3 o'clock here, and the month's first hours are of October there.
        assert!(rows.iter().all(|row| (row.period - 3 * 3_600) % DAY_S == 0), "{per}");
        let first = rows.first().expect("a row").period;
        let october = if per == "day" { NOVEMBER_S - DAY_S } else { NOVEMBER_S - 31 * DAY_S };
        assert_eq!(first, october + 3 * 3_600, "{per}");
    }
}

#[tokio::test]
async fn hours_and_days_of_a_zone_between_those_of_utc_are_its_own() {
    let (fixture, rows) = with_november().await;
    // Half past six in the evening here is midnight there.
    let shift_s = 5 * 3_600 + 1_800;
    let from_s = NOVEMBER_S + DAY_S - shift_s;
    for (per, length_s) in [("hour", 3_600), ("day", DAY_S)] {
        let zone = OwnScope {
            from_s,
            to_s: from_s + 5 * DAY_S,
            timezone: "Asia/Kolkata".to_owned(),
            has_whole_hours: false,
            ..scope("acme", per)
        };
        let none = Others::default();
        let got = fixture.store.own_usage(&zone, "meter", &none, None).await.expect("usage");
        let refused = fixture.store.own_refusals(&zone, None).await.expect("refusals");
        let mut sums: BTreeMap<(i64, String), u64> = BTreeMap::new();
        let mut of_refused: BTreeMap<i64, u64> = BTreeMap::new();
        for row in rows.iter().filter(|row| is_below(row, "acme")) {
            let second = row.ts_us.div_euclid(1_000_000);
            if !(zone.from_s..zone.to_s).contains(&second) {
                continue;
            }
            let period = second - (second + shift_s).rem_euclid(length_s);
            let requests = u64::from(row.requests);
            match row.kind {
                Kind::Refused => *of_refused.entry(-period).or_default() += requests,
                _ => *sums.entry((period, row.labels[6].clone())).or_default() += requests,
            }
        }
        let got: Vec<_> =
            got.into_iter().map(|row| ((row.period, row.meter), row.requests)).collect();
        assert_eq!(got, sums.into_iter().collect::<Vec<_>>(), "{per}");
        let mut seen: BTreeMap<i64, u64> = BTreeMap::new();
        for row in refused {
            *seen.entry(-row.period).or_default() += row.requests;
        }
        let rows = usize::try_from(zone.rows).expect("it fits");
        assert!(seen.len() <= rows && seen == of_refused, "{per}");
    }
}

/// Each period's byte-hours, peak and level are what finance's own query says of it.
#[tokio::test]
async fn gauges_are_told_by_period_as_finance_has_them() {
    const HOUR_US: i64 = 3_600_000_000;
    let fixture = Fixture::new().await;
    let seed: u64 = std::process::id().into();
    let mut random = Random(seed);
    let mut builder = BlockBuilder::new();
    for sequence in 0..400 {
        // `web` moves from north to south and back; nobody else's are of any matter.
        let path = [
            "acme/a",
            "acme/a/north",
            "acme/a/north/web",
            "acme/a/south/web",
            "acme/b",
            "acme/a/east",
        ][random.below(6) as usize];
        let mut row = Row::plain(sequence, path.rsplit('/').next().expect("a tenant"), 0);
        path.clone_into(&mut row.labels[1]);
        row.labels[6] = ["storage", "seats"][random.below(2) as usize].to_owned();
        row.ts_us = NOVEMBER_US + random.below(200).cast_signed() * 2_880_000_007;
        if random.below(3) > 0 {
            row.flags = Flags::MEASURED.bits();
            row.requests = 0;
        }
        let sign = if row.flags != 0 && random.below(3) == 0 { -1 } else { 1 };
        row.quantity_nano = sign * i128::from(random.below(9_000_000_000_000));
        row.push_into(&mut builder);
    }
    fixture.store.insert_block(&builder.finish(1, MONTH), "1").await.expect("inserted");
    let gauges = vec!["seats".to_owned(), "storage".to_owned()];
    let others = Others { gauges: gauges.clone(), ..Others::default() };
    let now_us = NOVEMBER_US + 6 * 24 * HOUR_US + 12_345_678;
    for (per, zone, shift_s, length_s) in [
        ("day", "UTC", 0, DAY_S),
        ("day", "Asia/Kolkata", 5 * 3_600 + 1_800, DAY_S),
        ("hour", "UTC", 0, 3_600),
        ("total", "UTC", 0, 30 * DAY_S),
    ] {
        let from_s = NOVEMBER_S + 2 * DAY_S - shift_s;
        let scope = OwnScope {
            from_s,
            to_s: from_s + 30 * DAY_S,
            timezone: zone.to_owned(),
            now_us,
            ..scope("acme/a", per)
        };
        for (by, parts) in [("meter", &["a"][..]), ("tenant", &["east", "web"])] {
            let rows = fixture.store.own_usage(&scope, by, &others, None).await.expect("usage");
            let mut checked = 0;
            for (begin_s, meter, part) in (from_s..)
                .step_by(length_s as usize)
                .take_while(|begin_s| begin_s * 1_000_000 < now_us)
                .flat_map(|begin_s| gauges.iter().map(move |meter| (begin_s, meter)))
                .flat_map(|(begin_s, meter)| parts.iter().map(move |part| (begin_s, meter, *part)))
            {
                let from_us = begin_s * 1_000_000;
                let to_us = now_us.min(from_us + length_s * 1_000_000);
                let parameters = [
                    ("from_us", from_us.to_string()),
                    ("to_us", to_us.to_string()),
                    ("tenant", part.to_owned()),
                    ("meter", meter.clone()),
                ];
                let parameters = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
                let want = fixture.store.named("gauge_by_window", &parameters, "TSVRaw").await;
                let want = want.expect("finance's query").trim_end().to_owned();
                let of = if by == "tenant" { part } else { "" };
                let found = rows
                    .iter()
                    .find(|row| row.period == begin_s && row.meter == *meter && row.part == of);
                let Some(row) = found else {
                    // Nothing was there, nor happened.
                    assert_eq!(want, "0\t0\t0", "seed {seed}, {per} {begin_s} {meter} {part}");
                    continue;
                };
                let (peak, level) = (row.peak.as_ref(), row.level.as_ref());
                let got =
                    [Some(&row.quantity), peak, level].map(|text| text.expect("told").clone());
                assert_eq!(got.join("\t"), want, "seed {seed}, {per} {begin_s} {meter} {part}");
                checked += 1;
            }
            // A node that has others below it has a level of its own and theirs.
            assert!(checked >= parts.len(), "seed {seed}: {per} by {by}");
            let told = rows.iter().map(|row| &row.part).collect::<std::collections::BTreeSet<_>>();
            assert!(!told.iter().any(|part| *part == "b"), "S1");
        }
    }
}

#[tokio::test]
async fn questions_read_the_projection() {
    let (fixture, _) = with_november().await;
    let settings = fixture.engine.settings();
    let client = clickhouse::Client::default()
        .with_url(settings.url)
        .with_user(settings.user)
        .with_password(settings.password)
        .with_database(settings.database);
    for sql in [USAGE, REFUSALS] {
        let mut query = client.query_raw(&format!("EXPLAIN {sql}"));
        for (name, value) in [
            ("from_s", &*NOVEMBER_S.to_string()),
            ("to_s", &*(NOVEMBER_S + DAY_S).to_string()),
            ("timezone", "UTC"),
            ("root", "acme"),
            ("per", "day"),
            ("by", "tenant"),
            ("others", "storage"),
            ("rows", "10"),
            ("after_period", "0"),
            ("after_part", ""),
            ("after_meter", ""),
            ("after_reason", ""),
            ("after_app", ""),
            ("after_route", ""),
            ("after_tenant", ""),
        ] {
            query = query.param(name, value);
        }
        let bytes = query.fetch_bytes("TSVRaw").expect("sent").collect().await.expect("a plan");
        let plan = String::from_utf8(bytes.into()).expect("UTF-8");
        assert!(plan.contains("usage_by_hour"), "{plan}");
    }
}
