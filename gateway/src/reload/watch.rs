//! Changes on disk below the policy paths.
//!
//! Owns the file system watches. Guarantees that a document replaced by rename is seen (directories
//! are watched, not files), and so is a whole policy directory replaced by another: its parent is
//! watched too and the watches follow. What a symbolic link points to elsewhere is not watched;
//! SIGHUP is for that.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// The watches and what they were set on.
pub(super) struct Watch {
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of each policy path when the watches were set.
    identities: Vec<Option<(u64, u64)>>,
}

impl Watch {
    /// Watches `paths`, calling `changed` at every change. A failure is logged.
    pub(super) fn new(paths: &[PathBuf], changed: Arc<Notify>) -> Watch {
        let mut watch = Watch { changed, watcher: None, identities: Vec::new() };
        watch.set(paths);
        watch
    }

    /// Sets the watches anew if a policy path is not the directory or file it was.
    pub(super) fn renew(&mut self, paths: &[PathBuf]) {
        if self.identities == identities(paths) {
            return;
        }
        self.set(paths);
        // Whatever changed between the reload and the new watches is read once more.
        self.changed.notify_one();
    }

    fn set(&mut self, paths: &[PathBuf]) {
        self.identities = identities(paths);
        self.watcher = match start(paths, Arc::clone(&self.changed)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::error!(
                    %error,
                    "policy documents cannot be watched; SIGHUP and admin apply still reload them"
                );
                None
            }
        };
    }
}

/// Device and inode of each path that exists.
fn identities(paths: &[PathBuf]) -> Vec<Option<(u64, u64)>> {
    let identity = |path: &PathBuf| {
        std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    };
    paths.iter().map(identity).collect()
}

fn start(paths: &[PathBuf], changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let roots: Vec<PathBuf> = paths.iter().map(|path| absolute(path)).collect();
    let watched = roots.clone();
    let mut watcher =
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            Ok(event) if relevant(&event, &roots) => changed.notify_one(),
            Ok(_) => {}
            // The queue of events overflowed, say: something changed.
            Err(error) => {
                tracing::warn!(%error, "the watch on policy documents missed something");
                changed.notify_one();
            }
        })?;
    for root in &watched {
        if let Some(parent) = root.parent() {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        if root.is_dir() {
            watcher.watch(root, RecursiveMode::Recursive)?;
        }
    }
    Ok(watcher)
}

/// Reading is not a change, and neither is what happens beside the policy paths.
fn relevant(event: &notify::Event, roots: &[PathBuf]) -> bool {
    let change = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    let ours = |path: &PathBuf| roots.iter().any(|root| path.starts_with(root));
    event.need_rescan() || (change && event.paths.iter().any(ours))
}

/// The path as the watcher reports it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
