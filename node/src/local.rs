//! Follows the local fleet file and the files it names.
//!
//! A change is looked at once things are quiet, compared by content, loaded, and handed to the
//! [`Applier`]. Whatever comes of it, everything that was read (and the old set, where the new one is
//! broken) is watched from then on, so that a mistake can be mended in any of its files.

use std::path::PathBuf;

use crate::{
    apply::Applier,
    daemon::Daemon,
    desired::{Desired, Refusal, Source},
    last_good,
    load::{self, Loaded},
    state::StateDir,
    store::Store,
    watch::{Digests, Watch, digests},
};

/// The local fleet file, its watch and what was read last.
#[derive(Debug)]
pub struct Local {
    fleet_file: PathBuf,
    read: Digests,
    watch: Watch,
    /// Where good states are kept.
    kept: Option<(StateDir, Store)>,
}

impl Local {
    /// Follows `fleet_file`; keeps good states where there is a state directory.
    pub fn new(fleet_file: PathBuf, kept: Option<(StateDir, Store)>) -> Self {
        Self { fleet_file, read: Digests::new(), watch: Watch::new(), kept }
    }

    /// Waits until a watched file may have changed. Cancel-safe.
    pub async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// Whether the content of any watched file differs from what was read last.
    pub async fn differs(&self) -> bool {
        let files: Vec<PathBuf> = self.read.keys().cloned().collect();
        match tokio::task::spawn_blocking(move || digests(files)).await {
            Ok(now) => now != self.read,
            // Hashing can't panic short of a bug; loading will tell more.
            Err(_) => true,
        }
    }

    /// Takes note of the present content without loading it, so that the same edit is not told twice.
    pub async fn look(&mut self) {
        let mut files: Vec<PathBuf> = self.read.keys().cloned().collect();
        let fleet_file = self.fleet_file.clone();
        let looking = tokio::task::spawn_blocking(move || {
            files.extend(load::named_files(&fleet_file));
            files.push(fleet_file);
            digests(files)
        });
        if let Ok(now) = looking.await {
            self.follow(now);
        }
    }

    /// Loads the fleet file and applies it; keeps a copy where it was good.
    ///
    /// # Errors
    /// The [`Refusal`], already logged and counted.
    pub async fn apply<D: Daemon>(&mut self, applier: &Applier<D>) -> Result<(), Refusal> {
        let fleet_file = self.fleet_file.clone();
        let loading = tokio::task::spawn_blocking(move || {
            // Hashed before it is read: an edit in between is then seen as a difference, and read again.
            let mut read = digests([fleet_file.clone()]);
            let loaded = load::load(&fleet_file, None);
            if let Ok(loaded) = &loaded {
                read.extend(digests(loaded.files.iter().cloned()));
            }
            (read, loaded)
        });
        let (read, loaded) = match loading.await {
            Ok(done) => done,
            Err(error) => (Digests::new(), Err(Refusal::new(format!("loading failed: {error}")))),
        };
        let Loaded { config, .. } = match loaded {
            Ok(loaded) => loaded,
            Err(refusal) => {
                applier.refuse(Source::Local, &refusal);
                self.follow_also(read, refusal.also_read.clone()).await;
                return Err(refusal);
            }
        };
        let desired = Desired { config, fleet_file: self.fleet_file.clone(), source: Source::Local };
        match applier.apply(desired).await {
            Ok(also_read) => {
                let read = hashed(read, also_read).await;
                self.keep(read.clone()).await;
                self.follow(read);
                Ok(())
            }
            Err(refusal) => {
                self.follow_also(read, refusal.also_read.clone()).await;
                Err(refusal)
            }
        }
    }

    /// Watches what was just read and, because it was refused, what was read before as well.
    async fn follow_also(&mut self, mut read: Digests, also_read: Vec<PathBuf>) {
        let before = self.read.keys().filter(|file| !read.contains_key(*file)).cloned();
        let more = before.chain(also_read).collect();
        read.entry(self.fleet_file.clone()).or_insert(None);
        let read = hashed(read, more).await;
        self.follow(read);
    }

    fn follow(&mut self, read: Digests) {
        self.watch.replace(read.keys().cloned());
        self.read = read;
    }

    async fn keep(&self, read: Digests) {
        let Some((state, store)) = self.kept.clone() else { return };
        let fleet_file = self.fleet_file.clone();
        let saved =
            tokio::task::spawn_blocking(move || last_good::save(&state, &store, &fleet_file, &read)).await;
        match saved {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::debug!("files moved while they were kept; the next change keeps them"),
            Ok(Err(error)) => tracing::warn!(%error, "the last good state could not be kept"),
            Err(error) => tracing::warn!(%error, "the last good state could not be kept"),
        }
    }
}

async fn hashed(mut read: Digests, more: Vec<PathBuf>) -> Digests {
    if let Ok(more) = tokio::task::spawn_blocking(move || digests(more)).await {
        read.extend(more);
    }
    read
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        metrics::NodeMetrics,
        test_daemon::{TestDaemon, write_fleet},
    };

    fn setup(dir: &Path) -> (Local, Applier<TestDaemon>) {
        let fleet = write_fleet(dir, "one");
        let applier = Applier::new("ns1", Arc::new(TestDaemon::default()), NodeMetrics::default());
        (Local::new(fleet, None), applier)
    }

    /// Waits for an edit to be noticed and applies it, as the node's loop does.
    async fn follow_edit(local: &mut Local, applier: &Applier<TestDaemon>) -> Result<(), Refusal> {
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                local.changed().await;
                if local.differs().await {
                    return local.apply(applier).await;
                }
            }
        })
        .await
        .expect("the edit is noticed")
    }

    #[tokio::test]
    async fn good_edits_are_taken_bad_ones_refused_and_mended_ones_taken() {
        let temp = tempfile::tempdir().unwrap();
        let (mut local, applier) = setup(temp.path());
        let zone = temp.path().join("zones/cdn.test.zone");
        local.apply(&applier).await.unwrap();
        assert_eq!(applier.daemon().serves().as_deref(), Some("one"));

        fs::write(&zone, "two").unwrap();
        follow_edit(&mut local, &applier).await.unwrap();
        assert_eq!(applier.daemon().serves().as_deref(), Some("two"));

        fs::write(&zone, "BAD").unwrap();
        let refusal = follow_edit(&mut local, &applier).await.expect_err("it is bad");
        assert!(refusal.to_string().contains("cdn.test.zone:1:1"), "{refusal}");
        assert_eq!(applier.daemon().serves().as_deref(), Some("two"), "the last good one serves on");
        assert!(applier.status().refused.is_some());

        fs::write(temp.path().join("nearside.toml"), "fleet = 7 {").unwrap();
        let refusal = follow_edit(&mut local, &applier).await.expect_err("not TOML");
        assert!(refusal.to_string().contains("nearside.toml:1:"), "{refusal}");

        write_fleet(temp.path(), "three");
        follow_edit(&mut local, &applier).await.unwrap();
        assert_eq!(applier.daemon().serves().as_deref(), Some("three"));
        assert!(applier.status().refused.is_none());
    }

    #[tokio::test]
    async fn a_mistake_mended_in_an_included_file_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let (mut local, applier) = setup(temp.path());
        let include = temp.path().join("zones/cdn.test.include");
        fs::write(&include, " BAD").unwrap();
        local.apply(&applier).await.expect_err("the include is bad");
        fs::write(&include, " good").unwrap();
        follow_edit(&mut local, &applier).await.unwrap();
        assert_eq!(applier.daemon().serves().as_deref(), Some("one good"));
    }

    #[tokio::test]
    async fn touching_files_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (mut local, applier) = setup(temp.path());
        local.apply(&applier).await.unwrap();
        write_fleet(temp.path(), "one");
        local.changed().await;
        assert!(!local.differs().await);
    }

    #[tokio::test]
    async fn a_bug_in_staging_is_a_refusal() {
        let temp = tempfile::tempdir().unwrap();
        let (mut local, applier) = setup(temp.path());
        local.apply(&applier).await.unwrap();
        fs::write(temp.path().join("zones/cdn.test.zone"), "PANIC").unwrap();
        let refusal = local.apply(&applier).await.expect_err("it panicked");
        assert!(refusal.to_string().contains("staging failed"), "{refusal}");
        assert_eq!(applier.daemon().serves().as_deref(), Some("one"));
    }
}
