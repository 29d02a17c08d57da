//! The tables of the outbox.
//!
//! A delivery is in exactly one of `PENDING`, `DEAD` and `DELIVERED`, under the same key, which
//! begins with when its event was recorded: the oldest come first, wherever one looks. `DUE` finds
//! pending ones by when they are to be attempted, `SETTLED` events that wait for nothing any more.

use redb::{TableDefinition, WriteTransaction};

/// When its event was recorded (unix microseconds), the event, the webhook.
pub(super) type Place<'p> = (i64, &'p str, &'p str);
/// Attempts so far; the instant of the next one, of giving up or of delivery (unix microseconds);
/// what the last attempt failed with.
pub(super) type Standing<'s> = (u32, i64, &'s str);

/// Event by id: when it was recorded, how many of its deliveries are pending or dead, its body.
pub(super) const EVENTS: TableDefinition<'_, &str, (i64, u32, &[u8])> =
    TableDefinition::new("events");
/// Still to be delivered.
pub(super) const PENDING: TableDefinition<'_, Place<'_>, Standing<'_>> =
    TableDefinition::new("pending");
/// Given up: to be replayed by an operator.
pub(super) const DEAD: TableDefinition<'_, Place<'_>, Standing<'_>> = TableDefinition::new("dead");
/// Delivered.
pub(super) const DELIVERED: TableDefinition<'_, Place<'_>, Standing<'_>> =
    TableDefinition::new("delivered");
/// Webhook, the instant of the next attempt, and event: when it was recorded.
pub(super) const DUE: TableDefinition<'_, (&str, i64, &str), i64> = TableDefinition::new("due");
/// When an event was recorded of which nothing is pending or dead, and the event.
pub(super) const SETTLED: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("settled");
/// Quota by key: what was told of it, see [`Told`](crate::alerts::told::Told).
pub(super) const TOLD: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("told");
/// What goes on: since when, and its latest minute (unix microseconds).
pub(super) const EPISODES: TableDefinition<'_, &str, (i64, i64)> = TableDefinition::new("episodes");

/// Makes those that are not there.
pub(super) fn make(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(EVENTS)?;
    transaction.open_table(PENDING)?;
    transaction.open_table(DEAD)?;
    transaction.open_table(DELIVERED)?;
    transaction.open_table(DUE)?;
    transaction.open_table(SETTLED)?;
    transaction.open_table(TOLD)?;
    transaction.open_table(EPISODES)?;
    Ok(())
}
