//! The node's word about itself, every few seconds: see [`nodes`](crate::clickhouse::nodes). At the
//! start and every hour it also says of every lane it remembers how far it was shipped, which a
//! database that was restored from an older backup does not know.
//!
//! It is said beside everything else and never waited for: with ClickHouse away, nothing is said,
//! which is how anybody sees that the node is away.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ledger::Ledger;
use super::locked;
use super::progress::Reached;
use crate::clickhouse::nodes::{LaneWatermark, Node, NodeState};
use crate::clickhouse::proof::ShippedLane;
use crate::clickhouse::{Store, StoreError};
use crate::journal::Journal;

/// After this long, a word is given up for a newer one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last word may hold up the end.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is said how far lanes were shipped.
const LANES_INTERVAL: Duration = Duration::from_hours(1);

pub(super) struct Reporter {
    store: Store,
    journal: Arc<Journal>,
    ledger: Arc<Mutex<Ledger>>,
    interval: Duration,
    host: String,
    /// All that lanes of earlier openings allow.
    restored_us: Option<i64>,
    /// When the next word is due.
    due: Option<Instant>,
    /// When lanes are.
    lanes_due: Option<Instant>,
    /// Tells whether it was taken.
    saying: Option<JoinHandle<bool>>,
    /// Lanes are part of what is being said.
    says_lanes: bool,
    last_us: i64,
}

impl Reporter {
    pub(super) fn new(
        store: Store,
        journal: Arc<Journal>,
        ledger: Arc<Mutex<Ledger>>,
        interval: Duration,
        restored_us: Option<i64>,
    ) -> Reporter {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Reporter {
            store,
            journal,
            ledger,
            interval,
            host,
            restored_us,
            due: None,
            lanes_due: None,
            saying: None,
            says_lanes: false,
            last_us: 0,
        }
    }

    /// Says how far the node is, if it is time to.
    pub(super) async fn report(&mut self, now_us: i64, reached: &Reached) {
        let is_due = self.due.is_none_or(|due| Instant::now() >= due);
        if !is_due || self.saying.as_ref().is_some_and(|saying| !saying.is_finished()) {
            return;
        }
        if let Some(said) = self.saying.take()
            && matches!(said.await, Ok(true))
            && self.says_lanes
        {
            self.lanes_due = Some(Instant::now() + LANES_INTERVAL);
        }
        self.due = Some(Instant::now() + self.interval);
        let node = self.node(NodeState::Running, now_us, reached);
        self.says_lanes = self.lanes_due.is_none_or(|due| Instant::now() >= due);
        let lanes = if self.says_lanes { locked(&self.ledger).shipped() } else { Vec::new() };
        let store = self.store.clone();
        self.saying = Some(tokio::spawn(async move { say(&store, &node, &lanes, PATIENCE).await }));
    }

    /// The last word: that nothing is left.
    pub(super) async fn take_leave(mut self, now_us: i64, reached: &Reached) {
        if let Some(saying) = self.saying.take() {
            saying.abort();
        }
        let node = self.node(NodeState::Stopped, now_us, reached);
        say(&self.store, &node, &[], LAST_PATIENCE).await;
    }

    fn node(&mut self, state: NodeState, now_us: i64, reached: &Reached) -> Node {
        // A clock that is set back must not make the latest word look old.
        self.last_us = now_us.max(self.last_us + 1_000);
        let own = |key: &crate::journal::LaneKey| key.node == self.journal.node();
        let former = self.journal.lanes().into_iter().filter(own);
        let former = former.filter(|key| !self.journal.is_live(*key));
        let lanes = former.map(|key| (key, self.restored_us)).chain(reached.lanes.iter().copied());
        let lanes = lanes.map(|(key, watermark_us)| LaneWatermark {
            epoch: key.epoch,
            lane: key.lane,
            watermark_us,
        });
        Node {
            node: self.journal.node(),
            epoch: self.journal.epoch(),
            state,
            host: self.host.clone(),
            watermark_us: reached.overall_us,
            lanes: lanes.collect(),
            backlog_events: self.journal.pending().0,
            updated_us: self.last_us,
        }
    }
}

/// Whether it was taken.
async fn say(store: &Store, node: &Node, lanes: &[ShippedLane], patience: Duration) -> bool {
    let say = async {
        store.put_node(node).await?;
        store.tell_lanes(lanes).await
    };
    let said: Result<Result<(), StoreError>, _> = tokio::time::timeout(patience, say).await;
    match &said {
        Ok(Ok(())) => {}
        // What keeps data from being shipped is reported where it is.
        Ok(Err(error)) => tracing::debug!(%error, "this node's state could not be written"),
        Err(_) => tracing::debug!(?patience, "this node's state was not taken in time"),
    }
    matches!(said, Ok(Ok(())))
}
