//! What quotas count, set right by what is in ClickHouse.
//!
//! A count is what this process counted itself and a base: what earlier processes of this node and
//! other nodes did. The base is exact once it is read from rows, which can be done as soon as
//! everything earlier processes recorded was shipped. It may go down then: requests that were in
//! flight when a process died were counted and never answered, and have no row. While other nodes
//! write to the same database their rows are read again and again, so that a quota is shared by all
//! nodes, each of which lags behind the others by what they ship and an interval.
//!
//! Owns one thread of low priority. Guarantees that ClickHouse spends at most a twentieth of its
//! time on it, that what cannot be read changes nothing, and that it does not hold up the end of the
//! process. Meters of distinct members and of levels are kept elsewhere, and left out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::gauge;
use orbit_meter::causes::with_causes;
use orbit_meter::clickhouse::Store;
use orbit_meter::clickhouse::consumption::{self, Consumption, ConsumptionError, Span};
use orbit_meter::journal::Journal;
use orbit_policy::meters::{DATA_IN, DATA_OUT};
use orbit_policy::{Aggregate, Policy};
use tokio::sync::oneshot;

use crate::background;
use crate::clock::Clock;
use crate::storage::{StorageError, StorageHandle};

/// How often what must come first is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(10);
/// And at least so many times what the last one took.
const INTERVAL_PER_READING: u32 = 20;
/// Longest time for one query.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Reconciliation could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReconcilerError {
    /// The database's settings cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no thread for it.
    #[error("cannot start the thread that reconciles quotas")]
    Thread(#[from] io::Error),
}

/// What it works with.
#[derive(Clone)]
pub struct Sources {
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Whose rows are this process's.
    pub journal: Arc<Journal>,
    /// The database.
    pub storage: StorageHandle,
    /// The clock.
    pub clock: Arc<Clock>,
}

/// The thread; dropping it ends it.
pub struct Reconciler {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reconciler {
    /// Begins as soon as the database can be reached and earlier processes' rows are in it.
    pub fn start(sources: Sources) -> Result<Reconciler, ReconcilerError> {
        let store = sources.storage.store()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let mut work = Work { sources, store, read_at: None, is_failing: false };
        let run = move || {
            background::yield_to_traffic();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = work.run() => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("reconcile".to_owned()).spawn(run)?;
        Ok(Reconciler { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reconciles quotas panicked");
        }
    }
}

struct Work {
    sources: Sources,
    store: Store,
    /// What stood for other nodes' rows, and the policy's version, when rows were last read; `None`:
    /// they never were.
    read_at: Option<(u64, u64)>,
    is_failing: bool,
}

/// A quota whose base can be read from rows.
struct Wanted {
    key: u128,
    /// Of the tenant it stands at.
    path: String,
    meter: String,
    reads: Reads,
}

/// What of a row its meter counts.
#[derive(Clone, Copy)]
enum Reads {
    Quantity,
    Rows,
    RequestBytes,
    ResponseBytes,
}

impl Work {
    async fn run(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let status = self.sources.storage.status();
            if !(status.reachable && status.migrated && self.is_all_shipped()) {
                continue;
            }
            let began = self.sources.clock.now();
            match self.reconcile().await {
                Ok(()) => self.is_failing = false,
                Err(error) if !self.is_failing => {
                    self.is_failing = true;
                    let error = with_causes(&error);
                    tracing::warn!(error, "quotas were not compared with the usage database");
                }
                Err(_) => {}
            }
            let took = Duration::from_nanos(self.sources.clock.now().since(began));
            tokio::time::sleep(INTERVAL.max(took * INTERVAL_PER_READING)).await;
        }
    }

    /// Whether nothing of earlier processes is on its way.
    fn is_all_shipped(&self) -> bool {
        let journal = &self.sources.journal;
        journal.lanes().into_iter().all(|key| journal.is_live(key))
    }

    async fn reconcile(&mut self) -> Result<(), ConsumptionError> {
        let unix_us = self.sources.clock.unix_us();
        let journal = &self.sources.journal;
        let others_mark = consumption::others_mark(&self.store, journal.node()).await?;
        let read_at = Some((others_mark, self.sources.policy.load().version()));
        // Rows that nobody else has added to need not be read again.
        if self.read_at != read_at {
            let except = (journal.node(), journal.epoch());
            for ((from_us, to_us), quotas) in self.wanted(unix_us) {
                let mut roots: Vec<String> =
                    quotas.iter().map(|quota| root(&quota.path).to_owned()).collect();
                roots.sort_unstable();
                roots.dedup();
                let span = Span { from_us, to_us, roots: &roots, except };
                let used = consumption::read(&self.store, &span, TIMEOUT).await?;
                let used = up_the_tree(&used);
                for quota in quotas {
                    let amount = amount(&used, &quota);
                    // Where the window is over by now, there is nothing to set.
                    self.sources.policy.set_base(quota.key, from_us, amount);
                }
            }
            self.read_at = read_at;
        }
        gauge!("orbit_quota_reconciled_timestamp_seconds").set(unix_us as f64 / 1e6);
        Ok(())
    }

    /// Every quota that rows can tell of, by its window.
    fn wanted(&self, unix_us: i64) -> BTreeMap<(i64, i64), Vec<Wanted>> {
        let policy = &self.sources.policy;
        let snapshot = policy.load();
        let mut wanted: BTreeMap<_, Vec<_>> = BTreeMap::new();
        policy.each_quota(unix_us, &mut |view| {
            let Some(meter) = snapshot.meter_id(view.meter).map(|id| snapshot.meter(id)) else {
                return;
            };
            let reads = match (&*meter.id, meter.aggregate) {
                (DATA_IN, _) => Reads::RequestBytes,
                (DATA_OUT, _) => Reads::ResponseBytes,
                (_, Aggregate::Sum) => Reads::Quantity,
                (_, Aggregate::Count) => Reads::Rows,
                _ => return,
            };
            let (key, path, meter) = (view.key, view.path.to_owned(), view.meter.to_owned());
            let quotas = wanted.entry((view.start_us, view.end_us)).or_default();
            quotas.push(Wanted { key, path, meter, reads });
        });
        wanted
    }
}

/// Sums of one node of the tree and everything below it.
#[derive(Clone, Copy, Default)]
struct Sums {
    rows: u64,
    quantity: u64,
    request_bytes: u64,
    response_bytes: u64,
}

impl Sums {
    fn add(&mut self, used: &Consumption) {
        self.rows = self.rows.saturating_add(used.rows);
        self.quantity = self.quantity.saturating_add(used.quantity);
        self.request_bytes = self.request_bytes.saturating_add(used.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(used.response_bytes);
    }
}

/// By path and meter, and by path and "" for all meters.
type Tree<'u> = BTreeMap<(&'u str, &'u str), Sums>;

/// What each node of the tree used with everything below it.
fn up_the_tree(used: &[Consumption]) -> Tree<'_> {
    let mut tree = Tree::new();
    for one in used {
        let ends = one.path.match_indices('/').map(|(end, _)| end).chain([one.path.len()]);
        for end in ends {
            for meter in [&*one.meter, ""] {
                tree.entry((&one.path[..end], meter)).or_default().add(one);
            }
        }
    }
    tree
}

fn amount(used: &Tree<'_>, quota: &Wanted) -> u64 {
    let meter = match quota.reads {
        Reads::Quantity | Reads::Rows => &*quota.meter,
        Reads::RequestBytes | Reads::ResponseBytes => "",
    };
    let sums = used.get(&(&*quota.path, meter)).copied().unwrap_or_default();
    match quota.reads {
        Reads::Quantity => sums.quantity,
        Reads::Rows => sums.rows,
        Reads::RequestBytes => sums.request_bytes,
        Reads::ResponseBytes => sums.response_bytes,
    }
}

fn root(path: &str) -> &str {
    path.split_once('/').map_or(path, |(root, _)| root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(path: &str, meter: &str, quantity: u64) -> Consumption {
        Consumption {
            path: path.to_owned(),
            meter: meter.to_owned(),
            rows: 1,
            quantity,
            request_bytes: 10,
            response_bytes: 100,
        }
    }

    #[test]
    fn a_quota_counts_its_tenant_and_everything_below() {
        let rows = [
            used("acme/brasil/web", "api_calls", 5),
            used("acme/brasil", "api_calls", 7),
            used("acme/brasil-sul", "api_calls", 11),
            used("acme/brasil/web", "processing", 13),
        ];
        let tree = up_the_tree(&rows);
        let sum = |path: &str, meter: &str, reads| {
            let (path, meter) = (path.to_owned(), meter.to_owned());
            amount(&tree, &Wanted { key: 0, path, meter, reads })
        };
        assert_eq!(sum("acme", "api_calls", Reads::Quantity), 23);
        assert_eq!(sum("acme/brasil", "api_calls", Reads::Quantity), 12);
        assert_eq!(sum("acme/brasil/web", "api_calls", Reads::Quantity), 5);
        assert_eq!(sum("acme/brasil", "processing", Reads::Rows), 1);
        assert_eq!(sum("acme", DATA_IN, Reads::RequestBytes), 40);
        assert_eq!(sum("acme/brasil", DATA_OUT, Reads::ResponseBytes), 300);
        assert_eq!(sum("globex", "api_calls", Reads::Quantity), 0);
        assert_eq!(root("acme/brasil/web"), "acme");
        assert_eq!(root("padaria"), "padaria");
    }
}
