//! The `orbit` command as an operator meets it: help, versions, exit codes, diagnostics, keys.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use orbit_policy::Source;

fn orbit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orbit"))
        .args(arguments)
        .env_remove("ORBIT_CONFIG")
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn every_command_explains_itself() {
    let help = orbit(&["--help"]);
    assert!(help.status.success());
    let text = stdout(&help);
    for command in
        ["up", "gateway", "policy", "key", "migrate", "journal", "audit", "alerts", "node"]
    {
        assert!(text.contains(&format!("\n  {command} ")), "{text}");
    }
    assert!(text.contains("Examples:"), "{text}");
    assert!(text.contains("\n  clickhouse "), "{text}");
    let commands: [&[&str]; 15] = [
        &["up"],
        &["gateway"],
        &["policy", "check"],
        &["key", "new"],
        &["migrate"],
        &["journal", "inspect"],
        &["journal", "verify"],
        &["journal", "replay"],
        &["audit"],
        &["alerts"],
        &["alerts", "list"],
        &["alerts", "replay"],
        &["node", "list"],
        &["node", "retire"],
        &["clickhouse"],
    ];
    for command in commands {
        let help = orbit(&[command, &["--help"]].concat());
        assert!(help.status.success(), "{command:?}");
        assert!(stdout(&help).contains("Examples:\n  "), "{command:?}: {}", stdout(&help));
    }
    let version = orbit(&["--version"]);
    assert_eq!(stdout(&version), format!("orbit {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    assert_eq!(orbit(&["fly"]).status.code(), Some(2));
    assert_eq!(orbit(&["key", "new"]).status.code(), Some(2));
    assert_eq!(orbit(&["key", "new", "--tenant", "a b"]).status.code(), Some(2));
}

#[test]
fn a_tenant_is_shown_at_any_time() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let document = "[[plan]]\nid = \"small\"\nusers = 50\napp_count = 1\napps = [\"a\", \"b\"]\n[[plan]]\nid = \"big\"\n[[tenant]]\n\
                    id = \"acme\"\nplan = \"small\"\napps = [\"a\", \"b\", \"c\"]\n[[tenant]]\nid = \"below\"\n\
                    parent = \"acme\"\n[[app]]\nid = \"a\"\n[[app]]\nid = \"b\"\n[[app]]\nid = \"c\"\n\
                    [[change]]\ntenant = \"acme\"\nat = \"2999-01-01\"\nplan = \"big\"\n";
    fs::write(home.join("all.toml"), document).expect("written");
    let path = home.to_str().expect("text");
    let checked = orbit(&["policy", "check", path]);
    let next = "warning: tenant.acme.apps: `b` is beyond the number of apps\n\
                warning: tenant.acme.apps: `c` is not granted\n\
                next change 2999-01-01T00:00:00Z: acme: plan big@1\n";
    assert_eq!(checked.status.code(), Some(0));
    assert!(stdout(&checked).ends_with(next), "{}", stdout(&checked));
    let shown = |more: &[&str]| {
        let shown = orbit(&[&["policy", "show", "acme", path], more].concat());
        assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
        let json: serde_json::Value = serde_json::from_str(&stdout(&shown)).expect("JSON");
        (json["plan"].clone(), json["users"].clone(), json["next_change"].is_null())
    };
    assert_eq!(shown(&[]), ("small".into(), 50.into(), false));
    let later = (serde_json::Value::from("big"), serde_json::Value::Null, true);
    assert_eq!(shown(&["--at", "2999-01-01"]), later);
    assert_eq!(orbit(&["policy", "show", "acne", path]).status.code(), Some(1));
}

#[test]
fn what_is_doubtful_is_a_warning_with_its_place() {
    let home = tempfile::tempdir().expect("a directory");
    let document = "[[plan]]\nid = \"p\"\n[[app]]\nid = \"a\"\n[[upstream]]\nid = \"u\"\n\
                    peers = [{ address = \"127.0.0.1:1\" }]\n[[route]]\nid = \"bulk\"\napp = \"a\"\n\
                    upstream = \"u\"\ncost = 9\n[[tenant]]\nid = \"h\"\nplan = \"p\"\n\
                    limits = [{ name = \"requests\", rate = 16 }]\n\
                    [[tenant]]\nid = \"c\"\nparent = \"h\"\n\
                    limits = [{ name = \"requests\", guarantee = \"50%\" }]\n";
    let file = home.path().join("all.toml");
    fs::write(&file, document).expect("written");
    let checked = orbit(&["policy", "check", home.path().to_str().expect("text")]);
    assert!(checked.status.success(), "{}", stdout(&checked));
    let warning = format!(
        "warning: {}:20:44: tenant.c.limits[0].guarantee: nothing is guaranteed to routes that cost \
         more than the guarantee's burst of 8: `bulk` (9); write a larger `guarantee_burst`\n",
        file.display()
    );
    assert!(stdout(&checked).ends_with(&warning), "{}", stdout(&checked));
}

#[test]
fn every_mistake_of_the_policy_has_its_place() {
    let home = tempfile::tempdir().expect("a directory");
    let plans = home.path().join("plans.toml");
    let tenants = home.path().join("tenants.toml");
    fs::write(&plans, "[[plan]]\nid = \"business\"\ncolour = 3\n").expect("written");
    fs::write(&tenants, "[[tenant]]\nid = \"acme\"\nplan = \"gold\"\n").expect("written");
    let checked = orbit(&["policy", "check", home.path().to_str().expect("text")]);
    assert_eq!(checked.status.code(), Some(1));
    let text = stdout(&checked);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with(&format!("{}:3:1: ", plans.display())), "{text}");
    assert!(lines[1].starts_with(&format!("{}:3:8: ", tenants.display())), "{text}");
    assert!(lines[1].contains("gold"), "{text}");
    assert_eq!(stderr(&checked), "orbit: 2 mistakes\n");

    let missing = orbit(&["policy", "check", "/nowhere"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stdout(&missing).starts_with("/nowhere:1:1: cannot be read: "), "{}", stdout(&missing));
}

#[test]
fn valid_documents_are_counted() {
    let home = tempfile::tempdir().expect("a directory");
    let document = "[[plan]]\nid = \"business\"\n[[tenant]]\nid = \"acme\"\nplan = \"business\"\n";
    fs::write(home.path().join("all.toml"), document).expect("written");
    let checked = orbit(&["policy", "check", home.path().to_str().expect("text")]);
    assert!(checked.status.success(), "{}", stdout(&checked));
    assert_eq!(stdout(&checked), "ok: 1 tenants, 0 keys, 1 plans, 0 apps, 0 routes\n");
}

#[test]
fn a_new_key_is_shown_once_and_its_lines_make_it_known() {
    let made =
        orbit(&["key", "new", "--env", "test", "--tenant", "acme", "--label", "a \"b\" \\ c"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let text = stdout(&made);
    let key = text.lines().find(|line| line.starts_with("orb_test_")).expect("a key");
    let table = &text[text.find("[[key]]").expect("a table")..];
    assert!(!table.contains(&key[20..52]), "the document holds no secret");
    assert_eq!(text.matches(key).count(), 1);
    assert_eq!(stderr(&made), "");

    let document = "[[plan]]\nid = \"business\"\n[[tenant]]\nid = \"acme\"\nplan = \"business\"\n";
    let sources = [("a.toml", document), ("b.toml", table)]
        .map(|(file, text)| Source { file: file.to_owned(), text: text.to_owned() });
    let settings = orbit_policy::PolicySettings {
        max_dynamic_keys: 10,
        hash_key: [0; 16],
        memory: orbit_policy::quota::InMemory::shared(),
    };
    let policy = orbit_policy::Policy::new(&sources, &settings, 0).expect("valid");
    assert!(policy.load().identify(Some(key.as_bytes())).is_ok());

    let again = orbit(&["key", "new", "--env", "test", "--tenant", "acme"]);
    assert!(!stdout(&again).contains(key), "keys are random");
    assert_eq!(orbit(&["key", "new", "--env", "PROD", "--tenant", "acme"]).status.code(), Some(1));
}

#[test]
fn settings_mistakes_stop_the_gateway_with_their_place() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("orbit.toml");
    fs::write(&file, "[server]\nlisten = 8080\n\n[sever]\n").expect("written");
    let path = file.to_str().expect("text");
    for command in ["gateway", "migrate", "up"] {
        let refused = orbit(&[command, "--config", path]);
        assert_eq!(refused.status.code(), Some(1));
        let text = stderr(&refused);
        assert!(text.contains(&format!("{path}:2:10: server.listen: ")), "{text}");
        assert!(text.contains(&format!("{path}:4:2: sever: unknown section")), "{text}");
        assert!(!Path::new("data").exists(), "nothing was started");
    }
}

#[test]
fn a_policy_mistake_stops_the_gateway_before_anything_listens() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("orbit.toml");
    fs::create_dir(home.path().join("policy")).expect("made");
    fs::write(home.path().join("policy/a.toml"), "[[tenant]]\nid = 5\n").expect("written");
    let text = "[admin]\ntoken_file = \"token\"\n[limits]\ndirectory = \"state\"\n\
                [journal]\ndirectory = \"journal\"\n";
    fs::write(&file, text).expect("written");
    let refused = orbit(&["gateway", "--config", file.to_str().expect("text")]);
    assert_eq!(refused.status.code(), Some(1));
    let text = stderr(&refused);
    let place = home.path().join("policy/a.toml");
    assert!(text.contains(&format!("{}:2:", place.display())), "{text}");
    assert!(!home.path().join("journal").exists(), "the journal was not opened");
}
