//! Bringing the tables into step with the journal at a start; what and why is told in `index`.
//!
//! A start that dies in here is repeated by the next: a table keeps the stamp of the opening that
//! left it until everything that opening left in doubt is settled. It needs no room on the disk: tables
//! are repaired where they lie. Only where there is no table at all must one be made, and if there is no
//! room for it, events are refused until there is.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::generation::{Generation, Key, Opened, Repaired, Stamp, files};
use super::index::{IndexError, IndexSettings, Tables};
use crate::clock;
use crate::durable::{set_aside, sync_directory};
use crate::event::{EventId, Flags, Kind, View};
use crate::journal::{Journal, LaneKey};

/// What was shipped, by lane: sequences below are in ClickHouse.
type Shipped = BTreeMap<LaneKey, u64>;

/// Opens the tables in the journal's directory; `shipped` is asked when a power failure left doubt.
pub(super) fn open(
    journal: &Arc<Journal>,
    settings: &IndexSettings,
    now_us: i64,
    shipped: impl FnOnce() -> Result<Shipped, IndexError>,
) -> Result<Tables, IndexError> {
    let began_us = clock::unix_us();
    let boot = journal.boot();
    let ours = Stamp { node: journal.node(), epoch: journal.epoch(), boot: boot.id };
    // Until everything is settled, what is made agrees with no start of the machine.
    let mut tables = Tables::new(journal, settings, Stamp { boot: None, ..ours });
    let directory = tables.directory().to_owned();
    let failed = |source| IndexError::Io { directory: directory.clone(), source };
    std::fs::create_dir_all(&directory)
        .and_then(|()| sync_directory(journal.directory()))
        .map_err(failed)?;
    let damaged = tables.find().map_err(failed)?;
    let is_doubtful =
        |table: &Arc<Generation>| !table.is_at_rest() && !boot.is(table.stamped().boot);
    let is_in_doubt = |table: &Arc<Generation>| is_doubtful(table) || table.in_flight().is_some();
    let is_new = tables.live.is_empty();
    let has_doubtful = tables.live.iter().any(is_doubtful);
    let must_ask = tables.live.iter().any(is_in_doubt);
    let shipped = if must_ask { shipped()? } else { Shipped::new() };
    let witness = Witness { journal, shipped };
    for table in &tables.live {
        if is_doubtful(table) {
            repair(table, &witness, now_us).map_err(failed)?;
        } else {
            resolve(table, &witness);
        }
    }
    if is_new && journal.epoch() > 1 {
        tracing::warn!(
            ?directory,
            "no index of ingested events was found: what was ingested and shipped earlier would \
             be counted again if it were sent again"
        );
    }
    let is_there = tables.grow_for_us(now_us).map_err(failed)?;
    if is_there && (is_new || has_doubtful || !damaged.is_empty()) {
        tables.enter_journalled(journal, now_us).map_err(failed)?;
    }
    for path in damaged {
        set_aside(&path).map_err(failed)?;
    }
    tables.take_over(ours, now_us).map_err(failed)?;
    let took_ms = (clock::unix_us() - began_us) / 1_000;
    let (count, entries) = (tables.live.len(), tables.entries());
    tracing::info!(took_ms, tables = count, entries, "the index of ingested events is open");
    Ok(tables)
}

impl Tables {
    /// Opens what is in the directory; returns what cannot be used.
    fn find(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut damaged = Vec::new();
        for (serial, path) in files(self.directory())? {
            self.next_serial = serial + 1;
            match Generation::open(path, serial)? {
                Opened::Whole(table) => self.live.push(Arc::new(table)),
                Opened::Damaged(path) => damaged.push(path),
            }
        }
        Ok(damaged)
    }

    /// Makes a table for this node if there is none; false when the disk has no room for it.
    fn grow_for_us(&mut self, now_us: i64) -> io::Result<bool> {
        if self.current().is_some() {
            return Ok(true);
        }
        match self.grow(now_us) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::error!(
                    %error,
                    directory = ?self.directory(),
                    "no room for an index of ingested events: none are taken until there is, and those \
                     in the journal would be counted again if they were sent again"
                );
                Ok(false)
            }
            grown => grown.map(|()| true),
        }
    }

    /// Enters every ingested event that the journal holds and the tables do not.
    fn enter_journalled(&mut self, journal: &Journal, now_us: i64) -> io::Result<()> {
        let (mut seen, mut entered) = (0_u64, 0_u64);
        // On a full disk the table that is there has to do: who ships, and makes room, must start.
        if let Err(error) = self.grow_if_needed(now_us)
            && error.kind() != io::ErrorKind::StorageFull
        {
            return Err(error);
        }
        for lane in journal.lanes() {
            let Some(mut reader) = journal.reader(lane, None) else { continue };
            while let Some(frame) = reader.read().map_err(io::Error::other)? {
                let Ok(row) = View::decode(frame.row) else { continue };
                if !is_event(&row) {
                    continue;
                }
                seen += 1;
                let key = Key::of(row.request_id());
                if !self.contains(key) {
                    let placed = |table: &Arc<Generation>| table.place(key, frame.id, now_us);
                    if !self.current().is_some_and(placed) {
                        self.vacant(key, now_us)?.0.place(key, frame.id, now_us);
                    }
                    entered += 1;
                }
            }
        }
        if seen > 0 {
            tracing::info!(seen, entered, "the journal's ingested events are in the index");
        }
        Ok(())
    }

    /// From here on the last table is this opening's to write, and the others are at rest.
    fn take_over(&mut self, ours: Stamp, now_us: i64) -> io::Result<()> {
        self.stamp = ours;
        self.expire(now_us)?;
        let current = self.current().map(|table| table.serial());
        let is_current = |table: &Arc<Generation>| Some(table.serial()) == current;
        for table in self.live.iter().filter(|table| !is_current(table) && !table.is_at_rest()) {
            table.sync()?;
            table.rest()?;
        }
        let Some(last) = self.current() else { return Ok(()) };
        // What an earlier process wrote may not be on the disk yet.
        last.sync()?;
        last.stamp(ours);
        last.sync()
    }
}

/// Whether the row is an event's own; of what it adds to other meters, the id is no event's.
fn is_event(row: &View<'_>) -> bool {
    let added = Flags::MEASURED.with(Flags::MEMBER);
    row.kind() == Kind::Ingested && row.flags().bits() & added.bits() == 0
}

/// Who knows which events were written.
struct Witness<'a> {
    journal: &'a Journal,
    shipped: Shipped,
}

impl Witness<'_> {
    /// The event is in the journal, or was and is in ClickHouse: of a lane whose segments are all
    /// shipped and removed, only the cursor tells.
    fn saw(&self, id: EventId) -> bool {
        let shipped = self.shipped.get(&Generation::lane(id));
        self.journal.holds(id) || shipped.is_some_and(|end| id.sequence < *end)
    }
}

/// Settles the entry that was being written when the process died.
fn resolve(table: &Generation, witness: &Witness<'_>) {
    let Some(slot) = table.in_flight() else { return table.settle() };
    match table.entry(slot) {
        Some((_, id)) if witness.saw(id) => table.settle(),
        _ => table.revoke(),
    }
}

/// Settles a table after a power failure: without the events that it took from the journal.
fn repair(table: &Generation, witness: &Witness<'_>, now_us: i64) -> io::Result<()> {
    // Earlier openings were synced, table and journal, when this one began.
    let epoch = table.stamped().epoch;
    let is_gone = |id: EventId| id.epoch == epoch && !witness.saw(id);
    let Repaired { lost, moved } = table.repair(is_gone, now_us)?;
    let entries = table.entries();
    tracing::warn!(
        entries,
        lost,
        moved,
        "an index of ingested events was repaired after a power failure"
    );
    Ok(())
}
