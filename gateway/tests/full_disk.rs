//! M4: the whole gateway with everything it keeps on one small disk. The disk is filled to the last
//! block, the gateway killed and started on it, also after a start of the machine: it serves or refuses
//! as it was told, goes on by itself when there is room, and has recorded exactly what it served.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::print_stderr, reason = "the log of the gateways goes to that of the test")]

#[path = "../../meter/tests/journal/disk.rs"]
mod disk;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orbit_meter::event::{Kind, View};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use orbit_policy::ApiKey;

use disk::{Disk, in_own_namespace};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// After this a state that should come is not coming.
const BOUND: Duration = Duration::from_mins(1);
const SEGMENT_BYTES: u64 = 1 << 20;

/// An upstream that answers everything, for as long as the test program runs.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
                drop(socket.write_all(answer.as_bytes()));
            });
        }
    });
    address
}

/// Settings and policy below `home`, what is kept below `data`. Nothing listens at the database's
/// port: nothing is shipped, so the disk stays full.
fn prepare(home: &Path, data: &Path, key: &ApiKey, on_full: &str) {
    let policy = format!(
        "[[plan]]\nid = \"p\"\nusers = 1000\napps = [\"crm\"]\n\
         [[app]]\nid = \"crm\"\nend_user_header = \"X-User\"\n\
         [[upstream]]\nid = \"u\"\npeers = [{{ address = \"{}\" }}]\n\
         [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
         [[tenant]]\nid = \"acme\"\nplan = \"p\"\n\
         [[key]]\nid = \"{}\"\ntenant = \"acme\"\nhash = \"{}\"\n",
        upstream(),
        key.id,
        key.hash
    );
    let data = data.display();
    let settings = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nthreads = 2\n\
         [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{data}/token\"\n\
         [ingest]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{data}/ingest.token\"\n\
         [limits]\ndirectory = \"{data}/state\"\n\
         [journal]\ndirectory = \"{data}/journal\"\nsegment_bytes = {SEGMENT_BYTES}\n\
         on_full = \"{on_full}\"\n\
         [clickhouse]\nmode = \"external\"\nurl = \"http://127.0.0.1:1\"\n\
         [log]\nformat = \"json\"\n"
    );
    std::fs::create_dir(home.join("policy")).unwrap();
    std::fs::write(home.join("policy/all.toml"), policy).unwrap();
    std::fs::write(home.join("orbit.toml"), settings).unwrap();
}

/// A running `orbit gateway`; killed with the test at the latest.
struct Gateway {
    child: Child,
    proxy: String,
    admin: String,
    ingest: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Gateway {
    fn start(home: &Path) -> Gateway {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orbit"))
            .arg("gateway")
            .arg("--config")
            .arg(home.join("orbit.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let serving = log.by_ref().find_map(|line| {
            eprintln!("{line}");
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            (line["message"] == "serving").then_some(line)
        });
        let serving = serving.expect("it starts on a full disk");
        let address =
            |field: &str| serving[field].as_str().unwrap().trim_matches(['[', ']']).to_owned();
        let (proxy, admin, ingest) = (address("proxy"), address("admin"), address("ingest"));
        // Keeps the pipe open and empty.
        std::thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
        Gateway { child, proxy, admin, ingest }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a client was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    served: u64,
    refused: u64,
    taken: u64,
    not_taken: u64,
}

/// Someone who asks, and posts events, and counts what comes of it.
struct Client {
    key: ApiKey,
    data: PathBuf,
    asked: u64,
    told: Told,
}

impl Client {
    fn token(&self, name: &str) -> String {
        let token = std::fs::read_to_string(self.data.join(name)).unwrap();
        format!("Authorization: Bearer {}\r\n", token.trim())
    }

    /// One request and one event, each of a user of its own.
    fn ask(&mut self, gateway: &Gateway) {
        self.asked += 1;
        let number = self.asked;
        let fields =
            format!("Authorization: Bearer {}\r\nX-User: user-{number}\r\n", self.key.reveal());
        match exchange(&gateway.proxy, "GET /", &fields, "").0 {
            200 => self.told.served += 1,
            503 => self.told.refused += 1,
            other => panic!("{other}"),
        }
        let event = format!(
            "{{\"specversion\":\"1.0\",\"type\":\"orbit.usage\",\"source\":\"test\",\
             \"id\":\"{number}\",\"subject\":\"acme\",\"data\":{{\"meter\":\"api_calls\",\
             \"quantity\":1}}}}"
        );
        let fields = self.token("ingest.token") + "Content-Type: application/cloudevents+json\r\n";
        match exchange(&gateway.ingest, "POST /v1/events", &fields, &event) {
            (200..300, _) => self.told.taken += 1,
            (503, answer) => {
                assert!(answer.to_ascii_lowercase().contains("retry-after"), "{answer}");
                self.told.not_taken += 1;
            }
            (other, answer) => panic!("{other}: {answer}"),
        }
    }

    /// Until both are taken again, as they are when there is room.
    fn ask_until_all_is_well(&mut self, gateway: &Gateway) {
        #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
        let began = Instant::now();
        loop {
            let before = (self.told.served, self.told.taken);
            self.ask(gateway);
            if before == (self.told.served - 1, self.told.taken - 1) {
                return;
            }
            assert!(began.elapsed() < BOUND, "{:?} {}", self.told, self.ready(gateway));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ready(&self, gateway: &Gateway) -> serde_json::Value {
        let (_, answer) = exchange(&gateway.admin, "GET /readyz", &self.token("token"), "");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
    }
}

fn exchange(address: &str, line: &str, fields: &str, body: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "{line} HTTP/1.1\r\nHost: orbit\r\nConnection: close\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

/// From now on, whoever asks the kernel is told that the machine was started meanwhile.
fn another_boot(home: &Path, number: usize) {
    let file = home.join(format!("boot_id.{number}"));
    std::fs::write(&file, format!("00000000-0000-4000-8000-{number:012}\n")).unwrap();
    let mounted = Command::new("mount").arg("--bind").arg(&file).arg(BOOT_ID).status().unwrap();
    assert!(mounted.success());
}

/// Requests and ingested events in the journal, when all sums are written.
fn recorded(data: &Path) -> (u64, u64) {
    let journal = Journal::open(JournalSettings {
        segment_bytes: SEGMENT_BYTES,
        ..JournalSettings::new(data.join("journal"))
    });
    let journal = journal.unwrap();
    let refusals = Refusals::open(std::sync::Arc::clone(&journal)).unwrap();
    refusals.flush(i64::MAX).unwrap();
    assert_eq!((refusals.oldest_us(), refusals.uncounted()), (None, 0));
    let (mut requests, mut events) = (0, 0);
    for key in journal.lanes() {
        let mut reader = journal.reader(key, None).unwrap();
        while let Some(frame) = reader.read().unwrap() {
            let row = View::decode(frame.row).unwrap();
            match row.kind() {
                Kind::Request => requests += u64::from(row.requests()),
                Kind::Ingested => events += 1,
                Kind::Refused => {}
            }
        }
    }
    journal.close();
    (requests, events)
}

/// The story. `boots`: the machine is started again now and then.
fn run(on_full: &str, boots: bool) -> Told {
    let disk = Disk::new(64);
    let home = tempfile::tempdir().unwrap();
    let data = disk.root().join("data");
    std::fs::create_dir(&data).unwrap();
    let key = ApiKey::generate("test").unwrap();
    prepare(home.path(), &data, &key, on_full);
    let mut client = Client { key, data: data.clone(), asked: 0, told: Told::default() };

    let gateway = Gateway::start(home.path());
    client.ask_until_all_is_well(&gateway);
    // What the next start needs is on the disk before it is full, however soon that is.
    gateway.kill();
    let gateway = Gateway::start(home.path());
    client.ask_until_all_is_well(&gateway);
    let filler = disk.fill("filler");
    client.ask(&gateway);
    gateway.kill();
    for life in 0..6 {
        if boots && life % 2 == 1 {
            another_boot(home.path(), life);
        }
        let _more = disk.fill(&format!("filler.{life}"));
        let gateway = Gateway::start(home.path());
        (0..20).for_each(|_| client.ask(&gateway));
        gateway.kill();
    }
    let gateway = Gateway::start(home.path());
    (0..20).for_each(|_| client.ask(&gateway));
    std::fs::remove_file(filler).unwrap();
    (0..6)
        .for_each(|life| std::fs::remove_file(disk.root().join(format!("filler.{life}"))).unwrap());
    client.ask_until_all_is_well(&gateway);
    gateway.kill();
    // No power failed in truth: nothing may be missing.
    assert_eq!(recorded(&data), (client.told.served, client.told.taken), "{:?}", client.told);
    client.told
}

#[test]
fn m4_with_everything_on_one_full_disk_it_starts_refuses_and_recovers() {
    if !in_own_namespace("m4_with_everything_on_one_full_disk_it_starts_refuses_and_recovers") {
        return;
    }
    let told = run("refuse", true);
    assert!(told.refused > 0 && told.not_taken > 0, "{told:?}");
}

#[test]
fn m4_with_everything_on_one_full_disk_it_starts_and_serves_unmetered() {
    if !in_own_namespace("m4_with_everything_on_one_full_disk_it_starts_and_serves_unmetered") {
        return;
    }
    // Sums of the last moment before a power failure are lost, which is told: not asked for here.
    let told = run("serve_unmetered", false);
    assert_eq!(told.refused, 0, "{told:?}");
    assert!(told.not_taken > 0, "{told:?}");
}
