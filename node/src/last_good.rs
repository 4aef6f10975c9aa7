//! A standalone node's copy of the last good fleet file and the files with it.
//!
//! Written after every local state that was taken, read only where the local file is broken or gone when
//! the node starts. It mirrors absolute paths below one root, so that relative names between the files
//! (`zones/cdn.test.zone`, an `$INCLUDE` in it) still hold there.

use std::path::{Component, Path, PathBuf};

use nearside_fleet::{digest::Sha256, files::absolute};
use serde::{Deserialize, Serialize};

use crate::{
    state::{StateDir, StateError},
    store::{Content, Entry, Store, StoreError},
    watch::Digests,
};

/// The list of what is kept. Replaced whole, after everything in it is stored.
const MANIFEST: &str = "last-good.json";
/// Name of the tree laid out from it.
pub const TREE: &str = "last-good";
/// Far more files than a fleet names.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    fleet_file: PathBuf,
    files: Vec<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    path: PathBuf,
    sha256: Sha256,
}

/// Why there is no last good state to start from.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A kept file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The list is damaged.
    #[error("{path}: {reason}")]
    Manifest {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Keeps the files that were read. Files that changed since (their hash differs) are left for the next
/// state: the kept set then mixes no generations, and `false` says that nothing was kept.
///
/// # Errors
/// [`LastGoodError`]; what was kept before is untouched.
pub fn save(
    state: &StateDir,
    store: &Store,
    fleet_file: &Path,
    read: &Digests,
) -> Result<bool, LastGoodError> {
    let mut files = Vec::with_capacity(read.len());
    for (path, expected) in read {
        // A file that is named and was not there is no reason to keep less of the rest.
        let Some(expected) = expected else { continue };
        if store.has(expected) {
            files.push(Kept { path: absolute(path), sha256: *expected });
            continue;
        }
        match store.keep(path)? {
            Some(actual) if actual == *expected => {
                files.push(Kept { path: absolute(path), sha256: actual });
            }
            _ => return Ok(false),
        }
    }
    let manifest = Manifest { fleet_file: absolute(fleet_file), files };
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| damaged(state, &error))?;
    state.write(MANIFEST, &json)?;
    Ok(true)
}

/// What the kept state needs of the store; empty without one.
pub fn needs(state: &StateDir) -> Vec<Sha256> {
    let manifest = read_manifest(state).ok().flatten();
    manifest.into_iter().flat_map(|manifest| manifest.files).map(|kept| kept.sha256).collect()
}

/// Lays the kept files out. Returns the tree's root and the fleet file in it; `None`: nothing was kept yet.
///
/// # Errors
/// [`LastGoodError`] if anything is missing or damaged.
pub fn restore(state: &StateDir, store: &Store) -> Result<Option<(PathBuf, PathBuf)>, LastGoodError> {
    let Some(manifest) = read_manifest(state)? else { return Ok(None) };
    let mut entries = Vec::with_capacity(manifest.files.len());
    for kept in &manifest.files {
        entries.push(Entry { path: below(&kept.path), content: Content::Stored(kept.sha256) });
    }
    let root = store.tree(TREE, &entries)?;
    let fleet_file = root.join(below(&manifest.fleet_file));
    Ok(Some((root, fleet_file)))
}

fn read_manifest(state: &StateDir) -> Result<Option<Manifest>, LastGoodError> {
    let Some(bytes) = state.read(MANIFEST, MANIFEST_BYTES_MAX)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(state, &error))
}

fn damaged(state: &StateDir, reason: &dyn std::fmt::Display) -> LastGoodError {
    LastGoodError::Manifest { path: state.path(MANIFEST), reason: reason.to_string() }
}

/// `/etc/nearside/x` → `etc/nearside/x`.
pub fn below(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::watch::digests;

    fn kept() -> (tempfile::TempDir, StateDir, Store, PathBuf, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path().join("state")).unwrap();
        let store = Store::open(&state).unwrap();
        let fleet = temp.path().join("etc/nearside.toml");
        let zone = temp.path().join("zones/a.zone");
        fs::create_dir(fleet.parent().unwrap()).unwrap();
        fs::create_dir(zone.parent().unwrap()).unwrap();
        fs::write(&fleet, "file = \"../zones/a.zone\"").unwrap();
        fs::write(&zone, "@ SOA").unwrap();
        (temp, state, store, fleet, zone)
    }

    #[test]
    fn relative_names_hold_in_the_copy() {
        let (_temp, state, store, fleet, zone) = kept();
        let read = digests([fleet.clone(), fleet.parent().unwrap().join("../zones/a.zone")]);
        assert!(save(&state, &store, &fleet, &read).unwrap());
        fs::write(&fleet, "broken").unwrap();
        fs::remove_file(zone).unwrap();
        let (_root, copy) = restore(&state, &store).unwrap().expect("something was kept");
        assert_eq!(fs::read_to_string(&copy).unwrap(), "file = \"../zones/a.zone\"");
        assert_eq!(fs::read_to_string(copy.parent().unwrap().join("../zones/a.zone")).unwrap(), "@ SOA");
        assert_eq!(needs(&state).len(), 2);
    }

    #[test]
    fn nothing_is_kept_of_a_moving_target() {
        let (_temp, state, store, fleet, _zone) = kept();
        let read = digests([fleet.clone()]);
        fs::write(&fleet, "newer").unwrap();
        assert!(!save(&state, &store, &fleet, &read).unwrap());
        assert!(restore(&state, &store).unwrap().is_none());
    }

    #[test]
    fn a_damaged_list_is_named() {
        let (_temp, state, store, _fleet, _zone) = kept();
        state.write(MANIFEST, b"{").unwrap();
        let error = restore(&state, &store).expect_err("it is damaged");
        assert!(error.to_string().contains(MANIFEST), "{error}");
    }
}
