//! The node's word about itself, every few seconds: see [`nodes`](crate::clickhouse::nodes).
//!
//! It is said beside everything else and never waited for: with ClickHouse away, nothing is said,
//! which is how anybody sees that the node is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::progress::Reached;
use crate::clickhouse::Store;
use crate::clickhouse::nodes::{LaneWatermark, Node, NodeState};
use crate::journal::Journal;

/// After this long, a word is given up for a newer one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last word may hold up the end.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Reporter {
    store: Store,
    journal: Arc<Journal>,
    interval: Duration,
    host: String,
    /// All that lanes of earlier openings allow.
    restored_us: Option<i64>,
    /// When the next word is due.
    due: Option<Instant>,
    saying: Option<JoinHandle<()>>,
    last_us: i64,
}

impl Reporter {
    pub(super) fn new(
        store: Store,
        journal: Arc<Journal>,
        interval: Duration,
        restored_us: Option<i64>,
    ) -> Reporter {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (due, saying, last_us) = (None, None, 0);
        Reporter { store, journal, interval, host, restored_us, due, saying, last_us }
    }

    /// Says how far the node is, if it is time to.
    pub(super) fn report(&mut self, now_us: i64, reached: &Reached) {
        let is_due = self.due.is_none_or(|due| Instant::now() >= due);
        if !is_due || self.saying.as_ref().is_some_and(|saying| !saying.is_finished()) {
            return;
        }
        self.due = Some(Instant::now() + self.interval);
        let node = self.node(NodeState::Running, now_us, reached);
        let store = self.store.clone();
        self.saying = Some(tokio::spawn(async move {
            say(&store, &node, PATIENCE).await;
        }));
    }

    /// The last word: that nothing is left.
    pub(super) async fn take_leave(mut self, now_us: i64, reached: &Reached) {
        if let Some(saying) = self.saying.take() {
            saying.abort();
        }
        let node = self.node(NodeState::Stopped, now_us, reached);
        say(&self.store, &node, LAST_PATIENCE).await;
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

async fn say(store: &Store, node: &Node, patience: Duration) {
    match tokio::time::timeout(patience, store.put_node(node)).await {
        Ok(Ok(())) => {}
        // What keeps data from being shipped is reported where it is.
        Ok(Err(error)) => tracing::debug!(%error, "this node's state could not be written"),
        Err(_) => tracing::debug!(?patience, "this node's state was not taken in time"),
    }
}
