//! The thread that journals what was counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Refusals;
use crate::clock;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// The flushing thread of [`Refusals::start`]; dropping it flushes everything and ends it.
#[derive(Debug)]
pub struct Flusher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(refusals: Arc<Refusals>) -> io::Result<Flusher> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                std::thread::park_timeout(INTERVAL);
                if let Err(error) = refusals.flush(clock::unix_us()) {
                    // The journal says itself, and once, that it is full; the counts are kept.
                    tracing::debug!(%error, "refusals wait for room in the journal");
                }
            }
            match refusals.flush(i64::MAX) {
                Ok(()) => {}
                Err(error) if refusals.is_volatile() => {
                    tracing::error!(%error, "the last refusals are lost: they had no table");
                }
                Err(error) => {
                    tracing::warn!(%error, "the last refusals are journalled after the next start");
                }
            }
        };
        let thread = std::thread::Builder::new().name("orbit-refusals".to_owned()).spawn(run)?;
        Ok(Flusher { stop, thread: Some(thread) })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("the thread that journals refusals had panicked");
        }
    }
}
