//! The desired state as it travels: a numbered, signed list of files by content.
//!
//! A [`Snapshot`] names files and their hashes; the files themselves travel apart, and only those a node
//! lacks. [`Signed`] carries the exact bytes that were signed, so nothing has to be written in a canonical
//! form. Numbers only grow: a rollback is a new snapshot with old content, so a replayed one never wins.
//!
//! Invariant: [`Signed::verify`] is the only way to a [`Snapshot`] that came from outside, and what it
//! returns is within all bounds, with paths that stay below their root.

use std::path::{Component, Path};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// Files in one snapshot: a thousand sites with key and chain, sealed for ten nodes each, fit.
pub const FILES_MAX: usize = 20_000;
/// Bytes of a signed snapshot as it travels; about 250 per file.
pub const SIGNED_BYTES_MAX: usize = 8 << 20;
/// Bytes of one file: a commercial city database is 150 MB.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a path in a snapshot, as file systems limit it.
const PATH_BYTES_MAX: usize = 4096;
/// What is signed begins with this, so that a signature made for something else never fits.
const CONTEXT: &[u8] = b"nearside snapshot 1\n";

/// The desired state of the whole fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Whose it is ([`crate::config::Config::fleet`]).
    pub fleet: String,
    /// Grows with each one, from 1.
    pub number: u64,
    /// When it was made, seconds since the Unix epoch. For people: nothing is decided by it.
    pub created: u64,
    /// The number whose content this repeats, if it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<u64>,
    /// Path of the fleet file among [`Snapshot::files`].
    pub fleet_file: String,
    /// All files.
    pub files: Vec<FileEntry>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Where it goes, relative, as [`tree_path`] makes it.
    pub path: String,
    /// Its content as it travels; of the sealed bytes where it is sealed.
    pub sha256: Sha256,
    /// Its length as it travels.
    pub bytes: u64,
    /// The one node that can open it ([`crate::seal`]); `None`: for everyone, in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_for: Option<String>,
}

impl Snapshot {
    /// The files that are for `node`: those in the clear and those sealed for it.
    pub fn files_for<'s>(&'s self, node: &'s str) -> impl Iterator<Item = &'s FileEntry> {
        self.files.iter().filter(move |file| file.sealed_for.as_deref().is_none_or(|name| name == node))
    }

    /// Checks everything that a signature does not say.
    fn check(&self) -> Result<(), SnapshotError> {
        let bad = |reason: String| Err(SnapshotError::Malformed(reason));
        if self.number == 0 {
            return bad("its number is 0".to_owned());
        }
        if self.files.len() > FILES_MAX {
            return bad(format!("it names {} files, at most {FILES_MAX} are allowed", self.files.len()));
        }
        for file in &self.files {
            if !is_tree_path(&file.path) {
                return bad(format!("{:?} is not a plain relative path", file.path));
            }
            if file.bytes > FILE_BYTES_MAX {
                return bad(format!(
                    "{} has {} bytes, at most {FILE_BYTES_MAX} are allowed",
                    file.path, file.bytes
                ));
            }
        }
        match self.files.iter().any(|file| file.path == self.fleet_file && file.sealed_for.is_none()) {
            true => Ok(()),
            false => bad(format!("its fleet file {:?} is not among its files", self.fleet_file)),
        }
    }
}

/// A snapshot with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The snapshot as JSON: exactly these bytes are signed.
    pub snapshot: String,
    /// Ed25519 (RFC 8032) over `"nearside snapshot 1\n"` and [`Signed::snapshot`], base64.
    pub signature: String,
}

/// Why a snapshot is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not made with the fleet's key, or changed since.
    #[error("the signature is not one of this fleet's home")]
    Forged,
    /// Signed, but not something that can be followed.
    #[error("the snapshot can't be followed: {0}")]
    Malformed(String),
    /// Made for another fleet.
    #[error("the snapshot is of fleet {read:?}, this node belongs to {expected:?}")]
    OtherFleet {
        /// Whose it is.
        read: String,
        /// Ours.
        expected: String,
    },
    /// Not newer than what is here.
    #[error("snapshot {read} is not newer than {current}, which this node has")]
    Replayed {
        /// Its number.
        read: u64,
        /// Ours.
        current: u64,
    },
}

impl Signed {
    /// Checks the signature, then everything else.
    ///
    /// `fleet`: the name it must carry, `None` before the first one. `current`: the number it must exceed.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing of the content is looked at before the signature holds.
    pub fn verify(
        &self,
        key: &PublicKey,
        fleet: Option<&str>,
        current: Option<u64>,
    ) -> Result<Snapshot, SnapshotError> {
        let signature = BASE64.decode(&self.signature).map_err(|_| SnapshotError::Forged)?;
        let message = [CONTEXT, self.snapshot.as_bytes()].concat();
        UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&message, &signature)
            .map_err(|_| SnapshotError::Forged)?;
        let snapshot: Snapshot = serde_json::from_str(&self.snapshot)
            .map_err(|error| SnapshotError::Malformed(error.to_string()))?;
        if let Some(expected) = fleet.filter(|fleet| *fleet != snapshot.fleet) {
            return Err(SnapshotError::OtherFleet { read: snapshot.fleet, expected: expected.to_owned() });
        }
        if let Some(current) = current.filter(|current| snapshot.number <= *current) {
            return Err(SnapshotError::Replayed { read: snapshot.number, current });
        }
        snapshot.check()?;
        Ok(snapshot)
    }
}

/// Home's key; whoever has it commands the fleet.
pub struct SigningKey(Ed25519KeyPair);

/// A key file that holds no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct KeyError(&'static str);

impl SigningKey {
    /// A new key, and its text form for a file: base64 of PKCS#8 (RFC 8410).
    ///
    /// # Errors
    /// [`KeyError`] if the system gives no randomness.
    pub fn generate() -> Result<(Self, String), KeyError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| KeyError("randomness from the system"))?;
        let text = BASE64.encode(pkcs8.as_ref());
        Ok((Self::from_text(&text)?, text + "\n"))
    }

    /// Reads what [`SigningKey::generate`] gave.
    ///
    /// # Errors
    /// [`KeyError`] if it is something else.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let wrong = KeyError("an Ed25519 key as base64 of PKCS#8");
        let pkcs8 = BASE64.decode(text.trim()).map_err(|_| wrong.clone())?;
        Ed25519KeyPair::from_pkcs8(&pkcs8).map(Self).map_err(|_| wrong)
    }

    /// The half that nodes have.
    pub fn public_key(&self) -> PublicKey {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(out)
    }

    /// Signs a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Malformed`] if nodes would refuse it.
    pub fn sign(&self, snapshot: &Snapshot) -> Result<Signed, SnapshotError> {
        snapshot.check()?;
        let text = serde_json::to_string(snapshot).map_err(|e| SnapshotError::Malformed(e.to_string()))?;
        let signature = self.0.sign(&[CONTEXT, text.as_bytes()].concat());
        Ok(Signed { snapshot: text, signature: BASE64.encode(signature.as_ref()) })
    }
}

/// The public half of home's key, as nodes keep it: base64 of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl std::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let wrong = KeyError("an Ed25519 public key as base64 of 32 bytes");
        let bytes = BASE64.decode(text.trim()).map_err(|_| wrong.clone())?;
        bytes.try_into().map(Self).map_err(|_| wrong)
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

/// Where a file with this absolute path goes in a node's tree, which mirrors home's file system below a root
/// ([`crate::Files::rooted`]).
pub fn tree_path(path: &Path) -> String {
    crate::files::absolute(path).to_string_lossy().trim_start_matches('/').to_owned()
}

fn is_tree_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains('\0')
        && !path.ends_with('/')
        && !path.contains("//")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
        && !path.split('/').any(|part| part == ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let file = |path: &str, node: Option<&str>| FileEntry {
            path: path.to_owned(),
            sha256: Sha256::of(path.as_bytes()),
            bytes: 3,
            sealed_for: node.map(str::to_owned),
        };
        Snapshot {
            fleet: "example".to_owned(),
            number: 7,
            created: 1_800_000_000,
            rollback_of: None,
            fleet_file: "etc/nearside/nearside.toml".to_owned(),
            files: vec![
                file("etc/nearside/nearside.toml", None),
                file("etc/key.pem", Some("fra")),
                file("etc/key.pem", Some("nyc")),
            ],
        }
    }

    #[test]
    fn what_home_signs_a_node_takes() {
        let (key, text) = SigningKey::generate().unwrap();
        let public: PublicKey = key.public_key().to_string().parse().unwrap();
        let signed = SigningKey::from_text(&text).unwrap().sign(&snapshot()).unwrap();
        let travelled: Signed = serde_json::from_str(&serde_json::to_string(&signed).unwrap()).unwrap();
        let taken = travelled.verify(&public, Some("example"), Some(6)).unwrap();
        assert_eq!(taken, snapshot());
        assert_eq!(taken.files_for("fra").count(), 2);
        assert_eq!(taken.files_for("ns1").count(), 1);
    }

    #[test]
    fn forged_changed_foreign_and_replayed_ones_are_refused() {
        let (key, _) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        let signed = key.sign(&snapshot()).unwrap();
        let public = key.public_key();
        assert_eq!(signed.verify(&other.public_key(), None, None), Err(SnapshotError::Forged));
        let changed =
            Signed { snapshot: signed.snapshot.replace("\"number\":7", "\"number\":8"), ..signed.clone() };
        assert_eq!(changed.verify(&public, None, None), Err(SnapshotError::Forged));
        assert!(matches!(signed.verify(&public, Some("x"), None), Err(SnapshotError::OtherFleet { .. })));
        for current in [7, 8] {
            assert!(matches!(
                signed.verify(&public, None, Some(current)),
                Err(SnapshotError::Replayed { .. })
            ));
        }
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused_even_when_signed() {
        let (key, _) = SigningKey::generate().unwrap();
        for path in ["/etc/passwd", "../x", "a/../b", "", "a//b", "a/", "./a", "a\0b", "a/./b"] {
            let mut bad = snapshot();
            bad.files[1].path = path.to_owned();
            assert!(matches!(key.sign(&bad), Err(SnapshotError::Malformed(_))), "{path:?}");
        }
        let mut bad = snapshot();
        bad.fleet_file = "elsewhere".to_owned();
        assert!(key.sign(&bad).is_err());
    }

    #[test]
    fn tree_paths_mirror_absolute_ones() {
        assert_eq!(tree_path(Path::new("/etc/nearside/../x.toml")), "etc/x.toml");
        assert!(is_tree_path(&tree_path(Path::new("relative/file"))));
    }
}
