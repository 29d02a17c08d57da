//! `orbit up` with its engine, and `orbit gateway` beside it as another node; an upstream for both.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use orbit_policy::ApiKey;
use serde_json::Value;

use crate::gateway::Gateway;
use crate::up::{self, Up};

/// After this a state that should come is not coming.
const BOUND: Duration = Duration::from_mins(1);

/// A node's directory, and a key for each team of the holding `acme`.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    pub(crate) keys: Vec<ApiKey>,
    /// Of the holding itself.
    pub(crate) own: ApiKey,
    pub(crate) gate: Gate,
}

/// Holds back answers of the upstream to paths that end in `/hold`.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    waiting: usize,
    open: bool,
}

impl Gate {
    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.waiting += 1;
        changed.notify_all();
        drop(changed.wait_while(state, |state| !state.open).unwrap());
    }

    /// Waits until so many requests wait.
    pub(crate) fn wait_for(&self, count: usize) {
        let (state, changed) = &*self.0;
        drop(changed.wait_while(state.lock().unwrap(), |state| state.waiting < count).unwrap());
    }
}

impl Home {
    /// `plan` is what the holding's plan says.
    pub(crate) fn new(plan: &str, teams: &[&str]) -> Home {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::default();
        let upstream = upstream(gate.clone());
        let mut policy = format!(
            "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n{plan}\n\
             [[app]]\nid = \"crm\"\nend_user_header = \"X-User\"\n\
             [[upstream]]\nid = \"u\"\npeers = [{{ address = \"{upstream}\" }}]\n\
             [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
             [[route]]\nid = \"docs\"\npath = \"/docs\"\napp = \"crm\"\nupstream = \"u\"\n\
             [[meter]]\nid = \"storage\"\nvalue = \"request_bytes\"\nroutes = [\"docs\"]\n\
             [[tenant]]\nid = \"acme\"\nplan = \"p\"\n"
        );
        let keys: Vec<ApiKey> = teams.iter().map(|_| ApiKey::generate("test").unwrap()).collect();
        for (team, key) in teams.iter().zip(&keys) {
            policy.push_str(&format!(
                "[[tenant]]\nid = \"{team}\"\nparent = \"acme\"\n\
                 [[key]]\nid = \"{}\"\ntenant = \"{team}\"\nhash = \"{}\"\n",
                key.id, key.hash
            ));
        }
        // `orbit up` makes keys for these.
        for tenant in ["acme-web", "acme-marketing", "acme-retail", "acme-brasil", "padaria"] {
            policy.push_str(&format!("[[tenant]]\nid = \"{tenant}\"\nparent = \"acme\"\n"));
        }
        let own = ApiKey::generate("test").unwrap();
        policy.push_str(&format!(
            "[[key]]\nid = \"{}\"\ntenant = \"acme\"\nhash = \"{}\"\n",
            own.id, own.hash
        ));
        let home = Home { directory, keys, own, gate };
        std::fs::create_dir(home.path("policy")).unwrap();
        std::fs::write(home.path("policy/all.toml"), policy).unwrap();
        up::settings(home.directory.path());
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A running node; killed with the test at the latest.
pub(crate) struct Orbit {
    process: Process,
    home: PathBuf,
    proxy: String,
    admin: String,
    ingest: String,
    database: String,
}

enum Process {
    /// `orbit up`.
    Up(Up),
    /// `orbit gateway`.
    Gateway(Gateway),
}

impl Orbit {
    /// `orbit up`.
    pub(crate) fn start(home: &Home) -> Orbit {
        let up = Up::start(&home.path("orbit.toml"), &home.path("data"));
        let [proxy, admin, ingest, database] =
            [up.proxy, up.admin, up.ingest, up.database].map(|address| address.to_string());
        Orbit { process: Process::Up(up), home: home.path(""), proxy, admin, ingest, database }
    }

    /// Another node of the same policy and database, which keeps everything below `name`.
    pub(crate) fn beside(&self, home: &Home, name: &str) -> Orbit {
        let (data, policy) = (home.path(name), home.path("policy"));
        std::fs::create_dir_all(&data).unwrap();
        let password = home.path("data/clickhouse/orbit.password");
        let settings = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"token\"\n\
             [ingest]\nlisten = \"\"\n[policy]\npaths = [\"{}\"]\n\
             [limits]\ndirectory = \"state\"\n[journal]\ndirectory = \"journal\"\n\
             segment_bytes = 1048576\nmax_bytes = 67108864\n\
             [clickhouse]\nmode = \"external\"\nurl = \"http://{}\"\nuser = \"orbit\"\n\
             password_file = \"{}\"\n[log]\nformat = \"json\"\n",
            policy.display(),
            self.database,
            password.display()
        );
        std::fs::write(data.join("orbit.toml"), settings).unwrap();
        let gateway = Gateway::start(&data.join("orbit.toml"));
        let (proxy, admin) = (gateway.proxy.clone(), gateway.admin.clone());
        let (process, ingest) = (Process::Gateway(gateway), String::new());
        let database = self.database.clone();
        Orbit { process, home: home.path(""), proxy, admin, ingest, database }
    }

    pub(crate) fn kill(self) {
        match self.process {
            Process::Up(up) => up.kill(),
            Process::Gateway(gateway) => gateway.kill(),
        }
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Up(up) => up.pid(),
            Process::Gateway(gateway) => gateway.pid(),
        }
    }

    /// `kill -9` while others ask it.
    pub(crate) fn stop_hard(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Waits until quotas were set right by rows after this.
    pub(crate) fn wait_for_reconciliation(&self) {
        let token = up::secret(&self.home, "data/admin.token");
        let fields = format!("Authorization: Bearer {token}\r\n");
        let when = || -> f64 {
            let metrics = exchange(&self.admin, "GET /metrics HTTP/1.1", &fields, b"");
            let name = "orbit_quota_reconciled_timestamp_seconds ";
            let at = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
            at.unwrap_or(0.0)
        };
        let before = when();
        wait_until(|| if when() > before { Ok(()) } else { Err("not reconciled".to_owned()) });
    }

    /// Status and body of a request; 0 when there was no answer.
    pub(crate) fn send(
        &self,
        key: &ApiKey,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> (u16, String) {
        let length = match body.len() {
            _ if fields.contains("Transfer-Encoding") => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let fields = format!("Authorization: Bearer {}\r\n{length}{fields}", key.reveal());
        let answer = exchange(&self.proxy, &format!("{method} {path} HTTP/1.1"), &fields, body);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { return (0, answer) };
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// What the quota of this name has counted for the tenant of a key.
    pub(crate) fn used(&self, key: &ApiKey, name: &str) -> u64 {
        let body = loop {
            match self.send(key, "GET", "/orbit/v1/limits", "", b"") {
                (200, body) => break body,
                // A key may ask ten times a second.
                (429, _) => {}
                (status, body) => panic!("{status}: {body}"),
            }
        };
        let body: Value = serde_json::from_str(&body).unwrap();
        let quotas = body["quotas"].as_array().unwrap();
        let quota = quotas.iter().find(|quota| quota["name"] == name).unwrap();
        if let Some(used) = quota["used"].as_u64() {
            return used;
        }
        // Of those above the key's own tenant only what remains is told.
        let left = quota["remaining"].as_u64().unwrap();
        quota["limit"].as_u64().unwrap() - left
    }

    /// Where requests go.
    pub(crate) fn proxy(&self) -> &str {
        &self.proxy
    }

    /// What it has in memory, KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends an event; it must be taken.
    pub(crate) fn event(&self, event: &Value) {
        self.take(event, "application/cloudevents+json");
    }

    /// Sends a batch of events; all must be taken.
    pub(crate) fn events(&self, events: &Value) {
        self.take(events, "application/cloudevents-batch+json");
    }

    fn take(&self, event: &Value, content_type: &str) {
        let token = up::secret(&self.home, "data/ingest.token");
        let body = event.to_string();
        let fields = format!(
            "Authorization: Bearer {}\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\n",
            token,
            body.len()
        );
        let answer = exchange(&self.ingest, "POST /v1/events HTTP/1.1", &fields, body.as_bytes());
        assert_eq!(&answer[9..12], "202", "{answer}");
        assert!(answer.contains("\"rejected\":[]"), "{answer}");
    }

    /// What the finance user sees.
    pub(crate) fn query(&self, sql: &str) -> String {
        self.ask_database("/", sql)
    }

    /// The answer to a query of which `target` has the parameters.
    pub(crate) fn ask_database(&self, target: &str, sql: &str) -> String {
        let password = up::secret(&self.home, "data/clickhouse/finance.password");
        let fields = format!(
            "X-ClickHouse-User: finance\r\nX-ClickHouse-Key: {}\r\nContent-Length: {}\r\n",
            password,
            sql.len()
        );
        // HTTP/1.0: the answer is not chunked.
        let line = format!("POST {target} HTTP/1.0");
        let answer = exchange(&self.database, &line, &fields, sql.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(&head[9..12], "200", "{sql}: {body}");
        body.trim().to_owned()
    }

    /// Waits until the query's answer is as expected.
    pub(crate) fn wait_for(&self, sql: &str, expected: &str) {
        wait_until(|| {
            let answer = self.query(sql);
            if answer == expected { Ok(()) } else { Err(format!("{sql}: {answer:?}")) }
        });
    }
}

/// Waits until it is so, and says what it is instead.
pub(crate) fn wait_until(is: impl Fn() -> Result<(), String>) {
    #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
    let started = std::time::Instant::now();
    loop {
        let Err(wrong) = is() else { return };
        assert!(started.elapsed() < BOUND, "{wrong}");
        std::thread::yield_now();
    }
}

fn exchange(address: &str, line: &str, fields: &str, body: &[u8]) -> String {
    // Nobody is there while it is killed.
    let Ok(mut socket) = TcpStream::connect(address) else { return String::new() };
    let head = format!("{line}\r\nHost: orbit\r\nConnection: close\r\n{fields}\r\n");
    // Who refuses a body need not read it.
    let _refused = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body));
    let mut answer = Vec::new();
    let _cut = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// An upstream that reads each request and says yes; `/reject` at the end of a path says no, and
/// `/hold` waits. For as long as the test program runs.
fn upstream(gate: Gate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let gate = gate.clone();
            std::thread::spawn(move || {
                let Some(path) = read_request(&mut socket) else { return };
                if path.ends_with("/hold") {
                    gate.pass();
                }
                let status = if path.ends_with("/reject") { "507 Full" } else { "200 OK" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
                );
                drop(socket.write_all(answer.as_bytes()));
            });
        }
    });
    address
}

/// Reads a whole request. Returns its path.
fn read_request(socket: &mut TcpStream) -> Option<String> {
    let (mut request, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let end = request.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            let is_chunked = head.contains("transfer-encoding: chunked");
            let body = &request[end + 4..];
            if if is_chunked { body.ends_with(b"0\r\n\r\n") } else { body.len() >= length } {
                return head.split(' ').nth(1).map(str::to_owned);
            }
        }
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => request.extend_from_slice(&buffer[..length]),
        }
    }
}
