//! Reloads through each trigger, against real directories.

use orbit_policy::quota::InMemory;
use std::fs;
use std::path::Path;

use super::*;

const PLAN: &str = "[[plan]]\nid = \"business\"\ntitle = \"Business\"\n";

/// A tenant document; `burst` makes it differ.
fn tenant(burst: u32) -> String {
    format!(
        "[[tenant]]\nid = \"acme\"\nplan = \"business\"\n\
         limits = [{{ name = \"requests\", rate = 1, burst = {burst} }}]\n"
    )
}

/// A policy directory with one plan and one tenant.
fn directory() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let policy = home.path().join("policy");
    fs::create_dir(&policy).expect("made");
    fs::write(policy.join("plans.toml"), PLAN).expect("written");
    fs::write(policy.join("tenants.toml"), tenant(10)).expect("written");
    home
}

/// A policy and its reloader on `home/policy`.
fn started(home: &Path, watched: bool) -> (Arc<Policy>, Reloader) {
    let paths = vec![home.join("policy")];
    let settings =
        PolicySettings { max_dynamic_keys: 1000, hash_key: [7; 16], memory: InMemory::shared() };
    let clock = Arc::new(Clock::start());
    let (policy, status) = start_policy(&paths, &settings, &clock).expect("valid documents");
    let reloader =
        Reloader::start(Arc::clone(&policy), status, paths, watched, clock).expect("started");
    (policy, reloader)
}

/// Replaces a file as editors and deployment tools do: by a rename over it.
fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("new");
    fs::write(&draft, text).expect("written");
    fs::rename(&draft, path).expect("renamed");
}

fn mistakes(status: &Status) -> &[Diagnostic] {
    match &status.outcome {
        Outcome::Refused(diagnostics) => diagnostics,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// A signal goes to the reloaders of all tests of this process.
static SIGNALS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn bad_documents_change_nothing_and_say_why() {
    let _no_signal = SIGNALS.lock().await;
    let home = directory();
    let (policy, reloader) = started(home.path(), false);
    let reloads = reloader.handle();
    let before = reloads.status();
    let file = home.path().join("policy/tenants.toml");

    fs::write(&file, tenant(10).replace("business", "busyness")).expect("written");
    let refused = reloads.apply().await.expect("answered");
    let found = mistakes(&refused);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].file.as_str(), found[0].line), (file.to_str().expect("text"), 3));
    assert!(found[0].message.contains("busyness"), "{}", found[0]);
    assert_eq!((refused.version, refused.fingerprint), (before.version, before.fingerprint));
    assert_eq!(refused.cause, Cause::Apply);
    assert_eq!(policy.load().version(), before.version);

    // The old text again: the mistake is over, and there is still nothing new.
    fs::write(&file, tenant(10)).expect("written");
    let restored = reloads.apply().await.expect("answered");
    assert!(matches!(restored.outcome, Outcome::Unchanged));
    assert_eq!(restored.version, before.version);
}

#[tokio::test]
async fn unchanged_documents_are_no_new_version() {
    let home = directory();
    let (policy, reloader) = started(home.path(), false);
    let reloads = reloader.handle();
    let first = reloads.apply().await.expect("answered");
    assert!(matches!(first.outcome, Outcome::Unchanged));
    assert_eq!(policy.load().version(), 1);

    fs::write(home.path().join("policy/tenants.toml"), tenant(11)).expect("written");
    let second = reloads.apply().await.expect("answered");
    assert!(matches!(second.outcome, Outcome::Applied));
    assert_eq!((second.version, policy.load().version()), (2, 2));
    assert_ne!(second.fingerprint, first.fingerprint);
    assert!(second.loaded_at_us >= first.loaded_at_us);
    let third = reloads.apply().await.expect("answered");
    assert_eq!((third.version, third.loaded_at_us), (2, second.loaded_at_us));
}

#[tokio::test]
async fn a_document_replaced_on_disk_comes_into_force() {
    let _no_signal = SIGNALS.lock().await;
    let home = directory();
    let (policy, reloader) = started(home.path(), true);
    let mut reloads = reloader.handle();
    replace(&home.path().join("policy/tenants.toml"), &tenant(20));
    let status = reloads.wait_for(|status| status.version == 2).await.expect("reloaded");
    assert_eq!(status.cause, Cause::Watch);
    assert_eq!(policy.load().version(), 2);

    // A directory made later is watched like the rest, hidden files are not documents.
    let deeper = home.path().join("policy/more");
    fs::create_dir(&deeper).expect("made");
    fs::write(deeper.join(".draft.toml"), "not toml at all").expect("written");
    fs::write(deeper.join("b.toml"), "[[tenant]]\nid = \"b\"\nplan = \"business\"\n")
        .expect("written");
    let status = reloads.wait_for(|status| status.summary.tenants == 2).await.expect("reloaded");
    assert_eq!(status.version, 3);
}

#[tokio::test]
async fn a_directory_replaced_whole_is_followed() {
    let home = directory();
    let (_policy, reloader) = started(home.path(), true);
    let mut reloads = reloader.handle();
    let policy = home.path().join("policy");
    let next = home.path().join("next");
    fs::create_dir(&next).expect("made");
    fs::write(next.join("all.toml"), format!("{PLAN}\n{}", tenant(30))).expect("written");
    fs::rename(&policy, home.path().join("last")).expect("moved away");
    fs::rename(&next, &policy).expect("moved in");
    reloads.wait_for(|status| status.version == 2).await.expect("reloaded");
    // The watches are on the new directory by now, or a second look at it is under way.
    replace(&policy.join("all.toml"), &format!("{PLAN}\n{}", tenant(31)));
    reloads.wait_for(|status| status.version == 3).await.expect("reloaded");
}

#[tokio::test]
async fn sighup_reloads() {
    let _alone = SIGNALS.lock().await;
    let home = directory();
    let (_policy, reloader) = started(home.path(), false);
    let mut reloads = reloader.handle();
    fs::write(home.path().join("policy/tenants.toml"), tenant(12)).expect("written");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
        .expect("sent to this process, whose handler is the reloader's");
    let status = reloads.wait_for(|status| status.version == 2).await.expect("reloaded");
    assert_eq!(status.cause, Cause::Hangup);
}

#[tokio::test]
async fn a_handle_outlives_the_thread_without_hanging() {
    let home = directory();
    let (_policy, reloader) = started(home.path(), true);
    let reloads = reloader.handle();
    drop(reloader);
    assert_eq!(reloads.apply().await.expect_err("stopped"), ApplyError::Stopping);
    assert_eq!(reloads.status().version, 1);
}

#[test]
fn what_cannot_be_read_is_reported_together() {
    let home = directory();
    let policy = home.path().join("policy");
    fs::write(policy.join("latin1.toml"), b"# first\ntitle = \"caf\xe9\"\n").expect("written");
    let missing = home.path().join("nowhere");
    let found = read(&[policy.clone(), missing.clone()]).expect_err("two unreadable");
    let shown: Vec<String> = found.iter().map(Diagnostic::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].starts_with(&format!("{}:1:1: cannot be read: ", missing.display())));
    let place = policy.join("latin1.toml");
    assert_eq!(shown[1], format!("{}:2:13: is not UTF-8 text here", place.display()));
}

#[test]
fn documents_come_in_one_order_and_once() {
    let home = directory();
    let policy = home.path().join("policy");
    let file = policy.join("plans.toml");
    let twice = read(&[file, policy.clone(), policy.clone()]).expect("readable");
    let names: Vec<&str> = twice.iter().map(|source| source.file.as_str()).collect();
    let expected = [policy.join("plans.toml"), policy.join("tenants.toml")];
    assert_eq!(names, expected.iter().map(|path| path.to_str().expect("text")).collect::<Vec<_>>());
    let moved = Source { file: "ab".to_owned(), text: "c".to_owned() };
    let text = Source { file: "a".to_owned(), text: "bc".to_owned() };
    assert_ne!(Fingerprint::of(&[moved]), Fingerprint::of(&[text]));
}

#[tokio::test]
async fn a_change_that_came_while_nothing_ran_is_in_force_at_the_start() {
    let home = directory();
    let changes = "[[change]]\ntenant = \"acme\"\nat = \"2020-01-01\"\nstatus = \"unpaid\"\n\
                   [[change]]\ntenant = \"acme\"\nat = \"2999-01-01\"\nstatus = \"active\"\n";
    let file = home.path().join("policy/tenants.toml");
    fs::write(&file, tenant(10) + changes).expect("written");
    let (policy, reloader) = started(home.path(), false);
    let status = |policy: &Policy| policy.load().tenant("acme").expect("a tenant").status;
    assert_eq!(status(&policy), orbit_policy::snapshot::Status::Unpaid);
    let reloads = reloader.handle();
    assert_eq!(reloads.status().next_change_us, Some(32_472_144_000_000_000));
    // Taken out of the documents, a change is undone; nothing is waited for then.
    fs::write(&file, tenant(10)).expect("written");
    let reloaded = reloads.apply().await.expect("answered");
    assert_eq!((reloaded.version, reloaded.next_change_us), (2, None));
    assert_eq!(status(&policy), orbit_policy::snapshot::Status::Active);
}
