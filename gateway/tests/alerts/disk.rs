//! The outbox on a disk that others fill.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use orbit_gateway::alerts::outbox::{Findings, Outbox, Outgoing};
use tempfile::TempDir;

const INSIDE: &str = "ORBIT_ALERTS_TEST_NAMESPACE";

/// True inside a mount namespace of the test's own. Outside, runs the named test again inside of
/// one, expects it to pass, and is false: what is mounted there goes with the process.
fn in_own_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        return true;
    }
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .status()
        .expect("setpriv and unshare of util-linux");
    assert!(status.success(), "{test} failed inside its mount namespace; it has to run as root");
    false
}

/// A disk of its own: ext4 on an image.
struct Disk {
    home: TempDir,
}

impl Disk {
    fn new(megabytes: u64) -> Disk {
        let disk = Disk { home: tempfile::tempdir().unwrap() };
        let image = disk.home.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        std::fs::create_dir(disk.root()).unwrap();
        run("mkfs.ext4", &[Path::new("-qF"), Path::new("-m0"), &image]);
        run("mount", &[Path::new("-oloop"), &image, &disk.root()]);
        disk
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// Takes what room there is.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.root().join("filler")).unwrap();
        for piece in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![7; piece]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.root().join("filler")).unwrap();
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program}: {status}");
}

/// Records events of a kilobyte each. How many there was room for, at most `most`.
fn record(outbox: &Outbox, from: usize, most: usize) -> usize {
    let body = vec![b'x'; 1_024];
    (0..most)
        .take_while(|number| {
            let id = format!("msg_{:06}", from + number);
            let event = Outgoing { id: &id, body: &body, webhooks: vec!["x"] };
            outbox.record(&[event], &Findings::default(), 5).is_ok()
        })
        .count()
}

fn pending(outbox: &Outbox) -> usize {
    outbox.due("x", 9, 100_000, &BTreeSet::new()).unwrap().0.len()
}

#[test]
fn m4_alerts_have_room_of_their_own_and_go_on_by_themselves_after_a_full_disk() {
    if !in_own_namespace(
        "disk::m4_alerts_have_room_of_their_own_and_go_on_by_themselves_after_a_full_disk",
    ) {
        return;
    }
    let disk = Disk::new(48);
    let path = disk.root().join("alerts.redb");
    let outbox = Outbox::at(&path);
    assert_eq!(record(&outbox, 0, 10), 10);
    disk.fill();
    // The blocks are there already; a start needs no others.
    assert_eq!(record(&outbox, 10, 500), 500);
    drop(outbox);
    let outbox = Outbox::at(&path);
    assert_eq!(pending(&outbox), 510);
    let mut all = 510;
    // What a failure gave up leaves room for a few.
    for _ in 0..3 {
        let more = record(&outbox, all, 100_000);
        assert!(more < 50_000, "it never fills");
        all += more;
        assert_eq!(pending(&outbox), all, "what was recorded is there, and nothing else");
    }
    disk.free();
    // Nobody opens it anew but the outbox itself.
    assert_eq!(record(&outbox, all, 300), 300);
    assert_eq!(pending(&outbox), all + 300);
    assert_eq!(outbox.times_set_aside(), 0, "a full disk damages nothing");

    // At the very first start there is no room at all.
    let disk = Disk::new(16);
    disk.fill();
    let outbox = Outbox::at(&disk.root().join("alerts.redb"));
    assert_eq!(record(&outbox, 0, 1), 0);
    disk.free();
    assert_eq!(record(&outbox, 0, 1), 1);
    assert_eq!(outbox.times_set_aside(), 0);
}
