//! What a tenant may do: catalogue, keys, limits and the decision on a request.
//!
//! This crate does no I/O, reads no clock and starts no thread: text and time come in as
//! arguments, decisions go out as values. The way through it is
//!
//! ```text
//! TOML text -> documents -> catalogue (validated) -> Snapshot -> decide -> Admit | Deny
//! ```
//!
//! Invariants (numbered in ARCHITECTURE.md): **P1** a limit never admits more than
//! `rate x time + burst`; **P2** a refused chain leaves every level as it was; **P3** neither a
//! reload nor a restart forgives spent allowance; **P4** bad documents change nothing and say why;
//! **P5** a refusal names exactly what would grant it.

pub mod bucket;
pub mod calendar;
mod catalogue;
mod dates;
pub mod decide;
pub mod diagnostics;
pub mod documents;
pub mod dynamic;
pub mod gauge;
pub mod keys;
pub mod levels;
pub mod members;
pub mod meters;
mod policy;
pub mod price;
pub mod quota;
#[cfg(all(test, not(loom)))]
mod random;
pub mod snapshot;
mod sync;
pub mod time;

pub use bucket::Debt;
pub use decide::{Admission, Body, Call, Decision, Denial, Permit, Reason};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use documents::Source;
pub use keys::ApiKey;
pub use levels::LevelRead;
pub use meters::{Aggregate, Meter, MeterId, MeterValue};
pub use policy::{
    Applied, Held, Owner, Policy, PolicySettings, Record, Restored, Spent, Summary, check, review,
};
pub use snapshot::Snapshot;
pub use time::{Nanos, Reading};
