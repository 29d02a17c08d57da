//! The admin API over real sockets: who gets in, what each path answers, and how errors look.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use orbit_gateway::admin::{self, AdminServer, AdminState, Check, Readiness, Token};
use orbit_gateway::clock::Clock;
use orbit_gateway::reload::{self, Reloader};
use orbit_gateway::storage::StorageHandle;
use orbit_gateway::telemetry::Metrics;
use orbit_meter::clickhouse::ClickHouseSettings;
use orbit_policy::PolicySettings;
use orbit_policy::quota::InMemory;
use serde_json::{Value, json};

const PLAN: &str = "[[plan]]\nid = \"business\"\ntitle = \"Business\"\n";
const TENANTS: &str = "\
[[tenant]]
id = \"acme\"
plan = \"business\"
limits = [{ name = \"requests\", rate = 10, burst = 20 }, { name = \"open\", concurrent = 5 }]

[[tenant]]
id = \"acme-brasil\"
parent = \"acme\"
";

/// A policy directory and an admin API on it, both gone at the end of the test.
struct Operator {
    home: tempfile::TempDir,
    token: String,
    server: AdminServer,
    readiness: Arc<Readiness>,
    _reloader: Reloader,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The body, which must be a problem with this status.
    fn problem(&self) -> Value {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let body = self.json();
        assert_eq!(body["status"], self.status);
        assert!(body["title"].is_string() && body["type"].is_string(), "{body}");
        body
    }
}

impl Operator {
    fn start() -> Operator {
        let home = tempfile::tempdir().expect("a directory");
        let policy_path = home.path().join("policy");
        fs::create_dir(&policy_path).expect("made");
        fs::write(policy_path.join("plans.toml"), PLAN).expect("written");
        fs::write(policy_path.join("tenants.toml"), TENANTS).expect("written");
        let token_file = home.path().join("admin.token");
        let paths = vec![policy_path];
        let clock = Arc::new(Clock::start());
        let policy_settings = PolicySettings {
            max_dynamic_keys: 1000,
            hash_key: [3; 16],
            memory: InMemory::shared(),
        };
        let (policy, loaded) =
            reload::start_policy(&paths, &policy_settings, &clock).expect("valid documents");
        let reloader =
            Reloader::start(Arc::clone(&policy), loaded, paths.clone(), false, Arc::clone(&clock))
                .expect("started");
        let readiness = Arc::new(Readiness::new());
        readiness.register("policy", admin::policy_check(reloader.handle()));
        let state = AdminState {
            token: Token::load_or_create(&token_file).expect("made"),
            metrics: Metrics::install().expect("installed"),
            readiness: Arc::clone(&readiness),
            policy,
            policy_paths: paths,
            reloads: reloader.handle(),
            storage: StorageHandle::unwatched(nobody_there()).expect("usable settings"),
            clock,
        };
        let server =
            AdminServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), state).expect("started");
        let token = fs::read_to_string(&token_file).expect("made").trim().to_owned();
        Operator { home, token, server, readiness, _reloader: reloader }
    }

    fn tenants_file(&self) -> PathBuf {
        self.home.path().join("policy/tenants.toml")
    }

    fn send(&self, request: &str) -> Answer {
        let mut socket = TcpStream::connect(self.server.address()).expect("it listens");
        socket.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("answered");
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// One request with the token.
    fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        let (token, length) = (&self.token, body.len());
        self.send(&format!(
            "{method} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn without_token(&self, target: &str, field: &str) -> Answer {
        self.send(&format!(
            "GET {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{field}\r\n"
        ))
    }
}

/// A database whose port was free a moment ago.
fn nobody_there() -> ClickHouseSettings {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    ClickHouseSettings {
        url: format!("http://{address}"),
        user: "orbit".to_owned(),
        password: "not told".to_owned(),
        database: "orbit".to_owned(),
    }
}

#[test]
fn only_health_is_open() {
    let operator = Operator::start();
    let health = operator.without_token("/healthz", "");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));

    let wrong = format!("Authorization: Bearer {}x\r\n", operator.token);
    let basic = format!("Authorization: Basic {}\r\n", operator.token);
    let right = format!("Authorization: bearer {}\r\n", operator.token);
    for target in ["/readyz", "/metrics", "/v1/policy", "/v1/tenants/acme/usage", "/nowhere"] {
        for field in ["", &wrong, &basic, &format!("{right}{right}")] {
            let refused = operator.without_token(target, field);
            assert_eq!(refused.status, 401, "{target} with {field:?}");
            refused.problem();
            assert!(refused.head.contains("www-authenticate: bearer"), "{}", refused.head);
            assert!(!refused.body.contains(&operator.token));
        }
    }
    assert_eq!(operator.without_token("/readyz", &right).status, 200, "schemes have no case");
}

#[test]
fn unknown_paths_and_methods_are_problems() {
    let operator = Operator::start();
    assert_eq!(operator.call("GET", "/nowhere", "").problem()["status"], 404);
    assert_eq!(operator.call("DELETE", "/v1/policy", "").problem()["status"], 405);
    assert_eq!(operator.call("GET", "/v1/tenants/nobody/usage", "").problem()["status"], 404);
}

#[test]
fn metrics_are_prometheus_text() {
    let operator = Operator::start();
    let metrics = operator.call("GET", "/metrics", "");
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("# TYPE orbit_policy_reloads_total counter"), "{}", metrics.body);
    assert!(metrics.body.contains("orbit_policy_version "), "{}", metrics.body);
    assert!(!metrics.body.contains("acme"), "a tenant is never a label");
}

#[test]
fn the_policy_in_force_is_told() {
    let operator = Operator::start();
    let policy = operator.call("GET", "/v1/policy", "").json();
    assert_eq!(policy["version"], 1);
    assert_eq!(policy["counts"]["tenants"], 2);
    assert!(policy["hash"].as_str().is_some_and(|hash| hash.starts_with("sha256:")));
    assert_eq!(policy["last_error"], Value::Null);
    assert!(policy["loaded_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{policy}");
}

#[test]
fn documents_are_judged_without_effect() {
    let operator = Operator::start();
    let valid = operator.call("POST", "/v1/policy/check", "");
    assert_eq!(
        valid.json(),
        json!({
            "valid": true,
            "counts": { "tenants": 2, "keys": 0, "plans": 1, "apps": 0, "routes": 0 },
        })
    );

    let candidate = json!({ "files": { "new.toml": "[[tenant]]\nid = \"x\"\nplan = \"none\"\n" } });
    let refused = operator.call("POST", "/v1/policy/check", &candidate.to_string());
    let problem = refused.problem();
    assert_eq!(problem["status"], 422);
    let first = &problem["diagnostics"][0];
    assert_eq!((&first["file"], &first["line"]), (&json!("new.toml"), &json!(3)), "{problem}");
    for member in ["file", "line", "column", "key", "message"] {
        assert!(!first[member].is_null(), "{member} of {problem}");
    }
    assert_eq!(operator.call("POST", "/v1/policy/check", "{\"file\": 1}").problem()["status"], 400);
    assert_eq!(operator.call("GET", "/v1/policy", "").json()["version"], 1);
}

#[test]
fn applying_bad_documents_changes_nothing_and_shows() {
    let operator = Operator::start();
    let file = operator.tenants_file();
    fs::write(&file, TENANTS.replace("burst = 20", "burst = 0")).expect("written");
    let refused = operator.call("POST", "/v1/policy/apply", "").problem();
    assert_eq!(refused["status"], 422);
    let listed = refused["diagnostics"].as_array().map(Vec::len);
    assert_eq!(refused["mistakes"].as_u64(), listed.map(|count| count as u64));
    assert_eq!(refused["diagnostics"][0]["file"], file.to_str().expect("text"));
    assert_eq!(refused["diagnostics"][0]["line"], 4);

    // Told, but no reason to send traffic elsewhere: version 1 is in force.
    let ready = operator.call("GET", "/readyz", "");
    assert_eq!(ready.status, 200);
    let ready = ready.json();
    let check = &ready["checks"]["policy"];
    assert_eq!((&check["ok"], &check["version"]), (&json!(false), &json!(1)));
    assert_eq!(check["last_attempt"]["result"], "refused");
    assert_eq!(check["last_error"]["diagnostics"][0]["line"], 4);
    let metrics = operator.call("GET", "/metrics", "").body;
    assert!(metrics.contains("orbit_policy_reloads_total{result=\"refused\"} "), "{metrics}");

    fs::write(&file, TENANTS.replace("rate = 10", "rate = 11")).expect("written");
    let applied = operator.call("POST", "/v1/policy/apply", "");
    assert_eq!(applied.status, 200, "{}", applied.body);
    assert_eq!(
        (&applied.json()["version"], &applied.json()["last_error"]),
        (&json!(2), &Value::Null)
    );
    let again = operator.call("POST", "/v1/policy/apply", "").json();
    assert_eq!(
        (&again["version"], &again["last_attempt"]["result"]),
        (&json!(2), &json!("unchanged"))
    );
}

#[test]
fn usage_names_every_limit_up_the_tree() {
    let operator = Operator::start();
    let answer = operator.call("GET", "/v1/tenants/acme-brasil/usage", "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let usage = answer.json();
    assert_eq!(usage["tenant"], "acme-brasil");
    assert_eq!(usage["path"], "acme/acme-brasil");
    assert_eq!((&usage["level"], &usage["plan"]), (&json!("subsidiary"), &json!("business")));
    let limits = usage["limits"].as_array().expect("a list");
    let find = |kind: &str| {
        limits.iter().find(|limit| limit["kind"] == kind).unwrap_or_else(|| panic!("{usage}"))
    };
    assert_eq!(
        find("rate"),
        &json!({
            "level": "holding", "tenant": "acme", "name": "requests", "kind": "rate",
            "per_second": 10.0, "burst": 20, "remaining": 20, "spent": 0,
        })
    );
    assert_eq!(
        find("concurrent"),
        &json!({
            "level": "holding", "tenant": "acme", "name": "open", "kind": "concurrent",
            "max": 5, "in_flight": 0, "remaining": 5,
        })
    );
    // The database is away: the live part is answered all the same, and no secret is told.
    assert!(usage["today"]["unavailable"].is_string(), "{usage}");
    assert!(!answer.body.contains("not told"), "{}", answer.body);
}

#[test]
fn a_process_that_should_get_no_traffic_says_so() {
    let operator = Operator::start();
    operator.readiness.register("journal", || Check::required(false, json!({ "full": true })));
    let full = operator.call("GET", "/readyz", "");
    assert_eq!((full.status, &full.json()["checks"]["journal"]["full"]), (503, &json!(true)));
    operator.readiness.register("journal", || Check::required(true, json!({ "full": false })));
    assert_eq!(operator.call("GET", "/readyz", "").status, 200);
    operator.readiness.drain();
    let draining = operator.call("GET", "/readyz", "");
    assert_eq!((draining.status, &draining.json()["draining"]), (503, &json!(true)));
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let operator = Operator::start();
    let token = &operator.token;
    // Only announced: the server need not read it to refuse it.
    let refused = operator.send(&format!(
        "POST /v1/policy/check HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Length: 99999999999\r\n\r\n"
    ));
    assert_eq!(refused.problem()["status"], 413);
}

#[test]
fn it_stops_listening_when_dropped() {
    let operator = Operator::start();
    let address = operator.server.address();
    let idle = TcpStream::connect(address).expect("it listens");
    drop(operator);
    assert!(TcpStream::connect(address).is_err());
    drop(idle);
}
