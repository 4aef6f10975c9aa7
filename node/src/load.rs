//! Loads a fleet file into what a daemon can stage.
//!
//! Thin over [`nearside_fleet::load()`]: its mistakes become a [`Refusal`], its warnings are logged once, the
//! files it names become the set to watch and keep.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use nearside_fleet::{Files, config::Config};

use crate::desired::Refusal;

/// A fleet file that checked out.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means, with real paths.
    pub config: Arc<Config>,
    /// The files it names, real paths; whether each is there is for their readers to say.
    pub files: Vec<PathBuf>,
}

/// Loads `path`; with `root`, from a tree laid out below it. Blocks on the disk.
///
/// # Errors
/// A [`Refusal`] with every mistake.
pub fn load(path: &Path, root: Option<&Path>) -> Result<Loaded, Refusal> {
    let files = match root {
        Some(root) => Files::rooted(path, root),
        None => Files::beside(path),
    };
    let loaded = nearside_fleet::load_with(path, &files)
        .map_err(|mistakes| Refusal::all(mistakes.iter().map(ToString::to_string).collect()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let files = loaded.files.into_iter().map(|named| named.path).collect();
    Ok(Loaded { config: Arc::new(loaded.config), files })
}

/// The files that a fleet file on this machine names; none where it does not check out.
pub fn named_files(path: &Path) -> Vec<PathBuf> {
    let loaded = nearside_fleet::load(path);
    loaded.map_or_else(|_| Vec::new(), |loaded| loaded.files.into_iter().map(|named| named.path).collect())
}
