//! The settings file against its example, and every kind of mistake with its place.

use super::*;

/// The example an operator starts from.
fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/orbit.toml");
    std::fs::read_to_string(path).expect("config/orbit.toml is in the repository")
}

fn problems(text: &str) -> Vec<String> {
    match Settings::parse("orbit.toml", text) {
        Err(SettingsError::Invalid { problems }) => {
            problems.iter().map(Problem::to_string).collect()
        }
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn the_example_says_the_defaults() {
    let parsed = Settings::parse("config/orbit.toml", &example()).expect("the example is valid");
    assert_eq!(parsed, Settings::default());
    assert_eq!(Settings::parse("empty", "").expect("empty is valid"), Settings::default());
}

/// Serde itself lists the keys of a section when it meets an unknown one.
#[test]
fn the_example_names_every_key() {
    let sections = [
        "server",
        "server.limits",
        "admin",
        "ingest",
        "policy",
        "limits",
        "journal",
        "clickhouse",
        "ship",
        "audit",
        "alerts",
        "log",
    ];
    let example = example();
    for section in sections {
        let message = problems(&format!("[{section}]\nzzz = 1\n")).remove(0);
        assert!(message.starts_with(&format!("orbit.toml:2:1: {section}.zzz: ")), "{message}");
        let keys: Vec<&str> =
            message.split('`').skip(3).step_by(2).filter(|key| !key.is_empty()).collect();
        assert!(!keys.is_empty(), "{message}");
        for key in keys {
            let live = format!("\n{key} = ");
            let comment = format!("\n#{key} = ");
            let table = format!("[{section}.{key}]");
            let tables = format!("[[{section}.{key}]]");
            assert!(
                [live, comment, table, tables].iter().any(|text| example.contains(text)),
                "config/orbit.toml does not document {section}.{key}"
            );
        }
    }
}

#[test]
fn the_commented_keys_of_the_example_are_valid() {
    let text: String = (example().lines())
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect::<String>()
        .replace("mode = \"embedded\"", "mode = \"external\"");
    let settings = Settings::parse("example", &text).expect("valid with everything set");
    assert_eq!(settings.server.tls.len(), 1);
    assert!(settings.clickhouse.url.is_some());
}

#[test]
fn every_section_reports_its_own_mistake() {
    let text = "\
[server]
listen = [\"nowhere\"]

[journal]
segment_bytes = \"64 MiB\"

[log]
colour = true

[surprise]
x = 1
";
    let found = problems(text);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("orbit.toml:2:11: server.listen[0]: "), "{}", found[0]);
    assert!(found[1].starts_with("orbit.toml:5:17: journal.segment_bytes: "), "{}", found[1]);
    assert!(found[2].starts_with("orbit.toml:8:1: log.colour: unknown field"), "{}", found[2]);
    assert!(found[3].starts_with("orbit.toml:10:2: surprise: unknown section"), "{}", found[3]);
}

#[test]
fn text_that_is_not_toml_has_a_place() {
    let found = problems("[server]\nlisten = [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("orbit.toml:"), "{}", found[0]);
}

#[test]
fn values_out_of_range_are_named_with_their_range() {
    let found = problems("[server.limits]\nmax_headers = 3\n[ship]\nmax_rows = 0\n");
    assert_eq!(
        found,
        [
            "orbit.toml:2:1: server.limits.max_headers: 3 is out of range, expected 8 to 256",
            "orbit.toml:4:1: ship.max_rows: 0 is out of range, expected 1 to 1000000",
        ]
    );
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let found = problems("[server]\nlisten = [\"127.0.0.1:80\", \"127.0.0.1:80\"]\n");
    assert_eq!(
        found,
        ["orbit.toml:2:27: server.listen[1]: 127.0.0.1:80 is already the address of another \
             listener"]
    );
    let none = problems("[server]\nlisten = []\n");
    assert!(none[0].contains("no listener"), "{}", none[0]);
    let free = "[server]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n";
    assert!(Settings::parse("free", free).is_ok(), "port 0 never collides");
}

#[test]
fn ingestion_can_be_off_and_must_remember_long_enough() {
    let off = Settings::parse("off", "[ingest]\nlisten = \"\"\n").expect("valid");
    assert_eq!(off.ingest.listen, None);
    let found = problems("[ingest]\nlisten = \"here\"\n");
    assert_eq!(
        found,
        ["orbit.toml:2:10: ingest.listen: `here` is neither \"ADDRESS:PORT\" nor empty"]
    );
    let found = problems("[ingest]\nmax_age_days = 40\n");
    assert!(
        found[0].starts_with("orbit.toml:1:2: ingest.dedup_days: 35 days are fewer"),
        "{found:?}"
    );
    let taken = problems("[admin]\nlisten = \"127.0.0.1:8081\"\n");
    assert!(taken[0].contains("ingest.listen: 127.0.0.1:8081 is already"), "{taken:?}");
}

#[test]
fn an_external_clickhouse_needs_an_address_without_credentials() {
    let missing = problems("[clickhouse]\nmode = \"external\"\n");
    assert!(
        missing[0].starts_with("orbit.toml:1:2: clickhouse.url: is required"),
        "{}",
        missing[0]
    );
    let secret =
        problems("[clickhouse]\nmode = \"external\"\nurl = \"https://u:hunter2@host:8443\"\n");
    assert!(secret[0].contains("must not carry a user or password"), "{}", secret[0]);
    assert!(!secret[0].contains("hunter2"), "a secret is never repeated");
    let scheme = problems("[clickhouse]\nmode = \"external\"\nurl = \"tcp://host\"\n");
    assert!(scheme[0].contains("is not an http:// or https:// address"), "{}", scheme[0]);
}

#[test]
fn a_proxy_network_is_checked_where_it_stands() {
    let found = problems("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\n");
    assert!(found[0].starts_with("orbit.toml:2:34: server.trusted_proxies[1]: "), "{}", found[0]);
}

#[test]
fn relative_paths_start_at_the_file() {
    let home = tempfile::tempdir().expect("a directory");
    let etc = home.path().join("etc");
    std::fs::create_dir(&etc).expect("a directory");
    let file = etc.join("orbit.toml");
    std::fs::write(&file, "[journal]\ndirectory = \"/var/lib/orbit/journal\"\n").expect("written");
    let settings = Settings::load(&file).expect("valid");
    assert_eq!(settings.policy.paths, [etc.join("policy")]);
    assert_eq!(settings.journal.directory, Path::new("/var/lib/orbit/journal"));
    assert_eq!(settings.admin.token_file, home.path().join("data/admin.token"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Settings::load(Path::new("/nowhere/orbit.toml")).expect_err("no such file");
    assert_eq!(error.to_string(), "cannot read the settings file /nowhere/orbit.toml");
}
