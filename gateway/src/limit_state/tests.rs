//! A gateway's limits from one process to the next, through real files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;

use orbit_policy::quota::InMemory;
use orbit_policy::{ApiKey, Body, Call, Decision, PolicySettings, Source};

use super::*;
use crate::telemetry::Metrics;

/// Between two looks at something another thread does.
const POLL: std::time::Duration = std::time::Duration::from_millis(1);

/// A process as far as its limits go.
struct Process {
    policy: Arc<Policy>,
    clock: Arc<Clock>,
    key: String,
    saver: Option<Saver>,
}

/// Five an hour for the tenant, three an hour for each client.
fn documents(key: &ApiKey) -> Vec<Source> {
    let text = format!(
        "[[plan]]\nid = \"p\"\napps = [\"crm\"]\nlimits = [{{ name = \"requests\", rate = 5, per = \
         \"hour\" }}, {{ name = \"client\", rate = 3, per = \"hour\", each = \"client_ip\" }}]\n\
         [[app]]\nid = \"crm\"\n[[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" \
         }}]\n[[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
         [[tenant]]\nid = \"acme\"\nplan = \"p\"\n\
         [[key]]\nid = \"{}\"\ntenant = \"acme\"\nhash = \"{}\"\n",
        key.id, key.hash
    );
    vec![Source { file: "test.toml".into(), text }]
}

impl Process {
    fn start(directory: &Path, key: &ApiKey, after_crash: AfterCrash) -> Process {
        let clock = Arc::new(Clock::start());
        let state = LimitState::open(directory).expect("usable");
        let settings = PolicySettings {
            max_dynamic_keys: 1_000,
            hash_key: state.hash_key(),
            memory: InMemory::shared(),
        };
        let policy = Arc::new(Policy::new(&documents(key), &settings, 0).expect("valid"));
        let saver = state.resume(Arc::clone(&policy), Arc::clone(&clock), after_crash);
        let key = key.reveal().to_owned();
        Process { policy, clock, key, saver: Some(saver.expect("started")) }
    }

    /// How many of `count` requests of a client are granted.
    fn granted(&self, client: u8, count: usize) -> usize {
        let call = || Call {
            key: Some(self.key.as_bytes()),
            host: "api.example.com",
            path: "/",
            method: "GET",
            client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, client)),
            body: Body::None,
            header: &|_| None,
            now: self.clock.now(),
            unix_us: self.clock.unix_us(),
        };
        let granted = |_: &usize| matches!(self.policy.decide(&call()), Decision::Admit(_));
        (0..count).filter(granted).count()
    }

    /// Ends in order.
    fn stop(mut self) {
        drop(self.saver.take());
    }
}

/// The directory as a process leaves it that dies now: a copy, with nothing of the end in it.
fn left_by_a_crash(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    // A draft may be renamed at any moment: it is a file only some of the time.
    for name in ["limits", "limits.closed"] {
        if let Ok(bytes) = fs::read(directory.join(name)) {
            fs::write(copy.path().join(name), bytes).expect("written");
        }
    }
    copy
}

/// Waits for a save that holds more than the one before.
fn wait_until_larger(file: &Path, than: u64) {
    let length = || fs::metadata(file).map_or(0, |metadata| metadata.len());
    while length() <= than {
        std::thread::sleep(POLL);
    }
}

fn key() -> ApiKey {
    ApiKey::generate("test").expect("random")
}

#[test]
fn p3_a_stop_in_order_forgives_nothing_and_nobody() {
    let (directory, key) = (tempfile::tempdir().expect("a directory"), key());
    for after_crash in [AfterCrash::Resume, AfterCrash::Empty] {
        let directory = directory.path().join(format!("{after_crash:?}/below"));
        let first = Process::start(&directory, &key, after_crash);
        assert_eq!(first.granted(1, 9), 3, "the client's limit");
        first.stop();
        let second = Process::start(&directory, &key, after_crash);
        assert_eq!(second.granted(1, 9), 0, "the client's limit");
        assert_eq!(second.granted(2, 1), 1);
        second.stop();
        let third = Process::start(&directory, &key, after_crash);
        assert_eq!(third.granted(3, 9), 1, "what the plan has left");
        third.stop();
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("limits.closed")), 0o600, "it holds the hash key");
        let mut left: Vec<_> =
            fs::read_dir(&directory).expect("there").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["limits.closed", "limits.lock"]);
    }
}

#[test]
fn p3_a_crash_forgives_what_was_not_saved_or_nothing_as_the_operator_wants() {
    let (directory, key) = (tempfile::tempdir().expect("a directory"), key());
    let first = Process::start(directory.path(), &key, AfterCrash::Resume);
    let file = directory.path().join("limits");
    let before = fs::metadata(&file).expect("a crash is known as one from the start").len();
    let early = left_by_a_crash(directory.path());
    assert_eq!(first.granted(1, 2), 2);
    wait_until_larger(&file, before);
    let late = left_by_a_crash(directory.path());
    first.stop();

    let resumed = Process::start(late.path(), &key, AfterCrash::Resume);
    assert_eq!((resumed.granted(1, 9), resumed.granted(2, 9)), (1, 2));
    drop(resumed);
    // The same after a crash before anything was saved.
    let resumed = Process::start(early.path(), &key, AfterCrash::Resume);
    assert_eq!((resumed.granted(1, 9), resumed.granted(2, 9)), (3, 2));
    let early = left_by_a_crash(early.path());

    for crashed in [early, late] {
        // What the crash left in between was overwritten by the starts above.
        fs::rename(crashed.path().join("limits.closed"), crashed.path().join("limits")).ok();
        let empty = Process::start(crashed.path(), &key, AfterCrash::Empty);
        assert_eq!((empty.granted(1, 9), empty.granted(2, 9)), (0, 0));
        empty.stop();
        let after = Process::start(crashed.path(), &key, AfterCrash::Empty);
        assert_eq!((after.granted(1, 9), after.granted(3, 9)), (0, 0), "still so");
    }
}

#[test]
fn a_first_start_is_no_crash() {
    let (directory, key) = (tempfile::tempdir().expect("a directory"), key());
    let first = Process::start(directory.path(), &key, AfterCrash::Empty);
    assert_eq!(first.granted(1, 9), 3);
}

#[test]
fn one_process_at_a_time() {
    let (directory, key) = (tempfile::tempdir().expect("a directory"), key());
    let first = Process::start(directory.path(), &key, AfterCrash::Resume);
    let second = LimitState::open(directory.path()).err().expect("refused");
    assert!(matches!(&second, LimitStateError::InUse { .. }), "{second}");
    assert!(second.to_string().contains(&*directory.path().to_string_lossy()), "{second}");
    first.stop();
    assert!(LimitState::open(directory.path()).is_ok());
    let file = directory.path().join("a-file");
    fs::write(&file, "").expect("written");
    assert!(matches!(LimitState::open(&file), Err(LimitStateError::Directory { .. })));
}

#[test]
fn any_damage_is_a_start_without_a_state() {
    let (directory, key) = (tempfile::tempdir().expect("a directory"), key());
    let first = Process::start(directory.path(), &key, AfterCrash::Resume);
    assert_eq!(first.granted(1, 9), 3);
    first.stop();
    let file = directory.path().join("limits.closed");
    let good = fs::read(&file).expect("there");
    let open = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("written");
        LimitState::open(directory.path()).expect("usable")
    };
    let hash_key = open(&good).hash_key();
    assert!(matches!(open(&good).left, Left::State { closed: true, .. }));
    let mut damaged: Vec<Vec<u8>> = vec![[&good[..], b"x"].concat(), vec![0; 5_000]];
    for at in 0..good.len() {
        damaged.push(good[..at].to_vec());
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        damaged.push(bytes);
    }
    for bytes in &damaged {
        let state = open(bytes);
        assert!(matches!(state.left, Left::Damaged), "{} bytes", bytes.len());
        assert_ne!(state.hash_key(), hash_key, "a key from a damaged file is none");
    }
    // Nothing to go on from: full, or as after a crash.
    drop(open(&damaged[9]));
    let full = Process::start(directory.path(), &key, AfterCrash::Resume);
    assert_eq!(full.granted(1, 9), 3);
    full.stop();
    drop(open(&damaged[9]));
    let empty = Process::start(directory.path(), &key, AfterCrash::Empty);
    assert_eq!(empty.granted(1, 9), 0);
}

#[test]
fn a_save_that_fails_is_tried_again() {
    let (directory, key) = (tempfile::tempdir().expect("a directory"), key());
    let metrics = Metrics::install().expect("installed");
    let process = Process::start(directory.path(), &key, AfterCrash::Resume);
    let (file, draft) = (directory.path().join("limits"), directory.path().join("limits.new"));
    let before = fs::metadata(&file).expect("there").len();
    // Where the draft should go there is a directory: it cannot be written.
    while fs::create_dir(&draft).is_err() {
        std::thread::sleep(POLL);
    }
    assert_eq!(process.granted(1, 9), 3);
    let twice = |line: &str| line.starts_with("orbit_limit_state_failures_total 2");
    while !metrics.render().lines().any(twice) {
        std::thread::sleep(POLL);
    }
    assert_eq!(fs::metadata(&file).expect("there").len(), before, "the state of before is kept");
    fs::remove_dir(&draft).expect("empty");
    wait_until_larger(&file, before);
    process.stop();
}
