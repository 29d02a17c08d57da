//! What the benchmarks share: catalogues of any size, written the way an operator would.

use std::fmt::Write;

use orbit_meter::event::{Event, Flags, Kind, Method};
use orbit_policy::quota::InMemory;
use orbit_policy::{ApiKey, Policy, PolicySettings, Source};

/// The six levels of limits a key can have above it, narrowest first.
pub const LEVELS: [&str; 6] =
    ["team", "department", "business_unit", "subsidiary", "holding", "plan"];

/// Settings with room for any client.
pub fn settings() -> PolicySettings {
    PolicySettings { max_dynamic_keys: 100_000, hash_key: [7; 16], memory: InMemory::shared() }
}

const PRODUCTS: &str = r#"
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{ address = "127.0.0.1:1" }]
[[route]]
id = "r"
path = "/crm"
app = "crm"
upstream = "u"
"#;

const LIMIT: &str =
    r#"limits = [{ name = "requests", rate = 9_000_000, per = "second", burst = 4_000_000 }]"#;

/// A policy in which one key meets exactly `levels` limits (1 to 7), and a request of that key.
pub fn chain(levels: usize) -> (Policy, ApiKey) {
    let key = ApiKey::generate("bench").expect("randomness");
    let limit = |index: usize| if index < levels { LIMIT } else { "" };
    let mut text = format!("{PRODUCTS}[[plan]]\nid = \"p\"\n{}\n", limit(6));
    for index in (0..5).rev() {
        let parent = match index {
            4 => "plan = \"p\"".to_owned(),
            _ => format!("parent = \"{}\"", LEVELS[index + 1]),
        };
        let id = LEVELS[index];
        writeln!(text, "[[tenant]]\nid = \"{id}\"\n{parent}\n{}", limit(index + 1))
            .expect("writing to a string");
    }
    writeln!(
        text,
        "[[key]]\nid = \"{}\"\ntenant = \"team\"\nhash = \"{}\"\n{}",
        key.id,
        key.hash,
        limit(0)
    )
    .expect("writing to a string");
    let sources = [Source { file: "bench.toml".into(), text }];
    (Policy::new(&sources, &settings(), 0).expect("valid"), key)
}

/// A policy in which one key meets one quota of active users, with room for all of them, at its
/// team, at the holding and at the plan.
pub fn users() -> (Policy, ApiKey) {
    let key = ApiKey::generate("bench").expect("randomness");
    let products =
        PRODUCTS.replacen("id = \"crm\"", "id = \"crm\"\nend_user_header = \"x-user\"", 1);
    let quota =
        r#"quotas = [{ name = "u", meter = "active_users", limit = 100_000, per = "month" }]"#;
    let text = format!(
        "{products}[[plan]]\nid = \"p\"\nusers = 100_000\n\
         [[tenant]]\nid = \"holding\"\nplan = \"p\"\n{quota}\n\
         [[tenant]]\nid = \"team\"\nparent = \"holding\"\n{quota}\n\
         [[key]]\nid = \"{}\"\ntenant = \"team\"\nhash = \"{}\"\n",
        key.id, key.hash
    );
    let sources = [Source { file: "bench.toml".into(), text }];
    (Policy::new(&sources, &settings(), 0).expect("valid"), key)
}

/// The documents an operator starts from, and a key of one of their tenants. `ORBIT_EXAMPLE` names
/// another directory: one commit's documents may mean nothing to the program of another.
pub fn example(tenant: &str) -> (Policy, ApiKey) {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/policy");
    let directory = std::env::var("ORBIT_EXAMPLE").unwrap_or_else(|_| usual.to_owned());
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory of documents") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a readable document");
        sources.push(Source { file: path.display().to_string(), text });
    }
    let key = ApiKey::generate("bench").expect("randomness");
    let (id, hash) = (&key.id, &key.hash);
    let text = format!("[[key]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nhash = \"{hash}\"\n");
    sources.push(Source { file: "key.toml".into(), text });
    (Policy::new(&sources, &settings(), 0).expect("valid"), key)
}

/// Documents of `tenants` tenants in holdings of a hundred, with `keys_each` keys for each, and
/// the first `known` of the keys.
pub fn catalogue(tenants: usize, keys_each: usize, known: usize) -> (Vec<Source>, Vec<ApiKey>) {
    let mut text = format!("{PRODUCTS}[[plan]]\nid = \"p\"\n{LIMIT}\n");
    for index in 0..tenants {
        let parent = match index % 100 {
            0 => "plan = \"p\"".to_owned(),
            _ => format!("parent = \"tenant-{:07}\"", index - index % 100),
        };
        write!(text, "[[tenant]]\nid = \"tenant-{index:07}\"\n{parent}\n{LIMIT}\n\n")
            .expect("writing to a string");
    }
    let mut keys = Vec::with_capacity(known);
    let spare = ApiKey::generate("bench").expect("randomness");
    let mut key_text = String::new();
    for index in 0..tenants * keys_each {
        // Spread over the whole catalogue, so that look-ups are not neighbours.
        let place = (index * 7_919) % (tenants * keys_each).max(1);
        let (id, hash) = if keys.len() < known {
            let key = ApiKey::generate("bench").expect("randomness");
            let written = (key.id.to_string(), key.hash.to_string());
            keys.push(key);
            written
        } else {
            (format!("k{index:09}"), spare.hash.to_string())
        };
        let tenant = place / keys_each;
        write!(
            key_text,
            "[[key]]\nid = \"{id}\"\ntenant = \"tenant-{tenant:07}\"\nhash = \"{hash}\"\n\n"
        )
        .expect("writing to a string");
    }
    let sources = vec![
        Source { file: "tenants.toml".into(), text },
        Source { file: "keys.toml".into(), text: key_text },
    ];
    (sources, keys)
}

/// An event as the edge writes it; `number` spreads it over a thousand tenants and a month.
pub fn event(number: u64) -> Event<'static> {
    const TENANTS: [&str; 8] = [
        "acme-web",
        "acme-shop",
        "globex-api",
        "globex-ops",
        "initech",
        "padaria",
        "umbrella-lab",
        "wonka-sales",
    ];
    const PATHS: [&str; 8] = [
        "acme/acme-brasil/acme-retail/acme-marketing/acme-web",
        "acme/acme-brasil/acme-retail/acme-marketing/acme-shop",
        "globex/globex-api",
        "globex/globex-ops",
        "initech",
        "padaria",
        "umbrella/umbrella-lab",
        "wonka/wonka-sales",
    ];
    const ROUTES: [&str; 4] = ["crm", "crm-search", "finance", "reports"];
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let tenant = (mixed >> 61) as usize;
    let route = (mixed >> 59 & 3) as usize;
    let mut request_id = [0; 16];
    request_id[..8].copy_from_slice(&mixed.to_be_bytes());
    request_id[8..].copy_from_slice(&number.to_be_bytes());
    Event {
        // November 2026.
        ts_us: 1_793_500_000_000_000 + (number % 2_000_000_000).cast_signed(),
        request_id,
        kind: Kind::Request,
        method: Method::Get,
        status: if mixed.is_multiple_of(100) { 502 } else { 200 },
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 1_000_000_000,
        request_bytes: 0,
        response_bytes: mixed >> 50,
        duration_us: (mixed >> 48) as u32,
        upstream_us: (mixed >> 49) as u32,
        tenant: TENANTS[tenant],
        path: PATHS[tenant],
        plan: "business",
        key_id: "4fG7kQ2mXa",
        app: ROUTES[route],
        route: ROUTES[route],
        meter: "api_calls",
        reason: "",
    }
}
