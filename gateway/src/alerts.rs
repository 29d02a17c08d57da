//! Alerts: one event for each crossing, delivered until somebody has it.
//!
//! [`outbox`] keeps what is to be delivered; [`sign`] and [`guard`] say how and where to.

pub mod guard;
pub mod outbox;
pub mod sign;
