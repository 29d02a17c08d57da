//! What a run shows while it is under way, on standard error: a bar on a terminal, else a plain
//! line every two seconds.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::generator::Progress;
use crate::ledger::table::Recorded;

const LINE_INTERVAL_NS: u64 = 2_000_000_000;

/// A view of something that takes a while.
pub struct ProgressView {
    title: String,
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { clock: Clock, next_ns: u64 },
}

impl ProgressView {
    /// A view, or none when `quiet`.
    pub fn new(title: &str, quiet: bool) -> ProgressView {
        let shown = if quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg} {elapsed}");
            let bar = ProgressBar::new(1000).with_prefix(title.to_owned());
            Shown::Bar(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
        } else {
            Shown::Lines { clock: Clock::start(), next_ns: LINE_INTERVAL_NS }
        };
        ProgressView { title: title.to_owned(), shown }
    }

    /// A glance at a run.
    pub fn run(&mut self, progress: &Progress) {
        self.noted(progress, "");
    }

    /// The same, with a word about what else is going on.
    pub fn noted(&mut self, progress: &Progress, note: &str) {
        let Progress { elapsed, planned, length, started, ended, failed } = *progress;
        let share = match (planned, length) {
            (Some(planned), _) => ended as f64 / planned.max(1) as f64,
            (None, Some(length)) => elapsed.as_secs_f64() / length.as_secs_f64().max(1e-9),
            (None, None) => 0.0,
        };
        let rate = ended as f64 / elapsed.as_secs_f64().max(0.001);
        self.show(share, elapsed > Duration::ZERO, || {
            let of = planned.map_or_else(String::new, |planned| format!(" of {planned}"));
            let open = started.saturating_sub(ended);
            let note = if note.is_empty() { String::new() } else { format!(", {note}") };
            format!("{ended}{of} ended, {open} open, {failed} failed, {rate:.0}/s{note}")
        });
    }

    /// A glance at something of which so many are done.
    pub fn counted(&mut self, done: u64, of: u64, what: &str) {
        self.show(done as f64 / of.max(1) as f64, true, || format!("{done} of {of} {what}"));
    }

    /// A glance at ClickHouse catching up.
    pub fn recorded(&mut self, recorded: Recorded, expected: u64) {
        let found = recorded.requests + recorded.refusals;
        self.show(found as f64 / expected.max(1) as f64, true, || {
            format!("{found} of {expected} answers recorded")
        });
    }

    /// A share of something done, from 0 to 1.
    pub fn share(&mut self, share: f64, says: impl FnOnce() -> String) {
        self.show(share, true, says);
    }

    fn show(&mut self, share: f64, begun: bool, says: impl FnOnce() -> String) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_position((share.clamp(0.0, 1.0) * 1000.0) as u64);
                bar.set_message(says());
            }
            Shown::Lines { clock, next_ns } => {
                let now_ns = clock.now_ns();
                if begun && now_ns >= *next_ns {
                    *next_ns = now_ns + LINE_INTERVAL_NS;
                    // Progress nobody can read is not worth failing for.
                    drop(writeln!(std::io::stderr(), "{}: {}", self.title, says()));
                }
            }
        }
    }
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
