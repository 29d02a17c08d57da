//! The report as text.

use std::fmt::{self, Display, Formatter};

use crate::ledger::LedgerVerdict;
use crate::limit::{LimitVerdict, SharesVerdict};

use super::{CpuReport, KindReport, Latency, ReloadReport, Report};

/// Longer names of request kinds push their line to the right.
const MAX_NAME_WIDTH: usize = 48;

/// Milliseconds, with as many decimals as the size deserves.
struct Ms(u64);

impl Display for Ms {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ms = self.0 as f64 / 1000.0;
        let decimals = if self.0 < 10_000 { 3 } else { 1 };
        // Through a string, so that the caller's width applies to the whole.
        f.pad(&format!("{ms:.decimals$}"))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} against {}", self.scenario, self.target)?;
        writeln!(f)?;
        self.answers(f)?;
        writeln!(f)?;
        self.rates(f)?;
        if let Some(cpu) = &self.cpu {
            write_cpu(f, cpu)?;
        }
        if let Some(limit) = &self.limit {
            write_limit(f, limit)?;
        }
        if let Some(shares) = &self.shares {
            write_shares(f, shares)?;
        }
        if let Some(reload) = &self.reload {
            write_reload(f, reload)?;
        }
        if let Some(ledger) = &self.ledger {
            write_ledger(f, ledger)?;
        }
        writeln!(f)?;
        if self.findings.is_empty() {
            return writeln!(f, "verdict: ok");
        }
        writeln!(f, "verdict: FAILED")?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}

impl Report {
    fn answers(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.kinds.iter().map(|kind| kind.name.chars().count()).max().unwrap_or(0);
        let width = (width + 2).clamp(12, MAX_NAME_WIDTH);
        writeln!(
            f,
            "{:<width$}{:<12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}  (ms)",
            "request", "status", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for kind in &self.kinds {
            write_kind(f, width, kind)?;
        }
        write_latency(f, width, "all", "from due", self.whole, &self.latency)?;
        write_latency(f, width, "", "from sent", self.whole, &self.service)?;
        write_latency(f, width, "", "send lag", self.whole, &self.lateness)
    }

    fn rates(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let planned = self.planned_per_s.map_or_else(
            || "as fast as the target answers".to_owned(),
            |rate| format!("planned {rate:.1}/s"),
        );
        writeln!(
            f,
            "rate      {planned}, sent {:.1}/s, answered whole {:.1}/s over {:.2} s",
            self.sent_per_s, self.answered_per_s, self.measured_s
        )?;
        let (aborted, failed) = self.kinds.iter().fold((0, 0), |(aborted, failed), kind| {
            (aborted + kind.aborted, failed + kind.failed.values().sum::<u64>())
        });
        writeln!(
            f,
            "requests  {} sent, {} answered whole, {aborted} aborted, {failed} failed, \
             {} never sent",
            self.started, self.whole, self.unsent
        )
    }
}

fn write_latency(
    f: &mut Formatter<'_>,
    width: usize,
    name: &str,
    status: &str,
    count: u64,
    latency: &Latency,
) -> fmt::Result {
    if latency.count == 0 {
        // All of them were in the warm-up.
        return writeln!(f, "{name:<width$}{status:<12}{count:>10}");
    }
    let Latency { p50_us, p90_us, p99_us, p999_us, max_us, .. } = *latency;
    writeln!(
        f,
        "{name:<width$}{status:<12}{count:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        Ms(p50_us),
        Ms(p90_us),
        Ms(p99_us),
        Ms(p999_us),
        Ms(max_us)
    )
}

fn write_kind(f: &mut Formatter<'_>, width: usize, kind: &KindReport) -> fmt::Result {
    let mut name = kind.name.as_str();
    for answer in &kind.answers {
        let mark = if answer.gateway_made > 0 { " gateway" } else { "" };
        let status = format!("{}{mark}", answer.status);
        write_latency(f, width, name, &status, answer.count, &answer.latency)?;
        name = "";
    }
    if kind.aborted > 0 {
        writeln!(f, "{name:<width$}{:<12}{:>10}", "aborted", kind.aborted)?;
        name = "";
    }
    for (reason, count) in &kind.failed {
        writeln!(f, "{name:<width$}{:<12}{count:>10}  {reason}", "failed")?;
        name = "";
    }
    Ok(())
}

fn write_cpu(f: &mut Formatter<'_>, cpu: &CpuReport) -> fmt::Result {
    let resolution = if cpu.used.precise { "schedstat" } else { "clock ticks" };
    writeln!(
        f,
        "cpu       {:.2} us per answer: {:.2} s user + {:.2} s system over {} answers \
         ({resolution}); generator {:.2} us",
        cpu.us_per_answer,
        cpu.used.user_s,
        cpu.used.system_s,
        cpu.answers,
        cpu.generator_us_per_answer
    )
}

fn write_limit(f: &mut Formatter<'_>, limit: &LimitVerdict) -> fmt::Result {
    writeln!(
        f,
        "limit     {} admitted; at most {:.1} in {:.3} s, at least {:.1} in {:.3} s; {} refused",
        limit.admitted,
        limit.at_most,
        limit.admitted_s,
        limit.at_least,
        limit.offered_s,
        limit.refused
    )?;
    for (level, count) in &limit.refused_by_level {
        writeln!(f, "          {count} refusals name the level {level}")?;
    }
    for (policy, count) in &limit.violated_policies {
        writeln!(f, "          {count} refusals list the policy {policy}")?;
    }
    Ok(())
}

fn write_shares(f: &mut Formatter<'_>, shares: &SharesVerdict) -> fmt::Result {
    writeln!(f)?;
    writeln!(
        f,
        "{:<24}{:>12}{:>14}{:>12}{:>12}{:>12}{:>12}",
        "share", "offered/s", "guaranteed/s", "admitted", "at least", "at most", "refused"
    )?;
    for line in &shares.lines {
        let at_most = line.at_most.map_or_else(String::new, |most| format!("{most:.1}"));
        writeln!(
            f,
            "{:<24}{:>12.1}{:>14.1}{:>12}{:>12.1}{at_most:>12}{:>12}",
            line.name, line.offered_per_s, line.per_s, line.admitted, line.at_least, line.refused
        )?;
    }
    Ok(())
}

fn write_reload(f: &mut Formatter<'_>, reload: &ReloadReport) -> fmt::Result {
    let outcome = &reload.outcome;
    writeln!(
        f,
        "reload    {} of {} took effect, the slowest after {:.1} ms",
        outcome.effective, outcome.planned, outcome.slowest_ms
    )?;
    writeln!(
        f,
        "          p99 {} ms during ({} answers), {} ms without ({} answers): {:.2} times",
        Ms(reload.during.p99_us),
        reload.during.count,
        Ms(reload.without.p99_us),
        reload.without.count,
        reload.p99_ratio
    )
}

fn write_ledger(f: &mut Formatter<'_>, ledger: &LedgerVerdict) -> fmt::Result {
    writeln!(f)?;
    writeln!(f, "{:<36}{:>12}{:>10}", "ledger", "checked", "wrong")?;
    for line in &ledger.checks {
        let what = line.check.says();
        writeln!(f, "{what:<36}{:>12}{:>10}", line.checked, line.wrong)?;
    }
    writeln!(f)?;
    writeln!(f, "{:<24}{:<24}{:<8}{:>10}{:>10}", "tenant", "route", "status", "answers", "rows")?;
    for group in &ledger.groups {
        writeln!(
            f,
            "{:<24}{:<24}{:<8}{:>10}{:>10}",
            group.tenant,
            group.route,
            format!("{}xx", group.status_class),
            group.answers,
            group.recorded
        )?;
    }
    if ledger.whole_but_marked_aborted > 0 {
        let count = ledger.whole_but_marked_aborted;
        writeln!(f, "{count} answers were received whole though their row is marked as aborted")?;
    }
    for finding in &ledger.findings {
        writeln!(f, "  {}: {}", finding.id.as_deref().unwrap_or("-"), finding.says)?;
    }
    Ok(())
}
