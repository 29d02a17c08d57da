//! A real file system that can be filled, and can lose its power: ext4 on a loop device, mounted
//! where only the test sees it.

#![allow(dead_code, reason = "two test programs use parts of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const INSIDE: &str = "ORBIT_JOURNAL_TEST_NAMESPACE";

/// True inside a mount namespace of the test's own. Outside, runs the named test again inside of
/// one, expects it to pass, and is false: what is mounted there goes with the process, however it
/// ends.
pub(crate) fn in_own_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        return true;
    }
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .status()
        .expect("setpriv and unshare of util-linux");
    assert!(status.success(), "{test} failed inside its mount namespace; it has to run as root");
    false
}

/// A mounted file system on an image file.
pub(crate) struct Disk {
    home: TempDir,
    is_mounted: bool,
}

impl Disk {
    pub(crate) fn new(megabytes: u64) -> Disk {
        let home = tempfile::tempdir().expect("a temporary directory");
        let disk = Disk { home, is_mounted: false };
        let image = std::fs::File::create(disk.image()).expect("writable");
        image.set_len(megabytes << 20).expect("a sparse file");
        std::fs::create_dir(disk.root()).expect("writable");
        run("mkfs.ext4", &[Path::new("-qF"), Path::new("-m0"), &disk.image()]);
        disk.mounted()
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// Mounts the image.
    pub(crate) fn mounted(mut self) -> Disk {
        let options = Path::new("-oloop,errors=remount-ro");
        run("mount", &[options, &self.image(), &self.root()]);
        self.is_mounted = true;
        self
    }

    /// The moment of a power failure: from now on nothing reaches the image, and what has not
    /// reached it is gone.
    pub(crate) fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN without flushing the log: how file systems are tested for this.
        let script = "open(D, '<', $ARGV[0]) or die $!; $how = pack('L', 2); \
                      ioctl(D, 0x8004587D, $how) or die \"shutdown: $!\"";
        run("perl", &[Path::new("-e"), Path::new(script), &self.root()]);
    }

    /// What the kernel does to a file system when its disk gives wrong answers: it turns it
    /// read-only under everybody's hands.
    pub(crate) fn break_down(&self) {
        let found = Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.root()).output();
        let source = String::from_utf8(found.expect("findmnt").stdout).expect("text");
        let device = source.trim().strip_prefix("/dev/").expect("a loop device");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(trigger, "a test").expect("ext4 can be told that it is broken");
    }

    /// Only while nothing on it is open.
    pub(crate) fn remount(&self, how: &str) {
        let options = format!("-oremount,{how}");
        run("mount", &[Path::new(&options), &self.root()]);
    }

    pub(crate) fn unmounted(mut self) -> Disk {
        run("umount", &[&self.root()]);
        self.is_mounted = false;
        self
    }

    /// Writes a file until not a block is free.
    pub(crate) fn fill(&self, name: &str) -> PathBuf {
        use std::io::Write;
        let path = self.root().join(name);
        let mut file = std::fs::File::create(&path).expect("one more inode");
        for bytes in [1 << 20, 64 << 10, 4 << 10, 512] {
            let block = vec![b'x'; bytes];
            while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }

    /// Blocks an unprivileged process could have, in bytes.
    pub(crate) fn free_bytes(&self) -> u64 {
        let df = Command::new("df").args(["--output=avail", "-B1"]).arg(self.root()).output();
        let text = String::from_utf8(df.expect("df").stdout).expect("text");
        text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // The namespace would end it as well.
            drop(Command::new("umount").arg("-l").arg(self.root()).status());
        }
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&Path]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?} (this needs root): {said}");
}
