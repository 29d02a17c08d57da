//! Levels through the whole policy: reservations, events, moves, restarts, and a plain model.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::decide::tests::hash_of;
use crate::keys::tests::key_text;
use crate::meters::figure;
use crate::quota::{InMemory, Memory, QuotaView, Reported, begin_process};
use crate::random::Random;
use crate::{
    Admission, Body, Call, Decision, Denial, LevelRead, Nanos, Permit, Policy, PolicySettings,
    Reading, Reason, Source,
};

const NANO: i128 = 1_000_000_000;
const GB: u64 = 1_000_000_000;
/// 2026-11-10T12:00:00Z
const NOON_US: i64 = 1_794_312_000_000_000;
const TENANTS: [&str; 5] = ["acme", "north", "south", "web", "shop"];

/// Tenants with keys; `parents` are places among them, and `of` is what each has besides.
fn documents(plan: &str, parents: [Option<usize>; 5], of: &dyn Fn(&str) -> String) -> String {
    let mut text = format!(
        r#"
[[plan]]
id = "p"
{plan}
[[plan]]
id = "q"
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{{ address = "127.0.0.1:1" }}]
[[route]]
id = "docs"
app = "crm"
upstream = "u"
[[route]]
id = "other"
path = "/other"
app = "crm"
upstream = "u"
[[route]]
id = "told"
path = "/told"
app = "crm"
upstream = "u"
[[route]]
id = "answered"
path = "/answered"
app = "crm"
upstream = "u"
[[meter]]
id = "storage"
value = "request_bytes"
routes = ["docs"]
[[meter]]
id = "seats"
aggregate = "gauge"
value = "request_header:x-seats"
routes = ["told"]
[[meter]]
id = "kept"
aggregate = "gauge"
value = "response_header:x-kept"
routes = ["answered"]
"#
    );
    for (index, (id, parent)) in TENANTS.iter().zip(parents).enumerate() {
        let above = match parent {
            Some(parent) => format!("parent = \"{}\"", TENANTS[parent]),
            None => "plan = \"p\"".to_owned(),
        };
        let (level, hash) = (of(id), hash_of(""));
        text.push_str(&format!(
            "[[tenant]]\nid = \"{id}\"\n{above}\n{level}\n\
             [[key]]\nid = \"abcdefghi{index}\"\ntenant = \"{id}\"\nhash = \"{hash}\"\n"
        ));
    }
    text
}

const PARENTS: [Option<usize>; 5] = [None, Some(0), Some(0), Some(1), Some(1)];

fn quota(limit: u64, more: &str) -> String {
    format!(r#"quotas = [{{ name = "storage", meter = "storage", limit = {limit}{more} }}]"#)
}

fn policy_in(memory: &Arc<dyn Memory>, text: &str) -> Policy {
    let memory = Arc::clone(memory);
    let settings = PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory };
    let sources = [Source { file: "t.toml".into(), text: text.into() }];
    Policy::new(&sources, &settings, NOON_US).unwrap_or_else(|found| panic!("{found}"))
}

fn policy(text: &str) -> Policy {
    policy_in(&InMemory::shared(), text)
}

fn apply(policy: &Policy, text: &str) {
    let sources = [Source { file: "t.toml".into(), text: text.into() }];
    let now = || Reading { mono: Nanos(0), unix_us: NOON_US };
    policy.apply(&sources, now).unwrap_or_else(|found| panic!("{found}"));
}

fn ask(policy: &Policy, tenant: &str, path: &str, body: Body, header: Option<&str>) -> Decision {
    let place = TENANTS.iter().position(|id| *id == tenant).expect("a tenant");
    let key = key_text(&format!("abcdefghi{place}"), &"0".repeat(32));
    policy.decide(&Call {
        key: Some(key.as_bytes()),
        host: "x",
        path,
        method: "POST",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body,
        header: &|_| header.map(str::as_bytes),
        now: Nanos(0),
        unix_us: NOON_US,
    })
}

fn admitted(decision: Decision) -> Permit {
    match decision {
        Decision::Admit(Admission { permit, .. }) => permit,
        Decision::Deny(denial) => panic!("{:?}", denial.reason),
    }
}

fn denied(decision: Decision) -> Denial {
    match decision {
        Decision::Admit(_) => panic!("admitted"),
        Decision::Deny(denial) => denial,
    }
}

fn upload(policy: &Policy, tenant: &str, bytes: u64) -> Decision {
    ask(policy, tenant, "/", Body::Length(bytes), None)
}

/// What an answer of 2xx makes of it, dated so many microseconds after noon.
fn store(policy: &Policy, mut permit: Permit, meter: &str, nano: i128, after_us: i64) {
    let meter = permit.snapshot().meter_id(meter).expect("a meter");
    policy.change_level(&mut permit, meter, nano, NOON_US + after_us);
}

fn put(policy: &Policy, tenant: &str, bytes: u64) {
    store(policy, admitted(upload(policy, tenant, bytes)), "storage", i128::from(bytes) * NANO, 1);
}

fn tell(policy: &Policy, tenant: &str, level: i128, after_us: i64) {
    let at_us = NOON_US + after_us;
    let event = Reported { path: tenant, plan: "p", meter: "storage", at_us };
    policy.tell_level(tenant, &event, level * NANO);
}

/// The quotas of storage, by tenant and level.
fn used(policy: &Policy) -> Vec<(String, &'static str, u64)> {
    let mut used = Vec::new();
    policy.each_quota(NOON_US, &mut |view: &QuotaView<'_>| {
        if view.meter == "storage" {
            assert_eq!(view.window, None);
            used.push((view.tenant.to_owned(), view.level.as_str(), view.used));
        }
    });
    used.sort();
    used
}

/// The only one of them.
fn level(policy: &Policy) -> u64 {
    let used = used(policy);
    assert_eq!(used.len(), 1);
    used[0].2
}

#[test]
fn p1_the_storage_of_a_plan_is_refused_at_the_next_byte() {
    let policy = policy(&documents("storage_gb = 1", PARENTS, &|_| String::new()));
    put(&policy, "web", GB - 10);
    // All of it is there, and what is on its way counts.
    let first = admitted(upload(&policy, "north", 7));
    let denial = denied(upload(&policy, "web", 4));
    let Reason::QuotaExhausted(exhausted) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!((exhausted.used, exhausted.limit, exhausted.resets_us), (GB - 3, GB, None));
    let limited = exhausted.limited;
    assert_eq!((limited.remaining, limited.ready_at, limited.never), (3, None, false));
    assert_eq!(denial.quota(), Some(("storage", None)));
    let limit = denial.limit().expect("a quota");
    assert_eq!((limit.name, limit.tenant), ("plan/storage", "acme"));
    let last = admitted(upload(&policy, "shop", 3));
    assert_eq!(level(&policy), GB);
    drop(denied(upload(&policy, "web", 1)));
    // What failed is given back.
    drop(first);
    assert_eq!(level(&policy), GB - 7);
    store(&policy, last, "storage", 3 * NANO, 1);
    assert_eq!(level(&policy), GB - 7, "it was counted as it was reserved");
    put(&policy, "web", 7);
    let denial = denied(upload(&policy, "web", 2 * GB));
    let Reason::QuotaExhausted(exhausted) = denial.reason else { panic!("{:?}", denial.reason) };
    assert!(exhausted.limited.never, "not even into empty storage");
}

#[test]
fn what_raises_nothing_is_never_refused() {
    let policy = policy(&documents("storage_gb = 1", PARENTS, &|_| String::new()));
    tell(&policy, "web", 5_000_000_000, 1);
    assert_eq!(level(&policy), 5 * GB);
    for (path, body) in [
        ("/", Body::None),
        ("/", Body::Length(0)),
        ("/other", Body::Length(5)),
        ("/other", Body::Unknown),
        ("/told", Body::Length(5)),
    ] {
        drop(admitted(ask(&policy, "web", path, body, None)));
    }
    for body in [Body::Length(1), Body::Unknown] {
        drop(denied(ask(&policy, "web", "/", body, None)));
    }
    tell(&policy, "web", 999_999_999, 2);
    drop(admitted(ask(&policy, "web", "/", Body::Unknown, None)));
    assert_eq!(level(&policy), GB - 1, "nothing is reserved before it comes");
}

#[test]
fn p1_a_body_of_unknown_length_is_reserved_piece_by_piece() {
    let policy = policy(&documents("", PARENTS, &|id| match id {
        "acme" => quota(100, ""),
        "north" => quota(60, ""),
        _ => String::new(),
    }));
    let mut permit = admitted(ask(&policy, "web", "/", Body::Unknown, None));
    assert!(permit.reserve(30).is_ok(), "there is room");
    assert!(permit.reserve(20).is_ok(), "there is room");
    let at = |north, acme| {
        [("acme".to_owned(), "holding", acme), ("north".to_owned(), "subsidiary", north)]
    };
    assert_eq!(used(&policy), at(50, 50));
    let Err(denial) = permit.reserve(11) else { panic!("a byte too many") };
    let Reason::QuotaExhausted(exhausted) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!((exhausted.used, exhausted.limit), (50, 60));
    assert_eq!(denial.limit().map(|limit| limit.tenant), Some("north"));
    assert_eq!(used(&policy), at(50, 50), "P2: the wider level is as it was");
    assert!(permit.reserve(10).is_ok(), "to the byte");
    // Half of it became a row, the rest is still on its way.
    let meter = permit.snapshot().meter_id("storage").expect("a meter");
    policy.change_level(&mut permit, meter, 30 * NANO, NOON_US + 1);
    assert_eq!(used(&policy), at(60, 60));
    permit.release_levels();
    permit.release_levels();
    assert_eq!(used(&policy), at(30, 30));
    drop(permit);
    assert_eq!(used(&policy), at(30, 30));
}

#[test]
fn p2_a_refused_upload_reserves_at_no_level() {
    let calls = r#"{ name = "calls", meter = "api_calls", limit = 3, per = "day" }"#;
    let plan = format!("storage_gb = 1\nquotas = [{calls}]");
    let policy = policy(&documents(&plan, PARENTS, &|id| match id {
        "web" => quota(100, ""),
        "north" => quota(50, ""),
        _ => String::new(),
    }));
    let zeros = [
        ("acme".to_owned(), "plan", 0),
        ("north".to_owned(), "subsidiary", 0),
        ("web".to_owned(), "business_unit", 0),
    ];
    for bytes in [51, 101] {
        let denial = denied(upload(&policy, "web", bytes));
        let violated = denial.violated().count();
        assert_eq!(violated, 1 + usize::from(bytes == 101));
        assert_eq!(used(&policy), zeros);
    }
    (0..3).for_each(|_| drop(admitted(upload(&policy, "web", 50))));
    let denial = denied(upload(&policy, "web", 51));
    let Reason::QuotaExhausted(exhausted) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!(exhausted.resets_us, None, "what has no end outlasts a day");
    assert_eq!(denial.violated().count(), 2);
    let denial = denied(upload(&policy, "web", 50));
    assert_eq!(denial.quota().map(|(meter, _)| meter), Some("api_calls"));
    assert_eq!(used(&policy), zeros);
}

#[test]
fn headers_raise_and_lower_levels() {
    let quotas = r#"quotas = [
        { name = "seats", meter = "seats", limit = 10 },
        { name = "kept", meter = "kept", limit = 10 },
    ]"#;
    let policy = policy(&documents(quotas, PARENTS, &|_| String::new()));
    let seats = |header| ask(&policy, "web", "/told", Body::Length(99), Some(header));
    drop(denied(seats("11")));
    store(&policy, admitted(seats("9.5")), "seats", 19 * NANO / 2, 1);
    drop(denied(seats("0.5")));
    for header in ["0", "-3", "many"] {
        drop(admitted(seats(header)));
    }
    store(&policy, admitted(seats("-3")), "seats", -3 * NANO, 2);
    store(&policy, admitted(seats("3")), "seats", 3 * NANO, 3);
    drop(denied(seats("1")));
    // What only the answer says is not known before it.
    let kept = |body| ask(&policy, "web", "/answered", body, None);
    store(&policy, admitted(kept(Body::Length(1))), "kept", 10 * NANO, 1);
    drop(denied(kept(Body::Length(1))));
    drop(denied(kept(Body::Unknown)));
    store(&policy, admitted(kept(Body::None)), "kept", -NANO, 2);
    drop(admitted(kept(Body::Unknown)));
}

/// The largest figure a header can say.
const LARGEST: &str = "99999999999999999999999999999.999999999";

#[test]
fn p1_a_figure_beyond_every_room_is_refused_for_ever() {
    let quotas = |more: &str| {
        format!(r#"quotas = [{{ name = "seats", meter = "seats", limit = 10{more} }}]"#)
    };
    let seats = |policy: &Policy, header| ask(policy, "web", "/told", Body::None, Some(header));
    let blocked = policy(&documents(&quotas(""), PARENTS, &|_| String::new()));
    // The last three are what does not fit, or just so, into 64 bits.
    for header in ["11", "100000000000000000000", LARGEST, "18446744073709551615"] {
        let Reason::QuotaExhausted(exhausted) = denied(seats(&blocked, header)).reason else {
            panic!("refused for something else");
        };
        assert_eq!((exhausted.used, exhausted.limit), (0, 10), "{header}");
    }
    let bytes = policy(&documents(&quota(10, ""), PARENTS, &|_| String::new()));
    drop(denied(upload(&bytes, "web", u64::MAX)));
    // Where it is billed, levels stay at their end.
    let billed = quotas(", at_limit = \"allow_and_bill\"");
    let billed = policy(&documents(&billed, PARENTS, &|_| String::new()));
    let by_nano = figure::signed_nano(LARGEST.as_bytes()).expect("a figure");
    for after_us in 1..=100 {
        store(&billed, admitted(seats(&billed, LARGEST)), "seats", by_nano, after_us);
    }
    assert_eq!(seats_in_use(&billed), 1 << 56);
    let at =
        |after_us| Reported { path: "web", plan: "p", meter: "seats", at_us: NOON_US + after_us };
    billed.tell_level("web", &at(0), by_nano);
    let read = LevelRead { level_nano: by_nano, told_us: Some(NOON_US), own_nano: -by_nano };
    billed.set_levels("seats", &[("web".to_owned(), read)]);
    assert_eq!(seats_in_use(&billed), 1 << 56);
    billed.tell_level("web", &at(101), 3 * NANO);
    assert_eq!(seats_in_use(&billed), 3);
}

fn seats_in_use(policy: &Policy) -> u64 {
    let snapshot = policy.load();
    let quotas = snapshot.quotas_of("web", NOON_US).expect("there");
    quotas.iter().find(|quota| quota.meter == "seats").expect("there").used
}

#[test]
fn an_event_counts_from_its_time_on() {
    let policy = policy(&documents("", PARENTS, &|id| match id {
        "acme" => quota(1_000, r#", at_limit = "allow_and_bill""#),
        _ => String::new(),
    }));
    let change = |bytes, after_us| {
        let permit = admitted(ask(&policy, "web", "/", Body::Length(0), None));
        store(&policy, permit, "storage", bytes * NANO, after_us);
    };
    change(10, 10);
    change(20, 20);
    change(30, 30);
    assert_eq!(level(&policy), 60);
    tell(&policy, "web", 1_000, 20);
    assert_eq!(level(&policy), 1_030, "an event of the same microsecond is later");
    tell(&policy, "web", 5, 19);
    change(7, 15);
    change(7, 20);
    assert_eq!(level(&policy), 1_030, "what is older than the event changes nothing");
    change(-31, 40);
    assert_eq!((level(&policy), policy.late_counts()), (999, 0));
    tell(&policy, "web", 0, 35);
    assert_eq!(level(&policy), 0, "a level below nothing is empty");
    change(100, 50);
    assert_eq!(level(&policy), 69);
    // More than is remembered came after it.
    (0..100).for_each(|number| change(1, 100 + number));
    tell(&policy, "web", 500, 60);
    assert_eq!(level(&policy), 500 + 100 + 69, "rather too much, until the rows are read");
    assert_eq!(policy.late_counts(), 1);
    tell(&policy, "shop", 1, -1);
    assert_eq!(policy.late_counts(), 2, "an earlier process may have changed it since");
    let read = |level_nano, told_us, own| LevelRead {
        level_nano: level_nano * NANO,
        told_us: Some(NOON_US + told_us),
        own_nano: own * NANO,
    };
    // All of the own changes are there: 10 + 20 + 30 + 7 + 7 - 31 + 100 + 100.
    let rows = [("web".to_owned(), read(600, 60, 243)), ("north".to_owned(), read(4, 0, 0))];
    policy.set_levels("storage", &rows);
    assert_eq!(level(&policy), 604 + 1, "the event of `shop` is on its way");
    // Ten of them are not there yet.
    policy.set_levels("storage", &[("web".to_owned(), read(600, 60, 233))]);
    assert_eq!(
        level(&policy),
        610 + 1 + 4,
        "nor are those of `north`, which is known to have some"
    );
    policy.set_levels("storage", &[("web".to_owned(), read(1, 59, 243))]);
    assert_eq!(level(&policy), 615, "the latest event is not there yet");
}

#[test]
fn p3_a_level_outlives_the_process_and_whatever_a_reload_changes() {
    let memory = InMemory::shared();
    let text = |of: &dyn Fn(&str) -> String| documents("", PARENTS, of);
    let at = |id: &'static str, limit: u64| {
        move |other: &str| if other == id { quota(limit, "") } else { String::new() }
    };
    let first = policy_in(&memory, &text(&at("acme", 100)));
    put(&first, "web", 40);
    tell(&first, "south", 30, 5);
    let in_flight = admitted(upload(&first, "north", 5));
    assert_eq!(level(&first), 75);
    // Killed: what is in flight is not stored.
    for (tenant, ..) in used(&first) {
        assert_eq!(tenant, "acme");
    }
    let keys: Vec<u128> = {
        let mut keys = Vec::new();
        first.each_quota(NOON_US, &mut |view| keys.push(view.key));
        keys
    };
    keys.iter().filter_map(|key| memory.find(*key)).for_each(begin_process);
    let second = policy_in(&memory, &text(&at("acme", 100)));
    assert_eq!(level(&second), 70);
    tell(&second, "south", 99, 4);
    assert_eq!(level(&second), 70, "it knows of the event before");
    drop(denied(upload(&second, "web", 31)));
    drop(in_flight);
    // Another name, another limit, and what is on its way stays reserved.
    let on_its_way = admitted(upload(&second, "web", 10));
    let renamed = quota(85, "").replace("name = \"storage\"", "name = \"space\"");
    apply(&second, &text(&|id| if id == "acme" { renamed.clone() } else { String::new() }));
    assert_eq!(level(&second), 80);
    drop(denied(upload(&second, "shop", 6)));
    // Where another one stands now.
    apply(&second, &text(&at("north", 100)));
    assert_eq!(level(&second), 40);
    store(&second, on_its_way, "storage", 10 * NANO, 9);
    assert_eq!(level(&second), 50);
    // Nobody asks for it for a while.
    apply(&second, &text(&|_| String::new()));
    put(&second, "web", 1);
    apply(&second, &text(&at("web", 100)));
    assert_eq!(level(&second), 51);
    let third = policy_in(&memory, &text(&at("acme", 100)));
    assert_eq!(level(&third), 81);
}

#[test]
fn a_tenant_that_moves_takes_its_level_along() {
    let of = |id: &str| match id {
        "north" | "south" => quota(1_000, ""),
        _ => String::new(),
    };
    let policy = policy(&documents("storage_gb = 1", PARENTS, &of));
    put(&policy, "web", 40);
    put(&policy, "shop", 7);
    let moving = admitted(upload(&policy, "web", 3));
    let at = |acme, north, south| {
        [
            ("acme".to_owned(), "plan", acme),
            ("north".to_owned(), "subsidiary", north),
            ("south".to_owned(), "subsidiary", south),
        ]
    };
    assert_eq!(used(&policy), at(50, 50, 0));
    let mut parents = PARENTS;
    parents[3] = Some(2);
    apply(&policy, &documents("storage_gb = 1", parents, &of));
    assert_eq!(used(&policy), at(50, 10, 40), "what is on its way is still where it was");
    store(&policy, moving, "storage", 3 * NANO, 9);
    assert_eq!(used(&policy), at(50, 7, 43));
    // With a plan of its own it is not at the plan above.
    let own = |id: &str| if id == "south" { format!("{}\nplan = \"q\"", of(id)) } else { of(id) };
    apply(&policy, &documents("storage_gb = 1", parents, &own));
    assert_eq!(used(&policy), at(7, 7, 43));
    apply(&policy, &documents("storage_gb = 1", PARENTS, &of));
    assert_eq!(used(&policy), at(50, 50, 0));
}

#[test]
fn p1_sixteen_uploaders_never_pass_a_level() {
    const LIMIT: u64 = 5_000;
    let policy = policy(&documents("", PARENTS, &|id| match id {
        "acme" => quota(LIMIT, ""),
        "north" => quota(3_000, ""),
        _ => String::new(),
    }));
    let stored: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16_u64)
            .map(|thread| {
                let policy = &policy;
                scope.spawn(move || {
                    let mut stored = 0;
                    for turn in 0..400_u64 {
                        let tenant = TENANTS[(turn % 4) as usize + 1];
                        let bytes = 1 + (turn * 7 + thread * 13) % 23;
                        let unknown = turn % 3 == 0;
                        let body = if unknown { Body::Unknown } else { Body::Length(bytes) };
                        let Decision::Admit(admission) = ask(policy, tenant, "/", body, None)
                        else {
                            continue;
                        };
                        let mut permit = admission.permit;
                        let comes = !unknown || (0..bytes).all(|_| permit.reserve(1).is_ok());
                        for (_, _, used) in used(policy) {
                            assert!(used <= LIMIT);
                        }
                        // Every fourth fails.
                        if comes && turn % 4 != 1 {
                            store(policy, permit, "storage", i128::from(bytes) * NANO, 1);
                            stored += bytes;
                        }
                    }
                    stored
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let all = used(&policy);
    assert_eq!(all[0].2, stored, "what is stored, and nothing else");
    assert!(all[0].2 <= LIMIT && all[1].2 <= 3_000);
    assert!(stored > 4_900 || all[1].2 > 2_900, "full: {all:?}");
}

/// Everything that happened to one tenant's level, in no order but that of its instants.
#[derive(Default, Clone)]
struct Plain {
    events: Vec<(i64, i128)>,
    changes: Vec<(i64, i128)>,
}

impl Plain {
    fn level(&self) -> i128 {
        let latest = self.events.iter().enumerate().max_by_key(|(place, (at, _))| (*at, *place));
        let (told_us, told) = latest.map_or((i64::MIN, 0), |(_, event)| *event);
        let after = self.changes.iter().filter(|(at_us, _)| *at_us > told_us);
        told + after.map(|(_, by)| by).sum::<i128>()
    }
}

#[test]
fn p1_p3_levels_are_those_of_a_plain_model() {
    let mut random = Random::printed();
    let memory = InMemory::shared();
    let mut parents = PARENTS;
    let mut own_plan = None;
    let limit = 2_000;
    let text = |parents, own_plan: Option<usize>| {
        let plan = quota(limit, "");
        documents(&plan, parents, &|id: &str| {
            let mut text =
                if id == "acme" || id == "shop" { String::new() } else { quota(900, "") };
            if own_plan.is_some_and(|own| TENANTS[own] == id) {
                text.push_str("\nplan = \"q\"");
            }
            text
        })
    };
    let mut policy = policy_in(&memory, &text(parents, own_plan));
    let mut plain: HashMap<&str, Plain> = HashMap::new();
    let (mut now, mut refused, mut stored) = (0, 0, 0);
    for step in 0..20_000 {
        now += random.below(3).cast_signed();
        let tenant = TENANTS[random.below(5) as usize];
        match random.below(100) {
            0 => {
                // Another parent, or a plan of its own; never in a circle.
                if random.below(2) == 0 {
                    parents[3] = Some(1 + random.below(2) as usize);
                    parents[4] = Some(random.below(4) as usize);
                } else {
                    own_plan = (random.below(2) == 0).then(|| 1 + random.below(4) as usize);
                }
                apply(&policy, &text(parents, own_plan));
            }
            1 => policy = policy_in(&memory, &text(parents, own_plan)),
            2..=9 => {
                // As far back as nothing else happened to it since this process began.
                let at = now;
                let level = i128::from(random.below(400));
                tell(&policy, tenant, level, at);
                plain.entry(tenant).or_default().events.push((at, level));
            }
            _ => {
                let bytes = random.below(120);
                let fits = expected(&plain, parents, own_plan, |sum, most| {
                    sum + i128::from(bytes) <= i128::from(most)
                })(tenant);
                match upload(&policy, tenant, bytes) {
                    Decision::Admit(admission) => {
                        assert!(bytes == 0 || fits, "step {step}");
                        if random.below(4) > 0 {
                            let permit = admission.permit;
                            store(&policy, permit, "storage", i128::from(bytes) * NANO, now);
                            plain.entry(tenant).or_default().changes.push((now, bytes.into()));
                            stored += 1;
                        }
                    }
                    Decision::Deny(_) => {
                        assert!(bytes > 0 && !fits, "step {step}");
                        refused += 1;
                    }
                }
            }
        }
        if step % 50 == 0 {
            for (id, level, used) in used(&policy) {
                let of_plan = level == "plan";
                let sum = sum(&plain, parents, own_plan, &id, of_plan);
                assert_eq!(i128::from(used), sum.max(0), "step {step}: {id} {level}");
            }
        }
    }
    assert!(refused > 1_000 && stored > 1_000, "{refused} {stored}");
}

fn chain(parents: [Option<usize>; 5], from: usize) -> Vec<usize> {
    std::iter::successors(Some(from), |at| parents[*at]).collect()
}

/// The level at a tenant, or at its plan.
fn sum(
    plain: &HashMap<&str, Plain>,
    parents: [Option<usize>; 5],
    own_plan: Option<usize>,
    id: &str,
    of_plan: bool,
) -> i128 {
    let place = TENANTS.iter().position(|other| *other == id).expect("a tenant");
    let held = (0..5).filter(|tenant| {
        let chain = chain(parents, *tenant);
        let below = chain.iter().take_while(|at| **at != place);
        let is_held = chain.contains(&place);
        is_held && !(of_plan && below.into_iter().any(|at| Some(*at) == own_plan))
    });
    held.filter_map(|tenant| Some(plain.get(TENANTS[tenant])?.level())).sum()
}

/// Whether `fits` holds at every quota of a tenant's chain.
fn expected<'p>(
    plain: &'p HashMap<&str, Plain>,
    parents: [Option<usize>; 5],
    own_plan: Option<usize>,
    fits: impl Fn(i128, u64) -> bool + 'p,
) -> impl Fn(&str) -> bool + 'p {
    move |tenant| {
        let place = TENANTS.iter().position(|other| *other == tenant).expect("a tenant");
        let chain = chain(parents, place);
        let has_plan = !chain.iter().any(|at| Some(*at) == own_plan);
        let own = chain.iter().filter(|at| !matches!(TENANTS[**at], "acme" | "shop"));
        let mut all = own.map(|at| (sum(plain, parents, own_plan, TENANTS[*at], false), 900));
        all.all(|(sum, most)| fits(sum, most))
            && (!has_plan || fits(sum(plain, parents, own_plan, "acme", true), 2_000))
    }
}
