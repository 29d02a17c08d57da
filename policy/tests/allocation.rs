//! The decision allocates nothing, admitted or refused: counted by the allocator itself.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use orbit_policy::quota::{InMemory, Reported};
use orbit_policy::{ApiKey, Body, Call, Decision, Nanos, Policy, PolicySettings, Source};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn policy(key: &ApiKey) -> Policy {
    let text = format!(
        r#"
[[plan]]
id = "business"
users = 1
limits = [
    {{ name = "requests", rate = 1, per = "hour", burst = 500 }},
    {{ name = "parallel", concurrent = 10 }},
    {{ name = "client", rate = 1, per = "hour", burst = 1_000, each = "client_ip" }},
]
quotas = [
    {{ name = "monthly", meter = "api_calls", limit = 1_000, per = "month", grace = 10 }},
    {{ name = "billed", meter = "api_calls", limit = 1, per = "day", at_limit = "allow_and_bill" }},
]
[[app]]
id = "crm"
end_user_header = "x-user"
[[upstream]]
id = "u"
peers = [{{ address = "127.0.0.1:1" }}]
[[route]]
id = "r"
host = "*.example.com"
path = "/crm"
app = "crm"
upstream = "u"
[[route]]
id = "premium"
host = "*.example.com"
path = "/crm/premium"
app = "crm"
upstream = "u"
tier = "premium"
[[route]]
id = "feature"
host = "*.example.com"
path = "/crm/feature"
app = "crm"
upstream = "u"
feature = "gpt4"
[[app]]
id = "off"
[[route]]
id = "off"
host = "*.example.com"
path = "/off"
app = "off"
upstream = "u"
[[addon]]
id = "ai"
features = ["gpt4"]
[[tenant]]
id = "holding"
plan = "business"
apps = ["crm"]
zone = "America/Sao_Paulo"
quotas = [
    {{ name = "slow", meter = "api_calls", limit = 100, per = "hour", roll_over = 5, at_limit = "throttle_to", throttle = {{ rate = 1, per = "hour", burst = 1_000 }} }},
    {{ name = "bytes", meter = "data_in", limit = 1_000_000, per = "day" }},
]
limits = [
    {{ name = "requests", rate = 1, per = "hour", burst = 1_000, apps = ["crm"] }},
    {{ name = "spare", rate = 1, per = "hour", burst = 480 }},
]
[[tenant]]
id = "team"
parent = "holding"
limits = [
    {{ name = "user", rate = 1, per = "hour", burst = 1_000, each = "end_user" }},
    # Most are guaranteed, some are borrowed, the rest finds nothing left to borrow.
    {{ name = "spare", guarantee = "50%", guarantee_burst = 450, burst = 1_000 }},
]
[[key]]
id = "{}"
tenant = "team"
hash = "{}"
limits = [{{ name = "requests", rate = 1, per = "hour", burst = 1_000 }}]
"#,
        key.id, key.hash
    );
    let settings =
        PolicySettings { max_dynamic_keys: 100, hash_key: [3; 16], memory: InMemory::shared() };
    Policy::new(&[Source { file: "t.toml".into(), text }], &settings, 0).expect("valid")
}

#[test]
fn refusing_what_a_tenant_is_not_entitled_to_allocates_nothing() {
    let key = ApiKey::generate("test").expect("a key");
    let policy = policy(&key);
    let paths = ["/crm/premium", "/crm/feature", "/off"];
    let call = |path| Call {
        key: Some(key.reveal().as_bytes()),
        host: "api.example.com",
        path,
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|_| None,
        now: Nanos(0),
        unix_us: 0,
    };
    // The first look at a policy makes the thread's place among its readers.
    drop(policy.decide(&call("/crm")));
    let before = ALLOCATIONS.with(Cell::get);
    for path in paths {
        let Decision::Deny(denial) = policy.decide(&call(path)) else { panic!("{path}") };
        assert!(denial.limit().is_none());
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
}

#[test]
fn deciding_allocates_nothing() {
    let key = ApiKey::generate("test").expect("a key");
    let policy = policy(&key);
    let call = |now| Call {
        key: Some(key.reveal().as_bytes()),
        host: "API.example.com:443",
        path: "/crm/contacts/17",
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|name| (name == "x-user").then_some(b"someone"),
        now: Nanos(now),
        // Windows of an hour and of a day pass, at the edge of summer time.
        unix_us: 1_541_200_000_000_000 + now.cast_signed() * 300_000_000,
    };
    // The first request of a client or user makes its entry.
    drop(policy.decide(&call(0)));
    let before = ALLOCATIONS.with(Cell::get);
    let (mut admitted, mut refused) = (0, 0);
    let mut shown = 0;
    for now in 1..=1_000 {
        match policy.decide(&call(now)) {
            Decision::Admit(admission) => {
                admitted += 1;
                assert!(admission.nearest().is_some());
                let meter = admission.permit.snapshot().meter_id("data_in").expect("a meter");
                policy.charge(&admission.permit, meter, 10, call(now).unix_us);
            }
            Decision::Deny(denial) => {
                refused += 1;
                assert!(denial.limit().is_some());
            }
        }
    }
    policy.roll(call(1_000).unix_us);
    policy.each_quota(call(1_000).unix_us, &mut |_| shown += 1);
    let at_us = call(1_000).unix_us;
    let event = Reported { path: "holding/team", plan: "business", meter: "data_in", at_us };
    policy.charge_event(&event, 1, at_us);
    policy.charge_due(at_us);
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    assert_eq!((admitted, refused), (479, 521), "the shared burst, less the first request");
    assert_eq!((allocations, shown), (0, 5));
}
