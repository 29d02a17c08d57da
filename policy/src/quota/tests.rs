//! Quotas through the whole policy: chains, reloads, charges and views.

mod model;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::decide::tests::hash_of;
use crate::keys::tests::key_text;
use crate::{Body, Call, Decision, Nanos, Policy, PolicySettings, Reason, Source};

const HOUR_US: i64 = 3_600_000_000;
/// 2026-11-10T12:00:00Z
const NOON_US: i64 = 1_794_312_000_000_000;

fn source(text: &str) -> Vec<Source> {
    vec![Source { file: "t.toml".into(), text: text.into() }]
}

/// A holding with a plan, a team below it with a key; routes of cost 1 and 3, and one on a meter of
/// its own.
fn documents(plan: &str, holding: &str, team: &str, more: &str) -> String {
    format!(
        r#"
[[plan]]
id = "p"
quotas = [{plan}]
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{{ address = "127.0.0.1:1" }}]
[[route]]
id = "one"
app = "crm"
upstream = "u"
[[route]]
id = "three"
path = "/three"
app = "crm"
upstream = "u"
cost = 3
[[route]]
id = "free"
path = "/free"
app = "crm"
upstream = "u"
cost = 0
[[route]]
id = "report"
path = "/report"
app = "crm"
upstream = "u"
meter = "reports"
[[tenant]]
id = "holding"
plan = "p"
{holding}
[[tenant]]
id = "team"
level = "team"
parent = "holding"
{team}
[[key]]
id = "abcdefghi1"
tenant = "team"
hash = "{}"
{more}
"#,
        hash_of("")
    )
}

fn policy_in(memory: Arc<dyn Memory>, text: &str) -> Policy {
    let settings = PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory };
    Policy::new(&source(text), &settings, 0).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

fn policy(plan: &str, holding: &str, team: &str) -> Policy {
    policy_in(InMemory::shared(), &documents(plan, holding, team, ""))
}

fn apply(policy: &Policy, text: &str) {
    apply_at(policy, text, NOON_US);
}

fn apply_at(policy: &Policy, text: &str, unix_us: i64) {
    policy
        .apply(&source(text), || crate::Reading { mono: Nanos(0), unix_us })
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
}

fn ask(policy: &Policy, path: &str, unix_us: i64) -> Decision {
    let key = key_text("abcdefghi1", &"0".repeat(32));
    policy.decide(&Call {
        key: Some(key.as_bytes()),
        host: "x",
        path,
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|_| None,
        now: Nanos(0),
        unix_us,
    })
}

/// How many of ten requests are admitted.
fn of_ten(policy: &Policy, path: &str, unix_us: i64) -> usize {
    let admitted = |_: &i32| matches!(ask(policy, path, unix_us), Decision::Admit(_));
    (0..10).filter(admitted).count()
}

fn used(policy: &Policy, name: &str, unix_us: i64) -> u64 {
    let snapshot = policy.load();
    let quotas = snapshot.quotas_of("team", unix_us).expect("the tenant is there");
    quotas.iter().find(|quota| quota.name == name).expect("the quota is there").used
}

#[test]
fn p1_each_level_refuses_at_the_next_unit_and_says_what_is_used_up() {
    let calls = |limit| {
        format!(r#"{{ name = "calls", meter = "api_calls", limit = {limit}, per = "month" }}"#)
    };
    for (tight, level) in [(0, "plan"), (1, "holding"), (2, "team")] {
        let mut limits = [100, 100, 100];
        limits[tight] = 7;
        let own = |limit| format!("quotas = [{}]\nzone = \"America/Sao_Paulo\"", calls(limit));
        let policy = policy(&calls(limits[0]), &own(limits[1]), &own(limits[2]));
        assert_eq!(of_ten(&policy, "/", NOON_US), 7);
        let Decision::Deny(denial) = ask(&policy, "/three", NOON_US) else { panic!("admitted") };
        let Reason::QuotaExhausted(exhausted) = denial.reason else {
            panic!("{:?}", denial.reason)
        };
        assert_eq!((exhausted.used, exhausted.limit, exhausted.limited.remaining), (7, 7, 0));
        // Midnight of the 1st of December in Sao Paulo.
        let resets_us = 1_796_094_000_000_000;
        assert_eq!(exhausted.resets_us, Some(resets_us));
        let wait = u64::try_from(resets_us - NOON_US).expect("later") * 1_000;
        assert_eq!(exhausted.limited.ready_at, Some(Nanos(wait)));
        assert_eq!(denial.limit().map(|limit| limit.level.as_str()), Some(level));
        assert_eq!(denial.quota(), Some(("api_calls", Some(Period::Month))));
        let violated: Vec<_> = denial.violated().map(|limit| limit.name.to_owned()).collect();
        assert_eq!(violated, [format!("{level}/calls")]);
        // P2: the three at the other levels are as they were.
        let snapshot = policy.load();
        let quotas = snapshot.quotas_of("team", NOON_US).expect("the tenant is there");
        let used: Vec<_> = quotas.iter().map(|quota| (quota.level.as_str(), quota.used)).collect();
        assert_eq!(used, [("team", 7), ("holding", 7), ("plan", 7)]);
        assert_eq!(of_ten(&policy, "/", resets_us), 7, "a new month");
    }
}

#[test]
fn a_cost_above_every_window_is_refused_for_ever() {
    let policy =
        policy(r#"{ name = "calls", meter = "api_calls", limit = 2, per = "day" }"#, "", "");
    let Decision::Deny(denial) = ask(&policy, "/three", NOON_US) else { panic!("admitted") };
    let Reason::QuotaExhausted(exhausted) = denial.reason else { panic!("{:?}", denial.reason) };
    assert!(exhausted.limited.never && exhausted.limited.ready_at.is_none());
    assert_eq!(of_ten(&policy, "/free", NOON_US), 10, "what costs nothing needs nothing");
}

#[test]
fn a_quota_of_another_meter_is_charged_later_and_refuses_the_next() {
    let bytes = r#"{ name = "bytes", meter = "data_in", limit = 1_000, per = "day" }"#;
    let policy = policy(bytes, &format!("quotas = [{bytes}]"), "");
    let Decision::Admit(admission) = ask(&policy, "/", NOON_US) else { panic!("refused") };
    let meter = |id| admission.permit.snapshot().meter_id(id).expect("a meter");
    policy.charge(&admission.permit, meter("data_in"), 999, NOON_US);
    policy.charge(&admission.permit, meter("data_out"), 5_000, NOON_US);
    let Decision::Admit(last) = ask(&policy, "/", NOON_US) else { panic!("refused") };
    policy.charge(&last.permit, meter("data_in"), 50, NOON_US);
    assert!(matches!(ask(&policy, "/", NOON_US), Decision::Deny(_)));
    assert_eq!(used(&policy, "bytes", NOON_US), 1_049, "what flowed is counted beyond the limit");
}

#[test]
fn a_quota_refuses_only_where_its_meter_counts() {
    let used_up =
        |meter| format!(r#"{{ name = "{meter}", meter = "{meter}", limit = 0, per = "day" }}"#);
    let meters = r#"
[[meter]]
id = "weight"
aggregate = "sum"
value = "request_header:x-weight"
routes = ["three"]
[[meter]]
id = "told"
aggregate = "sum"
value = "event"
[[meter]]
id = "devices"
aggregate = "distinct"
value = "request_header:x-device"
routes = ["free"]
"#;
    let paths = ["/", "/three", "/free", "/report"];
    for (meter, refused) in [
        ("api_calls", &["/", "/three"][..]),
        ("reports", &["/report"]),
        ("weight", &["/three"]),
        ("processing", &paths),
        ("data_in", &paths),
        ("data_out", &paths),
        // Nobody is named, and events are nobody's request.
        ("devices", &[]),
        ("told", &[]),
    ] {
        let policy = policy_in(InMemory::shared(), &documents(&used_up(meter), "", "", meters));
        let is_refused = |path: &&str| matches!(ask(&policy, path, NOON_US), Decision::Deny(_));
        let seen: Vec<_> = paths.into_iter().filter(is_refused).collect();
        assert_eq!(seen, refused, "{meter}");
    }
}

#[test]
fn a_meter_that_counts_takes_one_of_a_request_whatever_it_costs() {
    let text = documents(
        r#"{ name = "calls", meter = "api_calls", limit = 4, per = "day" }"#,
        "",
        "quotas = [{ name = \"billed\", meter = \"api_calls\", limit = 1, per = \"day\", at_limit = \"allow_and_bill\" }]",
        "[[meter]]\nid = \"api_calls\"\naggregate = \"count\"\nvalue = \"cost\"\n",
    );
    let policy = policy_in(InMemory::shared(), &text);
    for path in ["/three", "/", "/free", "/three"] {
        assert!(matches!(ask(&policy, path, NOON_US), Decision::Admit(_)), "{path}");
    }
    let Decision::Deny(denial) = ask(&policy, "/three", NOON_US) else { panic!("admitted") };
    let Reason::QuotaExhausted(exhausted) = denial.reason else { panic!("{:?}", denial.reason) };
    assert!(!exhausted.limited.never, "one fits into the next day");
    assert!(matches!(ask(&policy, "/free", NOON_US), Decision::Deny(_)));
    assert_eq!((used(&policy, "calls", NOON_US), used(&policy, "billed", NOON_US)), (4, 4));
}

#[test]
fn beyond_the_limit_is_billed_and_counted() {
    let policy = policy(
        r#"{ name = "calls", meter = "api_calls", limit = 4, per = "day", at_limit = "allow_and_bill" }"#,
        "",
        "",
    );
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    let snapshot = policy.load();
    let quota = snapshot.quotas_of("team", NOON_US).expect("the tenant is there")[0];
    assert_eq!((quota.used, quota.overage(), quota.remaining()), (10, 6, 0));
    let Decision::Admit(admission) = ask(&policy, "/", NOON_US) else { panic!("refused") };
    assert!(admission.nearest().is_none(), "it holds nobody back");
}

#[test]
fn beyond_the_limit_a_throttle_decides_and_is_counted() {
    let policy = policy(
        r#"{ name = "calls", meter = "api_calls", limit = 4, per = "day", grace = 1, at_limit = "throttle_to", throttle = { rate = 1, per = "minute", burst = 3 } }"#,
        "",
        "",
    );
    assert_eq!(of_ten(&policy, "/", NOON_US), 4 + 1 + 3);
    assert_eq!(used(&policy, "calls", NOON_US), 8);
    let Decision::Deny(denial) = ask(&policy, "/", NOON_US) else { panic!("admitted") };
    let Reason::Limited(limited) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!(limited.ready_at, Some(Nanos(60_000_000_000)), "a token of the throttle");
    assert_eq!(denial.limit().map(|limit| limit.name.to_owned()), Some("plan/calls".into()));
    assert_eq!(of_ten(&policy, "/", NOON_US + 24 * HOUR_US), 5, "a new day, the same bucket");
}

#[test]
fn beyond_the_limit_a_request_of_no_cost_counts_where_it_is_one_and_takes_nothing_of_a_rate() {
    let plan = r#"{ name = "calls", meter = "api_calls", limit = 4, per = "day", at_limit = "throttle_to", throttle = { rate = 1, per = "minute", burst = 3 } }"#;
    let counts = "[[meter]]\nid = \"api_calls\"\naggregate = \"count\"\nvalue = \"cost\"\n";
    let policy = policy_in(InMemory::shared(), &documents(plan, "", "", counts));
    assert_eq!(of_ten(&policy, "/free", NOON_US), 10);
    assert_eq!(used(&policy, "calls", NOON_US), 10);
    assert_eq!(of_ten(&policy, "/", NOON_US), 3);
    assert_eq!(of_ten(&policy, "/free", NOON_US), 10);
    assert_eq!(used(&policy, "calls", NOON_US), 23);
}

#[test]
fn p2_what_a_throttle_gave_is_put_back_when_a_wider_level_refuses() {
    let throttled = r#"quotas = [{ name = "calls", meter = "api_calls", limit = 0, per = "day", at_limit = "throttle_to", throttle = { rate = 1, per = "hour", burst = 5 } }]"#;
    let policy =
        policy(r#"{ name = "calls", meter = "api_calls", limit = 2, per = "day" }"#, "", throttled);
    assert_eq!(of_ten(&policy, "/", NOON_US), 2);
    assert_eq!(of_ten(&policy, "/", NOON_US + 24 * HOUR_US), 2, "five less two are left");
    assert_eq!(of_ten(&policy, "/", NOON_US + 48 * HOUR_US), 1);
}

#[test]
fn grants_count_in_their_window_and_what_is_left_rolls_over() {
    let plan = r#"{ name = "calls", meter = "api_calls", limit = 5, per = "day", roll_over = 3 }"#;
    let grant = "[[grant]]\ntenant = \"holding\"\nquota = \"calls\"\namount = 2\nat = ";
    let more = format!("{grant}\"2026-11-10\"\n{grant}\"2026-11-10T23:59:59Z\"\n");
    let policy = policy_in(InMemory::shared(), &documents(plan, "", "", &more));
    assert_eq!(of_ten(&policy, "/", NOON_US), 9);
    let day = 24 * HOUR_US;
    assert_eq!(of_ten(&policy, "/", NOON_US + day), 5, "nothing was left over");
    assert_eq!(of_ten(&policy, "/three", NOON_US + 2 * day), 1);
    assert_eq!(of_ten(&policy, "/", NOON_US + 3 * day), 5 + 2, "two of five were left");
    // A day nobody asked for: nothing was used in it, and no more than the bound rolls over.
    assert_eq!(of_ten(&policy, "/", NOON_US + 5 * day), 5 + 3);
    let quota = &policy.load();
    let quota = quota.quotas_of("team", NOON_US + 5 * day).expect("the tenant is there")[0];
    let window = quota.window.expect("it has windows");
    assert_eq!((quota.limit, window.granted, window.rolled_over, quota.used), (5, 0, 3, 8));
    policy.roll(NOON_US + 6 * day);
    policy.each_quota(NOON_US + 6 * day, &mut |quota| {
        let midnight = NOON_US + 6 * day - 12 * HOUR_US;
        let previous = Previous { start_us: midnight - day, end_us: midnight, used: 8, limit: 5 };
        let window = quota.window.expect("it has windows");
        assert_eq!((quota.used, window.rolled_over, window.previous), (0, 0, Some(previous)));
    });
}

#[test]
fn p3_a_reload_forgives_nothing_whatever_it_changes() {
    let calls = |name: &str, limit: u32, per: &str| {
        format!(r#"{{ name = "{name}", meter = "api_calls", limit = {limit}, per = "{per}" }}"#)
    };
    let policy = policy(&calls("calls", 5, "month"), "", "");
    assert_eq!(of_ten(&policy, "/", NOON_US), 5);
    let zone = "zone = \"America/Sao_Paulo\"";
    for (name, per, holding, limit, left) in [
        ("calls", "month", "", 6, 1),
        ("calls", "month", zone, 6, 0),
        ("calls", "day", zone, 7, 1),
        ("calls", "billing_period", zone, 8, 1),
        ("renamed", "billing_period", zone, 9, 1),
        ("calls", "month", "", 10, 1),
    ] {
        let plan = calls(name, limit, per);
        apply(&policy, &documents(&plan, holding, "", ""));
        assert_eq!(of_ten(&policy, "/", NOON_US), left, "{plan}");
    }
    // Taken out and put back: the count is where it was.
    apply(&policy, &documents("", "", "", ""));
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    apply(&policy, &documents(&calls("calls", 11, "month"), "", "", ""));
    assert_eq!(of_ten(&policy, "/", NOON_US), 1);
}

#[test]
fn p3_another_plan_with_the_same_quota_goes_on_counting() {
    let calls = |limit: u32| {
        format!(r#"{{ name = "calls", meter = "api_calls", limit = {limit}, per = "month" }}"#)
    };
    let text = documents(&calls(5), "", "", "");
    let policy = policy_in(InMemory::shared(), &text);
    assert_eq!(of_ten(&policy, "/", NOON_US), 5);
    let other = format!("[[plan]]\nid = \"q\"\nquotas = [{}]\n", calls(8));
    apply(&policy, &(text.replace("plan = \"p\"", "plan = \"q\"") + &other));
    assert_eq!(of_ten(&policy, "/", NOON_US), 3);
}

#[test]
fn p3_another_process_with_the_same_memory_goes_on_counting() {
    let memory = InMemory::shared();
    let text = documents(
        r#"{ name = "calls", meter = "api_calls", limit = 15, per = "month" }"#,
        "",
        "",
        "",
    );
    let first = policy_in(Arc::clone(&memory), &text);
    assert_eq!(of_ten(&first, "/", NOON_US), 10);
    first.each_quota(NOON_US, &mut |quota| {
        let words = memory.words(quota.key).expect("there is room");
        begin_process(words);
    });
    let second = policy_in(memory, &text);
    assert_eq!(of_ten(&second, "/three", NOON_US), 1);
    let quota = second.load();
    let quota = quota.quotas_of("team", NOON_US).expect("the tenant is there")[0];
    let window = quota.window.expect("it has windows");
    assert_eq!((quota.used, window.base), (13, 10));
    assert!(second.set_base(quota.key, window.start_us, 12, 10));
    assert_eq!(used(&second, "calls", NOON_US), 15);
    assert!(!second.set_base(quota.key, window.start_us + 1, 12, 12), "no window starts there");
    assert!(!second.set_base(quota.key + 1, window.start_us, 12, 12), "no such quota");
    assert!(!second.set_base(quota.key, window.end_us, 12, 12), "not yet");
}

#[derive(Debug)]
struct Full;

impl Memory for Full {
    fn words(&self, _key: u128) -> Option<&'static Words> {
        None
    }

    fn find(&self, _key: u128) -> Option<&'static Words> {
        None
    }

    fn retain(&self, _in_use: &dyn Fn(u128) -> bool) {}
}

#[test]
fn without_room_a_quota_counts_in_the_process_and_says_so() {
    let text = |limit: u32| {
        let plan =
            format!(r#"{{ name = "calls", meter = "api_calls", limit = {limit}, per = "month" }}"#);
        documents(&plan, "", "", "")
    };
    let policy = policy_in(Arc::new(Full), &text(5));
    assert_eq!((of_ten(&policy, "/", NOON_US), policy.unkept_quotas()), (5, 1));
    apply(&policy, &text(6));
    assert_eq!((of_ten(&policy, "/", NOON_US), policy.unkept_quotas()), (1, 1));
}

fn event(path: &'static str, meter: &'static str, at_us: i64) -> Reported<'static> {
    Reported { path, plan: "p", meter, at_us }
}

/// What was used in the window of now, and in the one before.
fn counts(policy: &Policy, name: &str, unix_us: i64) -> (u64, u64) {
    let snapshot = policy.load();
    let quotas = snapshot.quotas_of("team", unix_us).expect("the tenant is there");
    let quota = quotas.iter().find(|quota| quota.name == name).expect("the quota is there");
    let previous = quota.window.expect("it has windows").previous;
    (quota.used, previous.map_or(0, |previous| previous.used))
}

#[test]
fn an_event_counts_in_the_window_it_is_dated_in() {
    let calls = r#"{ name = "calls", meter = "api_calls", limit = 100, per = "day" }"#;
    let policy = policy(calls, &format!("quotas = [{calls}]"), "");
    let day = 24 * HOUR_US;
    policy.roll(NOON_US - day);
    policy.roll(NOON_US);
    for (path, meter, at_us, amount) in [
        ("holding/team", "api_calls", NOON_US - HOUR_US, 3),
        ("holding", "api_calls", NOON_US, 4),
        // Ahead, but of today.
        ("holding", "api_calls", NOON_US + HOUR_US, 5),
        ("holding/team", "api_calls", NOON_US - day, 20),
        ("holding/team", "api_calls", NOON_US - 2 * day, 50),
        ("holding/team", "api_calls", NOON_US + 12 * HOUR_US, 30),
        ("holding/team", "api_calls", NOON_US + 2 * day, 50),
        ("holding/team", "data_in", NOON_US, 50),
        ("holding/team", "nonesuch", NOON_US, 50),
        ("nobody", "api_calls", NOON_US, 50),
    ] {
        policy.charge_event(&event(path, meter, at_us), amount, NOON_US);
    }
    assert_eq!(counts(&policy, "calls", NOON_US), (7, 20));
    let mut seen = Vec::new();
    policy.each_quota(NOON_US, &mut |quota| {
        seen.push((quota.path.to_owned(), quota.full_name.to_owned(), quota.used));
    });
    seen.sort();
    let at = |name: &str| ("holding".to_owned(), name.to_owned(), 7);
    assert_eq!(seen, [at("holding/calls"), at("plan/calls")], "each once");
    // What was dated ahead is there once its time has come, and not before.
    policy.charge_due(NOON_US + HOUR_US);
    assert_eq!(counts(&policy, "calls", NOON_US + HOUR_US), (12, 20));
    policy.charge_due(NOON_US + 12 * HOUR_US - 1);
    assert_eq!(counts(&policy, "calls", NOON_US + 12 * HOUR_US - 1), (12, 20));
    policy.charge_due(NOON_US + 12 * HOUR_US);
    assert_eq!(counts(&policy, "calls", NOON_US + 12 * HOUR_US), (30, 12));
    assert_eq!(policy.late_counts(), 0, "all of it was this process's to count");
}

#[test]
fn what_is_dated_before_a_quota_began_is_in_its_base() {
    let memory = InMemory::shared();
    let plan = r#"{ name = "calls", meter = "api_calls", limit = 100, per = "day" }"#;
    let text = documents(plan, "", "", "");
    let settings = PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory };
    let policy = Policy::new(&source(&text), &settings, NOON_US).expect("valid");
    let base = |policy: &Policy| {
        let snapshot = policy.load();
        let quota = snapshot.quotas_of("team", NOON_US + HOUR_US).expect("there")[0];
        let window = quota.window.expect("it has windows");
        (quota.used, window.base, window.since_us)
    };
    policy.charge_event(&event("holding", "api_calls", NOON_US - 1), 3, NOON_US);
    policy.charge_event(&event("holding", "api_calls", NOON_US), 4, NOON_US);
    assert_eq!((base(&policy), policy.late_counts()), ((7, 3, NOON_US), 1));
    // Rows say it was 9; what was counted since they were asked for stays on top.
    policy.charge_event(&event("holding", "api_calls", NOON_US - 2), 1, NOON_US);
    let quota = policy.load().quotas_of("team", NOON_US).expect("there")[0].key;
    assert!(policy.set_base(quota, NOON_US - 12 * HOUR_US, 9, 3));
    assert_eq!(base(&policy), (14, 10, NOON_US));
    // A quota that comes later counts what is dated from then on.
    let more = format!("{plan}, {}", plan.replace("\"calls\"", "\"more\""));
    let later = || crate::Reading { mono: Nanos(0), unix_us: NOON_US + 10 };
    policy.apply(&source(&documents(&more, "", "", "")), later).expect("valid");
    assert_eq!(of_ten(&policy, "/", NOON_US + 10), 10);
    policy.charge_event(&event("holding", "api_calls", NOON_US + 9), 2, NOON_US + 11);
    assert_eq!(counts(&policy, "calls", NOON_US + 20).0, 26);
    assert_eq!(counts(&policy, "more", NOON_US + 20).0, 12);
    assert_eq!(base(&policy), (26, 10, NOON_US));
}

#[test]
fn whoever_has_a_plan_of_its_own_counts_at_that() {
    let calls = r#"{ name = "calls", meter = "api_calls", limit = 100, per = "day" }"#;
    let own = format!("plan = \"q\"\nquotas = [{}]", calls.replace("\"calls\"", "\"own\""));
    let other = format!("[[plan]]\nid = \"q\"\nquotas = [{calls}]\n");
    let team = |text: &str| documents(calls, "", text, &other);
    let policy = policy_in(InMemory::shared(), &team(&own));
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    let all = |policy: &Policy| {
        let mut all = Vec::new();
        policy.each_quota(NOON_US, &mut |quota| {
            let window = quota.window.expect("it has windows");
            all.push((quota.tenant.to_owned(), quota.name.to_owned(), quota.used, window.since_us));
        });
        all.sort();
        all
    };
    let at = |tenant: &str, name: &str, used| (tenant.to_owned(), name.to_owned(), used, 0);
    let expected = [at("holding", "calls", 0), at("team", "calls", 10), at("team", "own", 10)];
    assert_eq!(all(&policy), expected);
    let sums = Sums { values: 7, units: 5, request_bytes: 1, response_bytes: 1 };
    let of_rows = |policy: &Policy, path: &str, plan: &str| {
        let mut counts = Vec::new();
        let snapshot = policy.load();
        snapshot.each_count((path, plan, "api_calls"), &sums, &mut |key, amount| {
            policy.each_quota(NOON_US, &mut |quota| {
                if quota.key == key {
                    counts.push((quota.tenant.to_owned(), quota.name.to_owned(), amount));
                }
            });
        });
        counts
    };
    let counts = |tenant: &str, name: &str| (tenant.to_owned(), name.to_owned(), 5);
    let at_team = [counts("team", "own"), counts("team", "calls")];
    assert_eq!(of_rows(&policy, "holding/team", "q"), at_team);
    assert_eq!(of_rows(&policy, "holding", "p"), [counts("holding", "calls")]);
    // Who is gone had its plan from above if the row says so.
    assert_eq!(of_rows(&policy, "holding/gone", "p"), [counts("holding", "calls")]);
    assert_eq!(of_rows(&policy, "holding/gone", "q"), []);
    assert_eq!(of_rows(&policy, "elsewhere/team", "q"), at_team, "wherever it stood");
    // Without one, it has that from above, whose count is read anew from then on.
    let now = || crate::Reading { mono: Nanos(0), unix_us: NOON_US + 1 };
    policy.apply(&source(&team("")), now).expect("valid");
    assert_eq!(all(&policy), [("holding".to_owned(), "calls".to_owned(), 0, NOON_US + 2)]);
    assert_eq!(of_rows(&policy, "holding/team", "q"), [counts("holding", "calls")]);
}

/// Requests go on while a reload is under way: one more after each reading of the clock, the first of
/// which is taken before the new snapshot is made.
fn reload_under_traffic(policy: &Policy, text: &str) -> Vec<i64> {
    let (time, dates) = (Cell::new(NOON_US), RefCell::new(Vec::new()));
    let now = || {
        let unix_us = time.replace(time.get() + 2);
        assert!(matches!(ask(policy, "/", unix_us + 1), Decision::Admit(_)));
        dates.borrow_mut().push(unix_us + 1);
        crate::Reading { mono: Nanos(0), unix_us }
    };
    policy.apply(&source(text), now).expect("valid");
    dates.into_inner()
}

#[test]
fn p1_a_request_during_a_reload_is_in_the_rows_or_counted_live() {
    let calls = r#"{ name = "calls", meter = "api_calls", limit = 100, per = "day" }"#;
    let more = format!("{calls}, {}", calls.replace("\"calls\"", "\"more\""));
    let other = |plan: &str| {
        let tenant = "[[tenant]]\nid = \"other\"\nlevel = \"team\"\nparent = \"holding\"\n";
        documents(calls, "", "", &format!("[[plan]]\nid = \"q\"\n{tenant}{plan}\n"))
    };
    let renamed = calls.replace("\"calls\"", "\"more\"");
    for (before, after, name) in [
        (documents(calls, "", "", ""), documents(&more, "", "", ""), "more"),
        (documents(calls, "", "", ""), documents(&renamed, "", "", ""), "more"),
        // All quotas of plans begin anew when any tenant has no plan of its own any more.
        (other("plan = \"q\""), other(""), "calls"),
    ] {
        let policy = policy_in(InMemory::shared(), &before);
        policy.equip(|snapshot| {
            let quotas = snapshot.quotas_of("team", NOON_US).expect("there");
            for window in quotas.iter().filter_map(|quota| quota.window) {
                assert!(window.base == 0 || window.since_us == i64::MAX, "not in force yet");
            }
        });
        assert_eq!(of_ten(&policy, "/", NOON_US - 1), 10);
        let dates = reload_under_traffic(&policy, &after);
        let snapshot = policy.load();
        let quotas = snapshot.quotas_of("team", NOON_US).expect("there");
        let quota = quotas.iter().find(|quota| quota.name == name).expect("there");
        let window = quota.window.expect("it has windows");
        let not_in_rows = dates.iter().filter(|date| **date >= window.since_us).count() as u64;
        let live = quota.used - window.base;
        assert!(not_in_rows <= live, "{not_in_rows} of {dates:?} are not in rows, {live} live");
    }
}

#[test]
fn p3_an_event_of_the_window_before_takes_over_what_is_used_in_this_one() {
    let quota = |name: &str| {
        format!(r#"{{ name = "{name}", meter = "api_calls", limit = 12, per = "day" }}"#)
    };
    let policy = policy(&quota("a"), "", "");
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    let readings = Cell::new(0);
    // It comes once the new snapshot is in force, and before its quotas begin.
    let now = || {
        if readings.replace(readings.get() + 1) == 1 {
            let at_us = NOON_US - 24 * HOUR_US;
            policy.charge_event(&event("holding", "api_calls", at_us), 1, NOON_US);
        }
        crate::Reading { mono: Nanos(0), unix_us: NOON_US }
    };
    policy.apply(&source(&documents(&quota("b"), "", "", "")), now).expect("valid");
    assert_eq!(used(&policy, "b", NOON_US), 10);
    assert_eq!(of_ten(&policy, "/", NOON_US), 2);
}

#[test]
fn p3_only_a_quota_of_the_same_meter_takes_over() {
    let quota = |name: &str, meter: &str| {
        format!(r#"{{ name = "{name}", meter = "{meter}", limit = 100, per = "day" }}"#)
    };
    let policy = policy(&quota("a", "api_calls"), "", "");
    let at = |policy: &Policy, name: &str| used(policy, name, NOON_US);
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    // The same name, and another meter: it begins anew.
    apply(&policy, &documents(&quota("a", "reports"), "", "", ""));
    assert_eq!((at(&policy, "a"), of_ten(&policy, "/report", NOON_US)), (0, 10));
    // Names that are swapped: each goes on from the one of its meter.
    let both = format!("{}, {}", quota("b", "api_calls"), quota("a", "reports"));
    apply(&policy, &documents(&both, "", "", ""));
    assert_eq!((at(&policy, "b"), at(&policy, "a")), (0, 10), "nobody of its meter was there");
    assert_eq!(of_ten(&policy, "/three", NOON_US), 10);
    let swapped = format!("{}, {}", quota("a", "api_calls"), quota("b", "reports"));
    apply(&policy, &documents(&swapped, "", "", ""));
    assert_eq!((at(&policy, "a"), at(&policy, "b")), (30, 10));
    // Of two that are gone, the one of the same period.
    let hour = |name| quota(name, "api_calls").replace("\"day\"", "\"hour\"");
    let text = format!("{}, {}", hour("c"), quota("d", "api_calls"));
    apply(&policy, &documents(&text, "", "", ""));
    policy.charge_event(&event("holding", "api_calls", NOON_US), 1, NOON_US);
    assert_eq!((at(&policy, "c"), at(&policy, "d")), (1, 31));
    let text = format!("{}, {}", quota("e", "api_calls"), hour("f"));
    apply(&policy, &documents(&text, "", "", ""));
    assert_eq!((at(&policy, "f"), at(&policy, "e")), (1, 31));
}

#[test]
fn p3_a_quota_of_another_name_of_another_plan_takes_nothing_over() {
    let quota = |name: &str| {
        format!(r#"{{ name = "{name}", meter = "api_calls", limit = 100, per = "day" }}"#)
    };
    let text = documents(&quota("calls"), "", "", "");
    let policy = policy_in(InMemory::shared(), &text);
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    let other = format!("[[plan]]\nid = \"q\"\nquotas = [{}]\n", quota("requests"));
    apply(&policy, &(text.replace("plan = \"p\"", "plan = \"q\"") + &other));
    assert_eq!(used(&policy, "requests", NOON_US), 0, "it begins with what rows say");
}

#[test]
fn p3_a_renamed_quota_keeps_what_was_rolled_over_and_the_window_before() {
    let quota = |name: &str| {
        format!(
            r#"{{ name = "{name}", meter = "api_calls", limit = 12, per = "day", roll_over = 5 }}"#
        )
    };
    let policy = policy(&quota("a"), "", "");
    let day = 24 * HOUR_US;
    assert_eq!(of_ten(&policy, "/", NOON_US), 10);
    assert_eq!(of_ten(&policy, "/", NOON_US + day), 10);
    apply_at(&policy, &documents(&quota("b"), "", "", ""), NOON_US + day);
    let snapshot = policy.load();
    let quota = snapshot.quotas_of("team", NOON_US + day).expect("there")[0];
    let window = quota.window.expect("it has windows");
    assert_eq!((quota.used, window.rolled_over), (10, 2));
    assert_eq!(window.previous.map(|previous| previous.used), Some(10));
}

#[test]
fn the_nearest_quota_is_shown_with_the_end_of_its_window() {
    let policy =
        policy(r#"{ name = "calls", meter = "api_calls", limit = 5, per = "day" }"#, "", "");
    let Decision::Admit(admission) = ask(&policy, "/", NOON_US) else { panic!("refused") };
    let (limit, remaining, seconds) = admission.nearest().expect("a quota");
    assert_eq!((limit.name, remaining, seconds), ("plan/calls", 4, 12 * 3_600));
    assert_eq!(limit.policy_item().to_string(), "\"plan/calls\";q=5;w=86400");
    let field = admission.policy_field().expect("it is ready");
    assert_eq!(&*policy.load().policy_fields()[field], "\"plan/calls\";q=5;w=86400");
}
