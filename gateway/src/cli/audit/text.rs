//! The report as people read it.

use std::fmt::Write as _;

use orbit_meter::audit::{Check, CheckReport, NodeStanding, Report, WatermarkReport};

/// The whole report; its last line is the verdict.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!("Audit of {}, asked at {}\n\n", scope(report), report.asked_at);
    checks(&mut text, report);
    findings(&mut text, report);
    notes(&mut text, report);
    watermark(&mut text, &report.watermark);
    line(&mut text, format_args!("\n{}", verdict(report)));
    text
}

/// `clean`, or how many findings.
pub(super) fn verdict(report: &Report) -> String {
    match report.findings {
        0 => "clean".to_owned(),
        1 => "1 finding".to_owned(),
        more => format!("{more} findings"),
    }
}

fn line(text: &mut String, rest: impl std::fmt::Display) {
    writeln!(text, "{rest}").expect("a String takes every write");
}

fn scope(report: &Report) -> String {
    let scope = &report.scope;
    let times = match (&scope.from, &scope.to) {
        (None, None) => "all times".to_owned(),
        (Some(from), None) => format!("events from {from} on"),
        (None, Some(to)) => format!("events before {to}"),
        (Some(from), Some(to)) => format!("events from {from} to before {to}"),
    };
    match &scope.tenant {
        Some(tenant) => format!("{times}, tenant {tenant} and below"),
        None => times,
    }
}

fn checks(text: &mut String, report: &Report) {
    line(
        text,
        format_args!("{:<11} {:>26} {:>7} {:>8}  claim", "check", "checked", "wrong", "took"),
    );
    for check in &report.checks {
        let CheckReport { check: name, checked, unit, wrong, took_ms, .. } = check;
        let (checked, wrong) = if check.asked {
            (format!("{checked} {unit}"), wrong.to_string())
        } else {
            ("-".to_owned(), "-".to_owned())
        };
        let took = format!("{}.{:01} s", took_ms / 1000, took_ms % 1000 / 100);
        let claim = name.claim();
        let name = name.name();
        line(text, format_args!("{name:<11} {checked:>26} {wrong:>7} {took:>8}  {claim}"));
        if let Some(limited) = &check.limited {
            line(text, format_args!("{:<11} limited: {limited}", ""));
        }
    }
}

/// Findings of every check, and those that are losses under a name of their own.
fn findings(text: &mut String, report: &Report) {
    let wrong = |check: &&CheckReport| check.wrong > 0;
    let (losses, others): (Vec<_>, Vec<_>) =
        report.checks.iter().filter(wrong).partition(|check| check.check == Check::Losses);
    for (title, checks) in [("Findings", others), ("Losses", losses)] {
        if checks.is_empty() {
            continue;
        }
        line(text, format_args!("\n{title}:"));
        for check in checks {
            for finding in &check.findings {
                let (name, kind) = (check.check.name(), finding.kind);
                line(text, format_args!("  {name} {kind}: {}", finding.text));
            }
            let more = check.wrong.saturating_sub(check.findings.len() as u64);
            if more > 0 {
                line(text, format_args!("  {} and {more} more", check.check.name()));
            }
        }
    }
}

fn notes(text: &mut String, report: &Report) {
    let mut notes = report.checks.iter().flat_map(|check| &check.notes).peekable();
    if notes.peek().is_some() {
        line(text, "\nNotes:");
    }
    for note in notes {
        line(text, format_args!("  {note}"));
    }
}

fn watermark(text: &mut String, watermark: &WatermarkReport) {
    let known = |time: &Option<String>| time.clone().unwrap_or_else(|| "unknown".to_owned());
    let held = watermark.held_by.map_or(String::new(), |node| format!(", held by node {node}"));
    let age = age(watermark.age_s);
    line(text, format_args!("\nWatermark: {}{age}{held}", known(&watermark.time)));
    line(text, format_args!("  {}", watermark.claim));
    for node in &watermark.nodes {
        line(text, format_args!("  {}", standing(node)));
        for lane in &node.lanes {
            let (epoch, number) = (lane.epoch, lane.lane);
            let time = known(&lane.watermark);
            line(text, format_args!("    epoch {epoch} lane {number}: {time}"));
        }
    }
}

/// A node in one line.
pub(in crate::cli) fn standing(node: &NodeStanding) -> String {
    let NodeStanding { node: number, host, state, updated, backlog_events, .. } = node;
    let away = if node.away { format!(", away since {updated}") } else { String::new() };
    let watermark = node.watermark.as_deref().unwrap_or("unknown");
    let age = age(node.age_s);
    format!(
        "node {number} ({host}) {state}{away}: {watermark}{age}, {backlog_events} events to ship"
    )
}

fn age(age_s: Option<i64>) -> String {
    match age_s {
        Some(age_s) if age_s >= 120 => format!(" ({} min ago)", age_s / 60),
        Some(age_s) => format!(" ({age_s} s ago)"),
        None => String::new(),
    }
}
