//! Random lives and deaths against a plain map.

use proptest::prelude::*;

use super::death::copy_files;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Of so many different groups that not all have a slot; of few enough that every wider one has.
    Refuse {
        tenant: u8,
        route: u8,
        times: u8,
    },
    Serve {
        tenant: u8,
        route: u8,
        bytes: u8,
    },
    /// A figure of a further meter.
    Measure {
        tenant: u8,
        route: u8,
        quantity: i8,
    },
    /// More of a request that was counted.
    Part {
        tenant: u8,
        bytes: u8,
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
        6 => (0..4_u8, 0..40_u8, 1..20_u8)
            .prop_map(|(tenant, route, times)| Step::Refuse { tenant, route, times }),
        5 => (0..4_u8, 0..40_u8, 1..20_u8)
            .prop_map(|(tenant, route, bytes)| Step::Serve { tenant, route, bytes }),
        2 => (0..4_u8, 0..40_u8, any::<i8>())
            .prop_map(|(tenant, route, quantity)| Step::Measure { tenant, route, quantity }),
        1 => (0..4_u8, any::<u8>()).prop_map(|(tenant, bytes)| Step::Part { tenant, bytes }),
        3 => (0..15_u8).prop_map(|seconds| Step::Wait { seconds }),
        3 => Just(Step::Flush),
        1 => Just(Step::Fill),
        1 => Just(Step::Drain),
        2 => Just(Step::Die),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn m1_m2_everything_is_journalled_once_and_to_the_last_byte(steps in steps()) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut process = Process::start(&root.path().join("0"));
        let mut model = Sums::new();
        let (mut shipped, mut cursors) = (Sums::new(), Cursors::new());
        let mut now_us = NOW_US;
        let mut deaths = 0;
        for step in steps {
            match step {
                Step::Wait { seconds } => now_us += i64::from(seconds) * US_PER_SECOND / 2,
                Step::Flush => assert_flushed(process.refusals.flush(now_us)),
                Step::Fill => fill(&process.journal),
                Step::Drain => add_all(&mut shipped, drain(&process.journal, &mut cursors)),
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
                other => process.count(&other, now_us, &mut model),
            }
            prop_assert_eq!(process.refusals.uncounted(), 0);
        }
        add_all(&mut shipped, drain(&process.journal, &mut cursors));
        while process.refusals.flush(i64::MAX).is_err() {
            add_all(&mut shipped, drain(&process.journal, &mut cursors));
        }
        add_all(&mut shipped, drain(&process.journal, &mut cursors));
        model.retain(|_, counted| *counted != Counted::default());
        shipped.retain(|_, counted| *counted != Counted::default());
        prop_assert_eq!(shipped, model);
        prop_assert_eq!(process.journal.losses(), Vec::new());
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

    /// Counts, here and in the model.
    fn count(&self, step: &Step, now_us: i64, model: &mut Sums) {
        let (tenant, route) = match step {
            Step::Refuse { tenant, route, .. }
            | Step::Serve { tenant, route, .. }
            | Step::Measure { tenant, route, .. } => (tenant, *route),
            Step::Part { tenant, .. } => (tenant, 0),
            other => panic!("{other:?} counts nothing"),
        };
        let (tenant, route) = (format!("tenant-{tenant}"), format!("route-{route}"));
        let event = Event { route: &route, ..event(&tenant, "api_calls", now_us) };
        let of = |kind: Kind, flags: Flags, label: &str| {
            (kind as u8, flags.bits(), tenant.clone(), label.to_owned(), [0; 16])
        };
        let of_event = Counted {
            requests: 1,
            quantity_nano: event.quantity_nano,
            bytes: (event.request_bytes, event.response_bytes),
        };
        match *step {
            Step::Refuse { times, .. } => {
                for _ in 0..times {
                    self.refusals.count(now_us, &tenant, "a/b", "pro", "crm", &route, "limit", 429);
                }
                let requests = u64::from(times);
                let quantity_nano = i128::from(times) * UNIT_NANO;
                let counted = Counted { requests, quantity_nano, bytes: (0, 0) };
                add(model, of(Kind::Refused, Flags::GATEWAY_MADE, "limit"), counted);
            }
            Step::Serve { bytes, .. } => {
                let response_bytes = bytes.into();
                self.refusals.count_unmetered(&Event { response_bytes, ..event });
                let bytes = (event.request_bytes, response_bytes);
                let counted = Counted { bytes, ..of_event };
                add(model, of(Kind::Request, Flags::UNMETERED, "api_calls"), counted);
            }
            Step::Measure { quantity, .. } => {
                let quantity_nano = quantity.into();
                let (request_bytes, response_bytes) = (0, 0);
                let figure = Event {
                    meter: "tokens",
                    quantity_nano,
                    request_bytes,
                    response_bytes,
                    ..event
                };
                self.refusals.count_figure(&figure, Combine::Sum);
                let flags = Flags::UNMETERED.with(Flags::MEASURED);
                let counted = Counted { quantity_nano, ..Counted::default() };
                add(model, of(Kind::Request, flags, "tokens"), counted);
            }
            Step::Part { bytes, .. } => {
                let (requests, quantity_nano, response_bytes) = (0, 0, bytes.into());
                let (flags, request_bytes) = (Flags::PART, 0);
                let part = Event {
                    flags,
                    requests,
                    quantity_nano,
                    request_bytes,
                    response_bytes,
                    ..event
                };
                self.refusals.count_unmetered(&part);
                let counted = Counted { bytes: (0, response_bytes), ..Counted::default() };
                add(model, of(Kind::Request, Flags::UNMETERED, "api_calls"), counted);
            }
            _ => {}
        }
    }
}
