//! Random lives and deaths against a plain map.

use proptest::prelude::*;

use super::death::copy_files;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Refuse {
        tenant: u8,
        reason: u8,
        times: u8,
    },
    Serve {
        tenant: u8,
        times: u8,
    },
    Wait {
        seconds: u8,
    },
    Flush,
    /// Other events take all the room.
    Fill,
    /// Everything is shipped.
    Drain,
    /// The process dies; the next one goes on with what it left.
    Die,
    /// It ends in order.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..40_u8, 0..3_u8, 1..20_u8)
            .prop_map(|(tenant, reason, times)| Step::Refuse { tenant, reason, times }),
        3 => (0..5_u8, 1..20_u8).prop_map(|(tenant, times)| Step::Serve { tenant, times }),
        3 => (0..15_u8).prop_map(|seconds| Step::Wait { seconds }),
        3 => Just(Step::Flush),
        1 => Just(Step::Fill),
        1 => Just(Step::Drain),
        2 => Just(Step::Die),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn m1_m2_every_count_is_journalled_once(steps in steps()) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut process = Process::start(&root.path().join("0"));
        let mut model = Sums::new();
        let (mut shipped, mut cursors) = (Sums::new(), Cursors::new());
        let mut now_us = NOW_US;
        let mut deaths = 0;
        for step in steps {
            match step {
                Step::Refuse { tenant, reason, times } => {
                    let (tenant, reason) = (format!("tenant-{tenant}"), format!("reason-{reason}"));
                    // Beyond the cap and without room, nothing can be counted.
                    for _ in 0..times {
                        let before = process.refusals.uncounted.load(Ordering::Relaxed);
                        count(&process.refusals, now_us, &tenant, &reason);
                        let after = process.refusals.uncounted.load(Ordering::Relaxed);
                        let key = (Kind::Refused as u8, tenant.clone(), reason.clone());
                        *model.entry(key).or_default() += 1 - (after - before);
                    }
                }
                Step::Serve { tenant, times } => {
                    let tenant = format!("tenant-{tenant}");
                    for _ in 0..times {
                        let before = process.refusals.uncounted.load(Ordering::Relaxed);
                        process.refusals.count_unmetered(&event(&tenant, "api_calls", now_us));
                        let after = process.refusals.uncounted.load(Ordering::Relaxed);
                        let key = (Kind::Request as u8, tenant.clone(), "api_calls".to_owned());
                        *model.entry(key).or_default() += 1 - (after - before);
                    }
                }
                Step::Wait { seconds } => now_us += i64::from(seconds) * US_PER_SECOND / 2,
                Step::Flush => assert_flushed(process.refusals.flush(now_us)),
                Step::Fill => fill(&process.journal),
                Step::Drain => add(&mut shipped, drain(&process.journal, &mut cursors)),
                Step::Die => {
                    deaths += 1;
                    let next = root.path().join(deaths.to_string());
                    copy_files(process.journal.directory(), &next);
                    process = Process::start(&next);
                }
                Step::Restart => {
                    assert_flushed(process.refusals.flush(i64::MAX));
                    let directory = process.journal.directory().to_owned();
                    process.journal.close();
                    process = Process::start(&directory);
                }
            }
        }
        add(&mut shipped, drain(&process.journal, &mut cursors));
        while process.refusals.flush(i64::MAX).is_err() {
            add(&mut shipped, drain(&process.journal, &mut cursors));
        }
        add(&mut shipped, drain(&process.journal, &mut cursors));
        model.retain(|_, requests| *requests > 0);
        prop_assert_eq!(shipped, model);
    }
}

struct Process {
    journal: Arc<Journal>,
    refusals: Refusals,
}

impl Process {
    fn start(directory: &std::path::Path) -> Process {
        let journal = journal(directory, 4);
        let refusals = open(&journal);
        Process { journal, refusals }
    }
}

fn add(sums: &mut Sums, more: Sums) {
    for (key, requests) in more {
        *sums.entry(key).or_default() += requests;
    }
}
