//! M1, M2 for ingested events: killed again and again under senders that retry until they are told
//! that it is kept, the journal holds each event exactly once.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;

use super::node::{BATCH, Node, event, exchange, journal, rows};

const CHILD: &str = "ORBIT_INGEST_CHILD";
const KILLS: u64 = 24;
const SENDERS: u64 = 3;
const BATCH_EVENTS: u64 = 20;

/// Not a test of its own: the victim of `killed_again_and_again`, which runs this binary again with
/// the variable set. Without it, there is nothing to do.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let node = Node::start(directory.as_ref());
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nlistening {}", node.address()).unwrap();
    out.flush().unwrap();
    // Until it is killed, or its parent is gone.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// A process that listens; killed when dropped.
struct Victim {
    child: Child,
    address: SocketAddr,
}

impl Victim {
    fn start(directory: &Path) -> Victim {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "death::victim", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut addresses = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("listening ").and_then(|address| address.parse().ok())
        });
        let address = addresses.next().expect("the victim listens");
        Victim { child, address }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What senders and the killer share.
struct Shared {
    address: Mutex<SocketAddr>,
    moved: Condvar,
    /// Batches acknowledged.
    kept: AtomicU64,
    stop: AtomicBool,
}

/// xorshift64*: which batch is sent again, and when to kill.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    }
}

fn name(sender: u64, batch: u64, number: u64) -> String {
    format!("{sender}-{batch}-{number}")
}

/// Sends one batch until it is told that everything is kept; whether all of it was known.
fn deliver(shared: &Shared, token: &str, sender: u64, batch: u64) -> bool {
    let events: Vec<Value> =
        (0..BATCH_EVENTS).map(|number| event(&name(sender, batch, number))).collect();
    let body = Value::from(events).to_string();
    let fields = format!("Authorization: Bearer {token}\r\nContent-Type: {BATCH}\r\n");
    loop {
        let address = *shared.address.lock().unwrap();
        let Ok(answer) = exchange(address, "POST", "/v1/events", &fields, &body) else {
            // Dead, or dying: the next one may listen elsewhere.
            let known = shared.address.lock().unwrap();
            let bound = std::time::Duration::from_millis(20);
            drop(shared.moved.wait_timeout_while(known, bound, |now| *now == address).unwrap());
            continue;
        };
        let (accepted, duplicates, rejected) = answer.counts();
        assert_eq!((accepted + duplicates, rejected), (BATCH_EVENTS, 0));
        return accepted == 0;
    }
}

/// Batches until told to stop; how many.
fn send(shared: &Shared, token: &str, sender: u64, mut random: Random) -> u64 {
    let mut batch = 0;
    while !shared.stop.load(Ordering::Acquire) {
        deliver(shared, token, sender, batch);
        batch += 1;
        shared.kept.fetch_add(1, Ordering::AcqRel);
        if random.next(5) == 0 {
            let again = random.next(batch);
            assert!(deliver(shared, token, sender, again), "acknowledged, so known for ever");
        }
    }
    batch
}

#[test]
fn killed_again_and_again() {
    let home = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a seed, printed with a failure")]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = since.as_nanos() as u64 | 1;
    writeln!(std::io::stderr(), "seed {seed}").unwrap();
    let mut random = Random(seed);
    let mut victim = Victim::start(home.path());
    let token = std::fs::read_to_string(home.path().join("ingest.token")).unwrap();
    let token = token.trim().to_owned();
    let shared = Arc::new(Shared {
        address: Mutex::new(victim.address),
        moved: Condvar::new(),
        kept: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (shared, token) = (Arc::clone(&shared), token.clone());
            let random = Random(seed.rotate_left(sender as u32 + 1) | 1);
            std::thread::spawn(move || send(&shared, &token, sender, random))
        })
        .collect();
    for _ in 0..KILLS {
        let enough = shared.kept.load(Ordering::Acquire) + 1 + random.next(12);
        while shared.kept.load(Ordering::Acquire) < enough {
            assert!(senders.iter().all(|sender| !sender.is_finished()), "a sender gave up");
            std::thread::yield_now();
        }
        // Anywhere in the next request.
        for _ in 0..random.next(20_000) {
            std::hint::spin_loop();
        }
        drop(victim);
        victim = Victim::start(home.path());
        *shared.address.lock().unwrap() = victim.address;
        shared.moved.notify_all();
    }
    shared.stop.store(true, Ordering::Release);
    let sent: Vec<u64> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    drop(victim);

    let journal = journal(home.path(), 64 << 20);
    assert!(u64::from(journal.epoch()) > KILLS);
    let mut counted: HashMap<[u8; 16], u32> = HashMap::new();
    for row in rows(&journal) {
        *counted.entry(row.request_id).or_default() += 1;
    }
    for (sender, batches) in sent.iter().enumerate() {
        for (batch, number) in (0..*batches).flat_map(|b| (0..BATCH_EVENTS).map(move |n| (b, n))) {
            let name = name(sender as u64, batch, number);
            let id = orbit_meter::ingest::request_id("/test", &name);
            assert_eq!(counted.remove(&id), Some(1), "{name}, seed {seed}");
        }
    }
    assert!(counted.is_empty(), "events nobody sent: {counted:?}");
    assert!(sent.iter().sum::<u64>() > KILLS, "{sent:?}");
}
