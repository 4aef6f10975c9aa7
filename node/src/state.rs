//! The state directory: small files written whole, or not at all.
//!
//! A [`StateDir`] exists only if it could be written to; a node whose directory can't be written runs on
//! without one, loudly, because keeping state is never a reason to refuse to serve. Invariant: a reader of
//! any file here sees the old content or the new, never a part, whatever crashed in between.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Directories here hold private keys: nobody else looks in.
const DIR_MODE: u32 = 0o700;
/// So do files.
const FILE_MODE: u32 = 0o600;

/// What went wrong in the state directory, and with which file.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("{path}: can't {doing}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as an infinitive.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is larger than anything we ever wrote.
    #[error("{path}: larger than {bytes_max} bytes; it was not written by this program")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit it exceeds.
        bytes_max: u64,
    },
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError::Io { path, doing, source }
}

/// A writable directory of this node's own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
    /// Makes temporary names of concurrent writers differ.
    sequence: Arc<AtomicU64>,
}

impl StateDir {
    /// Opens the directory, making it (mode 0700) where it is missing, and proves that it can be written.
    ///
    /// # Errors
    /// [`StateError::Io`] if it can't be made, written, or renamed in.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StateError> {
        let root = root.into();
        make_dir(&root)?;
        let state = Self { root, sequence: Arc::new(AtomicU64::new(0)) };
        let probe = ".writable";
        state.write(probe, b"")?;
        state.remove(probe)?;
        Ok(state)
    }

    /// Opens the directory, or warns and goes without.
    pub fn open_or_warn(root: impl Into<PathBuf>) -> Option<Self> {
        let root = root.into();
        match Self::open(&root) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the state directory can't be written: running without one. Nothing is remembered over \
                     a restart; give the service's user write access or name another with --state-dir"
                );
                None
            }
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it. `name` is relative and chosen by us, never by outside input.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        debug_assert!(name.as_ref().is_relative());
        self.root.join(name)
    }

    /// A subdirectory as a state directory of its own, made where it is missing.
    ///
    /// # Errors
    /// [`StateError::Io`] if it can't be made.
    pub fn subdir(&self, name: impl AsRef<Path>) -> Result<Self, StateError> {
        let root = self.path(name);
        make_dir(&root)?;
        Ok(Self { root, sequence: Arc::clone(&self.sequence) })
    }

    /// Writes a file whole: temporary file, fsync, rename, fsync of the directory. Mode 0600.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old content is then untouched.
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<PathBuf, StateError> {
        let path = self.path(name);
        let dir = path.parent().unwrap_or(&self.root).to_path_buf();
        make_dir(&dir)?;
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!(".tmp-{}-{number}", std::process::id()));
        let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
        if let Err(source) = written {
            // Best effort: the name is unique, a leftover only takes space.
            let _ = fs::remove_file(&temporary);
            return Err(StateError::Io { path, doing: "write", source });
        }
        sync_dir(&dir)?;
        Ok(path)
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError::TooLarge`] past `bytes_max`, [`StateError::Io`] for anything but "not found".
    pub fn read(&self, name: impl AsRef<Path>, bytes_max: u64) -> Result<Option<Vec<u8>>, StateError> {
        read_bounded(&self.path(name), bytes_max)
    }

    /// Gives a file another name, in place of what has it; both in this directory itself.
    ///
    /// # Errors
    /// [`StateError::Io`]; both names are then as before.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), StateError> {
        let path = self.path(to);
        fs::rename(self.path(from), &path).map_err(failed(&path, "rename a file to"))?;
        sync_dir(&self.root)
    }

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    /// [`StateError::Io`] if it is there and stays.
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<(), StateError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, "remove")(error)),
            _ => Ok(()),
        }
    }
}

/// Reads a file of at most `bytes_max` bytes; `None` where there is none.
///
/// # Errors
/// [`StateError::TooLarge`] past `bytes_max`, [`StateError::Io`] for anything but "not found".
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, "open")(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed(path, "read"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(StateError::TooLarge { path: path.to_path_buf(), bytes_max });
    }
    Ok(Some(bytes))
}

/// Makes a directory and its parents, 0700 where they are new.
fn make_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(failed(path, "make the directory"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    // The umask may have taken bits away, never added any; a key file stays readable to its owner.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes renames in a directory survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StateError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(failed(path, "sync the directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_whole_private_and_leave_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path().join("a/b")).unwrap();
        state.write("x/y.json", b"one").unwrap();
        let path = state.write("x/y.json", b"two").unwrap();
        assert_eq!(state.read("x/y.json", 10).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
        assert_eq!(fs::metadata(state.root()).unwrap().permissions().mode() & 0o777, DIR_MODE);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file stays");
    }

    #[test]
    fn what_is_not_there_is_none_and_what_is_too_large_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        assert!(state.read("nothing", 10).unwrap().is_none());
        state.write("big", &[0; 11]).unwrap();
        assert!(matches!(state.read("big", 10), Err(StateError::TooLarge { bytes_max: 10, .. })));
        state.remove("nothing").unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_no_state_directory() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "in the way").unwrap();
        // A file in the way fails for root too, which permission bits would not.
        let error = StateDir::open(file.join("state")).expect_err("a file is in the way");
        assert!(error.to_string().contains("can't make the directory"), "{error}");
        assert!(StateDir::open_or_warn(file.join("state")).is_none());
    }
}
