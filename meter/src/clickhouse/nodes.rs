//! How far every gateway node has got, and what follows for all of them together.
//!
//! Each node says it of itself every few seconds (`usage_nodes`). A node that is away, having said
//! nothing for too long, may have events in its journal that nobody else knows of: it holds the
//! overall watermark where it last was, until it comes back or an operator retires it. One that
//! was stopped with nothing left in its journal holds back nothing.

use std::time::Duration;

use serde::Deserialize;

use super::proof::milliseconds;
use super::rows::Rows;
use super::store::{Store, StoreError};
use crate::clock;

/// A node that runs and has been silent for so long is away.
pub const AWAY_AFTER: Duration = Duration::from_secs(30);

/// What a node is doing, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It ships, or it went away without a word.
    Running,
    /// It ended with nothing left in its journal.
    Stopped,
    /// An operator has given it up.
    Retired,
}

impl NodeState {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Running => "running",
            NodeState::Stopped => "stopped",
            NodeState::Retired => "retired",
        }
    }
}

/// The watermark of one lane of a node's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneWatermark {
    /// The opening.
    pub epoch: u32,
    /// The writer.
    pub lane: u16,
    /// As [`Node::watermark_us`], of this lane.
    pub watermark_us: Option<i64>,
}

/// The latest word of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub node: u32,
    /// How often its journal has been opened.
    pub epoch: u32,
    /// What it is doing.
    pub state: NodeState,
    /// The machine it ran on.
    pub host: String,
    /// Event time below which everything of it is in ClickHouse, unix microseconds; `None` while
    /// nothing is known.
    pub watermark_us: Option<i64>,
    /// The same, lane by lane.
    pub lanes: Vec<LaneWatermark>,
    /// Events that were not acknowledged yet.
    pub backlog_events: u64,
    /// When it said so, by its own clock, unix microseconds.
    pub updated_us: i64,
}

impl Node {
    /// Whether it should speak, and has said nothing for longer than `away_after`.
    pub fn is_away(&self, now_us: i64, away_after: Duration) -> bool {
        let silence_us = i64::try_from(away_after.as_micros()).unwrap_or(i64::MAX);
        self.state == NodeState::Running && now_us.saturating_sub(self.updated_us) > silence_us
    }
}

/// All nodes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overall {
    /// Event time below which everything of every node is in ClickHouse, unix microseconds;
    /// `None` while nothing can be said. When no node runs, that of the last one that ended.
    pub watermark_us: Option<i64>,
    /// The nodes that run, or should, and have said nothing for too long.
    pub away: Vec<u32>,
}

/// What the nodes' words amount to at `now_us`; one that has been silent for `away_after` is away.
pub fn overall(nodes: &[Node], now_us: i64, away_after: Duration) -> Overall {
    let of = |state| nodes.iter().filter(move |node| node.state == state);
    // None, the node that knows nothing yet, is the lowest.
    let running = of(NodeState::Running).map(|node| node.watermark_us).min();
    let ended = of(NodeState::Stopped).map(|node| node.watermark_us).max();
    Overall {
        watermark_us: running.or(ended).flatten(),
        away: nodes
            .iter()
            .filter(|node| node.is_away(now_us, away_after))
            .map(|node| node.node)
            .collect(),
    }
}

/// A row as JSON tells it; ClickHouse quotes 64-bit numbers unless told otherwise.
#[derive(Deserialize)]
struct Line {
    node: u32,
    epoch: u32,
    state: NodeState,
    host: String,
    watermark_us: i64,
    lanes: Vec<(u32, u16, i64)>,
    backlog_events: u64,
    updated_us: i64,
}

impl Store {
    /// The latest word of every node there ever was.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let sql = "SELECT node, epoch, state, host, \
                   toUnixTimestamp64Micro(watermark) AS watermark_us, \
                   arrayMap(l -> (l.1, l.2, toUnixTimestamp64Micro(l.3)), usage_nodes.lanes) \
                   AS lanes, backlog_events, toUnixTimestamp64Milli(updated_at) * 1000 AS updated_us \
                   FROM usage_nodes FINAL ORDER BY node \
                   SETTINGS output_format_json_quote_64bit_integers = 0";
        let text = self.query_text(sql, "JSONEachRow").await?;
        let read = |line: &str| {
            let line: Line = serde_json::from_str(line).map_err(|_| StoreError::Answer {
                expected: "a node",
                got: line.chars().take(200).collect(),
            })?;
            Ok(Node::from(line))
        };
        text.lines().map(read).collect()
    }

    /// Takes down a node's latest word. An older one that arrives late changes nothing.
    pub async fn put_node(&self, node: &Node) -> Result<(), StoreError> {
        const COLUMNS: &str =
            "node, epoch, state, host, watermark, lanes, backlog_events, updated_at";
        let state: i8 = match node.state {
            NodeState::Running => 1,
            NodeState::Stopped => 2,
            NodeState::Retired => 3,
        };
        let mut row = Rows::default();
        row.number(node.node.to_le_bytes())
            .number(node.epoch.to_le_bytes())
            .number(state.to_le_bytes())
            .text(&node.host)
            .number(node.watermark_us.unwrap_or(0).to_le_bytes())
            .length(node.lanes.len());
        for LaneWatermark { epoch, lane, watermark_us } in &node.lanes {
            row.number(epoch.to_le_bytes())
                .number(lane.to_le_bytes())
                .number(watermark_us.unwrap_or(0).to_le_bytes());
        }
        row.number(node.backlog_events.to_le_bytes()).number(milliseconds(node.updated_us));
        self.insert_rows("usage_nodes", COLUMNS, row.into_bytes()).await
    }

    /// Gives a node up, with whatever its journal still held: it no longer holds the overall
    /// watermark back. False when there is no such node. Should it come back, it runs again.
    pub async fn retire_node(&self, node: u32) -> Result<bool, StoreError> {
        let known = self.nodes().await?.into_iter().find(|known| known.node == node);
        let Some(known) = known else { return Ok(false) };
        // Later than its own last word, whatever the two clocks say.
        let updated_us = clock::unix_us().max(known.updated_us + 1_000);
        self.put_node(&Node { state: NodeState::Retired, updated_us, ..known }).await?;
        Ok(true)
    }
}

impl From<Line> for Node {
    fn from(line: Line) -> Node {
        let known = |us: i64| (us > 0).then_some(us);
        let lane = |(epoch, lane, us)| LaneWatermark { epoch, lane, watermark_us: known(us) };
        Node {
            node: line.node,
            epoch: line.epoch,
            state: line.state,
            host: line.host,
            watermark_us: known(line.watermark_us),
            lanes: line.lanes.into_iter().map(lane).collect(),
            backlog_events: line.backlog_events,
            updated_us: line.updated_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY_AFTER: Duration = Duration::from_secs(30);
    const NOW_US: i64 = 1_000_000_000;

    fn node(node: u32, state: NodeState, watermark_us: Option<i64>, silent_s: i64) -> Node {
        Node {
            node,
            epoch: 1,
            state,
            host: "here".to_owned(),
            watermark_us,
            lanes: Vec::new(),
            backlog_events: 0,
            updated_us: NOW_US - silent_s * 1_000_000,
        }
    }

    fn at(nodes: &[Node]) -> (Option<i64>, Vec<u32>) {
        let Overall { watermark_us, away } = overall(nodes, NOW_US, AWAY_AFTER);
        (watermark_us, away)
    }

    #[test]
    fn the_slowest_node_that_runs_holds_it() {
        use NodeState::{Retired, Running, Stopped};
        let mut nodes = vec![node(1, Running, Some(70), 1), node(2, Running, Some(50), 30)];
        assert_eq!(at(&nodes), (Some(50), vec![]));
        nodes.push(node(3, Stopped, Some(10), 9_999));
        nodes.push(node(4, Retired, Some(5), 9_999));
        assert_eq!(at(&nodes), (Some(50), vec![]), "those that ended hold back nothing");
    }

    #[test]
    fn a_node_that_is_away_holds_it_and_is_named() {
        use NodeState::{Retired, Running};
        let mut nodes = vec![node(1, Running, Some(70), 1), node(2, Running, Some(50), 31)];
        assert_eq!(at(&nodes), (Some(50), vec![2]));
        nodes[1].state = Retired;
        assert_eq!(at(&nodes), (Some(70), vec![]));
    }

    #[test]
    fn a_node_that_knows_nothing_yet_lets_nothing_be_said() {
        use NodeState::Running;
        assert_eq!(at(&[node(1, Running, Some(70), 1), node(2, Running, None, 1)]), (None, vec![]));
        assert_eq!(at(&[]), (None, vec![]));
    }

    #[test]
    fn when_all_have_stopped_it_is_where_the_last_one_was() {
        use NodeState::{Retired, Stopped};
        let mut nodes = vec![node(1, Stopped, Some(70), 500), node(2, Stopped, Some(90), 100)];
        assert_eq!(at(&nodes), (Some(90), vec![]));
        nodes.push(node(3, Retired, Some(95), 1));
        assert_eq!(at(&nodes), (Some(90), vec![]));
    }
}
