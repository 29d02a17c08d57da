//! Deliveries to receivers that behave as receivers do.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orbit_gateway::alerts::outbox::{Findings, Outgoing, Query, Replay, State};
use orbit_gateway::alerts::refusals::RefusalCounts;
use orbit_gateway::alerts::{Alerts, AlertsHandle};
use orbit_gateway::clock::Clock;
use orbit_gateway::settings;
use orbit_policy::quota::InMemory;
use orbit_policy::{Policy, PolicySettings, Source};
use tempfile::TempDir;

use super::receiver::{Answer, Receiver, until};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Alerts with webhooks, over a directory that outlives them.
struct Bench {
    directory: TempDir,
    settings: settings::Alerts,
    clock: Arc<Clock>,
    alerts: Option<Alerts>,
}

impl Bench {
    /// Webhooks `hook-0`, `hook-1` and so on at these addresses, with attempts at short intervals.
    fn new(urls: &[String]) -> Bench {
        Bench::with(urls, |_| {})
    }

    fn with(urls: &[String], adjust: impl FnOnce(&mut settings::Alerts)) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let secret_file = directory.path().join("secret");
        std::fs::write(&secret_file, OLD).unwrap();
        let webhook = |(number, url): (usize, &String)| settings::Webhook {
            id: format!("hook-{number}"),
            url: url.clone(),
            secret_file: secret_file.clone(),
            tenants: Vec::new(),
            types: Vec::new(),
            allow_private: true,
        };
        let mut settings = settings::Alerts {
            retry_base_ms: 10,
            timeout_ms: 30_000,
            webhook: urls.iter().enumerate().map(webhook).collect(),
            ..settings::Alerts::default()
        };
        adjust(&mut settings);
        let clock = Arc::new(Clock::start());
        let mut bench = Bench { directory, settings, clock, alerts: None };
        bench.start();
        bench
    }

    fn start(&mut self) {
        drop(self.alerts.take());
        let text = "[[plan]]\nid = \"p\"\n[[tenant]]\nid = \"acme\"\nplan = \"p\"\n".into();
        let source = Source { file: "p.toml".into(), text };
        let memory = InMemory::shared();
        let settings = PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory };
        let policy = Policy::new(&[source], &settings, self.clock.unix_us()).unwrap();
        let counts = Arc::new(RefusalCounts::default());
        let (clock, policy) = (Arc::clone(&self.clock), Arc::new(policy));
        let started = Alerts::start(self.directory.path(), &self.settings, policy, counts, clock);
        self.alerts = Some(started.unwrap());
    }

    fn handle(&self) -> AlertsHandle {
        self.alerts.as_ref().unwrap().handle()
    }

    fn record(&self, ids: &[&str]) {
        let webhooks: Vec<&str> = self.settings.webhook.iter().map(|one| &*one.id).collect();
        let outgoing = |id| Outgoing { id, body: b"{\"data\":{}}", webhooks: webhooks.clone() };
        let events: Vec<_> = ids.iter().copied().map(outgoing).collect();
        let now_us = self.clock.unix_us();
        self.handle().outbox.record(&events, &Findings::default(), now_us).unwrap();
    }

    fn secret_file(&self) -> PathBuf {
        self.directory.path().join("secret")
    }

    /// Ids and errors of the deliveries of a state.
    fn list(&self, state: State) -> Vec<(String, String)> {
        let query = Query { state: Some(state), most: 1_000, ..Query::default() };
        let page = self.handle().outbox.list(&query).unwrap();
        page.deliveries.into_iter().map(|one| (one.id, one.last_error)).collect()
    }

    /// The same, once there are so many.
    fn wait_for(&self, state: State, count: usize) -> Vec<(String, String)> {
        until(&format!("{count} {}", state.as_str()), || {
            Some(self.list(state)).filter(|list| list.len() == count)
        })
    }

    /// What so many deliveries that are pending have failed with, once all have.
    fn errors(&self, count: usize) -> Vec<String> {
        until("an attempt at each", || {
            let pending = self.list(State::Pending).into_iter().map(|(_, error)| error);
            let failed: Vec<String> = pending.filter(|error| !error.is_empty()).collect();
            (failed.len() == count).then_some(failed)
        })
    }
}

#[test]
fn while_a_secret_is_rotated_both_sign_and_the_file_is_read_each_time() {
    let receiver = Receiver::start(|_| Answer::OK);
    let bench = Bench::new(&[receiver.url()]);
    bench.record(&["msg_1"]);
    let one = receiver.next();
    assert_eq!((&*one.id, one.signatures_by(OLD), one.signatures_by(NEW)), ("msg_1", 1, 0));
    std::fs::write(bench.secret_file(), format!("# rotated\n{NEW}\n{OLD}\n")).unwrap();
    bench.record(&["msg_2"]);
    let both = receiver.next();
    assert_eq!((both.signatures_by(OLD), both.signatures_by(NEW)), (1, 1));
    std::fs::write(bench.secret_file(), NEW).unwrap();
    bench.record(&["msg_3"]);
    let new = receiver.next();
    assert_eq!((new.signatures_by(OLD), new.signatures_by(NEW)), (0, 1));
    // Without a secret nothing is sent, and nothing is lost.
    std::fs::remove_file(bench.secret_file()).unwrap();
    bench.record(&["msg_4"]);
    bench.wait_for(State::Pending, 1);
    std::fs::write(bench.secret_file(), NEW).unwrap();
    assert_eq!(receiver.next().id, "msg_4");
}

#[test]
fn errors_and_silence_are_tried_again_under_the_same_id() {
    for trouble in [Answer::status(500), Answer::status(429), Answer::Stall, Answer::Close] {
        let mut first = Some(trouble.clone());
        let receiver = Receiver::start(move |_| first.take().unwrap_or(Answer::OK));
        let bench = Bench::with(&[receiver.url()], |settings| settings.timeout_ms = 100);
        bench.record(&["msg_1"]);
        let ids = [receiver.next().id, receiver.next().id];
        assert_eq!(ids, ["msg_1", "msg_1"], "{trouble:?}");
        bench.wait_for(State::Delivered, 1);
    }
}

#[test]
fn one_event_that_is_slow_to_be_taken_delays_no_other() {
    let receiver = Receiver::start(|id| if id == "msg_00" { Answer::Stall } else { Answer::OK });
    let away = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::new(&[receiver.url(), format!("http://{}", away.local_addr().unwrap())]);
    let ids: Vec<String> = (0..60).map(|number| format!("msg_{number:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    bench.record(&ids);
    bench.wait_for(State::Delivered, 59);
    assert_eq!(receiver.rest().len(), 60);
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Receiver::start(|_| Answer::OK);
    let location = format!("Location: {}\r\n", other.url());
    let receiver = Receiver::start(move |_| Answer::Status(307, location.clone()));
    let bench = Bench::with(&[receiver.url()], |settings| settings.retry_base_ms = 600_000);
    bench.record(&["msg_1"]);
    assert_eq!(receiver.next().id, "msg_1");
    let errors = bench.errors(1);
    assert!(errors[0].contains("307"), "{errors:?}");
    assert!(other.rest().is_empty());
}

#[test]
fn after_410_everything_is_dead_until_a_replay_tries_again() {
    let receiver = Receiver::start(|_| Answer::status(410));
    let mut bench = Bench::new(&[receiver.url()]);
    bench.record(&["msg_1"]);
    let dead = bench.wait_for(State::Dead, 1);
    assert!(dead[0].1.contains("410"), "{dead:?}");
    // Later ones are not even sent, and not lost either.
    bench.record(&["msg_2", "msg_3"]);
    let dead = bench.wait_for(State::Dead, 3);
    assert!(dead.iter().all(|(_, error)| error.contains("410")), "{dead:?}");
    assert_eq!(receiver.rest().len(), 1);
    receiver.now(|_| Answer::OK);
    let now_us = bench.clock.unix_us();
    let which = Replay { id: Some("msg_2"), webhook: None };
    assert_eq!(bench.handle().replay(which, now_us).unwrap().deliveries, 1);
    assert_eq!(receiver.next().id, "msg_2");
    bench.record(&["msg_4"]);
    assert_eq!(receiver.next().id, "msg_4", "it is delivered to again");
    let rest = bench.handle().replay(Replay::default(), now_us).unwrap();
    assert_eq!((rest.deliveries, rest.left), (2, 0));
    bench.wait_for(State::Delivered, 4);
    // A restart tries again, too.
    receiver.now(|_| Answer::status(410));
    bench.record(&["msg_5"]);
    bench.wait_for(State::Dead, 1);
    receiver.now(|_| Answer::OK);
    bench.start();
    bench.record(&["msg_6"]);
    bench.wait_for(State::Delivered, 5);
}

#[test]
fn what_waits_for_a_webhook_that_was_removed_is_dead_with_the_reason() {
    let receiver = Receiver::start(|_| Answer::OK);
    let away = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(&[format!("http://{}", away.local_addr().unwrap())]);
    bench.record(&["msg_1"]);
    bench.wait_for(State::Pending, 1);
    let removed = std::mem::take(&mut bench.settings.webhook);
    bench.start();
    let dead = bench.wait_for(State::Dead, 1);
    assert!(dead[0].1.contains("no webhook of this id"), "{dead:?}");
    let replayed = bench.handle().replay(Replay::default(), 0).unwrap();
    assert_eq!((replayed.deliveries, replayed.left), (0, 1));
    bench.settings.webhook = removed;
    bench.settings.webhook[0].url = receiver.url();
    bench.start();
    let now_us = bench.clock.unix_us();
    assert_eq!(bench.handle().replay(Replay::default(), now_us).unwrap().deliveries, 1);
    assert_eq!(receiver.next().id, "msg_1");
}

#[test]
fn a_restart_keeps_the_schedule() {
    let receiver = Receiver::start(|_| Answer::status(503));
    let mut bench = Bench::with(&[receiver.url()], |settings| settings.retry_base_ms = 600_000);
    bench.record(&["msg_1"]);
    bench.errors(1);
    receiver.now(|_| Answer::OK);
    bench.start();
    bench.record(&["msg_2"]);
    bench.wait_for(State::Delivered, 1);
    let ids: Vec<String> = receiver.rest().into_iter().map(|delivery| delivery.id).collect();
    assert_eq!(ids, ["msg_1", "msg_2"], "the first is due in ten minutes");
}

#[test]
fn s1_addresses_inside_are_refused_by_default() {
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = inside.local_addr().unwrap().port();
    let urls = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"]
        .map(|host| format!("https://{host}:{port}/"));
    let bench = Bench::with(&urls, |settings| {
        settings.retry_base_ms = 600_000;
        settings.webhook.iter_mut().for_each(|webhook| webhook.allow_private = false);
    });
    bench.record(&["msg_1"]);
    let errors = bench.errors(3);
    assert!(errors.iter().all(|error| error.contains("allow_private")), "{errors:?}");
    inside.set_nonblocking(true).unwrap();
    let nobody = inside.accept().expect_err("nobody came");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn an_outbox_that_cannot_be_used_stops_nothing_and_is_told() {
    let receiver = Receiver::start(|_| Answer::OK);
    let mut bench = Bench::new(&[receiver.url()]);
    drop(bench.alerts.take());
    let file = bench.directory.path().join("alerts.redb");
    // Neither readable as a file nor to be replaced.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    bench.start();
    let error = bench.handle().status().error.expect("it is told");
    assert!(error.contains("alerts.redb"), "{error}");
    // It goes on by itself.
    std::fs::remove_dir(&file).unwrap();
    until("the outbox", || bench.handle().status().error.is_none().then_some(()));
    bench.record(&["msg_1"]);
    assert_eq!(receiver.next().id, "msg_1");
    drop(bench.alerts.take());
    std::fs::write(&file, "no database").unwrap();
    bench.start();
    let aside = bench.handle().status().set_aside.expect("it is told");
    assert_eq!(std::fs::read_to_string(Path::new(&aside)).unwrap(), "no database");
    bench.record(&["msg_2"]);
    assert_eq!(receiver.next().id, "msg_2");
}
