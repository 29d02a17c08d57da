//! How far a directory's shipper has got, for one who only looks.

use std::path::Path;

use serde::Deserialize;

use super::{ShipError, ledger};
use crate::journal::{LaneKey, Position};
use crate::slots::Slots;

/// The part of the shipping state that says so.
#[derive(Deserialize)]
struct Noted {
    cursors: Vec<Cursor>,
}

#[derive(Deserialize)]
struct Cursor {
    lane: LaneKey,
    position: Position,
}

/// Of each lane, the place before which everything is durably known to be in ClickHouse. Empty when
/// nothing was ever shipped. Reads only, beside a running shipper or not.
pub fn acknowledged(directory: &Path) -> Result<Vec<(LaneKey, Position)>, ShipError> {
    let Some(bytes) = Slots::peek(directory, ledger::NAME)? else { return Ok(Vec::new()) };
    let noted: Noted =
        serde_json::from_slice(&bytes).map_err(|source| ShipError::Format { source })?;
    let cursors = noted.cursors.into_iter();
    Ok(cursors.map(|Cursor { lane, position }| (lane, position)).collect())
}
