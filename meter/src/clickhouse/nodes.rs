//! What each node last said of itself, and the watermark that follows for all of them.
//!
//! A node that runs or has died holds the overall watermark at its own: what it still has in its
//! journal may be older than anything. One that was stopped with nothing left, or that an operator
//! retired because its disk is gone, does not.

use std::fmt::Write as _;

use super::store::{Store, StoreError};

/// A node that has not spoken for this long is away.
pub const AWAY_AFTER_US: i64 = 30_000_000;

/// Whether a node may still bring events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It ships, or would if it were there.
    Running,
    /// It was stopped and had nothing left.
    Stopped,
    /// An operator gave it up.
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

    fn parse(text: &str) -> Option<NodeState> {
        let all = [NodeState::Running, NodeState::Stopped, NodeState::Retired];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

/// How far one lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneWord {
    /// The opening.
    pub epoch: u32,
    /// The writer.
    pub lane: u16,
    /// Event time below which all of the lane is there; `None` while nothing can be said.
    pub watermark_us: Option<i64>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeWord {
    /// The node.
    pub node: u32,
    /// Its opening.
    pub epoch: u32,
    /// Whether it may still bring events.
    pub state: NodeState,
    /// The machine's name.
    pub host: String,
    /// Event time below which all of the node is there; `None` while nothing can be said.
    pub watermark_us: Option<i64>,
    /// The same lane by lane.
    pub lanes: Vec<LaneWord>,
    /// Events it still has to ship.
    pub backlog_events: u64,
    /// When it said so, unix microseconds; set by ClickHouse's clock.
    pub updated_us: i64,
}

impl NodeWord {
    /// Whether the node should speak and does not.
    pub fn is_away(&self, now_us: i64) -> bool {
        self.state == NodeState::Running && now_us - self.updated_us > AWAY_AFTER_US
    }
}

/// The watermark of all nodes: nothing below it is missing. `None` when some node cannot say, or
/// there is none.
pub fn overall_us(nodes: &[NodeWord]) -> Option<i64> {
    let running = nodes.iter().filter(|node| node.state == NodeState::Running);
    match running.map(|node| node.watermark_us).min() {
        Some(lowest) => lowest,
        // Nobody is left who could bring anything.
        None => nodes.iter().filter_map(|node| node.watermark_us).max(),
    }
}

impl Store {
    /// Writes a node's word over its last.
    pub async fn note_node(&self, word: &NodeWord) -> Result<(), StoreError> {
        let NodeWord { node, epoch, state, host, watermark_us, lanes, backlog_events, .. } = word;
        let mut said = String::new();
        for LaneWord { epoch, lane, watermark_us } in lanes {
            let comma = if said.is_empty() { "" } else { ", " };
            let time = watermark_us.unwrap_or(0);
            write!(said, "{comma}({epoch}, {lane}, fromUnixTimestamp64Micro({time}))")
                .expect("a String takes every write");
        }
        // A host's name is letters, digits, dots and hyphens; anything else would be a mistake.
        let host: String =
            host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).collect();
        let sql = format!(
            "INSERT INTO usage_nodes (node, epoch, state, host, watermark, lanes, backlog_events, \
             updated_at) SETTINGS async_insert = 0 FORMAT Values ({node}, {epoch}, '{}', '{host}', \
             fromUnixTimestamp64Micro({}), [{said}], {backlog_events}, now64(3))",
            state.as_str(),
            watermark_us.unwrap_or(0),
        );
        self.execute(&sql).await
    }

    /// The last word of every node, by number.
    pub async fn nodes(&self) -> Result<Vec<NodeWord>, StoreError> {
        let sql = "SELECT node, epoch, toString(state), host, toUnixTimestamp64Micro(watermark), \
                   arrayStringConcat(arrayMap(l -> concat(toString(l.1), ':', toString(l.2), ':', \
                   toString(toUnixTimestamp64Micro(l.3))), lanes), ' '), backlog_events, \
                   toUnixTimestamp64Milli(updated_at) FROM usage_nodes FINAL ORDER BY node";
        let text = self.query_text(sql, "TSV").await?;
        text.lines()
            .map(|line| {
                parse(line).ok_or_else(|| StoreError::Answer {
                    expected: "a node's word",
                    got: line.to_owned(),
                })
            })
            .collect()
    }

    /// Gives a node up: it holds the watermark no longer. False when no such node ever spoke.
    pub async fn retire_node(&self, node: u32) -> Result<bool, StoreError> {
        let known = self.nodes().await?.into_iter().find(|word| word.node == node);
        let Some(word) = known else { return Ok(false) };
        self.note_node(&NodeWord { state: NodeState::Retired, ..word }).await?;
        Ok(true)
    }
}

fn parse(line: &str) -> Option<NodeWord> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let known = |us: i64| (us > 0).then_some(us);
    Some(NodeWord {
        node: next()?.parse().ok()?,
        epoch: next()?.parse().ok()?,
        state: NodeState::parse(next()?)?,
        host: next()?.to_owned(),
        watermark_us: known(next()?.parse().ok()?),
        lanes: next()?
            .split(' ')
            .filter(|lane| !lane.is_empty())
            .map(parse_lane)
            .collect::<Option<_>>()?,
        backlog_events: next()?.parse().ok()?,
        updated_us: next()?.parse::<i64>().ok()?.checked_mul(1_000)?,
    })
}

fn parse_lane(text: &str) -> Option<LaneWord> {
    let mut fields = text.split(':');
    let (epoch, lane) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let us: i64 = fields.next()?.parse().ok()?;
    Some(LaneWord { epoch, lane, watermark_us: (us > 0).then_some(us) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(node: u32, state: NodeState, watermark_us: Option<i64>) -> NodeWord {
        let (host, lanes) = (String::new(), Vec::new());
        NodeWord {
            node,
            epoch: 1,
            state,
            host,
            watermark_us,
            lanes,
            backlog_events: 0,
            updated_us: 0,
        }
    }

    #[test]
    fn running_nodes_hold_the_watermark_and_others_do_not() {
        use NodeState::{Retired, Running, Stopped};
        let cases = [
            (vec![], None),
            (vec![word(1, Running, Some(9)), word(2, Running, Some(5))], Some(5)),
            (vec![word(1, Running, Some(9)), word(2, Running, None)], None),
            (vec![word(1, Running, Some(9)), word(2, Stopped, Some(5))], Some(9)),
            (vec![word(1, Running, Some(9)), word(2, Retired, None)], Some(9)),
            (vec![word(1, Stopped, Some(9)), word(2, Stopped, Some(5))], Some(9)),
        ];
        for (nodes, expected) in cases {
            assert_eq!(overall_us(&nodes), expected, "{nodes:?}");
        }
    }

    #[test]
    fn a_silent_node_is_away_unless_it_was_stopped() {
        let now_us = AWAY_AFTER_US + 1;
        assert!(word(1, NodeState::Running, None).is_away(now_us));
        assert!(!word(1, NodeState::Running, None).is_away(AWAY_AFTER_US));
        assert!(!word(1, NodeState::Stopped, None).is_away(now_us));
    }
}
