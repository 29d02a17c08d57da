//! `orbit node`: the nodes that ship to the usage database.

use anyhow::bail;
use clap::error::ErrorKind;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use orbit_meter::clickhouse::Store;
use orbit_meter::clickhouse::nodes::{self, AWAY_AFTER, NodeState};

use super::{Config, output};
use crate::clock::Clock;
use crate::telemetry;

/// List the nodes that ship usage, or give one up
#[derive(Subcommand)]
pub(super) enum Node {
    List(List),
    Retire(Retire),
}

/// List every node that ever shipped, and how far it is
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit node list

A node that runs, or has died, holds the watermark of all at its own: what it still has in its
journal may be older than anything. One that was stopped with nothing left does not.")]
pub(super) struct List {
    #[command(flatten)]
    config: Config,
}

/// Give up a node whose disk is gone, so that it holds the watermark back no longer
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit node retire 7 --yes

What the node had in its journal and had not shipped is lost; this only stops waiting for it. A node
that comes back after all ships what it has and takes part again.")]
pub(super) struct Retire {
    #[command(flatten)]
    config: Config,
    /// The node's number, as `orbit node list` shows it
    node: u32,
    /// Yes, its disk is gone
    #[arg(long)]
    yes: bool,
}

impl Node {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Node::List(list) => list.run(),
            Node::Retire(retire) => retire.run(),
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let words = with_store(&self.config, async |store| Ok(store.nodes().await?))?;
        if words.is_empty() {
            output::line("no node has reported yet");
            return Ok(());
        }
        let now_us = Clock::start().unix_us();
        output::line(row(["node", "host", "state", "watermark", "to ship", "spoke"]));
        for word in words {
            let away = if word.is_away(now_us, AWAY_AFTER) { "away" } else { word.state.as_str() };
            let watermark = word.watermark_us.map_or_else(|| "unknown".to_owned(), time);
            let (node, to_ship) = (word.node.to_string(), word.backlog_events.to_string());
            let spoke = time(word.updated_us);
            output::line(row([&node, &word.host, away, &watermark, &to_ship, &spoke]));
        }
        Ok(())
    }
}

fn row([node, host, state, watermark, to_ship, spoke]: [&str; 6]) -> String {
    format!("{node:<10}  {host:<24}  {state:<8}  {watermark:<27}  {to_ship:>10}  {spoke}")
}

impl Retire {
    fn run(self) -> anyhow::Result<()> {
        let node = self.node;
        if !self.yes {
            let message = format!(
                "what node {node} has not shipped would be given up for good; say --yes if its \
                 disk is gone\n"
            );
            clap::Error::raw(ErrorKind::MissingRequiredArgument, message).exit();
        }
        let retired = with_store(&self.config, async |store| {
            let words = store.nodes().await?;
            may_retire(&words, node, Clock::start().unix_us())?;
            Ok(store.retire_node(node).await?)
        })?;
        if !retired {
            bail!("no node {node} has ever reported");
        }
        output::line(format_args!("node {node} is retired"));
        Ok(())
    }
}

/// Whether the node is known, and not one that is there.
fn may_retire(words: &[nodes::Node], node: u32, now_us: i64) -> anyhow::Result<()> {
    let Some(word) = words.iter().find(|word| word.node == node) else {
        let known: Vec<String> = words.iter().map(|word| word.node.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        bail!("no node {node} has ever reported; those that have: {known}");
    };
    if word.state == NodeState::Running && !word.is_away(now_us, AWAY_AFTER) {
        bail!("node {node} runs: it spoke at {}", time(word.updated_us));
    }
    Ok(())
}

fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let settings = config.load()?;
    telemetry::start_log(&settings.log)?;
    super::with_database(&settings.clickhouse, work)
}

fn time(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| format!("{us} us"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_is_away_is_retired() {
        let word = |node: u32, state: NodeState, updated_us: i64| nodes::Node {
            node,
            epoch: 1,
            state,
            host: String::new(),
            watermark_us: None,
            lanes: Vec::new(),
            backlog_events: 0,
            updated_us,
        };
        let now_us = 3_600_000_000;
        let words = [word(1, NodeState::Running, now_us), word(2, NodeState::Running, 0)];
        assert!(may_retire(&words, 2, now_us).is_ok());
        let running = may_retire(&words, 1, now_us).expect_err("it runs").to_string();
        assert!(running.contains("node 1 runs"), "{running}");
        let unknown = may_retire(&words, 3, now_us).expect_err("unknown").to_string();
        assert!(unknown.contains("those that have: 1, 2"), "{unknown}");
    }
}
