//! Everything of home that can't be made again, in one encrypted file; and home made of it on another machine.
//!
//! An age file (<https://age-encryption.org/v1>) around a tar, so that it can be opened without us: `age -d FILE | tar -x`. Taken
//! is the whole state directory but for what [`is_left_out`] names; databases are copied consistently while they are written to.
//! The last entry, `manifest.json`, has the hash of every other. [`restore`] believes nothing before all of them are right, and
//! puts everything in place at once.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use age::secrecy::SecretString;
use nearside_fleet::{Sha256, config::backup::Backup};
use nearside_node::state::{StateDir, StateError};
use serde::{Deserialize, Serialize};

use crate::{
    archive,
    home::{DATABASE, seconds},
    journal::{Journal, JournalError, restored::Restored},
};

/// The entry with the hashes of all others.
const MANIFEST: &str = "manifest.json";
/// A manifest of a hundred thousand files.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Files read whole: keys, certificates. What is larger, a city database of a snapshot, is streamed.
const SMALL_BYTES_MAX: u64 = 16 << 20;
/// The version of what is inside.
const VERSION: u32 = 1;
/// What backups are called, so that they are not backed up themselves.
pub const SUFFIX: &str = ".age";

/// Who can open a backup.
pub enum Lock {
    /// Whoever knows this (scrypt).
    Passphrase(SecretString),
    /// Whoever has the key of one of these (`age1…`).
    Recipients(Vec<age::x25519::Recipient>),
}

/// With what one is opened.
pub enum Unlock {
    /// The passphrase.
    Passphrase(SecretString),
    /// Keys (`AGE-SECRET-KEY-1…`).
    Keys(Vec<age::x25519::Identity>),
}

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this form: 1.
    pub version: u32,
    /// Version of the program that made it.
    pub program: String,
    /// When, seconds since the epoch.
    pub made: u64,
    /// The newest snapshot.
    pub snapshot: Option<u64>,
    /// The last purge.
    pub purges: u64,
    /// Hash of each file, by its name in the archive.
    pub files: BTreeMap<String, Sha256>,
}

/// Why there is no backup, or no home of one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It would overwrite something.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// The passphrase or the keys don't open it, or it was changed.
    #[error("{path}: {reason}")]
    Locked {
        /// The backup.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What is inside is not what its manifest says.
    #[error("{path}: {reason}; nothing was restored")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |source| BackupError::Io { path, source }
}

/// What can be made again, is of this machine alone, or is a copy. Everything else of the state directory is taken: who adds
/// a file there does not have to remember backups.
fn is_left_out(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    // Statistics can be lost.
    name.starts_with("stats.db")
        // Of a process that runs here.
        || name == "controller.addr"
        || file.ends_with(".sock")
        || file.starts_with(".tmp-")
        || file == ".writable"
        // Databases are copied whole.
        || file.ends_with(".db-wal")
        || file.ends_with(".db-shm")
        || file.ends_with(".db-journal")
        || file.ends_with(SUFFIX)
}

/// Makes a backup of a state directory, also of one whose controller runs.
///
/// # Errors
/// [`BackupError`]; there is no file then. One that is there is never overwritten.
pub fn backup(state: &StateDir, to: &Path, lock: &Lock, now: SystemTime) -> Result<Manifest, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_path_buf()));
    }
    let copies = state.subdir(format!(".tmp-backup-{}", std::process::id()))?;
    let unfinished = to.with_extension("unfinished");
    let made = write(state, &copies, &unfinished, lock, now);
    // Best effort: the names are our own, and no backup takes them.
    let _left = fs::remove_dir_all(copies.root());
    match made.and_then(|made| fs::rename(&unfinished, to).map_err(failed(to)).map(|()| made)) {
        Ok(made) => Ok(made),
        Err(error) => {
            let _left = fs::remove_file(&unfinished);
            Err(error)
        }
    }
}

fn write(
    state: &StateDir,
    copies: &StateDir,
    to: &Path,
    lock: &Lock,
    now: SystemTime,
) -> Result<Manifest, BackupError> {
    let at = |error| failed(to)(error);
    let encryptor = match lock {
        Lock::Passphrase(passphrase) => age::Encryptor::with_user_passphrase(passphrase.clone()),
        Lock::Recipients(all) => {
            let all = all.iter().map(|one| one as &dyn age::Recipient);
            age::Encryptor::with_recipients(all)
                .map_err(|error| BackupError::Locked { path: to.to_path_buf(), reason: error.to_string() })?
        }
    };
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(to).map_err(at)?;
    let mut archive = tar::Builder::new(encryptor.wrap_output(file).map_err(at)?);
    let mut names = Vec::new();
    list(state.root(), "", &mut names)?;
    names.sort();
    let (mut files, made) = (BTreeMap::new(), seconds(now));
    let (mut snapshot, mut purges) = (None, 0);
    for name in names.iter().filter(|name| !is_left_out(name)) {
        let path = state.path(name);
        let entry = format!("state/{name}");
        let large = fs::metadata(&path).is_ok_and(|found| found.len() > SMALL_BYTES_MAX);
        let hash = if name.ends_with(".db") {
            let copy = copies.path(name.replace('/', "-"));
            Journal::copy(&path, &copy)?;
            if name == DATABASE {
                // Of the copy: the journal may have gone on.
                let copied = Journal::open(&copy)?;
                (snapshot, purges) = (copied.newest()?.map(|(number, ..)| number), copied.last_purge()?);
            }
            add_large(&mut archive, &entry, &copy, made)?
        } else if large {
            add_large(&mut archive, &entry, &path, made)?
        } else {
            // Gone since it was listed: like one that never was.
            let Some(content) = state.read(name, SMALL_BYTES_MAX)? else { continue };
            archive::add(&mut archive, &entry, content.len() as u64, &content[..], made).map_err(at)?;
            Sha256::of(&content)
        };
        files.insert(entry, hash);
    }
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let manifest = Manifest { version: VERSION, program, made, snapshot, purges, files };
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| at(error.into()))?;
    archive::add(&mut archive, MANIFEST, json.len() as u64, &json[..], made).map_err(at)?;
    let encrypted = archive.into_inner().and_then(|stream| stream.finish()).map_err(at)?;
    encrypted.sync_all().map_err(at)?;
    Ok(manifest)
}

/// Adds a file that may be large, and hashes what was added.
fn add_large(
    archive: &mut tar::Builder<impl Write>,
    entry: &str,
    path: &Path,
    made: u64,
) -> Result<Sha256, BackupError> {
    let file = fs::File::open(path).map_err(failed(path))?;
    let bytes = file.metadata().map_err(failed(path))?.len();
    let mut hashed = Hashed::new(file.take(bytes));
    archive::add(archive, entry, bytes, &mut hashed, made).map_err(failed(path))?;
    Ok(hashed.hash())
}

/// Every file below a directory, by its relative name.
fn list(root: &Path, below: &str, names: &mut Vec<String>) -> Result<(), BackupError> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).map_err(failed(&dir))? {
        let entry = entry.map_err(failed(&dir))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let name = if below.is_empty() { file.clone() } else { format!("{below}/{file}") };
        let kind = entry.file_type().map_err(failed(&entry.path()))?;
        if kind.is_dir() && !file.starts_with(".tmp-") {
            list(root, &name, names)?;
        } else if kind.is_file() {
            names.push(name);
        }
    }
    Ok(())
}

/// Makes a state directory of a backup. The directory must be empty or not there.
///
/// # Errors
/// [`BackupError`]; the directory is then as it was.
pub fn restore(from: &Path, to: &Path, unlock: &Unlock, now: SystemTime) -> Result<Manifest, BackupError> {
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::Exists(to.to_path_buf()));
    }
    let aside = to.with_extension(format!("restoring-{}", std::process::id()));
    let made = unpack(from, &aside, unlock).and_then(|manifest| {
        let journal = Journal::open(&aside.join(DATABASE))?;
        journal.mark_restored(Restored::FromBackup, seconds(now))?;
        drop(journal);
        // An empty directory gives way to a rename.
        fs::rename(&aside, to).map_err(failed(to))?;
        Ok(manifest)
    });
    if made.is_err() {
        let _left = fs::remove_dir_all(&aside);
    }
    made
}

fn unpack(from: &Path, aside: &Path, unlock: &Unlock) -> Result<Manifest, BackupError> {
    let locked = |reason: String| BackupError::Locked { path: from.to_path_buf(), reason };
    let damaged = |reason: String| BackupError::Damaged { path: from.to_path_buf(), reason };
    let file = io::BufReader::new(fs::File::open(from).map_err(failed(from))?);
    let decryptor = age::Decryptor::new(file).map_err(|error| locked(error.to_string()))?;
    let opened = match unlock {
        Unlock::Passphrase(passphrase) => {
            let identity = age::scrypt::Identity::new(passphrase.clone());
            decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
        }
        Unlock::Keys(keys) => decryptor.decrypt(keys.iter().map(|key| key as &dyn age::Identity)),
    };
    let opened = opened.map_err(|error| locked(error.to_string()))?;
    let (aside, mut hashes, mut manifest) = (StateDir::open(aside)?, BTreeMap::new(), None);
    archive::read(opened, |name, bytes, content| {
        let entry = name.to_string_lossy().into_owned();
        if entry == MANIFEST && bytes <= MANIFEST_BYTES_MAX {
            manifest = Some(serde_json::from_reader::<_, Manifest>(content).map_err(io::Error::from)?);
            return Ok(());
        }
        let inside =
            name.strip_prefix("state").map_err(|_| io::Error::other(format!("{entry} is out of place")))?;
        let path = aside.path(inside);
        if let Some(dir) = inside.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            aside.subdir(dir).map_err(io::Error::other)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        let mut hashed = Hashed::new(content);
        io::copy(&mut hashed, &mut file)?;
        file.sync_all()?;
        hashes.insert(entry, hashed.hash());
        Ok(())
    })
    .map_err(|error| damaged(error.to_string()))?;
    let manifest = manifest.ok_or_else(|| damaged("it has no manifest: it was cut off".to_owned()))?;
    if manifest.version != VERSION {
        return Err(damaged(format!("it is of version {}, this program reads {VERSION}", manifest.version)));
    }
    if let Some((name, _)) = manifest.files.iter().find(|(name, hash)| hashes.get(*name) != Some(hash)) {
        return Err(damaged(format!("{name} is missing or not what the manifest says")));
    }
    match hashes.keys().find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(damaged(format!("{name} is not in the manifest"))),
        None => Ok(manifest),
    }
}

/// Names of scheduled backups: by their time, so that they sort.
const PREFIX: &str = "nearside-";

/// Makes the backup that is due in a directory, if one is, and removes the oldest beyond `keep`. Returns when the newest was made.
///
/// # Errors
/// [`BackupError`]; older backups stay.
pub fn keep_up(state: &StateDir, plan: &Backup, now: SystemTime) -> Result<u64, BackupError> {
    let dir = &plan.directory;
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut made = scheduled(dir)?;
    if let Some(newest) = made.last().copied()
        && seconds(now) < newest + plan.every.as_secs()
    {
        return Ok(newest);
    }
    let recipient = plan
        .recipient
        .parse::<age::x25519::Recipient>()
        .map_err(|error| BackupError::Locked { path: dir.clone(), reason: format!("recipient: {error}") })?;
    let at = seconds(now);
    backup(state, &dir.join(name(at)), &Lock::Recipients(vec![recipient]), now)?;
    made.push(at);
    for oldest in made.iter().take(made.len().saturating_sub(plan.keep)) {
        let path = dir.join(name(*oldest));
        fs::remove_file(&path).map_err(failed(&path))?;
    }
    Ok(at)
}

fn name(at: u64) -> String {
    format!("{PREFIX}{at:012}{SUFFIX}")
}

/// When each backup of a directory was made, oldest first.
fn scheduled(dir: &Path) -> Result<Vec<u64>, BackupError> {
    let mut made = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let file = entry.map_err(failed(dir))?.file_name();
        let text = file.to_string_lossy();
        let at = text.strip_prefix(PREFIX).and_then(|text| text.strip_suffix(SUFFIX)?.parse().ok());
        made.extend(at.filter(|at| name(*at) == text));
    }
    made.sort_unstable();
    Ok(made)
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    context: aws_lc_rs::digest::Context,
}

impl<R: Read> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, context: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256) }
    }

    fn hash(self) -> Sha256 {
        let text: String = self.context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        // 64 hex digits are a hash.
        text.parse().unwrap_or_else(|_| Sha256::of(&[]))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.context.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use nearside_fleet::purge::{Mode, Scope};

    use super::*;
    use crate::journal::purge::Ordered;

    fn state(dir: &Path) -> StateDir {
        let state = StateDir::open(dir.join("home")).unwrap();
        for (name, text) in [
            ("ca/ca.key", "secret"),
            ("snapshot.key", "also"),
            ("acme/account.json", "whatever others keep there"),
            ("files/abc", "of a snapshot"),
            ("stats.db", "can be lost"),
            ("controller.addr", "127.0.0.1:1"),
        ] {
            state.write(name, text.as_bytes()).unwrap();
        }
        let journal = Journal::open(&state.path(DATABASE)).unwrap();
        let order = Ordered {
            scopes: vec![Scope::All; 3],
            mode: Mode::Hard,
            issued: 1,
            who: "test".into(),
            from: None,
        };
        journal.commit_purges(&[order], &[]).unwrap();
        // Still open, with a log that was not folded in: as a running controller leaves it.
        std::mem::forget(journal);
        state
    }

    #[test]
    fn home_is_made_of_a_backup_and_says_that_it_was() {
        let temp = tempfile::tempdir().unwrap();
        let state = state(temp.path());
        let key = age::x25519::Identity::generate();
        let lock = Lock::Recipients(vec![key.to_public()]);
        let file = temp.path().join("home.age");
        let made = backup(&state, &file, &lock, SystemTime::now()).unwrap();
        assert_eq!(made.purges, 3);
        let names: Vec<&str> = made.files.keys().map(String::as_str).collect();
        let taken = [
            "state/acme/account.json",
            "state/ca/ca.key",
            "state/files/abc",
            "state/nearside.db",
            "state/snapshot.key",
        ];
        assert_eq!(names, taken);
        assert!(matches!(backup(&state, &file, &lock, SystemTime::now()), Err(BackupError::Exists(_))));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2, "nothing is left beside it");
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));

        let to = temp.path().join("new");
        let unlock = Unlock::Keys(vec![key]);
        assert_eq!(restore(&file, &to, &unlock, SystemTime::now()).unwrap(), made);
        assert_eq!(fs::read_to_string(to.join("ca/ca.key")).unwrap(), "secret");
        let journal = Journal::open(&to.join(DATABASE)).unwrap();
        assert_eq!(
            (journal.last_purge().unwrap(), journal.restored().unwrap()),
            (3, Some(Restored::FromBackup))
        );
        assert!(matches!(restore(&file, &to, &unlock, SystemTime::now()), Err(BackupError::Exists(_))));
    }

    #[test]
    fn what_is_damaged_or_locked_restores_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let state = state(temp.path());
        let (key, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let file = temp.path().join("home.age");
        backup(&state, &file, &Lock::Recipients(vec![key.to_public()]), SystemTime::now()).unwrap();
        let to = temp.path().join("new");
        let locked = restore(&file, &to, &Unlock::Keys(vec![other]), SystemTime::now());
        assert!(matches!(locked, Err(BackupError::Locked { .. })));
        let good = fs::read(&file).unwrap();
        for at in [good.len() / 2, good.len() - 1] {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            fs::write(&file, flipped).unwrap();
            let keys = Unlock::Keys(vec![key.clone()]);
            assert!(matches!(
                restore(&file, &to, &keys, SystemTime::now()),
                Err(BackupError::Damaged { .. })
            ));
        }
        fs::write(&file, &good[..good.len() - 2000]).unwrap();
        assert!(restore(&file, &to, &Unlock::Keys(vec![key]), SystemTime::now()).is_err());
        assert!(!to.exists());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn backups_are_made_when_they_are_due_and_the_oldest_leave() {
        let temp = tempfile::tempdir().unwrap();
        let state = state(temp.path());
        let directory = temp.path().join("backups");
        let day = std::time::Duration::from_secs(86_400);
        let recipient = age::x25519::Identity::generate().to_public().to_string();
        let plan = Backup { directory: directory.clone(), recipient, every: day, keep: 2 };
        let start = SystemTime::UNIX_EPOCH + day * 20_000;
        let made = |at| keep_up(&state, &plan, at).unwrap();
        assert_eq!(made(start), seconds(start));
        assert_eq!(made(start + day / 2), seconds(start), "not due");
        for days in 1..4 {
            made(start + day * days);
        }
        fs::write(directory.join("other.age"), "somebody's").unwrap();
        assert_eq!(scheduled(&directory).unwrap(), [seconds(start + day * 2), seconds(start + day * 3)]);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
    }

    #[test]
    fn a_passphrase_opens_it_and_another_does_not() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path().join("home")).unwrap();
        state.write("snapshot.key", b"x").unwrap();
        Journal::open(&state.path(DATABASE)).unwrap();
        let file = temp.path().join("home.age");
        let phrase = |text: &str| SecretString::from(text.to_owned());
        backup(&state, &file, &Lock::Passphrase(phrase("correct horse")), SystemTime::now()).unwrap();
        let to = temp.path().join("new");
        let wrong = restore(&file, &to, &Unlock::Passphrase(phrase("battery")), SystemTime::now());
        assert!(matches!(wrong, Err(BackupError::Locked { .. })));
        restore(&file, &to, &Unlock::Passphrase(phrase("correct horse")), SystemTime::now()).unwrap();
    }
}
