//! Many requests at the same moment, to strike into.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::keys::Keys;
use crate::ledger::Answer;
use crate::scenario::Scenario;
use crate::target::Target;

use super::RunError;
use super::link::Link;
use super::prepare::{Prepared, prepare};
use super::record::{Failure, Outcome};

/// Without an answer for so long, it is struck all the same.
const PATIENCE: Duration = Duration::from_millis(200);
/// What has left by then is here.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Requests of one kind, each on a connection of its own.
pub(crate) struct Burst {
    kind: Arc<Prepared>,
    target: Target,
    count: u32,
    /// Whole answers so far.
    pub(crate) answers: Vec<Answer>,
    /// Requests that were sent and brought none.
    pub(crate) open: u64,
}

impl Burst {
    /// Of the only kind of `scenario`, as many as it has connections.
    pub(crate) fn new(
        scenario: &Scenario,
        target: &Target,
        keys: &Keys,
    ) -> Result<Burst, RunError> {
        let mut kinds = prepare(scenario, target, keys)?;
        let kind = Arc::new(kinds.remove(0));
        let (target, count) = (target.clone(), scenario.connections);
        Ok(Burst { kind, target, count, answers: Vec::new(), open: 0 })
    }

    /// Sends all at once, strikes as soon as the first answer is whole, and reads what has left.
    pub(crate) async fn strike<T>(&mut self, strike: impl AsyncFnOnce() -> T) -> T {
        let mut links = Vec::new();
        for _ in 0..self.count {
            let mut link = Link::http1(self.target.clone());
            link.warm().await;
            links.push(link);
        }
        let mut asked = JoinSet::new();
        for mut link in links {
            let kind = Arc::clone(&self.kind);
            asked.spawn(async move { link.ask(&kind, TIMEOUT).await });
        }
        let first = tokio::time::timeout(PATIENCE, asked.join_next()).await;
        let struck = strike().await;
        let rest = asked.join_all().await;
        let first = first.ok().flatten().and_then(Result::ok);
        let clock = Clock::start();
        for outcome in first.into_iter().chain(rest) {
            match outcome {
                Outcome::Whole(whole) => self.answers.push(whole.answer(0, clock.now_ns())),
                Outcome::Failed(Failure::Connect) => {}
                Outcome::Failed(_) | Outcome::Aborted => self.open += 1,
            }
        }
        struck
    }
}
