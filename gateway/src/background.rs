//! Threads that work beside the traffic.

/// How much lower than the proxy's the priority of such a thread is, of 19.
const NICENESS: i32 = 10;

/// Lowers the calling thread's priority: a reload or a look at the admin API waits for requests,
/// not the other way round, where cores are short.
pub fn yield_to_traffic() {
    // Not being allowed to is no reason not to work.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "this thread keeps its priority");
    }
}
