//! Documents that will be wrong at one of their instants are wrong today (P4), and no others.

use orbit_policy::{Diagnostic, check};

use crate::{EDGE, Random, sources};

const DAY_US: i64 = 86_400_000_000;

fn found(text: &str, at_us: i64) -> Vec<Diagnostic> {
    check(&sources(format!("{text}{EDGE}")), at_us).err().map_or_else(Vec::new, |found| found.0)
}

/// Plans, a holding `h` on `wide`, and a child `c` with these shares; then more.
fn family(shares: &str, more: &str) -> String {
    format!(
        "[[plan]]\nid = \"wide\"\nlimits = [{{ name = \"requests\", rate = 100 }}]\n\
         [[plan]]\nid = \"wider\"\nlimits = [{{ name = \"requests\", rate = 200 }}]\n\
         [[plan]]\nid = \"narrow\"\nlimits = [{{ name = \"requests\", rate = 40 }}]\n\
         [[plan]]\nid = \"none\"\n\
         [[plan]]\nid = \"parallel\"\nlimits = [{{ name = \"requests\", concurrent = 9 }}]\n\
         [[tenant]]\nid = \"h\"\nplan = \"wide\"\n\
         [[tenant]]\nid = \"c\"\nparent = \"h\"\nlimits = [{shares}]\n{more}"
    )
}

fn change(tenant: &str, day: u32, keys: &str) -> String {
    format!("[[change]]\ntenant = \"{tenant}\"\nat = \"{}\"\n{keys}\n", date(day))
}

/// Days from the first of 2030 on; a month has 28 here.
fn date(day: u32) -> String {
    format!("{}-{:02}-{:02}", 2030 + day / 336, day / 28 % 12 + 1, day % 28 + 1)
}

const SHARE: &str = r#"{ name = "requests", guarantee = 50 }"#;

#[test]
fn p4_a_share_that_a_later_plan_breaks_is_found_today() {
    let nested = "[[tenant]]\nid = \"d\"\nparent = \"c\"\n\
                  limits = [{ name = \"requests\", guarantee = 20, ceiling = 60 }]\n";
    let percent = r#"{ name = "requests", guarantee = "50%", ceiling = "80%" }"#;
    let trial = "trial = { until = \"2030-02-01\", then = \"none\" }";
    let own = |limit: &str| format!("overrides = {{ limits = [{limit}] }}");
    let cases = [
        (SHARE, change("h", 28, "plan = \"wider\""), ""),
        (SHARE, change("h", 28, "plan = \"none\""), "name: no tenant above has a limit `requests`"),
        (
            SHARE,
            change("h", 28, "plan = \"parallel\""),
            "name: `requests` above bounds requests in",
        ),
        (
            SHARE,
            change("h", 28, "plan = \"narrow\""),
            "guarantee: the guarantees of `plan/requests` of `h` add up to 50 per second; it has 40",
        ),
        (SHARE, change("c", 28, "plan = \"wide\""), "name: no tenant above has a limit `requests`"),
        (SHARE, change("c", 28, "addons = []"), ""),
        // A part of the limit is a part of any.
        (percent, change("h", 28, "plan = \"narrow\""), ""),
        (
            percent,
            change("h", 28, "plan = \"narrow\"") + nested,
            "is above the limit it is a share",
        ),
        (percent, change("h", 28, "plan = \"wider\"") + nested, ""),
        // Terms of its own may break it and may keep it whole.
        (
            SHARE,
            change("h", 28, &own("{ name = \"requests\", rate = 45 }")),
            "add up to 50 per second; it has 45 per second",
        ),
        (
            SHARE,
            change(
                "h",
                28,
                &format!("plan = \"none\"\n{}", own("{ name = \"requests\", rate = 60 }")),
            ),
            "",
        ),
    ];
    for (share, more, expected) in cases {
        let text = family(share, &more);
        let lines: Vec<String> = found(&text, 0).iter().map(ToString::to_string).collect();
        if expected.is_empty() {
            assert_eq!(lines, [""; 0], "{more}");
            continue;
        }
        assert_eq!(lines.len(), 1, "{more}\n{lines:#?}");
        assert!(lines[0].contains(expected), "{more}\n{}", lines[0]);
        assert!(lines[0].starts_with("t.toml:"), "{}", lines[0]);
        assert!(lines[0].ends_with(" (from 2030-02-01T00:00:00Z on)"), "{}", lines[0]);
    }
    let tried =
        family(SHARE, "").replace("plan = \"wide\"\n", &format!("plan = \"wide\"\n{trial}\n"));
    let lines = found(&tried, 0);
    assert!(lines[0].message.ends_with("to share (from 2030-02-01T00:00:00Z on)"), "{lines:#?}");
}

#[test]
fn p4_a_mistake_after_any_number_of_changes_is_found_today_and_one_of_the_past_is_none() {
    let mut text = family(SHARE, "");
    for day in 0..99 {
        let plan = ["wide", "wider"][day as usize % 2];
        text += &change("h", day, &format!("plan = \"{plan}\""));
    }
    assert_eq!(found(&text, 0), []);
    let broken = text.clone() + &change("h", 99, "plan = \"none\"");
    let lines = found(&broken, 0);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].message.ends_with("(from 2030-04-16T00:00:00Z on)"), "{lines:#?}");
    // Once it is undone nobody needs to know.
    let undone = broken + &change("h", 100, "plan = \"wide\"");
    let last_us = 1_902_614_400_000_000;
    assert_eq!(found(&undone, last_us), []);
    assert_eq!(found(&undone, last_us - 1).len(), 1);
}

/// Four tenants below each other with shares or none, and changes of plans.
fn story(random: &mut Random) -> String {
    let mut text = family("", "");
    let plans = ["wide", "wider", "narrow", "none"];
    let mut above = "h";
    for id in ["a", "b", "d", "e"] {
        if random.one_in(3) {
            above = "h";
        }
        let share = match random.within(0, 2) {
            0 => String::new(),
            1 => format!("{{ name = \"requests\", guarantee = {} }}", random.within(1, 60)),
            _ => format!("{{ name = \"requests\", guarantee = \"{}%\" }}", random.within(1, 60)),
        };
        text += &format!("[[tenant]]\nid = \"{id}\"\nparent = \"{above}\"\nlimits = [{share}]\n");
        above = id;
    }
    let mut day = 0;
    for _ in 0..random.within(1, 5) {
        day += random.within(1, 40) as u32;
        let tenant = if random.one_in(3) { "b" } else { "h" };
        let plan = plans[random.within(0, 3) as usize];
        text += &change(tenant, day, &format!("plan = \"{plan}\""));
    }
    text
}

#[test]
fn p4_what_is_wrong_at_an_instant_is_wrong_before_it_and_nothing_else_is() {
    let mut random = Random::printed();
    let (mut sound, mut broken) = (0, 0);
    for _ in 0..3_000 {
        let text = story(&mut random);
        let now = found(&text, 0);
        // Each instant of its own, beginning with today.
        let days = text.lines().filter_map(|line| line.strip_prefix("at = "));
        let instants = days.map(|day| {
            let day = day.trim_matches('"');
            let date: jiff::civil::Date = day.parse().expect("a date");
            date.to_zoned(jiff::tz::TimeZone::UTC).expect("an instant").timestamp().as_microsecond()
        });
        let instants: Vec<i64> = instants.collect();
        let at = |at_us: i64| found(&text, at_us);
        let is_present = |found: &[Diagnostic]| found.iter().any(|d| !d.message.contains("(from "));
        if now.is_empty() {
            sound += 1;
            assert!(instants.iter().all(|us| at(*us).is_empty()), "{text}");
        } else if !is_present(&now) {
            broken += 1;
            let from = |wrong: &Diagnostic| {
                let (message, from) = wrong.message.split_once(" (from ").expect("an instant");
                let from = from.trim_end_matches(" on)").parse::<jiff::Timestamp>();
                (message.to_owned(), from.expect("an instant").as_microsecond())
            };
            let first = now.iter().map(|wrong| from(wrong).1).min().expect("some");
            for wrong in &now {
                // It is so then, and where it is the first, it was not so before.
                let (message, from_us) = from(wrong);
                let same = |other: &Diagnostic| other.message == message && other.key == wrong.key;
                assert!(at(from_us).iter().any(same), "{wrong}\n{text}");
                assert!(from_us > first || !is_present(&at(from_us - DAY_US)), "{wrong}\n{text}");
            }
        }
        assert!(instants.iter().all(|us| !is_present(&at(*us)) || !now.is_empty()), "{text}");
    }
    assert!(sound > 300 && broken > 300, "{sound} sound, {broken} broken");
}
