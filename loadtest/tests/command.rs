//! The program as a user runs it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

struct Upstream {
    child: Child,
    address: String,
}

impl Upstream {
    fn start(arguments: &[&str]) -> Upstream {
        let mut child = Command::new(PROGRAM)
            .arg("upstream")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it prints its address");
        Upstream { child, address: line.trim().to_owned() }
    }

    fn ended(mut self) -> bool {
        self.child.wait().expect("it can be waited for").success()
    }
}

fn loadtest(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("the program can be started")
}

/// A scenario and a keys file in a directory of their own.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(scenario: &str) -> Files {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(directory.path().join("s.toml"), scenario).expect("it can be written");
        std::fs::write(directory.path().join("k.env"), "demo=orb_SECRET\n").expect("it can");
        Files { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, url: &str) -> Output {
        let [scenario, keys, json] = ["s.toml", "k.env", "report.json"].map(|name| self.path(name));
        Command::new(PROGRAM)
            .arg("run")
            .arg(scenario)
            .arg("--keys-file")
            .arg(keys)
            .arg("--json")
            .arg(json)
            .args(["--url", url])
            .args(["--pid", &std::process::id().to_string()])
            .output()
            .expect("the program can be started")
    }
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams.map(|stream| String::from_utf8_lossy(stream).into_owned()).concat()
}

const SCENARIO: &str = "rate = 1000\nrequests = 100\nconnections = 4\n\
     [[request]]\nname = \"plain\"\npath = \"/\"\nkey = \"demo\"\nexpect = [200]\n";

#[test]
fn a_run_reports_as_text_and_json_and_never_shows_a_key() {
    let upstream = Upstream::start(&[]);
    let files = Files::new(SCENARIO);
    let output = files.run(&format!("http://{}", upstream.address));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let json = std::fs::read_to_string(files.path("report.json")).expect("it was written");
    for shown in [text(&output), json.clone()] {
        assert!(!shown.contains("SECRET"), "{shown}");
    }
    assert!(text(&output).contains("verdict: ok"));
    let report: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(report["whole"], 100);
    assert_eq!(report["kinds"][0]["answers"][0]["status"], 200);
    assert!(report["cpu"]["us_per_answer"].is_number());
    terminate(upstream);
}

#[test]
fn a_finding_is_exit_status_one() {
    let upstream = Upstream::start(&["--port", "0"]);
    let files = Files::new(&SCENARIO.replace("[200]", "[201]"));
    let output = files.run(&format!("http://{}", upstream.address));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let says = "plain: 100 answers 200, which the scenario does not expect";
    assert!(text(&output).contains(says), "{}", text(&output));
    terminate(upstream);
}

#[test]
fn other_machines_are_refused() {
    let files = Files::new(SCENARIO);
    let output = files.run("http://192.0.2.1:80");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("not a loopback address"), "{}", text(&output));
}

#[test]
fn a_mistake_in_a_scenario_names_file_line_and_key() {
    let files = Files::new("rate = 1\nduration_s = 1\nburts = 3\n");
    let output = files.run("http://127.0.0.1:1");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("s.toml:3:1: burts: unknown field"), "{}", text(&output));
}

#[test]
fn every_subcommand_has_help() {
    for arguments in [&["--help"][..], &["upstream", "--help"], &["run", "--help"]] {
        assert!(loadtest(arguments).status.success());
    }
    for command in
        ["alerts", "keys", "compare", "reload", "chaos", "outage", "disk", "power", "kills"]
    {
        let output = loadtest(&[command, "--help"]);
        assert!(output.status.success() && text(&output).contains("Usage: loadtest"), "{command}");
    }
}

fn terminate(upstream: Upstream) {
    let pid = upstream.child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.expect("kill can be started").success());
    assert!(upstream.ended(), "SIGTERM is a clean end");
}

#[test]
fn the_upstream_ends_with_its_standard_input_when_asked() {
    let mut upstream = Upstream::start(&["--until-stdin-closes"]);
    let mut rest = String::new();
    drop(upstream.child.stdin.take());
    let stdout = upstream.child.stdout.as_mut().expect("its output is piped");
    stdout.read_to_string(&mut rest).expect("it ends");
    assert_eq!(rest, "", "one line only");
    assert!(upstream.ended());
}
