//! Where questions to the usage database are asked: a thread and a client of its own.
//!
//! The proxy's threads have a runtime each, and a pooled connection lives on the runtime that
//! opened it; here all questions share one. Guarantees that there are never more than
//! [`MAX_QUESTIONS`] under way, that each ends within [`TIMEOUT`], and that one is given up when
//! nobody waits for its answer any more.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use orbit_meter::clickhouse::StoreError;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// Questions under way at a time; a further one is told to come back.
pub(super) const MAX_QUESTIONS: usize = 8;
/// Questions under way from below one root of the tree.
pub(super) const MAX_OF_ROOT: usize = 2;
/// Longest time a client waits for the database.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// A question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// There are as many questions under way as there may be, of everybody or of this root.
    #[error("{MAX_QUESTIONS} questions, or {MAX_OF_ROOT} of this root, are under way already")]
    Busy,
    /// The database did not answer in time.
    #[error("the usage database did not answer within {} s", TIMEOUT.as_secs())]
    Late,
    /// The database could not be asked, or refused.
    #[error("the usage database did not answer")]
    Store(#[source] StoreError),
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

/// The thread; dropping it ends it, and every question with it.
pub(super) struct Desk {
    runtime: Handle,
    places: Arc<Semaphore>,
    /// How many places each root has taken; none is not there.
    roots: Arc<Mutex<HashMap<Box<str>, usize>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Desk {
    pub(super) fn start() -> io::Result<Desk> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name("tenant-api".to_owned()).spawn(move || {
                crate::background::yield_to_traffic();
                // Told or dropped: the end either way.
                let _told = runtime.block_on(stopped);
            })?;
        let places = Arc::new(Semaphore::new(MAX_QUESTIONS));
        let roots = Arc::default();
        Ok(Desk { runtime: handle, places, roots, stop: Some(stop), thread: Some(thread) })
    }

    /// The answer to a question of somebody below a root, which is asked on this thread.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        root: &str,
        question: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, Unanswered> {
        let of_root = OfRoot::take(&self.roots, root).ok_or(Unanswered::Busy)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Unanswered::Busy)?;
        let mut asked = Asked(self.runtime.spawn(async move {
            let _places = (of_root, place);
            match tokio::time::timeout(TIMEOUT, question).await {
                Ok(answer) => answer.map_err(Unanswered::Store),
                Err(_) => Err(Unanswered::Late),
            }
        }));
        (&mut asked.0).await.unwrap_or(Err(Unanswered::Stopping))
    }
}

/// One of the places of a root; dropping it gives it back.
struct OfRoot {
    roots: Arc<Mutex<HashMap<Box<str>, usize>>>,
    root: Box<str>,
}

impl OfRoot {
    fn take(roots: &Arc<Mutex<HashMap<Box<str>, usize>>>, root: &str) -> Option<OfRoot> {
        let mut taken = roots.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(root.into()).or_default();
        if *count == MAX_OF_ROOT {
            return None;
        }
        *count += 1;
        Some(OfRoot { roots: Arc::clone(roots), root: root.into() })
    }
}

impl Drop for OfRoot {
    fn drop(&mut self) {
        let mut taken = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.root);
            }
        }
    }
}

/// A question under way; dropping it gives it up.
struct Asked<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for tenants' questions panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks one question for each of these roots that is never answered, and waits until all are
    /// under way.
    async fn occupy(
        desk: &Arc<Desk>,
        roots: impl Iterator<Item = usize>,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let begun = Arc::new(Semaphore::new(0));
        let mut waiting = Vec::new();
        for root in roots {
            let (desk, begun) = (Arc::clone(desk), Arc::clone(&begun));
            waiting.push(tokio::spawn(async move {
                let question = async move {
                    begun.add_permits(1);
                    std::future::pending::<Result<(), StoreError>>().await
                };
                drop(desk.ask(&format!("root-{root}"), question).await);
            }));
        }
        drop(begun.acquire_many(waiting.len() as u32).await.expect("open"));
        waiting
    }

    #[tokio::test]
    async fn questions_are_bounded_and_given_up_with_whoever_asked() {
        let desk = Arc::new(Desk::start().expect("a thread"));
        assert_eq!(desk.ask("root", async { Ok(5) }).await.ok(), Some(5));
        let waiting = occupy(&desk, 0..MAX_QUESTIONS).await;
        assert!(matches!(desk.ask("root", async { Ok(5) }).await, Err(Unanswered::Busy)));
        for question in waiting {
            question.abort();
        }
        // Each gives its place back as it is given up.
        let places = Arc::clone(&desk.places);
        let free = places.acquire_many(MAX_QUESTIONS as u32).await;
        drop(free);
        assert_eq!(desk.ask("root-1", async { Ok(6) }).await.ok(), Some(6));
        assert!(desk.roots.lock().unwrap().is_empty(), "who has no question takes no memory");
    }

    #[tokio::test]
    async fn one_root_cannot_take_every_place() {
        let desk = Arc::new(Desk::start().expect("a thread"));
        let _waiting = occupy(&desk, std::iter::repeat_n(0, MAX_OF_ROOT)).await;
        assert!(matches!(desk.ask("root-0", async { Ok(5) }).await, Err(Unanswered::Busy)));
        assert_eq!(desk.ask("root-1", async { Ok(5) }).await.ok(), Some(5));
    }

    #[tokio::test]
    async fn what_is_under_way_ends_with_the_thread() {
        let desk = Desk::start().expect("a thread");
        let pending = desk.runtime.spawn(std::future::pending::<()>());
        drop(desk);
        assert!(pending.await.expect_err("not served any more").is_cancelled());
    }
}
