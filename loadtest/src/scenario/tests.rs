//! Scenarios: what is read, and that every mistake names its line and key.

use super::*;

const GOOD: &str = r#"
rate = 100
duration_s = 2.5
connections = 4
[[request]]
name = "a"
path = "/fixed/10"
weight = 3
abort = { after = "body", bytes = 5 }
headers = { "X-One" = "1" }
[[request]]
name = "b"
method = "HEAD"
path = "/head"
key = "demo"
expect = [200, 429]
"#;

/// The mistakes of a text, as `line:key`.
fn mistakes(text: &str) -> Vec<String> {
    match Scenario::parse("t.toml", text) {
        Err(ScenarioError::Mistakes { mistakes, .. }) => {
            mistakes.iter().map(|m| format!("{}:{}", m.line, m.key)).collect()
        }
        other => panic!("expected mistakes, got {other:?}"),
    }
}

#[test]
fn a_scenario_and_its_defaults() {
    let scenario = Scenario::parse("dir/mixed.toml", GOOD).expect("the scenario is well formed");
    assert_eq!(scenario.name, "mixed");
    assert_eq!(scenario.rate, Rate::PerSecond(100.0));
    assert_eq!(scenario.amount, Amount::Duration(Duration::from_millis(2500)));
    assert_eq!((scenario.workers(), scenario.threads), (4, 1));
    assert_eq!(scenario.requests[0].abort, Abort::Body(5));
    assert_eq!(scenario.requests[1].method, Method::HEAD);
    assert_eq!(scenario.requests[1].expect, [200, 429]);
}

#[test]
fn weights_are_interleaved_and_exact() {
    let scenario = Scenario::parse("t", GOOD).expect("the scenario is well formed");
    assert_eq!(scenario.interleaved(), [0, 0, 1, 0]);
}

#[test]
fn shares_that_make_no_sense_name_line_and_key() {
    let text = format!(
        "{GOOD}[expect_shares]\nper_s = 0\nburst = 1\nguaranteed_burst = 1\n\
         shares = [{{ request = \"a\", per_s = 1 }}, {{ request = \"c\", per_s = -1 }}]\n"
    );
    let expected = [
        "18:expect_shares.per_s",
        "21:expect_shares.shares.per_s",
        "21:expect_shares.shares.request",
    ];
    assert_eq!(mistakes(&text), expected);
}

#[test]
fn errors_of_shape_name_line_and_key() {
    let cases = [
        ("rate = 1\nrequest = 1\n", "2:request"),
        ("rate = 1\nduration_s = 1\nburts = 2\n", "3:burts"),
        ("rate = \"fast\"\n", "1:rate"),
        ("rate = 1\nduration_s = \"x\"\n", "2:duration_s"),
        ("duration_s = 1\n", "1:rate"),
        ("rate = 1\nduration_s = 1\n[[request]]\nname = \"a\"\n", "3:path"),
        (
            "rate = 1\n[[request]]\nname = \"a\"\npath = \"/\"\nabort = { after = \"x\" }\n",
            "5:abort",
        ),
        ("rate = \n", "1:rate"),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(text), [expected], "{text}");
    }
}

#[test]
fn errors_of_sense_are_all_reported_with_line_and_key() {
    let text = "rate = 0\nduration_s = -1\nthreads = 99\nconnections = 0\nstreams = 2\n\
        [expect_limit]\nrate = 1\nburst = 0\nlevel = \"team\"\nrequests = [\"z\"]\n\
        [[request]]\nname = \"a\"\npath = \"x\"\nmethod = \"G T\"\nexpect = [100]\n\
        key = \"orb_live_x\"\nheaders = { \"a b\" = \"1\" }\n\
        [[request]]\nname = \"a\"\npath = \"/\"\nabort = { after = \"header\", bytes = 1 }\n";
    let found = mistakes(text);
    for expected in [
        "1:rate",
        "2:duration_s",
        "3:threads",
        "4:connections",
        "5:streams",
        "8:expect_limit.burst",
        "10:expect_limit.requests",
        "13:path",
        "14:method",
        "15:expect",
        "16:key",
        "17:a b",
        "19:name",
        "21:abort.bytes",
    ] {
        assert!(found.iter().any(|mistake| mistake == expected), "no {expected} in {found:?}");
    }
}

#[test]
fn the_message_begins_with_file_line_and_key_and_repeats_no_secret() {
    let text =
        "rate = 1\nduration_s = 1\n[[request]]\nname = \"a\"\npath = \"/\"\nkey = \"orb_SECRET\"\n";
    let error = Scenario::parse("t.toml", text).expect_err("a key is not a label").to_string();
    assert!(error.starts_with("t.toml:6:7: key: "), "{error}");
    assert!(!error.contains("SECRET"));
}

#[test]
fn every_scenario_of_the_repository_parses() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).expect("the scenarios are in the repository") {
        let path = entry.expect("the directory can be read").path();
        if let Err(error) = Scenario::read(&path) {
            panic!("{error}");
        }
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} scenarios in {}", directory.display());
}
