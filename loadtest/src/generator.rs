//! The load generator: an open loop at a constant arrival rate, or a closed loop at full speed.
//!
//! Latency counts from the moment a request was *due*, not from when a connection was free to send
//! it: a server that stalls cannot hide the requests that would have arrived meanwhile
//! (coordinated omission). Nothing is sent twice. A run ends by itself, at the latest `drain_s`
//! after its last request was due.
//!
//! Each thread has a runtime of its own, its share of the schedule and of the connections, and
//! its own record; one task per connection sends and drives it.

mod burst;
mod exchange;
mod link;
mod observe;
mod pace;
mod prepare;
mod record;
mod upgrade;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::cpu::{CpuError, CpuSample};
use crate::keys::Keys;
use crate::scenario::{Amount, Protocol, Rate, Scenario};
use crate::target::Target;

use link::{Http2Connection, Link};
use observe::observe;
use pace::{Pace, Schedule, Share};
use prepare::{Prepared, prepare};
use record::{Ending, Keep, Outcome, Times};

pub(crate) use burst::Burst;
pub use observe::{MeasuredCpu, Progress};
pub use record::{Cell, Failure, KindRecord, Record, ReloadLatency};

/// Between the command and the first slot: time to open the connections.
const LEAD: Duration = Duration::from_millis(100);
/// A closed loop that counts requests ends after this long whatever happens.
const MAX_CLOSED_LOOP: Duration = Duration::from_hours(1);
/// A closed loop pauses so long after a connection was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// What is to be run.
pub struct Run<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// Where to.
    pub target: &'a Target,
    /// The keys its labels name.
    pub keys: &'a Keys,
    /// Processes whose CPU time is measured; may be empty.
    pub pids: &'a [u32],
    /// Whether to keep every answer for a ledger. The run then starts at a full second, because
    /// refusals are recorded per second.
    pub keep_answers: bool,
    /// True while a policy reload is under way.
    pub reloading: Option<Arc<AtomicBool>>,
}

/// Why a run could not be made.
#[derive(Debug, Error)]
pub enum RunError {
    /// The keys file lacks a label.
    #[error("request `{kind}`: the keys file has no `{label}`")]
    NoKey {
        /// The request kind.
        kind: String,
        /// The label.
        label: String,
    },
    /// Host, path or key cannot be put into a request.
    #[error("request `{kind}`: host, path and key do not make a request")]
    Unsendable {
        /// The request kind.
        kind: String,
    },
    /// A process that is to be measured.
    #[error("cannot measure the CPU time")]
    Cpu(#[from] CpuError),
    /// A thread, a runtime or a timer could not be made.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A generator thread panicked.
    #[error("a generator thread panicked; its counts are lost")]
    Panicked,
}

/// What a run has brought.
#[derive(Clone)]
pub struct Recording {
    /// All that was seen.
    pub record: Record,
    /// Requests that were due and never sent: the run ended first.
    pub unsent: u64,
    /// When the first request was due, microseconds since the Unix epoch.
    pub started_unix_us: i64,
    /// When the last request ended.
    pub ended_unix_us: i64,
    /// From the end of the warm-up to the last measured answer.
    pub measured: Duration,
    /// From the first to the last request sent.
    pub sending: Duration,
    /// CPU time, when processes were named.
    pub cpu: Option<MeasuredCpu>,
    /// The run's clock.
    pub clock: Clock,
}

/// The moments of a run, nanoseconds on its clock.
#[derive(Clone, Copy)]
struct Timeline {
    start_ns: u64,
    warm_ns: u64,
    /// The last moment a request is due, as far as that is planned.
    end_ns: u64,
    deadline_ns: u64,
    planned: Option<u64>,
    interval_ns: f64,
}

/// What the threads share; read-only but for the flag.
struct Shared {
    clock: Clock,
    timeline: Timeline,
    kinds: Vec<Prepared>,
    interleaved: Vec<u16>,
    timeout: Duration,
    closed_loop: bool,
    reloading: Option<Arc<AtomicBool>>,
}

/// Makes a run. `watch` is called about every 100 ms.
pub fn run(run: &Run<'_>, watch: &mut dyn FnMut(&Progress)) -> Result<Recording, RunError> {
    let kinds = prepare(run.scenario, run.target, run.keys)?;
    let limited: Vec<bool> = kinds.iter().map(|kind| kind.limited).collect();
    CpuSample::read(run.pids)?;
    let clock = Clock::start();
    let timeline = timeline(run, &clock);
    let keep = Keep {
        kinds: kinds.len(),
        answers: run.keep_answers,
        limit: run.scenario.expect_limit.is_some(),
        shares: run.scenario.expect_shares.is_some(),
        reload: run.reloading.is_some(),
    };
    let shared = Arc::new(Shared {
        clock,
        timeline,
        kinds,
        interleaved: run.scenario.interleaved(),
        timeout: run.scenario.timeout,
        closed_loop: run.scenario.rate == Rate::Max,
        reloading: run.reloading.clone(),
    });
    let (done, finished) = mpsc::channel();
    let mut threads = Vec::new();
    for thread in 0..run.scenario.threads {
        let record = Arc::new(Mutex::new(Record::new(keep)));
        let worker = Worker::new(run, thread, Arc::clone(&shared), Arc::clone(&record));
        let done = done.clone();
        let handle = std::thread::Builder::new()
            .name(format!("generator-{thread}"))
            .spawn(move || {
                let unsent = worker.run();
                // The receiver is gone only if the run was given up.
                done.send(()).ok();
                unsent
            })
            .map_err(|source| RunError::System { what: "start a thread", source })?;
        threads.push((handle, record));
    }
    drop(done);
    let records: Vec<_> = threads.iter().map(|(_, record)| Arc::clone(record)).collect();
    let cpu = observe(run.pids, &shared, &records, &finished, watch)?;
    let mut whole = Record::new(keep);
    let mut unsent = 0;
    for (handle, record) in threads {
        unsent += handle.join().map_err(|_| RunError::Panicked)??;
        let empty = Record::new(keep);
        whole.merge(std::mem::replace(&mut *lock(&record), empty));
    }
    whole.close(&limited);
    let sending = whole.sent_ns.map_or(0, |(first, last)| last - first);
    Ok(Recording {
        unsent,
        started_unix_us: clock.unix_us(timeline.start_ns),
        ended_unix_us: clock.unix_us(clock.now_ns()),
        measured: Duration::from_nanos(whole.last_measured_ns.saturating_sub(timeline.warm_ns)),
        sending: Duration::from_nanos(sending),
        cpu,
        clock,
        record: whole,
    })
}

fn timeline(run: &Run<'_>, clock: &Clock) -> Timeline {
    let scenario = run.scenario;
    let ns = |duration: Duration| duration.as_nanos() as u64;
    let mut start_ns = clock.now_ns() + ns(LEAD);
    if run.keep_answers {
        let into_second_us = clock.unix_us(start_ns).rem_euclid(1_000_000);
        start_ns += (1_000_000 - into_second_us as u64) * 1000;
    }
    let (length_ns, planned, interval_ns) = match (scenario.rate, scenario.amount) {
        (Rate::PerSecond(rate), Amount::Requests(requests)) => {
            ((requests as f64 * 1e9 / rate) as u64, Some(requests), 1e9 / rate)
        }
        (Rate::PerSecond(rate), Amount::Duration(duration)) => {
            let length = duration + scenario.warmup;
            let planned = (length.as_secs_f64() * rate).round().max(1.0) as u64;
            (ns(length), Some(planned), 1e9 / rate)
        }
        (Rate::Max, Amount::Requests(requests)) => (ns(MAX_CLOSED_LOOP), Some(requests), 0.0),
        (Rate::Max, Amount::Duration(duration)) => (ns(duration + scenario.warmup), None, 0.0),
    };
    let end_ns = start_ns + length_ns;
    Timeline {
        start_ns,
        warm_ns: start_ns + ns(scenario.warmup),
        end_ns,
        deadline_ns: end_ns + ns(scenario.drain),
        planned,
        interval_ns,
    }
}

/// A record stays consistent whatever a holder does: it is only counters.
fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread of the generator.
struct Worker {
    shared: Arc<Shared>,
    record: Arc<Mutex<Record>>,
    pace: Arc<Pace>,
    links: Vec<Link>,
}

impl Worker {
    fn new(run: &Run<'_>, thread: u32, shared: Arc<Shared>, record: Arc<Mutex<Record>>) -> Worker {
        let Scenario { threads, connections, .. } = *run.scenario;
        let Timeline { start_ns, end_ns, planned, interval_ns, .. } = shared.timeline;
        let (first, stride) = (u64::from(thread), u64::from(threads));
        let share = Share { first, stride, total: planned.unwrap_or(u64::MAX / 2) };
        let pace = Arc::new(if shared.closed_loop {
            Pace::closed(share, end_ns)
        } else {
            Pace::open(Schedule { share, start_ns, interval_ns })
        });
        let mine = connections / threads + u32::from(thread < connections % threads);
        let links = (0..mine)
            .flat_map(|_| match run.scenario.protocol {
                Protocol::Http1 => vec![Link::http1(run.target.clone())],
                Protocol::Http2 { streams } => {
                    let shared = Arc::new(Http2Connection::new(run.target.clone()));
                    (0..streams).map(|_| Link::http2(Arc::clone(&shared))).collect()
                }
            })
            .collect();
        Worker { shared, record, pace, links }
    }

    /// Runs to the end; how many planned requests were never sent.
    fn run(self) -> Result<u64, RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| RunError::System { what: "start a runtime", source })?;
        let Worker { shared, record, pace, links } = self;
        let clock = shared.clock;
        let deadline = clock.instant(shared.timeline.deadline_ns).into();
        runtime.block_on(async {
            let workers = links.len();
            let mut tasks = JoinSet::new();
            for link in links {
                let (shared, record) = (Arc::clone(&shared), Arc::clone(&record));
                tasks.spawn(connection(link, shared, record, Arc::clone(&pace)));
            }
            let work = async {
                let timer = |source| RunError::System { what: "set a timer", source };
                pace.release(&clock, workers).await.map_err(timer)?;
                while let Some(ended) = tasks.join_next().await {
                    ended.map_err(|_| RunError::Panicked)?;
                }
                Ok(())
            };
            match tokio::time::timeout_at(deadline, work).await {
                Ok(Err(error)) => Err(error),
                // Past the deadline, what is still open is booked as unfinished or unsent.
                Ok(Ok(())) | Err(_) => Ok(pace.untaken()),
            }
        })
    }
}

/// The life of one connection, or of one stream of it.
async fn connection(
    mut link: Link,
    shared: Arc<Shared>,
    record: Arc<Mutex<Record>>,
    pace: Arc<Pace>,
) {
    let Shared { clock, timeline, .. } = &*shared;
    link.warm().await;
    link.idle(tokio::time::sleep_until(clock.instant(timeline.start_ns).into())).await;
    let reloading = || shared.reloading.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed));
    while let Some(slot) = link.idle(pace.next(clock)).await {
        let kind = shared.interleaved[(slot.index % shared.interleaved.len() as u64) as usize];
        let prepared = &shared.kinds[usize::from(kind)];
        let was_reloading = reloading();
        let sent_ns = clock.now_ns();
        lock(&record).sent(kind, sent_ns);
        let outcome = link.ask(prepared, shared.timeout).await;
        let times = Times { slot, sent_ns, ended_ns: clock.now_ns() };
        let end = Ending {
            warm: slot.due_ns < timeline.warm_ns,
            reloading: was_reloading || reloading(),
            limited: prepared.limited,
        };
        let refused = matches!(outcome, Outcome::Failed(Failure::Connect));
        lock(&record).ended(kind, times, outcome, end);
        if refused && shared.closed_loop {
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}
