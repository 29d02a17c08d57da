//! The thread that saves what limits have spent.
//!
//! Guarantees that requests never wait for it: it reads buckets as they are and writes on its own,
//! at low priority. A save that fails is logged once, counted, and tried again until it works.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{counter, gauge};
use orbit_policy::{Nanos, Policy};

use super::files::Files;
use super::layout::{self, Header};
use crate::background;
use crate::clock::{Clock, Stamp};

/// Between two saves: what a crash may forgive.
const PAUSE: Duration = Duration::from_millis(250);
/// The same where saving takes long.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause is so many times what the save took, so that little of a core and a disk go into it.
const PAUSE_PER_SAVE: u32 = 50;

/// The thread; dropping it ends it after a last save, which closes the state.
pub struct Saver {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// Saves once, and then again and again.
    pub(super) fn start(
        files: Files,
        hash_key: [u8; 16],
        policy: Arc<Policy>,
        clock: Arc<Clock>,
    ) -> io::Result<Saver> {
        let (stop, stopped) = mpsc::channel();
        let mut work = Work {
            files,
            hash_key,
            policy,
            clock,
            body: Vec::new(),
            on_disk: None,
            failing: false,
        };
        if let Err(error) = work.files.reopen() {
            // A crash would then be taken for an end in order.
            let directory = work.files.directory().display();
            tracing::error!(%directory, %error, "a crash will not be noticed");
        }
        work.save(false);
        let run = move || {
            background::yield_to_traffic();
            let mut pause = PAUSE;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let before = work.clock.now();
                work.save(false);
                let took = Duration::from_nanos(work.clock.now().since(before));
                pause = (took * PAUSE_PER_SAVE).clamp(PAUSE, LONGEST_PAUSE);
            }
            work.save(true);
        };
        let thread = std::thread::Builder::new().name("limits".to_owned()).spawn(run)?;
        Ok(Saver { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that saves limits panicked");
        }
    }
}

/// What the thread owns.
struct Work {
    files: Files,
    hash_key: [u8; 16],
    policy: Arc<Policy>,
    clock: Arc<Clock>,
    /// Kept from save to save for its room.
    body: Vec<u8>,
    /// Length and checksum of the body in the file.
    on_disk: Option<(usize, u32)>,
    failing: bool,
}

impl Work {
    /// Brings the state to the disk, where it is not there already.
    fn save(&mut self, last: bool) {
        let now = self.clock.now();
        let stamp = Stamp::take(&self.clock);
        let buckets = self.note(now);
        let content = (self.body.len(), crc32fast::hash(&self.body));
        let header = Header { hash_key: self.hash_key, stamp, now };
        let saved = if last {
            self.files.close(&header, &self.body)
        } else if self.on_disk == Some(content) {
            Ok(())
        } else {
            self.files.save(&header, &self.body)
        };
        let directory = self.files.directory().display();
        match saved {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(%directory, "what limits have spent is saved again");
                }
                self.on_disk = Some(content);
                gauge!("orbit_limit_state_saved_timestamp_seconds").set(stamp.unix_us as f64 / 1e6);
                gauge!("orbit_limit_state_buckets").set(buckets as f64);
            }
            Err(error) => {
                counter!("orbit_limit_state_failures_total").increment(1);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%directory, %error, "what limits have spent cannot be saved");
                }
            }
        }
    }

    fn note(&mut self, now: Nanos) -> usize {
        let body = &mut self.body;
        body.clear();
        let mut buckets = 0;
        self.policy.export(now, &mut |record| buckets += layout::note(record, now, body));
        buckets
    }
}
