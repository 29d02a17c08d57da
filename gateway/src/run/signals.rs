//! The signals that end the process.
//!
//! Guarantees that the first one ends it in order and the next one at once. Before they are
//! registered a signal has its default effect; nothing has been served then.

use std::io;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of SIGTERM, SIGINT and SIGQUIT.
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// From now on the signals are ours.
    pub(super) fn register() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let quit = signal(SignalKind::quit())?;
        drop(guard);
        Ok(Signals { runtime, terminate, interrupt, quit })
    }

    /// Blocks until one comes; returns its name and the exit code of a process that it ends.
    pub(super) fn wait(&mut self) -> (&'static str, i32) {
        let Signals { runtime, terminate, interrupt, quit } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 128 + 15),
                _ = interrupt.recv() => ("SIGINT", 128 + 2),
                _ = quit.recv() => ("SIGQUIT", 128 + 3),
            }
        })
    }

    /// The next signal ends the process wherever it is. What was recorded is in the journal, and an
    /// embedded engine dies with its parent.
    pub(super) fn end_at_the_next(mut self) -> io::Result<()> {
        let wait = move || {
            let (signal, code) = self.wait();
            tracing::warn!(signal, "stopping at once");
            std::process::exit(code);
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
    }
}
