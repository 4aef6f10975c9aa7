//! Notices that watched files may have changed.
//!
//! Parent directories are watched rather than files, because editors, rsync and Kubernetes replace files
//! by renaming over them or by swapping a symlink, which ends a watch on the file itself. Where notify
//! misses something (network file systems, an exhausted inotify limit), a slow poll of size, time and inode
//! finds it. A signal here only says *look again*: [`digests`] decide whether anything changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nearside_fleet::digest::Sha256;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::store::hash_file;

/// Quiet time after the last event before a change is reported: an editor's write-rename-chmod or an
/// rsync of several files becomes one reload. Well below the 2 s in which an edit must be live.
pub const DEBOUNCE: Duration = Duration::from_millis(200);

/// A stream of events that never goes quiet is reported anyway after this.
pub const DEBOUNCE_MAX: Duration = Duration::from_secs(1);

/// How often files are looked at even though nothing was heard.
pub const POLL: Duration = Duration::from_secs(5);

/// Watches a replaceable set of files.
#[derive(Debug)]
pub struct Watch {
    /// `None` where the kernel gives no inotify instance: the poll does it alone.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    files: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
    seen: BTreeMap<PathBuf, Option<Stamp>>,
    poll: Duration,
}

/// What a poll compares. Inode and size catch what a coarse clock misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        // One slot: the message is only "look again", more of it says nothing more.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reads are not changes, and our own reading must not wake us.
            if !matches!(&event, Ok(event) if event.kind.is_access()) {
                let _full = sender.try_send(());
            }
        });
        let watcher = watcher.map_err(|error| warn_poll_only(&error)).ok();
        Self {
            watcher,
            events,
            files: BTreeSet::new(),
            dirs: BTreeSet::new(),
            seen: BTreeMap::new(),
            poll: POLL,
        }
    }

    /// Replaces the watched set. Missing files are watched too: they may appear.
    pub fn replace(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.files = files.into_iter().collect();
        let dirs = self.files.iter().flat_map(|file| parents(file)).collect::<BTreeSet<_>>();
        if let Some(watcher) = &mut self.watcher {
            for gone in self.dirs.difference(&dirs) {
                // A directory that was removed has already been forgotten by the kernel.
                let _ = watcher.unwatch(gone);
            }
            // Watched again even where it already is: a directory removed and made anew has the same
            // name and no watch.
            for dir in &dirs {
                if let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive) {
                    tracing::debug!(dir = %dir.display(), %error, "not watched, only polled");
                }
            }
        }
        self.dirs = dirs;
        self.seen = self.stamps();
    }

    /// Waits until something may have changed and things are quiet again. Cancel-safe: what was heard
    /// before a cancellation is found by the poll.
    pub async fn changed(&mut self) {
        loop {
            match tokio::time::timeout(self.poll, self.events.recv()).await {
                Ok(Some(())) => break,
                // No watcher: the sender is gone and only time passes.
                Ok(None) => tokio::time::sleep(self.poll).await,
                Err(_elapsed) => {}
            }
            if self.stamps() != self.seen {
                break;
            }
        }
        let first = Instant::now();
        while first.elapsed() < DEBOUNCE_MAX {
            match tokio::time::timeout(DEBOUNCE, self.events.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.seen = self.stamps();
    }

    fn stamps(&self) -> BTreeMap<PathBuf, Option<Stamp>> {
        self.files.iter().map(|file| (file.clone(), stamp(file))).collect()
    }
}

fn warn_poll_only(error: &notify::Error) {
    tracing::warn!(
        %error,
        "file changes can't be watched, only polled every {} s (is fs.inotify.max_user_instances used up?)",
        POLL.as_secs()
    );
}

/// Directories whose entries decide what `file` is: its parent, and, where it or its parent is a symlink,
/// the parents of what those point to.
fn parents(file: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut add = |path: &Path| match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dirs.push(dir.to_path_buf()),
        _ => dirs.push(PathBuf::from(".")),
    };
    add(file);
    if let Ok(real) = fs::canonicalize(file) {
        add(&real);
    }
    // `config -> releases/7`: swapping the link renames an entry of the grandparent.
    if let Some(parent) = file.parent().filter(|parent| parent.is_symlink()) {
        add(parent);
    }
    dirs
}

fn stamp(file: &Path) -> Option<Stamp> {
    let data = fs::metadata(file).ok()?;
    Some(Stamp { inode: data.ino(), bytes: data.len(), modified: (data.mtime(), data.mtime_nsec()) })
}

/// Hash of each file's content; `None` for one that can't be read. Equal digests mean that nothing changed.
pub type Digests = BTreeMap<PathBuf, Option<Sha256>>;

/// Hashes files. Costs one read of everything; a 60 MB database takes about 0.1 s, so call it on a
/// blocking thread.
pub fn digests(files: impl IntoIterator<Item = PathBuf>) -> Digests {
    files.into_iter().map(|file| (file.clone(), hash_file(&file).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn must_notice(watch: &mut Watch) {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("the change is noticed");
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_noticed_twice_in_a_row() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new();
        watch.replace([file.clone()]);
        let before = digests([file.clone()]);
        for text in ["two", "three"] {
            fs::write(temp.path().join("new"), text).unwrap();
            fs::rename(temp.path().join("new"), &file).unwrap();
            must_notice(&mut watch).await;
            assert_ne!(digests([file.clone()]), before);
        }
    }

    #[tokio::test]
    async fn a_swapped_symlink_above_the_file_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        for (release, text) in [("1", "one"), ("2", "two")] {
            fs::create_dir(temp.path().join(release)).unwrap();
            fs::write(temp.path().join(release).join("zone"), text).unwrap();
        }
        let current = temp.path().join("current");
        std::os::unix::fs::symlink("1", &current).unwrap();
        let mut watch = Watch::new();
        watch.replace([current.join("zone")]);
        std::os::unix::fs::symlink("2", temp.path().join("next")).unwrap();
        fs::rename(temp.path().join("next"), &current).unwrap();
        must_notice(&mut watch).await;
        assert_eq!(fs::read_to_string(current.join("zone")).unwrap(), "two");
    }

    #[tokio::test]
    async fn the_poll_finds_what_notify_did_not_tell() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("late");
        let (_sender, events) = mpsc::channel(1);
        let mut watch = Watch {
            watcher: None,
            events,
            files: BTreeSet::new(),
            dirs: BTreeSet::new(),
            seen: BTreeMap::new(),
            poll: Duration::from_millis(20),
        };
        watch.replace([file.clone()]);
        fs::write(&file, "here now").unwrap();
        must_notice(&mut watch).await;
    }

    #[test]
    fn the_digest_tells_missing_from_empty_and_ignores_times() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("f");
        let missing = digests([file.clone()]);
        fs::write(&file, "").unwrap();
        let empty = digests([file.clone()]);
        assert_ne!(missing, empty);
        fs::write(&file, "").unwrap();
        assert_eq!(digests([file.clone()]), empty);
    }
}
