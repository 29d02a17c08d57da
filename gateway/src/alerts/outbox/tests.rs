//! The outbox through its face, over restarts and damage.

use std::collections::BTreeSet;

use super::list::NoCursor;
use super::*;

fn event<'e>(id: &'e str, webhooks: &[&'e str]) -> Outgoing<'e> {
    Outgoing { id, body: b"{}", webhooks: webhooks.to_vec() }
}

/// An outbox in a directory of its own.
struct Home {
    directory: tempfile::TempDir,
    outbox: Outbox,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().expect("a directory");
        let outbox = Outbox::at(&directory.path().join("alerts.redb"));
        Home { directory, outbox }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("alerts.redb")
    }

    /// As after a restart.
    fn again(self) -> Home {
        let Home { directory, outbox } = self;
        drop(outbox);
        let outbox = Outbox::at(&directory.path().join("alerts.redb"));
        Home { directory, outbox }
    }

    fn record(&self, events: &[Outgoing<'_>], now_us: i64) -> Vec<usize> {
        self.outbox.record(events, &Findings::default(), now_us).expect("recorded")
    }

    fn due(&self, webhook: &str, now_us: i64) -> (Vec<Due>, Option<i64>) {
        self.outbox.due(webhook, now_us, 9, &BTreeSet::new()).expect("read")
    }

    fn ids(&self, webhook: &str, now_us: i64) -> Vec<String> {
        self.due(webhook, now_us).0.into_iter().map(|due| due.id).collect()
    }

    /// Makes an attempt at everything that is due.
    fn attempt(&self, webhook: &str, at_us: i64, outcome: &Outcome) {
        let (due, _) = self.due(webhook, at_us);
        let note = |due| Note { due, outcome: outcome.clone(), at_us };
        let notes: Vec<Note> = due.into_iter().map(note).collect();
        self.outbox.note(webhook, &notes).expect("noted");
    }

    fn depth(&self) -> (u64, u64, Option<i64>) {
        let depth = self.outbox.depth().expect("read");
        (depth.pending, depth.dead, depth.oldest_us)
    }

    fn list(&self, query: &Query) -> Vec<(State, String, String)> {
        let page = self.outbox.list(query).expect("read");
        page.deliveries.into_iter().map(|one| (one.state, one.id, one.webhook)).collect()
    }
}

fn dead() -> Outcome {
    Outcome::Dead { error: "answered 500".to_owned() }
}

fn again(at_us: i64) -> Outcome {
    Outcome::Again { at_us, error: "timed out".to_owned() }
}

fn all() -> Query {
    Query { most: 100, ..Query::default() }
}

#[test]
fn an_event_is_recorded_once_and_found_after_a_restart() {
    let home = Home::new();
    assert_eq!(home.record(&[event("a", &["x", "y"]), event("b", &["x"])], 5), [0, 1]);
    let home = home.again();
    assert_eq!(home.record(&[event("b", &["x"]), event("c", &["x"])], 6), [1]);
    assert_eq!(home.ids("x", 10), ["a", "b", "c"]);
    assert_eq!(home.ids("y", 10), ["a"]);
    assert!(home.outbox.knows("c").expect("read") && !home.outbox.knows("d").expect("read"));
}

#[test]
fn what_was_found_is_kept_with_its_events_and_after_a_restart() {
    let home = Home::new();
    let window = Some(crate::alerts::told::Span { start_us: 0, end_us: 9 });
    let mut told = Told::nothing(window, 7);
    told.foretell(7);
    let episode = Episode { began_us: 1, last_us: 2 };
    let mut findings = Findings::default();
    findings.told.insert(u128::MAX, told.clone());
    findings.told.insert(1, told.clone());
    findings.episodes.insert("refusals a".to_owned(), Some(episode));
    findings.episodes.insert("refusals b".to_owned(), Some(episode));
    home.outbox.record(&[], &findings, 5).expect("recorded");
    let home = home.again();
    assert_eq!(
        home.outbox.told().expect("read"),
        HashMap::from([(u128::MAX, told.clone()), (1, told)])
    );
    assert_eq!(home.outbox.episodes().expect("read")["refusals b"], episode);
    let gone = Findings {
        forgotten: vec![1],
        episodes: BTreeMap::from([("refusals a".to_owned(), None)]),
        ..Findings::default()
    };
    home.outbox.record(&[], &gone, 5).expect("recorded");
    assert_eq!(home.outbox.told().expect("read").len(), 1);
    assert_eq!(home.outbox.episodes().expect("read").len(), 1);
}

#[test]
fn deliveries_are_pending_dead_or_delivered() {
    let home = Home::new();
    home.record(&[event("a", &["x", "xx"]), event("b", &["x"])], 5);
    let (mut due, next_us) = home.due("x", 10);
    assert_eq!((due.len(), next_us), (2, None));
    let (b, a) = (due.pop().expect("two"), due.pop().expect("two"));
    let notes = [
        Note { due: a, outcome: again(50), at_us: 6 },
        Note { due: b, outcome: Outcome::Delivered, at_us: 7 },
    ];
    home.outbox.note("x", &notes).expect("noted");
    assert_eq!(home.due("x", 10), (vec![], Some(50)));
    let home = home.again();
    assert_eq!(home.due("x", 50).0[0].attempts, 1, "a restart keeps the schedule");
    home.attempt("x", 60, &dead());
    assert_eq!(home.depth(), (1, 1, Some(5)));
    let list = home.outbox.list(&Query { state: Some(State::Dead), ..all() }).expect("read");
    let [one] = &list.deliveries[..] else { panic!("{list:?}") };
    let (attempts, at_us, error) = (one.attempts, one.at_us, &*one.last_error);
    assert_eq!((&*one.id, attempts, at_us, error), ("a", 2, 60, "answered 500"));
    // What was noted is noted once, whoever says it again.
    home.outbox.note("x", &notes).expect("noted");
    assert_eq!(home.list(&all()).len(), 3);
}

#[test]
fn due_deliveries_come_in_the_order_of_their_time_and_not_twice() {
    let home = Home::new();
    let ids: Vec<String> = (0..30).map(|number| format!("{number:02}")).collect();
    let events: Vec<_> = ids.iter().map(|id| event(id, &["x"])).collect();
    home.record(&events, 5);
    let (first, next_us) = home.outbox.due("x", 5, 2, &BTreeSet::new()).expect("read");
    assert_eq!((first.len(), next_us), (2, Some(5)));
    let under_way: BTreeSet<String> = first.into_iter().map(|due| due.id).collect();
    let (then, _) = home.outbox.due("x", 5, 2, &under_way).expect("read");
    assert_eq!(then.iter().map(|due| &*due.id).collect::<Vec<_>>(), ["02", "03"]);
    assert_eq!(home.outbox.due("x", 4, 2, &BTreeSet::new()).expect("read"), (vec![], Some(5)));
}

#[test]
fn what_is_given_up_is_dead_with_the_reason_and_replayed_where_there_is_a_webhook() {
    let home = Home::new();
    home.record(&[event("a", &["gone", "x"]), event("b", &["gone"])], 5);
    assert_eq!(home.outbox.awaited().expect("read"), ["gone", "x"].map(str::to_owned).into());
    assert_eq!(home.outbox.give_up("gone", "no such webhook", 9).expect("noted"), 2);
    assert_eq!(home.outbox.give_up("gon", "a part of an id is none", 9).expect("noted"), 0);
    let page = home.outbox.list(&Query { state: Some(State::Dead), ..all() }).expect("read");
    assert!(page.deliveries.iter().all(|one| one.last_error == "no such webhook"));
    let replay =
        |which, known: &dyn Fn(&str) -> bool| home.outbox.replay(which, known, 20).expect("noted");
    let unknown = replay(Replay::default(), &|id| id == "x");
    assert_eq!((unknown.deliveries, unknown.left, home.depth().1), (0, 2, 2));
    let of_x = replay(Replay { id: None, webhook: Some("x") }, &|_| true);
    assert_eq!(of_x, Replayed::default());
    let of_a = replay(Replay { id: Some("a"), webhook: None }, &|_| true);
    assert_eq!((of_a.deliveries, of_a.left), (1, 0));
    assert_eq!(of_a.webhooks, BTreeSet::from(["gone".to_owned()]));
    assert_eq!(home.ids("gone", 20), ["a"]);
    assert_eq!(replay(Replay { id: Some("no"), webhook: None }, &|_| true), Replayed::default());
    assert_eq!(replay(Replay::default(), &|_| true).deliveries, 1);
    assert_eq!(home.depth(), (3, 0, Some(5)));
}

#[test]
fn only_what_everybody_has_is_forgotten() {
    let home = Home::new();
    home.record(&[event("dead", &["x"]), event("waits", &["y"]), event("had", &["x", "x2"])], 5);
    home.record(&[event("nobody's", &[])], 5);
    home.record(&[event("young", &["x"])], 50);
    home.attempt("y", 6, &again(99));
    home.attempt("x2", 6, &Outcome::Delivered);
    let (due, _) = home.due("x", 10);
    for due in due {
        let outcome = if due.id == "dead" { dead() } else { Outcome::Delivered };
        home.outbox.note("x", &[Note { due, outcome, at_us: 10 }]).expect("noted");
    }
    assert_eq!(home.outbox.prune(50, 100).expect("pruned"), 2);
    assert_eq!(home.outbox.prune(50, 100).expect("pruned"), 0);
    let left = home.list(&all());
    let left: Vec<&str> = left.iter().map(|(_, id, _)| &**id).collect();
    assert_eq!(left, ["waits", "young", "dead"]);
    assert!(!home.outbox.knows("had").expect("read"));
    // Replayed after a long time: it is not forgotten while it waits, but once it was delivered.
    let replayed = home.outbox.replay(Replay::default(), &|_| true, 200).expect("noted");
    assert_eq!(replayed.deliveries, 1);
    assert_eq!(home.outbox.prune(40, 100).expect("pruned"), 0);
    home.attempt("x", 300, &Outcome::Delivered);
    assert_eq!(home.outbox.prune(40, 100).expect("pruned"), 1);
    assert!(!home.outbox.knows("dead").expect("read"));
    assert_eq!(home.list(&Query { state: Some(State::Delivered), ..all() }).len(), 1);
}

#[test]
fn a_list_is_read_page_by_page_and_by_state_webhook_and_time() {
    let home = Home::new();
    for at_us in 1..=6 {
        let id = format!("e{at_us}");
        home.record(&[event(&id, &["x", "y"])], at_us);
    }
    let (due, _) = home.due("x", 10);
    for (due, outcome) in due.into_iter().zip([dead(), dead(), Outcome::Delivered]) {
        home.outbox.note("x", &[Note { due, outcome, at_us: 10 }]).expect("noted");
    }
    let whole = home.list(&all());
    assert_eq!(whole.len(), 12);
    let states: Vec<State> = whole.iter().map(|(state, _, _)| *state).collect();
    assert!(states.is_sorted_by_key(|state| *state as u8), "{states:?}");
    for most in [1, 4, 5, 12] {
        let (mut read, mut query) = (Vec::new(), Query { most, ..Query::default() });
        loop {
            let page = home.outbox.list(&query).expect("read");
            assert!(page.deliveries.len() <= most);
            read.extend(page.deliveries.into_iter().map(|one| (one.state, one.id, one.webhook)));
            let Some(next) = page.next else { break };
            query.after = Some(next.to_string().parse().expect("a cursor"));
        }
        assert_eq!(read, whole, "{most} at a time");
    }
    let of_x = Query { webhook: Some("x".to_owned()), state: Some(State::Dead), ..all() };
    let named = |id: &str| (State::Dead, id.to_owned(), "x".to_owned());
    assert_eq!(home.list(&of_x), [named("e1"), named("e2")]);
    assert_eq!(home.list(&Query { since_us: Some(2), ..of_x }), [named("e2")]);
    assert_eq!(home.list(&Query { since_us: Some(6), ..all() }).len(), 2);
    for text in ["", "dead", "dead:1:e1", "dying:1:e1:x", "dead:one:e1:x"] {
        assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside_and_alerts_go_on() {
    let home = Home::new();
    std::fs::write(home.path(), "this is no database".repeat(1_000)).expect("written");
    assert_eq!(home.record(&[event("a", &["x"])], 5), [0]);
    assert_eq!(home.outbox.times_set_aside(), 1);
    let aside = home.outbox.set_aside().expect("it was");
    assert!(std::fs::read(aside).expect("kept").starts_with(b"this is no database"));
    let home = home.again();
    assert_eq!((home.ids("x", 9), home.outbox.set_aside()), (vec!["a".to_owned()], None));
}

/// Whatever byte is another, nothing panics, and what is not whole is not used.
#[test]
fn any_damage_is_found_and_survived() {
    let home = Home::new();
    let ids: Vec<String> = (0..200).map(|number| format!("event-{number}")).collect();
    let events: Vec<_> = ids.iter().map(|id| event(id, &["x"])).collect();
    home.record(&events, 5);
    home.attempt("x", 6, &dead());
    let home = home.again();
    assert_eq!(home.depth().0 + home.depth().1, 200);
    let Home { directory, outbox } = home;
    drop(outbox);
    let path = directory.path().join("alerts.redb");
    let whole = std::fs::read(&path).expect("there");
    // Everywhere in what is used, and cut off anywhere.
    let mut damaged = Vec::new();
    for place in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        damaged.push(bytes);
    }
    for length in (0..whole.len()).step_by(whole.len() / 15) {
        damaged.push(whole[..length].to_vec());
    }
    let mut set_aside = 0;
    for bytes in damaged {
        std::fs::write(&path, bytes).expect("written");
        let outbox = Outbox::at(&path);
        let new = [event("new", &["x"])];
        assert_eq!(outbox.record(&new, &Findings::default(), 9).expect("recorded"), [0]);
        let listed = outbox.list(&Query { most: 1_000, ..Query::default() }).expect("read");
        assert!([1, 201].contains(&listed.deliveries.len()), "all or nothing");
        set_aside += outbox.times_set_aside();
    }
    assert!(set_aside > 15, "{set_aside}");
}

#[test]
fn what_cannot_be_opened_now_may_be_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state/alerts.redb");
    let outbox = Outbox::at(&path);
    let events = [event("a", &["x"])];
    let error = outbox.record(&events, &Findings::default(), 5).expect_err("no directory");
    assert!(error.to_string().contains("alerts.redb"));
    std::fs::create_dir(directory.path().join("state")).expect("made");
    assert_eq!(outbox.record(&events, &Findings::default(), 5).expect("recorded"), [0]);
}
