//! A server of this process, on a thread and a runtime of its own, that ends with its value.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// A server that runs until it is dropped.
pub(crate) struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts a thread on which `serve` runs. It hands over once, when it serves or knows that it
    /// cannot; that is the second result.
    pub(crate) fn start<T, F>(
        name: &str,
        serve: impl FnOnce(mpsc::Sender<io::Result<T>>) -> F + Send + 'static,
    ) -> io::Result<(Serving, T)>
    where
        T: Send + 'static,
        F: Future<Output = ()>,
    {
        let (bound, binding) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let failed = bound.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        () = serve(bound) => {}
                        // An error is the value's end as well.
                        _ = stopped => {}
                    }
                }),
                // Nobody waits only when the starter is gone.
                Err(error) => drop(failed.send(Err(error))),
            }
        })?;
        let serving = Serving { stop: Some(stop), thread: Some(thread) };
        let gone = || io::Error::other("the server's thread ended before it served");
        let value = binding.recv().map_err(|_| gone())??;
        Ok((serving, value))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed, and nothing is lost with it.
            drop(thread.join());
        }
    }
}
