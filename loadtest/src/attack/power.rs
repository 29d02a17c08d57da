//! The machine loses power: what was not synced is gone.
//!
//! The journal is on a disk of its own, an ext4 image. At a random moment the gateway is stopped
//! and the image copied: what has reached the image is what a power failure leaves, the rest is in
//! the memory of a kernel that is no more. Then the gateway is killed, the copy takes the image's
//! place, the machine gets another boot id, and the gateway is started again.
//!
//! The gateway must say since when it may have lost something (`usage_losses`), and that must be
//! little more than the interval between two syncs ago. Every answer that is older must have its
//! row, and so must every answer of the new life; and `orbit audit` must fail and tell of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;

use crate::clock::Clock;
use crate::fault::Fault;
use crate::generator::{Failure, Recording};
use crate::load::Load;
use crate::progress::ProgressView;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::stage::settings::SYNC_INTERVAL;

use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, Seen, drain, settle};

const IMAGE_BYTES: u64 = 96 << 20;
/// The file system commits nothing that was not synced, so that the image stands still while
/// nobody syncs, and its copy is of one moment.
const MOUNT_OPTIONS: &str = "loop,commit=3600";
const CALM: Duration = Duration::from_secs(3);
/// ClickHouse is cut off for this long before the power fails, so that there is much to lose.
const CUT_OFF: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(6);
/// Nothing older may be lost: the journal is synced at an interval, which takes a moment itself, on a
/// machine that has other things to do. Four intervals more than the one are for that.
const MOST_LOST: Duration = Duration::from_millis(5 * SYNC_INTERVAL.as_millis() as u64);
/// A count of refusals is of a second and is synced soon after.
const REFUSALS_WAIT: Duration = Duration::from_millis(1500);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const STAT: &str = "/proc/stat";

/// A disk that can be copied in the middle of its life. To be made after
/// [`isolate_mounts`](crate::stage::disk::isolate_mounts).
pub struct PowerDisk {
    image: PathBuf,
    directory: PathBuf,
}

impl PowerDisk {
    /// Makes one below `directory` and mounts it.
    pub async fn make(directory: &Path) -> Result<PowerDisk, AttackError> {
        let disk =
            PowerDisk { image: directory.join("disk.ext4"), directory: directory.join("disk") };
        let unmade = |source| AttackError::Disk { what: "make a disk image", source };
        std::fs::create_dir_all(&disk.directory).map_err(unmade)?;
        let image = std::fs::File::create(&disk.image).map_err(unmade)?;
        image.set_len(IMAGE_BYTES).map_err(unmade)?;
        tool("mkfs.ext4", &["-q", "-F", &text(&disk.image)]).await?;
        disk.mount().await?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    async fn mount(&self) -> Result<(), AttackError> {
        tool("mount", &["-o", MOUNT_OPTIONS, &text(&self.image), &text(&self.directory)]).await
    }

    /// What a power failure would leave now.
    fn copy(&self) -> Result<PathBuf, AttackError> {
        let copy = self.image.with_extension("copy");
        let uncopied = |source| AttackError::Disk { what: "copy the disk image", source };
        std::fs::copy(&self.image, &copy).map_err(uncopied)?;
        Ok(copy)
    }

    /// Puts a copy in the disk's place.
    async fn replace(&mut self, copy: PathBuf) -> Result<(), AttackError> {
        tool("umount", &[&text(&self.directory)]).await?;
        self.image = copy;
        self.mount().await
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // Lazily, because a gateway that is being killed may still use it.
        rustix::mount::unmount(&self.directory, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn tool(program: &str, arguments: &[&str]) -> Result<(), AttackError> {
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let command = || format!("{program} {}", arguments.join(" "));
    let failed = |said: String| AttackError::Tool { command: command(), said };
    let output = run.await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Lets the power fail under load. The stage's journal must be on `disk`.
pub async fn run(
    stage: &mut Stage,
    scenarios: &[Scenario],
    disk: &mut PowerDisk,
    seed: u64,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let mut random = Random::new(seed);
    let up = CALM + Duration::from_millis(random.within(0..4000));
    let load = Load::start(scenarios, up + CUT_OFF + AFTER, stage);
    let mut view = ProgressView::new("power", quiet);
    load.watch_for(up, &mut view, "").await;
    stage.faults.set(Fault::Stall);
    load.watch_for(CUT_OFF, &mut view, "ClickHouse is cut off").await;

    stage.gateway.signal(Signal::STOP);
    let clock = Clock::start();
    let failed_unix_us = clock.unix_us(0);
    let copy = disk.copy()?;
    let copied_ms = clock.now_ns() / 1_000_000;
    stage.gateway.kill().await;
    stage.faults.reset();
    stage.faults.set(Fault::Pass);
    disk.replace(copy).await?;
    another_boot(stage.directory(), failed_unix_us, &mut random)?;
    // Until now, whatever arrives left before the failure: a client may read it late.
    let restarted_unix_us = clock.unix_us(clock.now_ns());
    stage.gateway.start()?;
    stage.gateway_serves().await?;
    load.watch_to_end(&mut view).await;
    drop(view);

    drain(stage, quiet).await?;
    let since_unix_us = lost_since(stage).await?;
    let lost_from_us = since_unix_us.unwrap_or(failed_unix_us);
    let mut recordings = load.recordings().await?;
    let summary = LoadSummary::of(scenarios, &recordings);
    let young: u64 =
        recordings.iter_mut().map(|r| set_aside(r, lost_from_us, restarted_unix_us)).sum();
    let mut verdict =
        settle(stage, Seen::new(scenarios, recordings), AuditSays::Loss, quiet).await?;
    let lost_ms = (failed_unix_us - lost_from_us) / 1000;
    let mut wrong = Vec::new();
    if since_unix_us.is_none() {
        wrong.push("usage_losses has no row of cause `power`: a loss would be silent".to_owned());
    }
    if lost_ms > MOST_LOST.as_millis() as i64 {
        wrong.push(format!("the last {lost_ms} ms may be lost"));
    }
    verdict.add("little may be lost, and it is said", 1, wrong);
    let facts = [
        ("seed", seed.to_string()),
        ("power lost", format!("after {:.1} s of load", (up + CUT_OFF).as_secs_f64())),
        ("the image was copied in", format!("{copied_ms} ms, the gateway stopped")),
        ("what may be lost", format!("the last {lost_ms} ms, {young} answers")),
    ];
    let facts = facts.map(|(what, is)| Fact::new(what, is)).to_vec();
    Ok(AttackReport::new("power loss", facts, summary, verdict))
}

/// Since when something may be lost, as the gateway says.
async fn lost_since(stage: &Stage) -> Result<Option<i64>, AttackError> {
    let sql = "SELECT count(), toUnixTimestamp64Micro(min(since_ts)) FROM usage_losses \
               WHERE cause = 'power' FORMAT TSV";
    let answer = stage.table.ask(sql).await?;
    let numbers = answer.trim().split_once('\t');
    Ok(numbers.filter(|(count, _)| *count != "0").and_then(|(_, since)| since.parse().ok()))
}

/// Takes the answers out that may be lost: they are open, with or without a row. How many.
fn set_aside(recording: &mut Recording, lost_from_us: i64, restarted_unix_us: i64) -> u64 {
    let clock = recording.clock;
    let Some(answers) = &mut recording.record.answers else { return 0 };
    let mut young = 0;
    answers.retain(|answer| {
        let wait = if answer.gateway_made { REFUSALS_WAIT } else { Duration::ZERO };
        let from_us = lost_from_us - wait.as_micros() as i64;
        let may_be_lost = (from_us..=restarted_unix_us).contains(&clock.unix_us(answer.ended_ns));
        if may_be_lost {
            let kind = &mut recording.record.kinds[usize::from(answer.group)];
            *kind.failed.entry(Failure::Unfinished).or_default() += 1;
            young += 1;
        }
        !may_be_lost
    });
    young
}

/// From now on, whoever asks the kernel is told that the machine was started just now.
fn another_boot(
    directory: &Path,
    began_unix_us: i64,
    random: &mut Random,
) -> Result<(), AttackError> {
    let failed = |source| AttackError::Disk { what: "pretend another boot", source };
    let (a, b) = (random.next_u64(), random.next_u64());
    let id = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}\n",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0xfff,
        b & 0xffff_ffff_ffff
    );
    let stat = std::fs::read_to_string(STAT).map_err(failed)?;
    let stat: String = stat
        .lines()
        .map(|line| match line.strip_prefix("btime ") {
            Some(_) => format!("btime {}\n", began_unix_us / 1_000_000),
            None => format!("{line}\n"),
        })
        .collect();
    for (name, content, over) in [("boot_id", id, BOOT_ID), ("stat", stat, STAT)] {
        let file = directory.join(name);
        std::fs::write(&file, content).map_err(failed)?;
        rustix::mount::mount_bind(&file, over).map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}
