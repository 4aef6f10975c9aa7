//! Files kept by what is in them: STATE/files/SHA256.
//!
//! Snapshots and the last good state name files by hash, so what did not change is neither sent nor written
//! again. [`Store::tree`] lays some of them out under their own names (hard links, no copies) for programs to
//! read. Invariant: what is handed out was checked against its hash at that moment; a file that rotted or was
//! cut short is dropped, not served.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use aws_lc_rs::digest;
use nearside_fleet::{digest::Sha256, snapshot::FILE_BYTES_MAX};

use crate::state::{StateDir, StateError, read_bounded};

/// All files together: two generations of everything with room to spare, small enough for a cheap server.
pub const STORE_BYTES_MAX: u64 = 2 << 30;

/// Why a file could not be kept or handed out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Not the file it claims to be.
    #[error("the content's SHA-256 is {actual}, not {expected}")]
    WrongHash {
        /// What was promised.
        expected: Sha256,
        /// What came.
        actual: Sha256,
    },
    /// Not there.
    #[error("file {0} is not in the store")]
    Missing(Sha256),
    /// Not enough room under the limit.
    #[error("the store would grow past {STORE_BYTES_MAX} bytes")]
    Full,
    /// A path that must not be laid out.
    #[error("{0:?} is not a plain relative path")]
    Path(PathBuf),
    /// A file could not be read or linked.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The hash of a file's content, read in pieces.
///
/// # Errors
/// Whatever reading gives.
pub fn hash_file(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Sha256::from_digest(&context.finish())),
            count => context.update(&buffer[..count]),
        }
    }
}

/// One file of a tree: where it goes and what it is.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Relative path in the tree; no `..`.
    pub path: PathBuf,
    /// Its content.
    pub content: Content,
}

/// Where a tree's file comes from.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file of the store, linked.
    Stored(Sha256),
    /// Bytes that are in no store (an opened private key), written.
    Bytes(Vec<u8>),
}

/// The content-addressed files of a node, and the trees made of them.
#[derive(Clone, Debug)]
pub struct Store {
    files: StateDir,
    trees: StateDir,
}

impl Store {
    /// Opens `files/` and `trees/` of a state directory.
    ///
    /// # Errors
    /// [`StateError`] if they can't be made.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        Ok(Self { files: state.subdir("files")?, trees: state.subdir("trees")? })
    }

    /// Whether a file is here. Its content is checked when it is used.
    pub fn has(&self, hash: &Sha256) -> bool {
        self.path(hash).exists()
    }

    /// Keeps bytes that must have this hash.
    ///
    /// # Errors
    /// [`StoreError::WrongHash`], [`StoreError::Full`], [`StoreError::State`].
    pub fn put(&self, expected: Sha256, bytes: &[u8]) -> Result<(), StoreError> {
        let actual = Sha256::of(bytes);
        if actual != expected {
            return Err(StoreError::WrongHash { expected, actual });
        }
        if self.has(&expected) {
            return Ok(());
        }
        if self.bytes().saturating_add(bytes.len() as u64) > STORE_BYTES_MAX {
            return Err(StoreError::Full);
        }
        self.files.write(expected.to_string(), bytes)?;
        Ok(())
    }

    /// Keeps a copy of a file from elsewhere; tells what it was. `None`: there is no such file.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn keep(&self, path: &Path) -> Result<Option<Sha256>, StoreError> {
        let Some(bytes) = read_bounded(path, FILE_BYTES_MAX)? else { return Ok(None) };
        let hash = Sha256::of(&bytes);
        self.put(hash, &bytes)?;
        Ok(Some(hash))
    }

    /// The bytes of a stored file, checked.
    ///
    /// # Errors
    /// [`StoreError::Missing`], also for one that does not match its hash any more: it is dropped.
    pub fn read(&self, hash: &Sha256) -> Result<Vec<u8>, StoreError> {
        let bytes = self.files.read(hash.to_string(), FILE_BYTES_MAX)?.ok_or(StoreError::Missing(*hash))?;
        if Sha256::of(&bytes) != *hash {
            tracing::warn!(file = %hash, "a stored file does not match its hash any more: dropped");
            self.files.remove(hash.to_string())?;
            return Err(StoreError::Missing(*hash));
        }
        Ok(bytes)
    }

    /// Lays files out as a tree of this name, whole: an older tree of the name is replaced at the end.
    /// Returns its root.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for a file that is not here (or rotted), [`StoreError::Path`] for a path that
    /// would leave the tree.
    pub fn tree(&self, name: &str, entries: &[Entry]) -> Result<PathBuf, StoreError> {
        // At a start it is there already, and a full disk has no room for a second one.
        let present = self.trees.path(name);
        if is_tree(&present, entries) {
            return Ok(present);
        }
        let building = format!(".new-{name}");
        let built = self.build(&building, name, entries);
        if built.is_err() {
            // Half of it would only take room. What stays all the same goes with the next tree of the name.
            let _left_behind = remove_tree(&self.trees.path(&building));
        }
        built
    }

    fn build(&self, building: &str, name: &str, entries: &[Entry]) -> Result<PathBuf, StoreError> {
        remove_tree(&self.trees.path(building))?;
        let dir = self.trees.subdir(building)?;
        for entry in entries {
            plain(&entry.path)?;
            match &entry.content {
                Content::Bytes(bytes) => {
                    dir.write(&entry.path, bytes)?;
                }
                Content::Stored(hash) => self.link(hash, &dir, &entry.path)?,
            }
        }
        let target = self.trees.path(name);
        remove_tree(&target)?;
        fs::rename(dir.root(), &target).map_err(|source| StoreError::Io { path: target.clone(), source })?;
        Ok(target)
    }

    fn link(&self, hash: &Sha256, dir: &StateDir, path: &Path) -> Result<(), StoreError> {
        let from = self.path(hash);
        match hash_file(&from) {
            Ok(actual) if actual == *hash => {}
            Ok(_) => {
                tracing::warn!(file = %hash, "a stored file does not match its hash any more: dropped");
                self.files.remove(hash.to_string())?;
                return Err(StoreError::Missing(*hash));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(*hash)),
            Err(source) => return Err(StoreError::Io { path: from, source }),
        }
        let to = dir.path(path);
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            dir.subdir(parent)?;
        }
        fs::hard_link(&from, &to).map_err(|source| StoreError::Io { path: to, source })
    }

    /// Removes what nothing needs any more: all files but these, all trees but these.
    pub fn retain(&self, files: &BTreeSet<Sha256>, trees: &BTreeSet<String>) {
        for name in names(self.files.root()) {
            let keep = name.parse().is_ok_and(|hash| files.contains(&hash));
            if !keep && let Err(error) = self.files.remove(&name) {
                tracing::debug!(%error, "an old file stays");
            }
        }
        for name in names(self.trees.root()) {
            if !trees.contains(&name)
                && let Err(error) = remove_tree(&self.trees.path(&name))
            {
                tracing::debug!(%error, "an old tree stays");
            }
        }
    }

    fn path(&self, hash: &Sha256) -> PathBuf {
        self.files.path(hash.to_string())
    }

    fn bytes(&self) -> u64 {
        let sizes = names(self.files.root()).into_iter();
        sizes.filter_map(|name| fs::metadata(self.files.path(name)).ok()).map(|data| data.len()).sum()
    }
}

/// Refuses paths that are absolute, empty or leave the tree.
fn plain(path: &Path) -> Result<(), StoreError> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && path.components().next().is_some() {
        Ok(())
    } else {
        Err(StoreError::Path(path.to_path_buf()))
    }
}

/// Whether a tree holds exactly these entries, byte for byte.
fn is_tree(root: &Path, entries: &[Entry]) -> bool {
    let is_entry = |entry: &Entry| {
        let path = root.join(&entry.path);
        plain(&entry.path).is_ok()
            && match &entry.content {
                Content::Stored(hash) => hash_file(&path).is_ok_and(|actual| actual == *hash),
                Content::Bytes(bytes) => {
                    let read = read_bounded(&path, FILE_BYTES_MAX);
                    read.is_ok_and(|read| read.as_ref() == Some(bytes))
                }
            }
    };
    !entries.is_empty() && entries.iter().all(is_entry) && files_below(root) == Some(entries.len())
}

/// How many files a directory holds, at any depth.
fn files_below(dir: &Path) -> Option<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        count += if entry.file_type().ok()?.is_dir() { files_below(&entry.path())? } else { 1 };
    }
    Some(count)
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&StateDir::open(temp.path()).unwrap()).unwrap();
        (temp, store)
    }

    #[test]
    fn a_file_that_is_not_what_it_claims_is_refused() {
        let (_temp, store) = store();
        let error = store.put(Sha256::of(b"a"), b"b").expect_err("the hash differs");
        assert!(matches!(error, StoreError::WrongHash { .. }));
    }

    #[test]
    fn a_tree_is_whole_and_replaced_whole() {
        let (_temp, store) = store();
        let hash = Sha256::of(b"zone");
        store.put(hash, b"zone").unwrap();
        let entries = [
            Entry { path: "etc/z/zone".into(), content: Content::Stored(hash) },
            Entry { path: "etc/key".into(), content: Content::Bytes(b"key".to_vec()) },
        ];
        let root = store.tree("t", &entries).unwrap();
        assert_eq!(fs::read(root.join("etc/z/zone")).unwrap(), b"zone");
        let before = fs::metadata(&root).unwrap().modified().unwrap();
        assert_eq!(store.tree("t", &entries).unwrap(), root);
        assert_eq!(
            fs::metadata(&root).unwrap().modified().unwrap(),
            before,
            "what is there is not laid out again"
        );
        fs::remove_file(root.join("etc/key")).unwrap();
        fs::write(root.join("etc/key"), b"another").unwrap();
        assert_eq!(fs::read(store.tree("t", &entries).unwrap().join("etc/key")).unwrap(), b"key");
        let root = store.tree("t", &entries[1..]).unwrap();
        assert!(!root.join("etc/z").exists());
        assert_eq!(fs::read(root.join("etc/key")).unwrap(), b"key");
    }

    #[test]
    fn a_truncated_file_is_missing_not_wrong() {
        let (_temp, store) = store();
        let hash = Sha256::of(b"whole content");
        store.put(hash, b"whole content").unwrap();
        fs::write(store.path(&hash), b"whole").unwrap();
        let entry = Entry { path: "f".into(), content: Content::Stored(hash) };
        assert!(matches!(store.tree("t", &[entry]), Err(StoreError::Missing(_))));
        assert!(!store.has(&hash), "it is dropped so that it is asked for again");
    }

    #[test]
    fn paths_never_leave_the_tree() {
        let (_temp, store) = store();
        for path in ["../x", "/etc/x", "a/../../x", ""] {
            let entry = Entry { path: path.into(), content: Content::Bytes(Vec::new()) };
            assert!(matches!(store.tree("t", &[entry]), Err(StoreError::Path(_))), "{path}");
        }
    }

    #[test]
    fn only_what_is_needed_stays() {
        let (_temp, store) = store();
        let (old, new) = (Sha256::of(b"old"), Sha256::of(b"new"));
        store.put(old, b"old").unwrap();
        store.put(new, b"new").unwrap();
        store.tree("1", &[]).unwrap();
        store.tree("2", &[]).unwrap();
        store.retain(&BTreeSet::from([new]), &BTreeSet::from(["2".to_owned()]));
        assert!(!store.has(&old) && store.has(&new));
        assert_eq!(names(store.trees.root()), ["2"]);
    }
}
