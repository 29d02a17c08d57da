//! One batch into ClickHouse, exactly once.
//!
//! ```text
//!            taken                          all there
//!  Unsent ----------> acknowledged <------------------ Unknown <---- after a crash
//!    | ^ \ not taken     ^                  none |  ^ \ some
//!    | +--/ wait         | taken, and counted    v  |  v
//!    | no clear answer   +---------------- send again  delete, new token, Unsent
//!    +--------------------------------------> Unknown
//! ```
//!
//! An insert without a clear answer may still be under way. In the server it is ended before the
//! table is read; but a stalled server or a proxy may hold a request that nobody can see yet. So it
//! is sent again under the *same* token first: whichever arrives later is dropped by the server.
//! But a server that is killed may have kept a token without its rows, and would drop the block for
//! nothing; so the answer to a repeated token is believed only when the rows are counted. Only a
//! token that is proved to have swallowed its rows is replaced, durably, before the new one is
//! used.
//!
//! Guarantees: when this returns, the table holds every row of the batch once, and what they add up
//! to is known. It ends no other
//! way: it waits and tries again for as long as it takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backoff::Backoff;
use super::ledger::{Batch, Ledger};
use super::progress::Progress;
use super::{blocking, locked};
use crate::clickhouse::native::Totals;
use crate::clickhouse::{EncodedBlock, InsertError, Store, StoreError};

/// How often, and how far apart, rows are looked for before their token is taken for burnt.
const RECOUNTS: u32 = 3;
const RECOUNT_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// Nothing of it can be in the table: its token was never sent, or only refused.
    Unsent,
    /// It may be there.
    Unknown,
    /// All of it is in the table, or all that there is.
    There,
}

/// A batch, and all that delivering it takes.
pub(super) struct Delivery {
    pub(super) store: Store,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) progress: Arc<Progress>,
    pub(super) plan: u64,
    pub(super) batch: Batch,
    pub(super) block: EncodedBlock,
    pub(super) knowledge: Knowledge,
    pub(super) max_backoff: Duration,
}

/// The read's answer.
enum Found {
    All,
    None,
    Some(u64),
}

impl Delivery {
    /// Returns when every row is in the table once, with what they add up to.
    pub(super) async fn run(mut self) -> Totals {
        let mut backoff = Backoff::new(self.max_backoff);
        loop {
            match self.step().await {
                Ok(Some(totals)) => return totals,
                Ok(None) => {}
                Err(error) => {
                    self.progress.note_failure(&error);
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// One step; the totals when the batch is acknowledged.
    async fn step(&mut self) -> Result<Option<Totals>, StoreError> {
        let is_there = match self.knowledge {
            Knowledge::Unsent => self.send().await?,
            Knowledge::Unknown => {
                self.cancel().await?;
                match self.look().await? {
                    Found::All => true,
                    Found::None => self.send_again().await?,
                    Found::Some(rows) => self.start_over(rows).await?,
                }
            }
            Knowledge::There => return self.totals().await.map(Some),
        };
        if is_there {
            self.knowledge = Knowledge::There;
        }
        Ok(None)
    }

    /// What the table holds. That is the block, unless the journal lost rows after it was sent.
    async fn totals(&self) -> Result<Totals, StoreError> {
        let Batch { batch_id, month, rows, .. } = self.batch;
        if self.block.rows() as u64 == rows {
            return Ok(*self.block.totals());
        }
        self.store.batch_totals(batch_id, month).await
    }

    /// Ends what the server may still be doing with this batch.
    async fn cancel(&self) -> Result<(), StoreError> {
        match self.store.cancel_insert(&self.batch.token).await {
            // A server that does not let us: the repeated token guards as well.
            Err(error @ StoreError::Server { .. }) => {
                let batch_id = self.batch.batch_id;
                tracing::debug!(batch_id, %error, "an insert could not be cancelled");
                Ok(())
            }
            other => other,
        }
    }

    async fn send(&mut self) -> Result<bool, StoreError> {
        if self.block.rows() == 0 {
            return Ok(true);
        }
        match self.store.insert_block(&self.block, &self.batch.token).await {
            Ok(()) => Ok(true),
            Err(InsertError::Refused(error)) => Err(error),
            Err(InsertError::Ambiguous(error)) => {
                self.knowledge = Knowledge::Unknown;
                Err(error)
            }
        }
    }

    /// Nothing was found of a block that was sent.
    async fn send_again(&mut self) -> Result<bool, StoreError> {
        if self.block.rows() as u64 != self.batch.rows {
            // The journal lost rows of the plan: what is left is another block, and needs a token
            // of its own.
            self.note_shrunk();
            self.replace_token().await;
            return Ok(false);
        }
        self.progress.note_resend();
        // Refused or not, the first attempt's fate stays unknown.
        let sent = self.store.insert_block(&self.block, &self.batch.token).await;
        sent.map_err(|error| match error {
            InsertError::Refused(error) | InsertError::Ambiguous(error) => error,
        })?;
        for _ in 0..RECOUNTS {
            match self.look().await? {
                Found::All => return Ok(true),
                Found::Some(_) => return Ok(false),
                Found::None => tokio::time::sleep(RECOUNT_INTERVAL).await,
            }
        }
        let (batch_id, token) = (self.batch.batch_id, &self.batch.token);
        tracing::warn!(
            batch_id,
            token,
            "ClickHouse knows the token but has no rows; using another"
        );
        self.replace_token().await;
        Ok(false)
    }

    /// Only some rows were found.
    async fn start_over(&mut self, found: u64) -> Result<bool, StoreError> {
        let Batch { batch_id, month, rows, .. } = self.batch;
        let kept = self.block.rows() as u64;
        if kept < rows && kept < found {
            self.note_shrunk();
            tracing::error!(batch_id, month, rows, found, "kept what ClickHouse has of a batch");
            return Ok(true);
        }
        tracing::warn!(batch_id, month, rows, found, "ClickHouse has part of a batch; sent anew");
        self.store.delete_batch(batch_id, month).await?;
        match self.look().await? {
            Found::None => self.replace_token().await,
            Found::All | Found::Some(_) => {}
        }
        Ok(false)
    }

    async fn look(&self) -> Result<Found, StoreError> {
        let Batch { batch_id, month, rows, .. } = self.batch;
        Ok(match self.store.count_batch(batch_id, month).await? {
            0 if rows > 0 => Found::None,
            found if found == rows => Found::All,
            found => Found::Some(found),
        })
    }

    /// Another token, on the disk before it is used.
    async fn replace_token(&mut self) {
        let (plan, rows) = (self.plan, self.block.rows() as u64);
        self.batch = locked(&self.ledger).retoken(plan, &self.batch, rows);
        persist(&self.ledger, &self.progress, self.max_backoff).await;
        self.knowledge = Knowledge::Unsent;
    }

    fn note_shrunk(&self) {
        let Batch { batch_id, month, rows, .. } = self.batch;
        let kept = self.block.rows();
        tracing::error!(batch_id, month, rows, kept, "the journal lost rows of a planned batch");
    }
}

/// Writes the ledger, as often as it takes.
pub(super) async fn persist(ledger: &Arc<Mutex<Ledger>>, progress: &Progress, cap: Duration) {
    let mut backoff = Backoff::new(cap);
    loop {
        let ledger = Arc::clone(ledger);
        match blocking(move || locked(&ledger).persist()).await {
            Ok(()) => return,
            Err(error) => {
                progress.note_failure(&error);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}
