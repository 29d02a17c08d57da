//! The example configuration as a running `orbit up`, with an upstream that is told what to do and a
//! key for every tenant that the table asks as.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use orbit_meter::clickhouse::queries;
use orbit_policy::ApiKey;
use serde_json::{Value, json};

use crate::up::{self, Up};
use crate::upstream::Upstream;

/// After this a state that should come is not coming.
const BOUND: Duration = Duration::from_secs(15);
/// Between two looks for it.
const PAUSE: Duration = Duration::from_millis(10);

/// The example's tenants that get a key.
const TENANTS: [&str; 13] = [
    "acme",
    "acme-brasil",
    "acme-chile",
    "acme-retail",
    "acme-marketing",
    "acme-web",
    "acme-stores",
    "padaria",
    "vandelay",
    "globex",
    "hooli",
    "aurora",
    "initech",
];

/// Tenants of the test's own, on the example's plans, with what stands in their tables.
const OWN_TENANTS: [(&str, &str); 17] = [
    (
        "six-apps",
        r#"plan = "essentials"
apps = ["crm", "finance", "projects", "documents", "people", "contracts"]"#,
    ),
    (
        "eleven-apps",
        r#"plan = "business@2"
apps = ["crm", "finance", "projects", "documents", "people", "marketing", "helpdesk", "inventory",
        "automation", "reports", "fleet"]"#,
    ),
    ("few-apps", "plan = \"essentials\"\napps = [\"crm\"]"),
    ("buyer", "plan = \"business@2\"\naddons = []"),
    ("great-buyer", "plan = \"enterprise\"\naddons = []"),
    ("unpaid", "plan = \"essentials\"\nstatus = \"unpaid\""),
    (
        "ended",
        r#"plan = "business@2"
trial = { until = "2020-01-01", then = "suspended" }"#,
    ),
    (
        "went-down",
        r#"plan = "business@2"
trial = { until = "2020-01-01", then = "essentials" }"#,
    ),
    ("upgraded", "plan = \"essentials\""),
    ("measured", "plan = \"enterprise\""),
    ("soft", "plan = \"essentials\""),
    ("graced", "plan = \"business@1\""),
    ("billed", "plan = \"enterprise\""),
    ("bursting", "plan = \"essentials\""),
    ("parallel", "plan = \"essentials\""),
    // The example's tree ends with the team.
    (
        "acme-shop",
        "parent = \"acme-web\"\nlevel = \"project\"\n\
         limits = [{ name = \"requests\", rate = 5, per = \"second\", burst = 10 }]",
    ),
    ("one-address", "plan = \"business@2\""),
];

/// A tenant's change at an instant.
const OWN_CHANGES: &str = r#"
[[change]]
tenant = "upgraded"
at = "2020-01-01"
plan = "business@1"
[[change]]
tenant = "upgraded"
at = "2999-01-01"
plan = "enterprise"
"#;

/// The features of add-ons that no route of the example asks for.
pub(crate) const PROBED: [(&str, &str); 5] = [
    ("analytics", "forecasts"),
    ("backup", "point-in-time-restore"),
    ("compliance", "evidence-export"),
    ("integrations", "custom-connectors"),
    ("support", "named-manager"),
];

/// What is asked of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    /// Header fields, as lines.
    pub(crate) fields: String,
    pub(crate) body: Body,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    /// So many bytes.
    Sent(usize),
    /// So many are announced, and none is sent: an answer was given before they were read.
    Announced(u64),
    /// So many bytes, in pieces and without a length.
    Streamed(usize),
}

pub(crate) fn get(path: &str) -> Ask {
    Ask { method: "GET", path: path.to_owned(), fields: String::new(), body: Body::Sent(0) }
}

pub(crate) fn post(path: &str, body: Body) -> Ask {
    Ask { method: "POST", body, ..get(path) }
}

impl Ask {
    pub(crate) fn by_user(mut self, user: &str) -> Ask {
        self.fields.push_str(&format!("X-End-User: {user}\r\n"));
        self
    }

    pub(crate) fn at_address(mut self, address: &str) -> Ask {
        self.fields.push_str(&format!("X-Forwarded-For: {address}\r\n"));
        self
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Nothing where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Refused by a limit that fills again at once, as the tenants' own API and rates do, be it
    /// beside a quota.
    fn is_too_fast(&self) -> bool {
        let body = self.json();
        let violated = body["violated-policies"].as_array().map_or(0, Vec::len);
        self.status == 429 && (body["quota"].is_null() || violated > 1)
    }
}

pub(crate) struct World {
    pub(crate) upstream: Upstream,
    directory: tempfile::TempDir,
    keys: BTreeMap<&'static str, ApiKey>,
    up: Up,
    own: String,
}

impl World {
    pub(crate) fn start() -> World {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        let upstream = Upstream::start();
        up::example(home, &upstream.address.to_string());
        let settings = std::fs::read_to_string(home.join("orbit.toml")).unwrap();
        // Each test client may say which address it comes from.
        let settings =
            changed(&settings, "trusted_proxies = []", "trusted_proxies = [\"127.0.0.1\"]");
        let webhook = format!(
            "\n[[alerts.webhook]]\nid = \"hook\"\nurl = \"http://{}/hook\"\nsecret_file = \"secret\"\n\
             allow_private = true\n",
            upstream.address
        );
        std::fs::write(home.join("orbit.toml"), settings + &webhook).unwrap();
        std::fs::write(home.join("secret"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let of_own = OWN_TENANTS.iter().map(|(id, _)| *id);
        let keys: BTreeMap<&str, ApiKey> = TENANTS
            .into_iter()
            .chain(of_own)
            .map(|id| (id, ApiKey::generate("test").unwrap()))
            .collect();
        let own = own_documents(&keys);
        std::fs::write(home.join("policy/own.toml"), &own).unwrap();
        let up = Up::start(&home.join("orbit.toml"), &home.join("data"));
        World { upstream, directory, keys, up, own }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn secret(&self, name: &str) -> String {
        up::secret(&self.path("data"), name)
    }

    /// Asks once.
    pub(crate) fn send(&self, tenant: &str, ask: &Ask) -> Answer {
        let (key, Ask { method, path, fields, body }) = (&self.keys[tenant], ask);
        let (framing, body) = match *body {
            Body::Sent(bytes) => (format!("Content-Length: {bytes}"), vec![b'x'; bytes]),
            Body::Announced(bytes) => (format!("Content-Length: {bytes}"), Vec::new()),
            Body::Streamed(bytes) => {
                let text = "x".repeat(bytes);
                let chunks = format!("{bytes:x}\r\n{text}\r\n0\r\n\r\n");
                ("Transfer-Encoding: chunked".to_owned(), chunks.into_bytes())
            }
        };
        let line = format!("{method} {path} HTTP/1.1");
        let fields = format!("Authorization: Bearer {}\r\n{framing}\r\n{fields}", key.reveal());
        exchange(self.up.proxy, &line, &fields, &body)
    }

    /// Asks until no rate refuses it.
    pub(crate) fn patiently(&self, tenant: &str, ask: &Ask) -> Answer {
        let mut answer = self.send(tenant, ask);
        let _or_the_last = until(|| {
            if answer.is_too_fast() {
                answer = self.send(tenant, ask);
            }
            if answer.is_too_fast() { Err(()) } else { Ok(()) }
        });
        answer
    }

    /// What a tenant sees of its limits.
    pub(crate) fn limits(&self, tenant: &str) -> Value {
        self.patiently(tenant, &get("/orbit/v1/limits")).json()
    }

    fn operate(&self, method: &str, path: &str) -> Answer {
        let fields = format!(
            "Authorization: Bearer {}\r\nContent-Length: 0\r\n",
            self.secret("admin.token")
        );
        exchange(self.up.admin, &format!("{method} {path} HTTP/1.1"), &fields, b"")
    }

    /// What an operator is told.
    pub(crate) fn operators_view(&self, path: &str) -> Value {
        self.operate("GET", path).json()
    }

    /// Changes the test's own document, and puts it in force.
    pub(crate) fn change(&mut self, changes: &[(&str, &str)], more: &str) {
        for (from, to) in changes {
            self.own = changed(&self.own, from, to);
        }
        self.own.push_str(more);
        // Whole or not at all: the directory is watched.
        std::fs::write(self.path("draft"), &self.own).unwrap();
        std::fs::rename(self.path("draft"), self.path("policy/own.toml")).unwrap();
        let applied = self.operate("POST", "/v1/policy/apply");
        assert_eq!(applied.status, 200, "{}", applied.body);
    }

    /// Reports usage that does not pass the proxy; it must be taken.
    pub(crate) fn event(&self, meter: &str, tenant: &str, id: &str, data: &Value) {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/plans", "type": meter, "subject": tenant,
            "data": data,
        });
        let body = event.to_string();
        let fields = format!(
            "Authorization: Bearer {}\r\nContent-Type: application/cloudevents+json\r\n\
             Content-Length: {}\r\n",
            self.secret("ingest.token"),
            body.len()
        );
        let answer = exchange(self.up.ingest, "POST /v1/events HTTP/1.1", &fields, body.as_bytes());
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    /// A meter's figure of all time by finance's named query.
    pub(crate) fn figure(&self, tenant: &str, meter: &str, aggregate: &str) -> String {
        let name = if aggregate == "gauge" { "gauge_by_window" } else { "meter_by_window" };
        let sql = queries::find(name).unwrap().sql;
        let target = format!(
            "/?database=orbit&default_format=TSV&param_from_us=0&param_to_us=7258118400000000\
             &param_tenant={tenant}&param_meter={meter}&param_aggregate={aggregate}"
        );
        let fields = format!(
            "X-ClickHouse-User: finance\r\nX-ClickHouse-Key: {}\r\nContent-Length: {}\r\n",
            self.secret("clickhouse/finance.password"),
            sql.len()
        );
        // HTTP/1.0: the answer is not chunked.
        let line = format!("POST {target} HTTP/1.0");
        let answer = exchange(self.up.database, &line, &fields, sql.as_bytes());
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        // Of a gauge the last column is the level.
        answer.body.trim().rsplit('\t').next().unwrap_or_default().to_owned()
    }
}

fn own_documents(keys: &BTreeMap<&'static str, ApiKey>) -> String {
    let tenants = OWN_TENANTS.map(|(id, table)| format!("[[tenant]]\nid = \"{id}\"\n{table}\n"));
    let keys = keys.iter().map(|(tenant, ApiKey { id, hash, .. })| {
        format!("[[key]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nhash = \"{hash}\"\n")
    });
    let probes = PROBED.map(|(app, feature)| {
        format!(
            "[[route]]\nid = \"probe-{app}\"\napp = \"{app}\"\npath = \"/{app}/{feature}\"\n\
             feature = \"{feature}\"\nupstream = \"apps\"\n"
        )
    });
    tenants.concat() + &keys.collect::<String>() + &probes.concat() + OWN_CHANGES
}

/// The text with another passage, which must be there once.
fn changed(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    text.replace(from, to)
}

/// Looks until it is so; what it is instead after too long.
pub(crate) fn until<T, E>(mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
    let started = std::time::Instant::now();
    loop {
        match look() {
            Err(_) if started.elapsed() < BOUND => std::thread::sleep(PAUSE),
            found_or_not => return found_or_not,
        }
    }
}

/// One request on a connection of its own; status 0 where there was no answer.
fn exchange(address: SocketAddr, line: &str, fields: &str, body: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let head = format!("{line}\r\nHost: orbit\r\nConnection: close\r\n{fields}\r\n");
    // Who refuses a body need not read it.
    let _refused = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body));
    let mut answer = Vec::new();
    let _cut = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
