//! `orbit audit`: whether anything is missing, double or different, from ClickHouse alone.

mod text;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use orbit_meter::audit::{self, Options, Progress, Report, Scope, Verdict};

use super::{Config, output};
use crate::telemetry;

/// Check that nothing in the usage database is missing, double or different
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit audit
  orbit audit --from 2026-11-01 --to 2026-12-01
  orbit audit --from 2026-11-23T08:00:00Z --format json
  orbit audit --tenant acme-web

It asks ClickHouse and nothing else, changes nothing, and may run beside the traffic. A running
gateway's engine is found by the files in its data directory; if none runs, one is started for the
audit and stopped again.

The last line is the verdict, `clean` or the number of findings; one damage may be found by several
checks. Events above the watermark may still be on their way and are not claimed to be complete.

Exit code: 0 clean, 1 findings or no answer from ClickHouse, 2 wrong arguments.")]
pub(super) struct Audit {
    #[command(flatten)]
    config: Config,
    /// Events from this time on: a date (UTC) or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    from: Option<i64>,
    /// Events before this time: a date (UTC) or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    to: Option<i64>,
    /// Only rows of this tenant and those below it
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// How the report looks
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// How long in all to wait for what is on its way, in seconds
    #[arg(long, value_name = "N", default_value_t = 15)]
    wait_s: u64,
}

/// How a report looks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object, for programs
    Json,
}

impl Audit {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let options = self.options();
        let settings = self.config.load()?;
        telemetry::start_log(&settings.log)?;
        let report = super::with_database(&settings.clickhouse, async |store, url| {
            let bar = progress_bar();
            let report = audit::audit(store, &options, &mut |progress| show(&bar, progress)).await;
            bar.finish_and_clear();
            report.with_context(|| format!("the usage database at {url} was not audited"))
        })?;
        match self.format {
            Format::Text => output::line(text::text(&report).trim_end()),
            Format::Json => output::line(serde_json::to_string_pretty(&report)?),
        }
        verdict(&report)
    }

    fn options(&self) -> Options {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            let message = "--from must be before --to\n";
            clap::Error::raw(ErrorKind::ValueValidation, message).exit();
        }
        let tenant = self.tenant.clone();
        Options {
            scope: Scope { from_us: self.from, to_us: self.to, tenant, written_from_us: None },
            wait: Duration::from_secs(self.wait_s),
            ..Options::default()
        }
    }
}

fn verdict(report: &Report) -> anyhow::Result<()> {
    match report.verdict {
        Verdict::Clean => Ok(()),
        Verdict::Findings => bail!("{}", text::verdict(report)),
    }
}

/// On standard error, and only when that is a terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg:11} [{bar:40}] {percent}%  {elapsed}");
    let bar = ProgressBar::new(1);
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.of);
    bar.set_position(progress.done);
    bar.set_message(progress.check.name());
}

/// Unix microseconds of a date, at its beginning in UTC, or of a time.
pub(super) fn time_us(text: &str) -> Result<i64, String> {
    // Parsed as a format, which a time without a zone does not fit.
    let date = || Date::strptime("%Y-%m-%d", text).ok()?.to_zoned(TimeZone::UTC).ok();
    let at = text.parse::<Timestamp>().ok().or_else(|| date().map(|day| day.timestamp()));
    match at.map(Timestamp::as_microsecond) {
        Some(us) if us >= 0 => Ok(us),
        Some(_) => Err("before 1970".to_owned()),
        None => Err("neither a date (2026-11-01) nor a time (2026-11-01T08:00:00Z)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc_or_rfc_3339() {
        assert_eq!(time_us("2026-11-01"), Ok(1_793_491_200_000_000));
        assert_eq!(time_us("2026-11-01T00:00:00.5Z"), Ok(1_793_491_200_500_000));
        assert_eq!(time_us("2026-11-01T03:00:00+03:00"), Ok(1_793_491_200_000_000));
        for wrong in ["", "yesterday", "2026-13-01", "2026-11-01T00:00:00", "1969-12-31"] {
            assert!(time_us(wrong).is_err(), "{wrong}");
        }
    }
}
