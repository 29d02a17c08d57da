//! The watch over real policies whose clock is the test's.

use orbit_policy::quota::{InMemory, Memory, Reported};
use orbit_policy::{Policy, PolicySettings, Source};

use super::*;

const HOUR_US: i64 = 3_600_000_000;
const START_US: i64 = 495_000 * HOUR_US;

/// A policy and who watches it.
struct Bench {
    policy: Policy,
    memory: Arc<dyn Memory>,
    watch: QuotaWatch,
    /// What the outbox would hold.
    kept: HashMap<u128, Told>,
    ids: HashSet<String>,
}

fn documents(quota: &str, more: &str) -> Vec<Source> {
    let text = format!(
        "[[plan]]\nid = \"p\"\nquotas = [{{ name = \"calls\", meter = \"api_calls\", {quota} }}]\n\
         [[tenant]]\nid = \"acme\"\nplan = \"p\"\n{more}"
    );
    vec![Source { file: "p.toml".into(), text }]
}

impl Bench {
    fn new(quota: &str) -> Bench {
        let memory = InMemory::shared();
        let policy = Bench::policy(&memory, quota);
        let (kept, ids) = (HashMap::new(), HashSet::new());
        Bench { policy, memory, watch: QuotaWatch::new(HashMap::new()), kept, ids }
    }

    fn policy(memory: &Arc<dyn Memory>, quota: &str) -> Policy {
        let settings =
            PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory: Arc::clone(memory) };
        let policy = Policy::new(&documents(quota, ""), &settings, START_US).expect("valid");
        policy.roll(START_US);
        policy
    }

    fn count(&self, amount: u64, now_us: i64) {
        self.count_late(amount, now_us, now_us);
    }

    fn count_late(&self, amount: u64, at_us: i64, now_us: i64) {
        self.policy.roll(now_us);
        let calls = Reported { path: "acme", plan: "p", meter: "api_calls", at_us };
        self.policy.charge_event(&calls, amount, now_us);
    }

    fn reload(&self, quota: &str, more: &str, now_us: i64) {
        let reading = orbit_policy::Reading { mono: orbit_policy::Nanos(0), unix_us: now_us };
        self.policy.apply(&documents(quota, more), || reading).expect("valid");
    }

    /// Another process with the same counts and the same outbox.
    fn restart(&mut self, quota: &str) {
        self.policy = Bench::policy(&self.memory, quota);
        self.watch = QuotaWatch::new(self.kept.clone());
    }

    /// What a look finds, in words.
    fn look(&mut self, now_us: i64) -> Vec<String> {
        let (mut signals, mut findings) = (Vec::new(), Findings::default());
        let mut found = Found { signals: &mut signals, findings: &mut findings };
        self.watch.look(&self.policy.load(), now_us, &mut found);
        findings.forgotten.iter().for_each(|key| drop(self.kept.remove(key)));
        self.kept.extend(findings.told);
        let word = |signal: Signal| {
            assert!(self.ids.insert(signal.id.clone()), "told twice: {signal:?}");
            let data = &signal.data;
            let what = match data.get("threshold_percent") {
                Some(percent) => percent.to_string(),
                None => signal.kind.as_str().to_owned(),
            };
            format!("{what} at {} of {}", data["used"], data["limit"])
        };
        signals.into_iter().map(word).collect()
    }
}

const HOURLY: &str = "limit = 10, per = \"hour\", thresholds = [50, 80]";
const NOTHING: [&str; 0] = [];

#[test]
fn each_crossing_is_found_once_whatever_restarts_and_reloads() {
    let mut bench = Bench::new(HOURLY);
    assert_eq!(bench.look(START_US), NOTHING);
    bench.count(4, START_US);
    assert_eq!(bench.look(START_US), NOTHING);
    bench.count(1, START_US);
    assert_eq!(bench.look(START_US), ["50 at 5 of 10"]);
    assert_eq!(bench.look(START_US + 1), NOTHING);
    bench.restart(HOURLY);
    assert_eq!(bench.look(START_US + 2), NOTHING);
    bench.reload(HOURLY, "limits = [{ name = \"x\", rate = 1, per = \"second\" }]", START_US);
    assert_eq!(bench.look(START_US + 3), NOTHING);
    bench.count(7, START_US);
    assert_eq!(bench.look(START_US + 4), ["80 at 12 of 10", "quota.exhausted at 12 of 10"]);
    bench.count(5, START_US + HOUR_US);
    assert_eq!(bench.look(START_US + HOUR_US), ["50 at 5 of 10"]);
}

#[test]
fn after_a_reload_with_other_thresholds_later_crossings_are_told() {
    let mut bench = Bench::new(HOURLY);
    bench.count(5, START_US);
    assert_eq!(bench.look(START_US), ["50 at 5 of 10"]);
    let other = "limit = 10, per = \"hour\", thresholds = [40, 50, 60, 90]";
    bench.reload(other, "", START_US);
    assert_eq!(bench.look(START_US), ["40 at 5 of 10"]);
    bench.count(1, START_US);
    assert_eq!(bench.look(START_US), ["60 at 6 of 10"]);
    bench.count(3, START_US);
    assert_eq!(bench.look(START_US), ["90 at 9 of 10"]);
}

#[test]
fn an_upgrade_in_mid_window_is_told_of_when_the_larger_quota_is_crossed() {
    let mut bench = Bench::new(HOURLY);
    bench.count(8, START_US);
    assert_eq!(bench.look(START_US), ["50 at 8 of 10", "80 at 8 of 10"]);
    let larger = "limit = 20, per = \"hour\", thresholds = [50, 80]";
    // Raised and crossed between two looks.
    bench.reload(larger, "", START_US);
    bench.count(3, START_US);
    assert_eq!(bench.look(START_US), ["50 at 11 of 20"]);
    bench.restart(larger);
    assert_eq!(bench.look(START_US), NOTHING);
    // A grant on top, by which it is still above.
    let grant = "[[grant]]\ntenant = \"acme\"\nquota = \"calls\"\namount = 1\nat = ";
    let day = format!("{grant}\"2026-06-20T00:00:00Z\"");
    bench.reload(larger, &day, START_US);
    assert_eq!(bench.look(START_US), NOTHING);
    bench.count(9, START_US);
    assert_eq!(bench.look(START_US), ["80 at 20 of 20", "quota.exhausted at 20 of 20"]);
}

#[test]
fn m11_a_crossing_right_before_a_kill_is_told_after_any_downtime() {
    let mut bench = Bench::new(HOURLY);
    bench.count(5, START_US);
    assert_eq!(bench.look(START_US), ["50 at 5 of 10"]);
    bench.count(5, START_US + 1);
    bench.restart(HOURLY);
    let later_us = START_US + 700 * HOUR_US;
    assert_eq!(bench.look(later_us), ["80 at 10 of 10", "quota.exhausted at 10 of 10"]);
    for pause in 0..3 {
        bench.restart(HOURLY);
        assert_eq!(bench.look(later_us + pause * 400 * HOUR_US), NOTHING);
    }
    // Nobody ever looked at it.
    let mut bench = Bench::new(HOURLY);
    bench.count(6, START_US);
    bench.restart(HOURLY);
    assert_eq!(bench.look(later_us), ["50 at 6 of 10"]);
}

#[test]
fn h3_a_window_that_is_over_is_judged_by_what_was_allowed_in_it() {
    let mut bench = Bench::new(HOURLY);
    bench.count(4, START_US);
    assert_eq!(bench.look(START_US), NOTHING);
    // Counted at the very end; then the limit is another.
    bench.count(1, START_US + HOUR_US - 1);
    bench.restart("limit = 4, per = \"hour\", thresholds = [50, 80]");
    assert_eq!(bench.look(START_US + HOUR_US), ["50 at 5 of 10"]);
    bench.reload("limit = 1, per = \"hour\", thresholds = [20]", "", START_US + HOUR_US);
    assert_eq!(bench.look(START_US + HOUR_US), NOTHING, "it was judged once, and is over");
    // What rolls over into a window is no part of the next one.
    let rolls = "limit = 10, per = \"hour\", thresholds = [50], roll_over = 10";
    let mut bench = Bench::new(rolls);
    bench.count(1, START_US);
    bench.look(START_US);
    bench.count(9, START_US + HOUR_US);
    assert_eq!(bench.look(START_US + HOUR_US), NOTHING, "9 of 19");
    assert_eq!(bench.look(START_US + 2 * HOUR_US), NOTHING);
}

#[test]
fn m11_a_crossing_by_what_is_counted_late_is_told_by_what_was_allowed_then() {
    let next_us = START_US + HOUR_US;
    let mut bench = Bench::new(HOURLY);
    bench.count(7, START_US);
    assert_eq!(bench.look(START_US), ["50 at 7 of 10"]);
    assert_eq!(bench.look(next_us), NOTHING, "it is judged");
    bench.count_late(1, START_US, next_us);
    assert_eq!(bench.look(next_us), ["80 at 8 of 10"]);
    // Also when something was told of the next window, and by other documents.
    bench.count(1, next_us);
    assert_eq!(bench.look(next_us), NOTHING);
    let other = "limit = 4, per = \"hour\", thresholds = [25, 90]";
    bench.reload(other, "", next_us);
    assert_eq!(bench.look(next_us), ["25 at 1 of 4"]);
    bench.restart(other);
    bench.count_late(1, START_US, next_us);
    assert_eq!(bench.look(next_us), NOTHING, "9 of 10, of which 90 % were not asked for");
    bench.count_late(1, START_US, next_us);
    assert_eq!(bench.look(next_us), ["quota.exhausted at 10 of 10"]);
    bench.count_late(1, START_US, next_us);
    assert_eq!(bench.look(next_us), NOTHING);
    // All of it is late.
    let mut bench = Bench::new(HOURLY);
    bench.count(1, next_us);
    assert_eq!(bench.look(next_us), NOTHING);
    bench.count_late(5, START_US, next_us);
    assert_eq!(bench.look(next_us), ["50 at 5 of 10"]);
}

#[test]
fn h2_what_was_told_is_known_for_as_long_as_the_window_lasts() {
    let yearly = "limit = 10, per = \"year\", thresholds = [50]";
    let mut bench = Bench::new(yearly);
    bench.count(5, START_US);
    assert!(bench.look(START_US).contains(&"50 at 5 of 10".to_owned()));
    for days in [41, 80, 120] {
        bench.restart(yearly);
        assert_eq!(bench.look(START_US + days * 24 * HOUR_US), NOTHING);
    }
    // Taken out of the documents, and back before the window is over.
    bench.reload("limit = 10, per = \"day\", thresholds = [50]", "", START_US);
    bench.look(START_US);
    assert_eq!(bench.kept.len(), 2);
    bench.reload(yearly, "", START_US + 100 * 24 * HOUR_US);
    assert_eq!(bench.look(START_US + 100 * 24 * HOUR_US), NOTHING);
    assert_eq!(bench.kept.len(), 1, "of a quota that is gone nothing is kept once it is over");
}

#[test]
fn a_pace_that_is_too_fast_is_foretold_once_for_each_allowance() {
    let mut bench = Bench::new("limit = 10, per = \"hour\"");
    bench.count(4, START_US);
    assert_eq!(bench.look(START_US + HOUR_US / 20), NOTHING, "too early to tell");
    // Nothing more is counted; when enough has passed, it is looked at nevertheless.
    let told = ["capacity.forecast_exceeded at 4 of 10"];
    assert_eq!(bench.look(START_US + HOUR_US / 10), told);
    bench.count(1, START_US);
    assert_eq!(bench.look(START_US + HOUR_US / 9), NOTHING);
    bench.restart("limit = 20, per = \"hour\"");
    assert_eq!(bench.look(START_US + HOUR_US / 8), ["capacity.forecast_exceeded at 5 of 20"]);
}

#[test]
fn of_nothing_allowed_only_what_was_asked_is_told() {
    let mut bench = Bench::new("limit = 0, per = \"hour\", thresholds = [50]");
    assert_eq!(bench.look(START_US), NOTHING);
    let (mut signals, mut findings) = (Vec::new(), Findings::default());
    let mut found = Found { signals: &mut signals, findings: &mut findings };
    let snapshot = bench.policy.load();
    for name in ["plan/calls", "plan/calls", "plan/other"] {
        bench.watch.asked(&snapshot, ("acme", name), START_US, &mut found);
    }
    let kinds: Vec<Kind> = signals.iter().map(|signal| signal.kind).collect();
    assert_eq!((kinds, findings.told.len()), (vec![Kind::Exhausted], 1));
    assert_eq!(bench.look(START_US), NOTHING);
}

const PLAN: &str = "[[meter]]\nid = \"storage\"\n[[plan]]\nid = \"p\"\n";

/// A policy with a level of storage, of which so much is allowed; `None`: without.
fn storage(limit: Option<u64>) -> Vec<Source> {
    let quota = |limit| {
        format!(
            "quotas = [{{ name = \"storage\", meter = \"storage\", limit = {limit}, \
             thresholds = [80] }}]\n"
        )
    };
    let quotas = limit.map(quota).unwrap_or_default();
    let text = format!("{PLAN}{quotas}[[tenant]]\nid = \"acme\"\nplan = \"p\"\n");
    vec![Source { file: "p.toml".into(), text }]
}

/// Watches that follow each other, of a level of storage.
struct Levels {
    policy: Policy,
    watch: QuotaWatch,
    kept: HashMap<u128, Told>,
    ids: HashSet<String>,
}

impl Levels {
    fn new(limit: u64) -> Levels {
        let settings =
            PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory: InMemory::shared() };
        let policy = Policy::new(&storage(Some(limit)), &settings, START_US).expect("valid");
        let watch = QuotaWatch::new(HashMap::new());
        Levels { policy, watch, kept: HashMap::new(), ids: HashSet::new() }
    }

    /// Stores so much.
    fn store(&mut self, gigabytes: i128, at_us: i64) -> Vec<Signal> {
        let event = Reported { path: "acme", plan: "p", meter: "storage", at_us };
        self.policy.tell_level("acme", &event, gigabytes * 1_000_000_000);
        self.look(at_us)
    }

    /// What looks find: one, one more, and one of the next process.
    fn look(&mut self, at_us: i64) -> Vec<Signal> {
        let mut signals = self.find(|watch, snapshot, found| watch.look(snapshot, at_us, found));
        signals.extend(self.find(|watch, snapshot, found| watch.look(snapshot, at_us, found)));
        self.watch = QuotaWatch::new(self.kept.clone());
        signals.extend(self.find(|watch, snapshot, found| watch.look(snapshot, at_us, found)));
        signals
    }

    fn find(
        &mut self,
        find: impl FnOnce(&mut QuotaWatch, &Arc<Snapshot>, &mut Found<'_>),
    ) -> Vec<Signal> {
        let (mut signals, mut findings) = (Vec::new(), Findings::default());
        let mut found = Found { signals: &mut signals, findings: &mut findings };
        find(&mut self.watch, &self.policy.load(), &mut found);
        findings.forgotten.iter().for_each(|key| drop(self.kept.remove(key)));
        self.kept.extend(findings.told);
        for signal in &signals {
            assert!(self.ids.insert(signal.id.clone()), "told twice: {signal:?}");
        }
        signals
    }

    fn reload(&self, limit: Option<u64>, now_us: i64) {
        let reading = orbit_policy::Reading { mono: orbit_policy::Nanos(0), unix_us: now_us };
        self.policy.apply(&storage(limit), || reading).expect("valid");
    }
}

#[test]
fn a_level_has_episodes_with_ids_of_their_own() {
    let mut levels = Levels::new(100);
    let told: Vec<Signal> = (START_US..)
        .zip([10, 80, 79, 80, 77, 90, 90, 0, 85])
        .flat_map(|(at_us, stored)| levels.store(stored, at_us))
        .collect();
    assert_eq!(told.len(), 3);
    assert!(!told[0].data.contains_key("window_start"));
}

#[test]
fn a_level_that_is_gone_and_comes_back_goes_on_and_its_ids_never_come_again() {
    const DAY_US: i64 = 24 * HOUR_US;
    let mut levels = Levels::new(100);
    assert_eq!(levels.store(85, START_US).len(), 1);
    let (mut at_us, gone_us) = (START_US, [10 * DAY_US, 39 * DAY_US, 400 * DAY_US]);
    for (gone_us, told) in gone_us.into_iter().zip([0, 0, 1]) {
        levels.reload(None, at_us);
        assert_eq!(levels.look(at_us), []);
        // Other documents do not make it gone anew.
        at_us += gone_us;
        levels.reload(None, at_us);
        assert_eq!(levels.look(at_us), []);
        assert_eq!(levels.kept.len(), usize::from(told == 0));
        levels.reload(Some(100), at_us);
        // After so long nobody knows of it, and it is told as a new one, which is not the old one.
        assert_eq!(levels.store(85, at_us).len(), told);
    }
}

#[test]
fn of_a_level_of_nothing_it_is_told_once_that_something_was_asked() {
    let mut levels = Levels::new(0);
    for reload in 0..3 {
        assert_eq!(levels.look(START_US), []);
        let asked = levels.find(|watch, snapshot, found| {
            watch.asked(snapshot, ("acme", "plan/storage"), START_US, found);
        });
        assert_eq!(asked.len(), usize::from(reload == 0));
        levels.reload(Some(0), START_US);
    }
    // Something is allowed, and nothing again.
    levels.reload(Some(1), START_US);
    assert_eq!(levels.look(START_US), []);
    levels.reload(Some(0), START_US);
    assert_eq!(levels.look(START_US), []);
    let asked = levels.find(|watch, snapshot, found| {
        watch.asked(snapshot, ("acme", "plan/storage"), START_US, found);
    });
    assert_eq!(asked.len(), 1);
}
