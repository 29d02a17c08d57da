//! How far every node is, and what that lets an audit say.

use std::collections::BTreeMap;

use super::report::{LaneStanding, NodeStanding, WatermarkReport, time};
use super::{AuditError, Scope};
use crate::clickhouse::nodes::{AWAY_AFTER, LaneWatermark, Node, NodeState, overall};
use crate::clickhouse::store::Store;

/// What may still come from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there and ships: what is on its way arrives in a moment.
    Live,
    /// It is not there: what is on its way arrives when it is back.
    Away,
    /// Nothing: it was stopped with nothing left, was retired, or never spoke.
    Done,
}

/// The last word of every node.
pub(super) struct Standings {
    now_us: i64,
    nodes: BTreeMap<u32, Node>,
}

impl Standings {
    pub(super) async fn read(store: &Store, now_us: i64) -> Result<Self, AuditError> {
        let failed = |source| AuditError::Store { query: "nodes", source };
        Ok(Self::new(store.nodes().await.map_err(failed)?, now_us))
    }

    pub(super) fn new(words: Vec<Node>, now_us: i64) -> Self {
        Self { now_us, nodes: words.into_iter().map(|word| (word.node, word)).collect() }
    }

    pub(super) fn of(&self, node: u32) -> Standing {
        match self.nodes.get(&node) {
            Some(word) if word.is_away(self.now_us, AWAY_AFTER) => Standing::Away,
            Some(word) if word.state == NodeState::Running => Standing::Live,
            // It stopped while something was still on its way.
            Some(word) if word.state == NodeState::Stopped && word.backlog_events > 0 => {
                Standing::Away
            }
            _ => Standing::Done,
        }
    }

    /// Whether a gap before an event of this time may still be filled. What is missing because it is
    /// on its way lies above the node's watermark, and so does all that overtook it.
    pub(super) fn may_fill_before(&self, node: u32, event_us: i64) -> bool {
        self.of(node) != Standing::Done
            && self.nodes.get(&node).is_some_and(|word| word.watermark_us <= Some(event_us))
    }

    pub(super) fn report(&self, scope: &Scope, now_us: i64) -> WatermarkReport {
        let words: Vec<Node> = self.nodes.values().cloned().collect();
        let overall = overall(&words, now_us, AWAY_AFTER).watermark_us;
        let running = words.iter().filter(|word| word.state == NodeState::Running);
        let holder = running.min_by_key(|word| word.watermark_us);
        let age_s = |us: Option<i64>| us.map(|us| (now_us - us).max(0) / 1_000_000);
        let claim = match overall {
            None if words.is_empty() => {
                "no node has reported yet: nothing is claimed to be complete".to_owned()
            }
            None => {
                "not every node can say how far it is: nothing is claimed to be complete".to_owned()
            }
            Some(us) if scope.to_us.is_some_and(|to_us| to_us <= us) => {
                "all of the scope is below the watermark".to_owned()
            }
            Some(us) => format!(
                "events from {} on may still be on their way: they are not claimed to be complete",
                time(us)
            ),
        };
        WatermarkReport {
            time: overall.map(time),
            age_s: age_s(overall),
            held_by: holder.map(|word| word.node),
            claim,
            nodes: words.iter().map(|word| self.node(word, age_s(word.watermark_us))).collect(),
        }
    }

    fn node(&self, word: &Node, age_s: Option<i64>) -> NodeStanding {
        let lane = |lane: &LaneWatermark| LaneStanding {
            epoch: lane.epoch,
            lane: lane.lane,
            watermark: lane.watermark_us.map(time),
        };
        NodeStanding {
            node: word.node,
            host: word.host.clone(),
            state: word.state.as_str(),
            away: word.is_away(self.now_us, AWAY_AFTER),
            updated: time(word.updated_us),
            watermark: word.watermark_us.map(time),
            age_s,
            backlog_events: word.backlog_events,
            lanes: word.lanes.iter().map(lane).collect(),
        }
    }
}
