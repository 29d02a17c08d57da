//! M1, M2: death at every moment, before each single store into the table and again in the recovery
//! from it; and power failures, which leave a table and a journal of different moments.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::slot::{Left, Note};
use super::*;

const FEW: Capacity = Capacity { slots: 4, files: 1, reserve: 0 };

thread_local! {
    static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    static SYNCS: Cell<u64> = const { Cell::new(0) };
}

/// Called before every store into a slot.
pub(in crate::refusals) fn moment() {
    HOOK.with_borrow_mut(|hook| {
        if let Some(hook) = hook {
            hook();
        }
    });
}

/// Called when all of the table is on the disk.
pub(in crate::refusals) fn synced() {
    SYNCS.set(SYNCS.get() + 1);
}

/// A directory as a process leaves it that dies at some moment.
struct Moment {
    directory: PathBuf,
    at: State,
    syncs: u64,
}

/// Requests, as far as a process had got.
#[derive(Debug, Clone, Default)]
struct State {
    begun: u64,
    done: u64,
    /// Read and removed from the journal.
    shipped: u64,
    /// Done, and to survive a power failure.
    safe: u64,
    cursors: Cursors,
}

impl State {
    fn expected(&self) -> RangeInclusive<u64> {
        self.done - self.shipped..=self.begun - self.shipped
    }
}

/// Copies `directory` before every store into the table that `run` makes.
fn record(directory: &Path, copies: &Path, run: impl FnOnce(&RefCell<State>)) -> Vec<Moment> {
    let state = Rc::new(RefCell::new(State::default()));
    let moments = Rc::new(RefCell::new(Vec::new()));
    let (from, to) = (directory.to_owned(), copies.to_owned());
    let (at, into) = (Rc::clone(&state), Rc::clone(&moments));
    HOOK.set(Some(Box::new(move || {
        let mut moments = into.borrow_mut();
        let copy = to.join(moments.len().to_string());
        copy_files(&from, &copy);
        moments.push(Moment { directory: copy, at: at.borrow().clone(), syncs: SYNCS.get() });
    })));
    run(&state);
    HOOK.set(None);
    Rc::into_inner(moments).expect("the hook is gone").into_inner()
}

pub(super) fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("readable");
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            // A spare segment that was not needed any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.expect("room for a copy")),
        }
    }
}

/// A first process, which leaves its identities in the slots and a lane with many events.
fn live_before(directory: &Path, state: &RefCell<State>) {
    let journal = journal(directory, 3);
    let refusals = Refusals::with_capacity(Arc::clone(&journal), FEW).expect("opens");
    for number in 0..10 {
        state.borrow_mut().begun += 1;
        count(&refusals, NOW_US - (20 - number) * US_PER_SECOND, "acme", "limit");
        state.borrow_mut().done += 1;
    }
    refusals.flush(NOW_US).expect("room");
    journal.close();
}

/// A bit of everything: groups, seconds, a slot used again, a full journal and room again.
fn live(directory: &Path, state: &RefCell<State>) {
    let journal = journal(directory, 3);
    let refusals = Refusals::with_capacity(Arc::clone(&journal), FEW).expect("opens");
    let update = |change: fn(&mut State)| change(&mut state.borrow_mut());
    let second = |number: i64| NOW_US + number * US_PER_SECOND;
    let refuse = |number, tenant| {
        update(|state| state.begun += 1);
        count(&refusals, second(number), tenant, "limit");
        update(|state| state.done += 1);
    };
    let serve = |number| {
        update(|state| state.begun += 1);
        refusals.count_unmetered(&event("acme", "api_calls", second(number)));
        update(|state| state.done += 1);
    };
    refuse(0, "acme");
    refuse(0, "acme");
    refuse(1, "acme");
    refuse(1, "other");
    refusals.flush(second(2)).expect("room");
    refuse(2, "acme");
    refusals.flush(second(20)).expect("room");
    assert_eq!(groups(&refusals), 0);
    refuse(20, "third");
    fill(&journal);
    serve(21);
    refuse(21, "third");
    refuse(21, "a-tenant-with-a-longer-name-in-the-slot-of-another");
    for number in [22, 23] {
        refusals.flush(second(number)).expect_err("full");
        update(|state| state.safe = state.done);
        serve(number);
        serve(number - 2);
        refuse(number, "third");
    }
    let ship = || {
        let mut state = state.borrow_mut();
        let drained = drain(&journal, &mut state.cursors);
        state.shipped += requests(&drained);
        while journal.is_full() {
            thread::yield_now();
        }
    };
    ship();
    // From here on, what is announced may be taken by a power failure.
    update(|state| state.safe = 0);
    refusals.flush(second(24)).expect("room");
    assert_eq!(refusals.oldest_us(), None);
    ship();
    serve(24);
    refuse(24, "third");
    refusals.flush(second(25)).expect("room");
}

/// The next start of the gateway on this directory: how many requests it finds and journals.
fn recover(directory: &Path, mut cursors: Cursors, boot: u128) -> u64 {
    let journal = journal_under(directory, 3, boot);
    let refusals = Refusals::with_capacity(Arc::clone(&journal), FEW).expect("opens");
    assert_eq!(refusals.uncounted(), 0, "{:?}", journal.losses());
    // From here on, the shipper removes what former lanes hold.
    let mut sums = drain(&journal, &mut cursors);
    while refusals.flush(i64::MAX).is_err() {
        thread::yield_now();
    }
    assert_eq!(refusals.oldest_us(), None);
    add_all(&mut sums, drain(&journal, &mut cursors));
    // All of a total, or all of the one before.
    for ((kind, ..), counted) in &sums {
        let requests = i128::from(counted.requests);
        let (each, bytes) = if *kind == Kind::Refused as u8 { (1, 0) } else { (3, 10) };
        assert_eq!(counted.quantity_nano, requests * each * UNIT_NANO, "{sums:?}");
        assert_eq!(counted.bytes.0, counted.requests * bytes, "{sums:?}");
        assert_eq!(counted.bytes.1, counted.bytes.0 * 2, "{sums:?}");
    }
    requests(&sums)
}

/// Whether some row was being written.
fn has_note(directory: &Path) -> bool {
    let table = Table::open(directory, FEW, 1).expect("readable").table;
    let mut slots = (0..FEW.slots).map(|index| table.slot(index).read());
    slots.any(|left| matches!(left, Ok(Some(Left { note: Note::Row(_), .. }))))
}

struct World {
    root: tempfile::TempDir,
    copies: Cell<u64>,
    moments: Vec<Moment>,
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (directory, copies) = (root.path().join("live"), root.path().join("moments"));
        let moments = record(&directory, &copies, |state| {
            live_before(&directory, state);
            live(&directory, state);
        });
        assert!(moments.len() > 100, "only {} moments", moments.len());
        World { root, copies: Cell::new(0), moments }
    }

    fn copy_of(&self, directory: &Path) -> PathBuf {
        self.copies.set(self.copies.get() + 1);
        let copy = self.root.path().join(format!("copy-{}", self.copies.get()));
        copy_files(directory, &copy);
        copy
    }
}

#[test]
fn m1_m2_a_process_may_die_before_any_store() {
    let world = World::new();
    for (index, moment) in world.moments.iter().enumerate() {
        let found = recover(&world.copy_of(&moment.directory), moment.at.cursors.clone(), BOOT);
        let expected = moment.at.expected();
        assert!(expected.contains(&found), "moment {index}: {found}, not {expected:?}");
    }
}

#[test]
fn m1_m2_a_process_may_die_before_any_store_of_a_recovery() {
    let world = World::new();
    let mut deaths = 0;
    for (index, moment) in world.moments.iter().enumerate() {
        let directory = world.copy_of(&moment.directory);
        if index % 16 > 0 && !has_note(&directory) {
            continue;
        }
        let copies = world.root.path().join(format!("again-{index}"));
        let again = record(&directory, &copies, |_| {
            let journal = journal(&directory, 3);
            let opened = Refusals::with_capacity(Arc::clone(&journal), FEW).expect("opens");
            // The first flush, as far as there is room, and without shipping.
            assert_flushed(opened.flush(i64::MAX));
        });
        for (step, death) in again.iter().enumerate() {
            deaths += 1;
            let found = recover(&death.directory, moment.at.cursors.clone(), BOOT);
            let expected = moment.at.expected();
            assert!(
                expected.contains(&found),
                "moment {index}, step {step}: {found}, not {expected:?}"
            );
        }
    }
    assert!(deaths > 50, "only {deaths}");
}

/// The kernel brings pages to the disk when it likes: the table may be as it was at any moment
/// since it was last synced, while the journal has everything up to the end.
#[test]
fn m2_a_power_failure_doubles_nothing_and_takes_nothing_that_waited() {
    let world = World::new();
    let mut safe = 0;
    for (index, moment) in world.moments.iter().enumerate() {
        let first = world.moments.partition_point(|earlier| earlier.syncs < moment.syncs);
        for from in [first, first + (index - first) / 2, index] {
            let directory = world.copy_of(&moment.directory);
            let older = world.moments[from].directory.join(table::NAME);
            std::fs::copy(older, directory.join(table::NAME)).expect("room for a copy");
            let State { begun, safe: least, shipped, ref cursors, .. } = moment.at;
            let found = recover(&directory, cursors.clone(), BOOT + 1) + shipped;
            assert!(
                (least..=begun).contains(&found),
                "moment {index}, table of {from}: {found}, not {least}..={begun}"
            );
            safe += u64::from(least > 0);
        }
    }
    assert!(safe > 20, "only {safe}");
}
