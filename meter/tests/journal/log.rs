//! What the journal logs, for tests that have a process of their own.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// Everything logged since.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Once per process.
    pub(crate) fn start() -> Log {
        let log = Log::default();
        let sink = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).init();
        log
    }

    /// Lines that contain this.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.text().lines().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().expect("no panic while logging");
        String::from_utf8_lossy(&lines).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while logging").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
