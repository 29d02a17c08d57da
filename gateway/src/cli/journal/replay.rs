//! `orbit journal replay`: ships what a dead gateway left, exactly once.
//!
//! It is a gateway without a proxy: it opens the journal, which locks it, settles what lies beside
//! it (the index of ingested events, the counts of refusals), and lets the shipper run until nothing
//! is left. So it may be killed and run again like one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar};
use orbit_meter::ingest::{IndexSettings, IngestIndex};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use orbit_meter::ship::{ShipSettings, ShipStatus, Shipper, ShipperHandle};

use super::inspect::{look, lost, text};
use super::progress;
use crate::cli::{Config, output};
use crate::clock::Clock;
use crate::settings::{ClickHouse, ClickHouseMode, Settings};
use crate::storage::Session;
use crate::telemetry;

const BAR: &str = "{bar:40} {pos}/{len} events {per_sec} {eta} {msg}";
/// How often progress is shown.
const STEP: Duration = Duration::from_millis(200);
/// How long what is under way may take at the end, when everything is shipped already.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Nothing is appended: segments made in advance may be as small as they can be.
const SEGMENT_BYTES: u64 = 16 * 1024;

/// Ship the journal of a dead gateway into the usage database, every event once
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit journal replay --directory /mnt/dead/journal --config /etc/orbit/orbit.toml --dry-run
  orbit journal replay --directory /mnt/dead/journal --config /etc/orbit/orbit.toml

Killed in the middle, it is simply run again. It refuses a journal that a gateway has open. Move a
journal, or mount its disk, and never replay a copy while the original may still be shipped: both
would be counted. A running gateway's embedded engine is found by the files in its data directory;
if none runs, one is started for it and stopped again.")]
pub(in crate::cli) struct Replay {
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    config: Config,
    /// Say what would be shipped, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Replay {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = self.config.load()?;
        telemetry::start_log(&settings.log)?;
        let directory = &self.directory;
        let found = look(directory)?;
        if found.node.is_none() && found.lanes.is_empty() {
            bail!("there is no journal in {}", directory.display());
        }
        if let Some(pid) = found.in_use_by {
            let directory = directory.display();
            bail!("the journal {directory} is in use by process {pid}, which ships it itself");
        }
        if self.dry_run {
            output::line(text(directory, &found).trim_end());
            let pending = found.pending_events();
            let target = target(&settings.clickhouse);
            output::line(format_args!("would ship {pending} events to {target}"));
            return Ok(());
        }
        replay(directory, &settings)
    }
}

fn target(settings: &ClickHouse) -> String {
    match settings.mode {
        ClickHouseMode::Embedded => format!("the engine in {}", settings.data.display()),
        ClickHouseMode::External => {
            let url = settings.url.as_deref().unwrap_or_default();
            format!("database {} at {url}", settings.database)
        }
    }
}

fn replay(directory: &Path, settings: &Settings) -> anyhow::Result<()> {
    // First, so that nobody else ships it, and nothing else is started for nothing.
    let journal = Journal::open(JournalSettings {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: u64::MAX,
        max_lanes: 1,
        ..JournalSettings::new(directory)
    })?;
    // Before anything is shipped: what the journal holds is certain only until then.
    let index = IndexSettings::new(settings.ingest.keep());
    let index = Arc::new(IngestIndex::open(&journal, &index, Clock::start().unix_us())?);
    let refusals = Refusals::open(Arc::clone(&journal))?;
    let session = Session::open(&settings.clickhouse, &std::env::current_exe()?)?;
    let (pending, _) = journal.pending();
    let bar = progress(pending, BAR);
    let ship_settings = ship_settings(settings, Arc::clone(&index));
    let shipper = Shipper::start(Arc::clone(&journal), session.store()?, ship_settings)?;
    let shipped = drain(&shipper, pending, &bar)
        // There is room for them now.
        .and_then(|()| refusals.flush(i64::MAX).context("counts of refusals are left"))
        .and_then(|()| drain(&shipper, pending, &bar));
    let (status, took) = (shipper.status(), bar.elapsed());
    bar.finish_and_clear();
    let stopped = shipper.stop(STOP_TIMEOUT).context("shipping did not end");
    drop(shipper);
    index.close().context("the index of ingested events")?;
    let losses = journal.losses();
    journal.close();
    shipped.and(stopped)?;
    session.close()?;
    let ShipStatus { rows, batches, resends, .. } = status;
    output::line(format_args!(
        "shipped {rows} events in {batches} batches ({resends} sent again) in {}; \
         nothing is left in {}",
        HumanDuration(took),
        directory.display()
    ));
    losses.iter().map(lost).for_each(output::line);
    Ok(())
}

fn ship_settings(settings: &Settings, index: Arc<IngestIndex>) -> ShipSettings {
    ShipSettings {
        max_rows: settings.ship.max_rows,
        max_delay: Duration::from_millis(settings.ship.max_delay_ms),
        before_forget: Some(Arc::new(move || index.sync())),
        ..ShipSettings::default()
    }
}

/// Waits for as long as it takes, and says what it waits for.
fn drain(shipper: &ShipperHandle, pending: u64, bar: &ProgressBar) -> anyhow::Result<()> {
    while let Err(waiting) = shipper.flush(STEP) {
        bar.set_position(pending.saturating_sub(waiting.waiting));
        bar.set_message(waiting.last_error.unwrap_or_default());
        if !shipper.status().is_running {
            bail!("shipping ended with {} events left; the log says why", waiting.waiting);
        }
    }
    Ok(())
}
