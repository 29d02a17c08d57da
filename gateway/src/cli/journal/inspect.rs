//! `orbit journal inspect`: what is in a journal, beside a running gateway or not.

use std::path::Path;

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use orbit_meter::journal::{Inspection, LaneInspection, Loss, inspect};
use orbit_meter::ship;

use super::{Place, time};
use crate::cli::output;

/// Show a journal's lanes, what is pending and what is lost; changes nothing
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit journal inspect --config /etc/orbit/orbit.toml
  orbit journal inspect --directory /mnt/dead/journal --format json | jq .losses

Works beside a running gateway. A loss of cause `power` means: the machine went down, and what was
journalled between the two times is gone; nobody knows how many events that was.")]
pub(in crate::cli) struct Inspect {
    #[command(flatten)]
    place: Place,
    /// How it is shown; times in JSON are unix microseconds
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let directory = self.place.directory()?;
        let inspection = look(&directory)?;
        match self.format {
            Format::Json => output::line(serde_json::to_string_pretty(&inspection)?),
            Format::Text => output::line(text(&directory, &inspection).trim_end()),
        }
        Ok(())
    }
}

pub(super) fn look(directory: &Path) -> anyhow::Result<Inspection> {
    let acknowledged = ship::acknowledged(directory)?;
    Ok(inspect(directory, &acknowledged)?)
}

pub(super) fn text(directory: &Path, inspection: &Inspection) -> String {
    let mut text = format!("journal {}: {}\n", directory.display(), state(inspection));
    if let Some(node) = inspection.node {
        let opened = time(inspection.opened_us);
        line(&mut text, format_args!("node {node}, epoch {} since {opened}", inspection.epoch));
    }
    if let (Some(synced_us), false) = (inspection.synced_us, inspection.is_closed) {
        let synced = time(synced_us);
        line(&mut text, format_args!("what was journalled before {synced} is on the disk"));
    }
    let (pending, spares) = (inspection.pending_events(), inspection.spare_segments);
    line(&mut text, format_args!("{pending} events pending, {spares} spare segments"));
    lanes(&mut text, &inspection.lanes);
    for loss in &inspection.losses {
        line(&mut text, lost(loss));
    }
    for path in &inspection.damaged_files {
        line(&mut text, format_args!("damaged header: {}", path.display()));
    }
    text
}

fn state(inspection: &Inspection) -> String {
    match (inspection.node, inspection.in_use_by) {
        (_, Some(0)) => "in use".to_owned(),
        (_, Some(pid)) => format!("in use by process {pid}"),
        (None, None) => "never used".to_owned(),
        (Some(_), None) if inspection.is_closed => "closed".to_owned(),
        (Some(_), None) => "left without a clean end".to_owned(),
    }
}

fn lanes(text: &mut String, lanes: &[LaneInspection]) {
    if lanes.is_empty() {
        return;
    }
    let mut row = |cells: [&str; 9]| {
        let [node, lane, segments, bytes, sequences, oldest, newest, acknowledged, pending] = cells;
        line(
            text,
            format_args!(
                "{node:>10} {lane:>9} {segments:>8} {bytes:>12} {sequences:>21} {oldest:>24} \
                 {newest:>24} {acknowledged:>12} {pending:>9}"
            ),
        );
    };
    row([
        "node",
        "epoch/lane",
        "segments",
        "bytes",
        "sequences",
        "oldest event",
        "newest event",
        "acknowledged",
        "pending",
    ]);
    for lane in lanes {
        let moment = |unix_us: Option<i64>| unix_us.map_or_else(|| "-".to_owned(), time);
        row([
            &lane.lane.node.to_string(),
            &format!("{}/{}", lane.lane.epoch, lane.lane.lane),
            &lane.segments.to_string(),
            &HumanBytes(lane.file_bytes).to_string(),
            &format!("{}..{}", lane.first_sequence, lane.next_sequence),
            &moment(lane.oldest_us),
            &moment(lane.newest_us),
            &lane.acknowledged.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string()),
            &lane.pending_events.to_string(),
        ]);
    }
}

/// One loss as one line.
pub(super) fn lost(loss: &Loss) -> String {
    let Loss { lane, first_sequence, events, bytes, cause, since_us, until_us } = loss;
    let what = if *events == 0 {
        "an unknown number of events".to_owned()
    } else {
        format!("{events} events, {}", HumanBytes(*bytes))
    };
    format!(
        "lost ({}): node {} epoch {} lane {} from sequence {first_sequence}: {what}, \
         journalled between {} and {}",
        cause.as_str(),
        lane.node,
        lane.epoch,
        lane.lane,
        time(*since_us),
        time(*until_us)
    )
}

fn line(text: &mut String, line: impl std::fmt::Display) {
    text.push_str(&format!("  {line}\n"));
}
