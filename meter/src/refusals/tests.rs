//! Refusals against the journal they end in.

pub(super) mod death;
mod faults;
mod model;

use std::collections::BTreeMap;
use std::thread;

use super::key::UNIT_NANO;
use super::*;
use crate::boot::Boot;
use crate::event::{Kind, Method, View};
use crate::journal::{JournalSettings, LaneKey, Loss, LossCause, Position};

const NOW_US: i64 = 1_795_000_000 * US_PER_SECOND;

/// The run of the machine in which these tests run.
const BOOT: u128 = 77;
const SMALL: Capacity = Capacity { slots: 64, files: 1, reserve: 16 };

/// Fills the journal with other events until it is full.
fn fill(journal: &Journal) {
    let other = event("other", "", 0);
    while journal.append(&other).is_ok() {}
    assert!(journal.is_full());
}

/// How far each lane was shipped: what the shipper keeps on the disk.
type Cursors = BTreeMap<LaneKey, Position>;

/// Ships everything the journal holds, which makes room; returns what was summed.
fn drain(journal: &Journal, cursors: &mut Cursors) -> Sums {
    let mut sums = Sums::new();
    for key in journal.lanes() {
        let mut reader = journal.reader(key, cursors.get(&key).copied()).expect("a lane");
        while let Some(frame) = reader.read().expect("readable") {
            note(&mut sums, &View::decode(frame.row).expect("a row"));
        }
        cursors.insert(key, reader.position());
        journal.acknowledge(key, reader.position()).expect("removable");
        journal.retire(key).expect("removable");
    }
    sums
}

/// Whose, and of what: kind, flags, tenant, reason or meter, and a member's id.
type Of = (u8, u8, String, String, [u8; 16]);

/// Requests, quantity and bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counted {
    requests: u64,
    quantity_nano: i128,
    bytes: (u64, u64),
}

type Sums = BTreeMap<Of, Counted>;

fn add(sums: &mut Sums, of: Of, more: Counted) {
    let one = sums.entry(of).or_default();
    one.requests += more.requests;
    one.quantity_nano += more.quantity_nano;
    one.bytes.0 += more.bytes.0;
    one.bytes.1 += more.bytes.1;
}

fn add_all(sums: &mut Sums, more: Sums) {
    for (of, counted) in more {
        add(sums, of, counted);
    }
}

/// What was counted of requests, of either kind.
fn requests(sums: &Sums) -> u64 {
    sums.values().map(|counted| counted.requests).sum()
}

fn note(sums: &mut Sums, row: &View<'_>) {
    let label = match row.kind() {
        Kind::Refused => row.reason(),
        _ if row.flags().contains(Flags::UNMETERED) => row.meter(),
        _ => return,
    };
    let (kind, flags) = (row.kind() as u8, row.flags().bits());
    let of = (kind, flags, row.tenant().to_owned(), label.to_owned(), row.request_id());
    let counted = Counted {
        requests: row.requests().into(),
        quantity_nano: row.quantity_nano(),
        bytes: (row.request_bytes(), row.response_bytes()),
    };
    add(sums, of, counted);
}

/// An admitted request.
fn event<'a>(tenant: &'a str, meter: &'a str, ts_us: i64) -> Event<'a> {
    Event {
        ts_us,
        request_id: [7; 16],
        kind: Kind::Request,
        method: Method::Get,
        status: 200,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 3 * UNIT_NANO,
        request_bytes: 10,
        response_bytes: 20,
        duration_us: 30,
        upstream_us: 25,
        tenant,
        path: "holding/acme",
        plan: "growth",
        key_id: "0123456789",
        app: "crm",
        route: "contacts",
        meter,
        reason: "",
    }
}

fn open(journal: &Arc<Journal>) -> Refusals {
    Refusals::with_capacity(Arc::clone(journal), SMALL).expect("opens")
}

fn journal(directory: &std::path::Path, segments: u64) -> Arc<Journal> {
    journal_under(directory, segments, BOOT)
}

fn journal_under(directory: &std::path::Path, segments: u64, boot: u128) -> Arc<Journal> {
    let segment_bytes = 32 * 1024;
    let max_bytes = segments * segment_bytes;
    let settings = JournalSettings { segment_bytes, max_bytes, ..JournalSettings::new(directory) };
    let boot = Boot { id: Some(BootId(boot)), began_us: 0 };
    Journal::open_under(settings, &boot).expect("opens")
}

fn count(refusals: &Refusals, now_us: i64, tenant: &str, reason: &str) {
    refusals.count(now_us, tenant, "holding/acme", "growth", "crm", "contacts", reason, 429);
}

/// As far as there was room.
fn assert_flushed(result: Result<(), AppendError>) {
    assert!(matches!(result, Ok(()) | Err(AppendError::Full)), "{result:?}");
}

fn groups(refusals: &Refusals) -> usize {
    refusals.table.slots() - locked(&refusals.free).len()
}

/// (second, tenant, reason) -> (events, requests)
fn journalled(journal: &Journal) -> BTreeMap<(i64, String, String), (u32, u32)> {
    let mut found = BTreeMap::new();
    for key in journal.lanes() {
        let mut reader = journal.reader(key, None).expect("a lane");
        while let Some(frame) = reader.read().expect("readable") {
            let row = View::decode(frame.row).expect("a row");
            assert_eq!((row.kind(), row.meter(), row.status()), (Kind::Refused, "refusals", 429));
            assert_eq!(row.path(), "holding/acme");
            assert_eq!(row.quantity_nano(), i128::from(row.requests()) * 1_000_000_000);
            assert_eq!(row.ts_us() % US_PER_SECOND, 0);
            let second = row.ts_us() / US_PER_SECOND;
            let entry = found
                .entry((second, row.tenant().to_owned(), row.reason().to_owned()))
                .or_insert((0, 0));
            entry.0 += 1;
            entry.1 += row.requests();
        }
    }
    found
}

#[test]
fn a_second_of_refusals_is_one_event_per_group() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    for step in 0..3_000 {
        let now_us = NOW_US + step * 1_000;
        count(&refusals, now_us, "acme", "limit");
        if step % 3 == 0 {
            count(&refusals, now_us, "other", "quota");
        }
    }
    assert_eq!(refusals.oldest_us(), Some(NOW_US + 2 * US_PER_SECOND));
    refusals.flush(NOW_US + 3 * US_PER_SECOND - 1).expect("room");
    let second = NOW_US / US_PER_SECOND;
    let found = journalled(&journal);
    assert_eq!(found.len(), 4, "the third second is not over: {found:?}");
    refusals.flush(NOW_US + 3 * US_PER_SECOND).expect("room");
    assert_eq!(refusals.oldest_us(), None);
    let found = journalled(&journal);
    assert_eq!(found.len(), 6);
    for (index, requests) in [(0, 334), (1, 333), (2, 333)] {
        let of = |tenant: &str, reason: &str| {
            found[&(second + index, tenant.to_owned(), reason.to_owned())]
        };
        assert_eq!(of("acme", "limit"), (1, 1_000));
        assert_eq!(of("other", "quota"), (1, requests));
    }
}

#[test]
fn every_refusal_of_every_thread_is_counted_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = Arc::new(Refusals::open(Arc::clone(&journal)).expect("opens"));
    let flusher = refusals.start().expect("a thread");
    thread::scope(|scope| {
        for thread in 0..4_i64 {
            let refusals = &refusals;
            scope.spawn(move || {
                for step in 0..5_000 {
                    // Threads disagree about the time, as they do.
                    let now_us = NOW_US + (step + thread * 100) * 500;
                    count(refusals, now_us, ["a", "b", "c"][step as usize % 3], "limit");
                }
            });
        }
    });
    drop(flusher);
    let total: u32 = journalled(&journal).values().map(|(_, requests)| requests).sum();
    assert_eq!(total, 20_000);
}

#[test]
fn a_full_journal_delays_counts_and_loses_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    let mut counted = 0;
    let mut second = 0;
    while refusals.flush(NOW_US + second * US_PER_SECOND).is_ok() {
        count(&refusals, NOW_US + second * US_PER_SECOND, "acme", "limit");
        counted += 1;
        second += 1;
    }
    for _ in 0..100 {
        count(&refusals, NOW_US + second * US_PER_SECOND, "acme", "limit");
        counted += 1;
        second += 1;
    }
    let key = journal.lanes()[0];
    let before: u32 = journalled(&journal).values().map(|(_, requests)| requests).sum();
    let mut reader = journal.reader(key, None).expect("a lane");
    while reader.read().expect("readable").is_some() {}
    journal.acknowledge(key, reader.position()).expect("removable");
    while refusals.flush(i64::MAX).is_err() {
        thread::yield_now();
    }
    let mut after = 0;
    while let Some(frame) = reader.read().expect("readable") {
        after += View::decode(frame.row).expect("a row").requests();
    }
    assert_eq!(before + after, counted);
}

#[test]
fn groups_that_rest_are_forgotten() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = Refusals::open(Arc::clone(&journal)).expect("opens");
    assert!(!refusals.is_volatile());
    for tenant in 0..100 {
        count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
    }
    assert_eq!(groups(&refusals), 100);
    refusals.flush(NOW_US + US_PER_SECOND).expect("room");
    assert_eq!(groups(&refusals), 100);
    refusals.flush(NOW_US + 60 * US_PER_SECOND).expect("room");
    assert_eq!(groups(&refusals), 0);
    assert_eq!(journalled(&journal).len(), 100);
}

#[test]
fn what_was_served_unmetered_is_one_event_per_group_and_day_when_there_is_room() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = open(&journal);
    fill(&journal);
    let midnight_us = (NOW_US / 86_400 / US_PER_SECOND + 1) * 86_400 * US_PER_SECOND;
    for step in 0..1_000 {
        let now_us = midnight_us + (step - 700) * US_PER_SECOND;
        refusals.count_unmetered(&event("acme", "api_calls", now_us));
        if step % 10 == 0 {
            assert_eq!(refusals.flush(now_us), Err(AppendError::Full));
        }
    }
    // One that began earlier and ended later.
    refusals.count_unmetered(&event("acme", "api_calls", midnight_us - 800 * US_PER_SECOND));
    assert_eq!(refusals.oldest_us(), Some(midnight_us - 800 * US_PER_SECOND));
    let mut cursors = Cursors::new();
    drain(&journal, &mut cursors);
    while refusals.flush(i64::MAX).is_err() {
        thread::yield_now();
    }
    let mut found = Vec::new();
    let key = *journal.lanes().last().expect("a lane");
    let mut reader = journal.reader(key, cursors.get(&key).copied()).expect("a lane");
    while let Some(frame) = reader.read().expect("readable") {
        let row = View::decode(frame.row).expect("a row");
        assert_eq!((row.kind(), row.flags(), row.status()), (Kind::Request, Flags::UNMETERED, 200));
        assert_eq!(
            (row.meter(), row.reason(), row.route()),
            ("api_calls", "unmetered", "contacts")
        );
        let requests = u64::from(row.requests());
        assert_eq!(row.quantity_nano(), i128::from(requests) * 3 * UNIT_NANO);
        assert_eq!((row.request_bytes(), row.response_bytes()), (requests * 10, requests * 20));
        found.push((row.ts_us() - midnight_us, row.requests()));
    }
    found.sort_unstable();
    assert_eq!(found, [(-800 * US_PER_SECOND, 701), (0, 300)]);
}

#[test]
fn groups_beyond_the_cap_are_events_of_their_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 64);
    let refusals = open(&journal);
    for tenant in 0..100 {
        count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
        count(&refusals, NOW_US, &format!("tenant-{tenant}"), "limit");
    }
    count(&refusals, NOW_US, &"x".repeat(1_000), "limit");
    assert_eq!(groups(&refusals), 48, "the rest is kept for wider groups");
    assert_eq!(journalled(&journal).values().map(|it| it.1).sum::<u32>(), 52 * 2 + 1);
    refusals.flush(NOW_US + US_PER_SECOND).expect("room");
    let found = journalled(&journal);
    assert_eq!(found.len(), 101);
    assert_eq!(found.values().map(|it| it.1).sum::<u32>(), 201);
    // Few slots were left, so groups without a count were forgotten until there were more.
    assert!(groups(&refusals) <= 32, "{} groups", groups(&refusals));
    assert_eq!(refusals.uncounted(), 0);
}

/// What is journalled once there is room, of what was counted while there was none.
fn drained(journal: &Journal, refusals: &Refusals) -> Sums {
    let mut cursors = Cursors::new();
    let mut sums = drain(journal, &mut cursors);
    while refusals.flush(i64::MAX).is_err() {
        add_all(&mut sums, drain(journal, &mut cursors));
    }
    add_all(&mut sums, drain(journal, &mut cursors));
    sums
}

/// A request by `route` of `tenant`, with a path of the greatest depth and the longest ids.
fn long<'a>(tenant: &'a str, path: &'a str, route: &'a str) -> Event<'a> {
    Event { path, route, plan: tenant, app: tenant, ..event(tenant, "api_calls", NOW_US) }
}

#[test]
fn m1_with_a_full_journal_groups_beyond_the_cap_join_wider_ones() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = open(&journal);
    fill(&journal);
    let tenants: Vec<String> = (0..5).map(|number| format!("{number}").repeat(64)).collect();
    let paths: Vec<String> = tenants.iter().map(|id| [id.as_str(); 8].join("/")).collect();
    let mut model = Sums::new();
    for round in 0..2_u64 {
        for route in 0..64 {
            let route = format!("{route:064}");
            for (tenant, path) in tenants.iter().zip(&paths) {
                let served = long(tenant, path, &route);
                refusals.count_unmetered(&Event { response_bytes: 20 + round, ..served });
                let of = |flags: Flags, label: &str| {
                    (1, flags.bits(), tenant.clone(), label.to_owned(), [0; 16])
                };
                let counted = Counted {
                    requests: 1,
                    quantity_nano: served.quantity_nano,
                    bytes: (10, 20 + round),
                };
                add(&mut model, of(Flags::UNMETERED, "api_calls"), counted);
                let figure = Event { meter: "tokens", quantity_nano: 7, ..served };
                refusals.count_figure(&figure, Combine::Sum);
                let counted = Counted { quantity_nano: 7, ..Counted::default() };
                add(&mut model, of(Flags::UNMETERED.with(Flags::MEASURED), "tokens"), counted);
            }
        }
    }
    assert_eq!(groups(&refusals), 58, "48 of their own, and two for each tenant");
    assert_eq!((refusals.uncounted(), journal.losses()), (0, Vec::new()));
    assert_eq!(drained(&journal, &refusals), model);
}

#[test]
fn m1_what_finds_no_group_at_all_is_a_loss_and_told_at_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = open(&journal);
    fill(&journal);
    let mut model = 0;
    for tenant in 0..200 {
        refusals.count_unmetered(&event(&format!("tenant-{tenant}"), "api_calls", NOW_US));
        model += 1;
        let (lost, losses) = (refusals.uncounted(), journal.losses());
        assert_eq!(losses.len(), usize::from(lost > 0), "told with the first");
    }
    assert_eq!(groups(&refusals), 64);
    refusals.flush(NOW_US).expect_err("full");
    let [loss] = journal.losses()[..] else { panic!("one loss") };
    assert_eq!((loss.cause, loss.events, loss.bytes), (LossCause::Uncounted, 136, 136 * 30));
    assert_eq!((loss.lane.epoch, loss.lane.lane), (journal.epoch(), Loss::NO_LANE));
    assert_eq!(loss.since_us, NOW_US);
    assert_eq!(requests(&drained(&journal, &refusals)) + loss.events, model);

    // The next process tells of it, until somebody has noted it.
    journal.close();
    let again = self::journal(directory.path(), 2);
    assert_eq!(again.losses(), [loss]);
    again.losses_noted(&[loss]).expect("writable");
    again.close();
    assert_eq!(self::journal(directory.path(), 2).losses(), []);
}

#[test]
fn there_are_as_many_groups_as_the_disk_has_room_for_and_none_are_left_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let capacity = Capacity { files: 4, ..SMALL };
    let refusals = Refusals::with_capacity(Arc::clone(&journal), capacity).expect("opens");
    fill(&journal);
    let mut counted = 0;
    for file in 1..=4 {
        for tenant in 0..64 {
            let tenant = format!("tenant-{file}-{tenant}");
            refusals.count_unmetered(&event(&tenant, "api_calls", NOW_US));
            counted += 1;
        }
        refusals.flush(NOW_US).expect_err("full");
        assert_eq!(refusals.table.slots(), 64 * 4.min(file + 1));
    }
    assert_eq!((groups(&refusals), refusals.uncounted()), (256, 0));
    drop(refusals);
    let refusals = Refusals::with_capacity(Arc::clone(&journal), capacity).expect("opens");
    assert_eq!(groups(&refusals), 256, "all of them are found again");
    assert_eq!(requests(&drained(&journal, &refusals)), counted);
    drop(refusals);
    let refusals = Refusals::with_capacity(Arc::clone(&journal), capacity).expect("opens");
    assert_eq!((groups(&refusals), refusals.table.slots()), (0, 64));
}

#[test]
fn figures_and_members_become_what_their_meters_say() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = journal(directory.path(), 2);
    let refusals = open(&journal);
    fill(&journal);
    let at = |second: i64| NOW_US + second * US_PER_SECOND;
    for (second, quantity_nano) in [(1, 5), (3, 9), (2, 7)] {
        for (meter, combine) in
            [("sum", Combine::Sum), ("max", Combine::Max), ("last", Combine::Last)]
        {
            let figure = Event { quantity_nano, ..event("acme", meter, at(second)) };
            refusals.count_figure(&figure, combine);
        }
        let member = Event {
            request_id: [second as u8 % 2; 16],
            flags: Flags::MEMBER,
            requests: 0,
            quantity_nano: UNIT_NANO,
            request_bytes: 0,
            response_bytes: 0,
            ..event("acme", "users", at(second))
        };
        refusals.count_unmetered(&member);
    }
    // More of a request that was counted before there was no room.
    let part = Event {
        flags: Flags::PART,
        requests: 0,
        quantity_nano: 0,
        ..event("acme", "calls", at(0))
    };
    refusals.count_unmetered(&part);
    let found = drained(&journal, &refusals);
    let of = |flag: Flags, meter: &str, id: u8| {
        let flags = Flags::UNMETERED.with(flag).bits();
        found[&(1, flags, "acme".to_owned(), meter.to_owned(), [id; 16])]
    };
    let quantity = |meter| of(Flags::MEASURED, meter, 0).quantity_nano;
    assert_eq!([quantity("sum"), quantity("max"), quantity("last")], [21, 9, 9]);
    for id in [0, 1] {
        assert_eq!(of(Flags::MEMBER, "users", id).quantity_nano, UNIT_NANO);
    }
    let bytes = Counted { bytes: (10, 20), ..Counted::default() };
    assert_eq!(of(Flags::NONE, "calls", 0), bytes);
    assert_eq!((found.len(), requests(&found)), (6, 0));
}
