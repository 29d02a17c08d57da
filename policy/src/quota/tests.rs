//! Quotas through the whole policy: chains, reloads, charges and views.

mod model;

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::decide::tests::hash_of;
use crate::keys::tests::key_text;
use crate::{Call, Decision, Nanos, Policy, PolicySettings, Reason, Source};

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
    policy
        .apply(&source(text), crate::Reading::default)
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
        assert_eq!(exhausted.resets_us, resets_us);
        let wait = u64::try_from(resets_us - NOON_US).expect("later") * 1_000;
        assert_eq!(exhausted.limited.ready_at, Some(Nanos(wait)));
        assert_eq!(denial.limit().map(|limit| limit.level.as_str()), Some(level));
        assert_eq!(denial.quota(), Some(("api_calls", Period::Month)));
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
    admission.permit.charge(meter("data_in"), 999);
    admission.permit.charge(meter("data_out"), 5_000);
    let Decision::Admit(last) = ask(&policy, "/", NOON_US) else { panic!("refused") };
    last.permit.charge(meter("data_in"), 50);
    assert!(matches!(ask(&policy, "/", NOON_US), Decision::Deny(_)));
    assert_eq!(used(&policy, "bytes", NOON_US), 1_049, "what flowed is counted beyond the limit");
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
    assert_eq!((quota.limit, quota.granted, quota.rolled_over, quota.used), (5, 0, 3, 8));
    policy.roll(NOON_US + 6 * day);
    policy.each_quota(NOON_US + 6 * day, &mut |quota| {
        let midnight = NOON_US + 6 * day - 12 * HOUR_US;
        let previous = Previous { start_us: midnight - day, end_us: midnight, used: 8, limit: 5 };
        assert_eq!((quota.used, quota.rolled_over, quota.previous), (0, 0, Some(previous)));
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
    assert_eq!((quota.used, quota.base), (13, 10));
    assert!(second.set_base(quota.key, quota.start_us, 12));
    assert_eq!(used(&second, "calls", NOON_US), 15);
    assert!(!second.set_base(quota.key, quota.start_us + 1, 12), "no window starts there");
    assert!(!second.set_base(quota.key + 1, quota.start_us, 12), "no such quota");
    assert!(!second.set_base(quota.key, quota.end_us, 12), "not yet");
}

#[derive(Debug)]
struct Full;

impl Memory for Full {
    fn words(&self, _key: u128) -> Option<&'static Words> {
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

#[test]
fn an_event_is_charged_in_the_current_window_only() {
    let calls = r#"{ name = "calls", meter = "api_calls", limit = 100, per = "day" }"#;
    let policy = policy(calls, &format!("quotas = [{calls}]"), "");
    policy.roll(NOON_US);
    policy.charge("team", "api_calls", 3, NOON_US - HOUR_US);
    policy.charge("holding", "api_calls", 4, NOON_US);
    for (tenant, meter, at_us) in [
        ("team", "api_calls", NOON_US - 24 * HOUR_US),
        ("team", "api_calls", NOON_US + 24 * HOUR_US),
        ("team", "data_in", NOON_US),
        ("team", "nonesuch", NOON_US),
        ("nobody", "api_calls", NOON_US),
    ] {
        policy.charge(tenant, meter, 50, at_us);
    }
    assert_eq!(used(&policy, "calls", NOON_US), 7);
    let mut seen = Vec::new();
    policy.each_quota(NOON_US, &mut |quota| {
        seen.push((quota.path.to_owned(), quota.full_name.to_owned(), quota.used));
    });
    seen.sort();
    let at = |name: &str| ("holding".to_owned(), name.to_owned(), 7);
    assert_eq!(seen, [at("holding/calls"), at("plan/calls")], "each once");
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
