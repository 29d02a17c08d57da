//! `orbit journal verify`: every frame and row of a journal, read and checked.

use anyhow::bail;
use clap::Args;
use indicatif::HumanBytes;
use orbit_meter::journal::verify;

use super::{Place, progress};
use crate::cli::output;

const BAR: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// Read every event of a journal and check it; changes nothing
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit journal verify --config /etc/orbit/orbit.toml
  orbit journal verify --directory /mnt/dead/journal

Works beside a running gateway. Exit code 0: every event is whole. 1: damage, all of it on standard
output as file:offset: what.")]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    place: Place,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let directory = self.place.directory()?;
        let bar = progress(0, BAR);
        let verified = verify(&directory, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        verified.damages.iter().for_each(output::line);
        let (events, segments) = (verified.events, verified.segments);
        let bytes = HumanBytes(verified.bytes);
        let read = format!("{events} events in {segments} segments, {bytes}");
        match verified.damages.len() {
            0 => {
                output::line(format_args!("ok: {read}"));
                Ok(())
            }
            1 => bail!("1 place is damaged; {read} are good"),
            places => bail!("{places} places are damaged; {read} are good"),
        }
    }
}
