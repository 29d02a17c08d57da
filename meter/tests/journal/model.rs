//! The journal against a list: append, reopen, acknowledge, crash, tear at any byte.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use orbit_meter::journal::{Journal, LaneKey, Position};
use proptest::prelude::*;

use super::sample::{Seen, event, open, read_lane, segment_files, snapshot};

#[derive(Debug, Clone)]
enum Step {
    Append {
        padding: usize,
        times: u16,
    },
    /// Close and open.
    Reopen,
    /// Copy the files as they are and go on with the copy.
    Crash,
    /// Acknowledge this share of what a lane holds.
    Acknowledge {
        lane: prop::sample::Index,
        percent: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..2_000, 1_u16..60).prop_map(|(padding, times)| Step::Append { padding, times }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        2 => (any::<prop::sample::Index>(), 0_usize..=100)
            .prop_map(|(lane, percent)| Step::Acknowledge { lane, percent }),
    ];
    prop::collection::vec(step, 1..24)
}

/// What must be there: per lane, its events, and from where on they are unacknowledged.
#[derive(Default)]
struct Model {
    lanes: BTreeMap<LaneKey, Vec<Seen>>,
    acknowledged: BTreeMap<LaneKey, Position>,
}

struct World {
    /// Closed before its directory is removed.
    journal: Arc<Journal>,
    root: tempfile::TempDir,
    directory: PathBuf,
    model: Model,
    appended: u64,
    copies: u32,
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().expect("a temporary directory");
        let directory = root.path().join("0");
        let journal = open(&directory);
        World { root, directory, journal, model: Model::default(), appended: 0, copies: 0 }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { padding, times } => {
                let padding = "p".repeat(*padding);
                for _ in 0..*times {
                    let number = self.appended;
                    let id = self.journal.append(&event(number, &padding)).expect("room");
                    self.appended += 1;
                    let key = LaneKey { node: id.node, epoch: id.epoch, lane: id.lane };
                    let seen = Seen { id, number, padding: padding.len() };
                    self.model.lanes.entry(key).or_default().push(seen);
                }
            }
            Step::Reopen => {
                self.journal.close();
                self.journal = open(&self.directory);
                self.restore();
            }
            Step::Crash => {
                self.copies += 1;
                let copy = self.root.path().join(self.copies.to_string());
                snapshot(&self.directory, &copy);
                self.journal.close();
                self.directory = copy;
                self.journal = open(&self.directory);
                self.restore();
            }
            Step::Acknowledge { lane, percent } => self.acknowledge(*lane, *percent),
        }
    }

    /// The shipper keeps the positions; a journal that was opened again is told of them.
    fn restore(&mut self) {
        for (&key, &position) in &self.model.acknowledged {
            self.journal.acknowledge(key, position).expect("removable");
        }
    }

    fn acknowledge(&mut self, lane: prop::sample::Index, percent: usize) {
        let lanes = self.journal.lanes();
        if lanes.is_empty() {
            return;
        }
        let key = lanes[lane.index(lanes.len())];
        let from = self.model.acknowledged.get(&key).copied();
        let mut reader = self.journal.reader(key, from).expect("a lane of the journal");
        let (all, _) = read_lane(&self.journal, key, from);
        for _ in 0..all.len() * percent / 100 {
            reader.read().expect("readable").expect("counted before");
        }
        let position = reader.position();
        self.journal.acknowledge(key, position).expect("removable");
        self.model.acknowledged.insert(key, position);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (key, expected) in &self.model.lanes {
            let from = self.model.acknowledged.get(key).copied();
            let kept = from.map_or(0, |position| position.sequence as usize);
            let seen = match self.journal.reader(*key, None) {
                None => Vec::new(),
                Some(_) => read_lane(&self.journal, *key, from).0,
            };
            prop_assert_eq!(&seen[..], &expected[kept..], "lane {:?}", key);
        }
        prop_assert!(self.journal.losses().is_empty(), "{:?}", self.journal.losses());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_is_a_list_per_lane(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check()?;
        }
    }

    /// Whatever part of a segment the disk lost, what is read is the list without one range, and
    /// that range is reported, to the event.
    #[test]
    fn a_tear_at_any_byte_costs_one_range_and_says_which(
        count in 1_u64..400,
        padding in 0_usize..300,
        at in any::<prop::sample::Index>(),
        garbage in prop_oneof![Just(0_u8), any::<u8>()],
        length in 1_usize..6_000,
        segment in any::<prop::sample::Index>(),
    ) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let padding = "p".repeat(padding);
        let journal = open(directory.path());
        for number in 0..count {
            journal.append(&event(number, &padding)).expect("room");
        }
        journal.close();
        let files = segment_files(directory.path());
        let torn = &files[segment.index(files.len())];
        let file = std::fs::File::options().read(true).write(true).open(torn).expect("there");
        let bytes = file.metadata().expect("there").len() - 4_096;
        let at = 4_096 + at.index(bytes as usize) as u64;
        let length = length.min((4_096 + bytes - at) as usize);
        file.write_all_at(&vec![garbage; length], at).expect("writable");
        drop(file);

        let journal = open(directory.path());
        let mut seen = Vec::new();
        for key in journal.lanes() {
            seen.extend(read_lane(&journal, key, None).0);
        }
        let numbers: Vec<u64> = seen.iter().map(|one| one.number).collect();
        let losses = journal.losses();
        prop_assert!(losses.len() <= 1, "{:?}", losses);
        let gap = losses.first().map_or(0..0, |it| it.first_sequence..it.first_sequence + it.events);
        let kept: Vec<u64> = (0..count).filter(|number| !gap.contains(number)).collect();
        prop_assert_eq!(numbers, kept);
    }
}
