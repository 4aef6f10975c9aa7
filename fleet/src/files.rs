//! Where the files named in the fleet file really are.
//!
//! A fleet file names files relative to itself, or absolutely. At home and on a standalone node that is
//! where they are; on an enrolled node the whole tree was laid out anew below one root. [`Files`] is the
//! only place that knows the difference.

use std::path::{Component, Path, PathBuf};

/// Maps a written path to a real one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The fleet file's directory, real.
    directory: PathBuf,
    /// Root that absolute paths are below; `None`: the file system's own.
    root: Option<PathBuf>,
}

impl Files {
    /// Files beside a fleet file on this machine.
    pub fn beside(fleet_file: &Path) -> Self {
        let directory = match fleet_file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Self { directory: absolute(&directory), root: None }
    }

    /// Files of a tree laid out below `root`: a written `/etc/x` is `root/etc/x`. `fleet_file` is the real path of the fleet file in that tree.
    pub fn rooted(fleet_file: &Path, root: &Path) -> Self {
        Self { root: Some(absolute(root)), ..Self::beside(fleet_file) }
    }

    /// The real path of a written one: absolute, without `.` and `..`.
    pub fn real(&self, written: &str) -> PathBuf {
        let written = Path::new(written);
        match &self.root {
            None => absolute(&self.directory.join(written)),
            Some(root) if written.is_absolute() => root.join(plain(written)),
            // Never above the root, however many `..` a path has.
            Some(root) => {
                let inside = self.directory.strip_prefix(root).unwrap_or(Path::new(""));
                root.join(plain(&inside.join(written)))
            }
        }
    }
}

/// What a named file is for; decides who may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An RFC 1035 zone file; may `$INCLUDE` others.
    Zone,
    /// An `.mmdb` database.
    Database,
    /// A certificate chain or a CA bundle: public.
    Certificate,
    /// What edges read and anybody may know: address lists, pages, modules, public key sets.
    Content,
    /// A private key: sealed for the nodes that serve its site, kept from all others.
    Key,
}

/// A file that the fleet file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// As written in the fleet file.
    pub written: String,
    /// Where it is on this machine.
    pub path: PathBuf,
    /// What it is for.
    pub role: Role,
    /// Line of the fleet file that names it.
    pub line: usize,
    /// Column there.
    pub column: usize,
}

/// Absolute, with `.` and `..` worked out by name. Not `canonicalize`: a swapped symlink is to stay a name.
pub fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    Path::new("/").join(plain(&path))
}

/// Relative, normal components only.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(part) => out.push(part),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_means_relative_to_the_fleet_file() {
        let files = Files::beside(Path::new("/etc/nearside/nearside.toml"));
        assert_eq!(files.real("zones/a"), Path::new("/etc/nearside/zones/a"));
        assert_eq!(files.real("../a"), Path::new("/etc/a"));
        assert_eq!(files.real("/a"), Path::new("/a"));
    }

    #[test]
    fn nothing_leaves_the_root() {
        let root = Path::new("/state/tree");
        let files = Files::rooted(Path::new("/state/tree/etc/nearside/nearside.toml"), root);
        assert_eq!(files.real("zones/a"), Path::new("/state/tree/etc/nearside/zones/a"));
        assert_eq!(files.real("../../../../../passwd"), Path::new("/state/tree/passwd"));
        assert_eq!(files.real("/etc/x/../y"), Path::new("/state/tree/etc/y"));
    }
}
