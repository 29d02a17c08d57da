//! Events that do not pass the proxy, sent beside the load until each is acknowledged.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::ingest::{IngestReport, IngestRun, SendError, Sent, check, send};
use crate::keys::Secret;
use crate::ledger::table::Patience;
use crate::stage::{Stage, StageError};

use super::{AttackError, Fact, Verdict};

const TENANT: &str = "load";
const CLIENTS: u32 = 2;
const BATCH: u64 = 5;
/// Between two batches of a client.
const PAUSE: Duration = Duration::from_millis(100);
/// Of the load's time, they would take this much if nothing stood in their way.
const SHARE: f64 = 0.6;
/// With nothing acknowledged for so long, they are given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Rows may take so long once everything is shipped.
const ROWS_LIMIT: Duration = Duration::from_secs(30);

/// Events under way.
pub(super) struct Events {
    run: IngestRun,
    sending: JoinHandle<Result<Sent, SendError>>,
}

/// Events that were all acknowledged.
pub(super) struct Acknowledged {
    run: IngestRun,
    sent: Sent,
}

impl Events {
    /// Starts to send, over most of `length`.
    pub(super) fn start(stage: &Stage, seed: u64, length: Duration) -> Result<Events, AttackError> {
        let batches = (length.as_secs_f64() * SHARE / PAUSE.as_secs_f64()).ceil() as u64;
        let run = IngestRun {
            target: stage.ingest.clone(),
            token: Secret::read(&stage.directory().join("ingest.token"))
                .map_err(StageError::from)?,
            events: batches * u64::from(CLIENTS) * BATCH,
            batch: BATCH,
            resend_percent: 10.0,
            clients: CLIENTS,
            seed,
            tenant: TENANT.to_owned(),
            pause: PAUSE,
            patience: PATIENCE,
            run: Clock::start().unix_us(0),
        };
        let plan = run.clone();
        // On a runtime of its own: what it tells of its progress cannot move between threads.
        let sending = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(SendError::Runtime)?.block_on(send(&plan, &mut |_| {}))
        });
        Ok(Events { run, sending })
    }

    /// Waits until all are acknowledged.
    pub(super) async fn acknowledged(self) -> Result<Acknowledged, AttackError> {
        let sent = match self.sending.await {
            Ok(sent) => sent?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        Ok(Acknowledged { run: self.run, sent })
    }
}

impl Acknowledged {
    /// Compares them with the rows there are now.
    pub(super) async fn judge(
        self,
        stage: &Stage,
        verdict: &mut Verdict,
    ) -> Result<Fact, AttackError> {
        let patience = Patience::at_most(ROWS_LIMIT);
        let rows = check(&stage.table, &self.run, &patience, &mut |_| {}).await?;
        let report = IngestReport::new(&self.run, &self.sent, rows);
        let wrong = report.findings.iter().map(|finding| format!("ingest: {finding}")).collect();
        verdict.add("ingested events count once", self.run.events, wrong);
        let Sent { requests, failed, unavailable, known, .. } = self.sent;
        let events = self.run.events;
        let is = format!(
            "{events} in {requests} requests, {failed} of them without an answer, {unavailable} \
             answered 503; {known} were known when they were acknowledged"
        );
        Ok(Fact::new("ingested events", is))
    }
}
