//! Bringing the tables into step with the journal at a start; what and why is told in `index`.
//!
//! A start that dies in here is repeated by the next: a table keeps the stamp of the opening that
//! left it until everything that opening left in doubt is settled.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::generation::{Generation, Key, Opened, Stamp, files};
use super::index::{IndexError, IndexSettings, Tables};
use crate::durable::sync_directory;
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
    let ours = Stamp { node: journal.node(), epoch: journal.epoch(), boot: settings.boot };
    // Until everything is settled, what is made agrees with no start of the machine.
    let mut tables = Tables::new(journal, settings, Stamp { boot: None, ..ours });
    let directory = tables.directory().to_owned();
    let failed = |source| IndexError::Io { directory: directory.clone(), source };
    std::fs::create_dir_all(&directory)
        .and_then(|()| sync_directory(journal.directory()))
        .map_err(failed)?;
    let damaged = tables.find().map_err(failed)?;
    let doubtful: Vec<usize> = (0..tables.live.len())
        .filter(|index| {
            let table = &tables.live[*index];
            let boot = table.stamped().boot;
            !table.is_at_rest() && (boot.is_none() || boot != settings.boot)
        })
        .collect();
    let is_new = tables.live.is_empty();
    let is_in_doubt = |table: &Arc<Generation>| table.in_flight().is_some();
    let shipped = if doubtful.is_empty() && !tables.live.iter().any(is_in_doubt) {
        Shipped::new()
    } else {
        shipped()?
    };
    let witness = Witness { journal, shipped };
    for index in 0..tables.live.len() {
        let table = &tables.live[index];
        if doubtful.contains(&index) {
            let anew = rebuild(&directory, table, &witness, now_us).map_err(failed)?;
            tables.live[index] = Arc::new(anew);
        } else {
            resolve(table, &witness);
        }
    }
    if is_new {
        if journal.epoch() > 1 {
            tracing::warn!(
                ?directory,
                "no index of ingested events was found: what was ingested and shipped earlier \
                 would be counted again if it were sent again"
            );
        }
        tables.grow(now_us).map_err(failed)?;
    }
    if is_new || !doubtful.is_empty() || !damaged.is_empty() {
        tables.enter_journalled(journal, now_us).map_err(failed)?;
    }
    for path in damaged {
        set_aside(&path).map_err(failed)?;
    }
    tables.take_over(ours, now_us).map_err(failed)?;
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

    /// Enters every ingested event that the journal holds and the tables do not.
    fn enter_journalled(&mut self, journal: &Journal, now_us: i64) -> io::Result<()> {
        let (mut seen, mut entered) = (0_u64, 0_u64);
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
                    self.vacant(key, now_us)?.0.place(key, frame.id, now_us);
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
        // A table's entries are of one node: their ids do not say which.
        if self.live.last().is_none_or(|table| table.stamped().node != ours.node) {
            self.grow(now_us)?;
        }
        let Some((last, former)) = self.live.split_last() else { return Ok(()) };
        for table in former.iter().filter(|table| !table.is_at_rest()) {
            table.sync()?;
            table.rest()?;
        }
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

/// Writes the table anew, without the events that the power failure took from the journal.
fn rebuild(
    directory: &Path,
    table: &Generation,
    witness: &Witness<'_>,
    now_us: i64,
) -> io::Result<Generation> {
    let stamp = table.stamped();
    let anew = Generation::draft(directory, table.serial(), table.slots(), stamp)?;
    let mut lost = 0_u64;
    for (key, id) in table.all() {
        // Earlier openings were synced, table and journal, when this one began.
        if id.epoch != stamp.epoch || witness.saw(id) {
            anew.place(key, id, now_us);
        } else {
            lost += 1;
        }
    }
    let entries = anew.entries();
    tracing::warn!(entries, lost, "an index of ingested events was restored after a power failure");
    anew.publish()
}

/// Keeps a file nobody can use for whoever wants to look at it.
fn set_aside(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("damaged");
    tracing::error!(path = ?aside, "damaged index of ingested events set aside");
    std::fs::rename(path, aside)
}
