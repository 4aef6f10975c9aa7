//! What changed from snapshot to snapshot, and which old ones may go.
//!
//! Compares lists of files by their hashes; what is in files is [`crate::diff`]'s. A sealed file is known by a
//! fingerprint of what travels, never by anything of what is in it.
//!
//! Invariant: [`forget`] removes no snapshot that a node was last seen with and no file that a kept snapshot names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use nearside_fleet::{
    Sha256,
    snapshot::{FileEntry, Snapshot},
};
use nearside_node::state::StateDir;
use serde::{Deserialize, Serialize};

use crate::{
    bundle,
    journal::{Journal, publications::Publication},
};

/// Snapshots kept: a year of two changes a week.
const SNAPSHOTS_KEPT: usize = 100;
/// All their files together; past it older ones go sooner.
const FILES_BYTES_KEPT: u64 = 8 << 30;
/// Snapshots kept whatever their files take.
const SNAPSHOTS_KEPT_MIN: usize = 10;
/// Publications told in one answer.
pub const TOLD_MAX: usize = 1_000;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else, or is sealed for others.
    Changed,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        })
    }
}

/// A file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its path in the snapshot.
    pub path: String,
    /// What became of it.
    pub what: What,
    /// Whether it is a private one: then it is never shown.
    pub sealed: bool,
    /// Who it is sealed for, after the change or, where it is gone, before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Fingerprint before.
    pub before: Option<String>,
    /// Fingerprint after.
    pub after: Option<String>,
}

/// A publication with what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who, when, why.
    #[serde(flatten)]
    pub publication: Publication,
    /// Files compared with the snapshot before; absent: that one is no longer kept.
    pub changes: Option<Vec<Change>>,
}

/// All of one path: its content in the clear, or what it is sealed to per node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) clear: Option<Sha256>,
    pub(crate) sealed: BTreeMap<String, String>,
}

impl File {
    fn fingerprint(&self) -> String {
        let all: Vec<String> = self.sealed.iter().map(|(node, hash)| format!("{node} {hash}\n")).collect();
        let hash = self.clear.unwrap_or_else(|| Sha256::of(all.concat().as_bytes()));
        hash.to_string().chars().take(FINGERPRINT_CHARS).collect()
    }
}

/// Of a hash, what is shown: enough to tell two versions apart.
const FINGERPRINT_CHARS: usize = 16;

/// Entries by path.
pub(crate) fn by_path<'e>(entries: impl IntoIterator<Item = &'e FileEntry>) -> BTreeMap<String, File> {
    let mut out: BTreeMap<String, File> = BTreeMap::new();
    for entry in entries {
        let file = out.entry(entry.path.clone()).or_default();
        match &entry.sealed_for {
            Some(node) => drop(file.sealed.insert(node.clone(), entry.sha256.to_string())),
            None => file.clear = Some(entry.sha256),
        }
    }
    out
}

/// What changed between two lists of files, by path.
pub(crate) fn changes(before: &BTreeMap<String, File>, after: &BTreeMap<String, File>) -> Vec<Change> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let change = |path: &&String| {
        let (old, new) = (before.get(*path), after.get(*path));
        let what = match (old, new) {
            (None, _) => What::Added,
            (_, None) => What::Removed,
            (old, new) if old == new => return None,
            _ => What::Changed,
        };
        let shown = new.or(old)?;
        Some(Change {
            path: (*path).clone(),
            what,
            sealed: shown.clear.is_none(),
            nodes: shown.sealed.keys().cloned().collect(),
            before: old.map(File::fingerprint),
            after: new.map(File::fingerprint),
        })
    };
    paths.iter().filter_map(change).collect()
}

/// A kept snapshot, read without checking it again: it is our own journal.
fn read(journal: &Journal, number: u64) -> Result<Option<Snapshot>, String> {
    let signed = journal.snapshot(number).map_err(|error| error.to_string())?;
    let read = signed.map(|signed| serde_json::from_str(&signed.snapshot));
    read.transpose().map_err(|error| format!("snapshot {number}: {error}"))
}

/// The newest publications, newest first, each with what it changed.
///
/// # Errors
/// The journal's, in words.
pub fn history(journal: &Journal, count: usize) -> Result<Vec<Told>, String> {
    let count = count.clamp(1, TOLD_MAX);
    // One more than told: what the oldest changed is known from the one before it.
    let all = journal.publications(count + 1).map_err(|error| error.to_string())?;
    let mut told = Vec::with_capacity(all.len());
    let mut newer: Option<(Publication, BTreeMap<String, File>)> = None;
    for publication in all {
        let snapshot = read(journal, publication.number)?;
        let files = by_path(snapshot.iter().flat_map(|snapshot| &snapshot.files));
        if let Some((publication, after)) = newer.replace((publication, files.clone())) {
            told.push(Told { publication, changes: Some(changes(&files, &after)) });
        }
    }
    if let Some((publication, files)) = newer.filter(|_| told.len() < count) {
        let first = publication.number == 1;
        let changes = first.then(|| changes(&BTreeMap::new(), &files));
        told.push(Told { publication, changes });
    }
    Ok(told)
}

/// One publication with what it changed; `None`: it is not kept.
///
/// # Errors
/// The journal's, in words.
pub fn one(journal: &Journal, number: u64) -> Result<Option<Told>, String> {
    let publication = journal.publication(number).map_err(|error| error.to_string())?;
    let (Some(publication), Some(snapshot)) = (publication, read(journal, number)?) else { return Ok(None) };
    let before = match number {
        1 => Some(BTreeMap::new()),
        _ => read(journal, number - 1)?.map(|before| by_path(&before.files)),
    };
    let changes = before.map(|before| changes(&before, &by_path(&snapshot.files)));
    Ok(Some(Told { publication, changes }))
}

/// Forgets snapshots past the bounds, then files that none of the kept ones names. To be called while nothing is being
/// gathered. What fails is told and tried again after the next publish.
pub fn forget(state: &StateDir, journal: &Journal) {
    match try_forget(state, journal) {
        Ok((0, 0)) => {}
        Ok((snapshots, files)) => tracing::info!(snapshots, files, "old snapshots and files are forgotten"),
        Err(error) => tracing::warn!("old snapshots are not forgotten: {error}"),
    }
}

fn try_forget(state: &StateDir, journal: &Journal) -> Result<(usize, usize), String> {
    let words = |error: crate::journal::JournalError| error.to_string();
    let all = journal.publications(usize::from(u16::MAX)).map_err(words)?;
    let served: BTreeSet<u64> = journal.served().map_err(words)?.into_values().collect();
    let mut kept = Kept::default();
    let mut gone = BTreeSet::new();
    for (place, publication) in all.iter().enumerate() {
        let Some(snapshot) = read(journal, publication.number)? else { continue };
        let room = place < SNAPSHOTS_KEPT_MIN
            || (place < SNAPSHOTS_KEPT && kept.bytes + kept.more(&snapshot) <= FILES_BYTES_KEPT);
        if room || served.contains(&publication.number) {
            kept.keep(&snapshot);
        } else {
            gone.insert(publication.number);
        }
    }
    // First the journal: a file without a snapshot only takes room, a snapshot without a file can't be sent.
    if !gone.is_empty() {
        journal.forget_snapshots(&gone, &kept.sealed).map_err(words)?;
    }
    let mut removed = 0;
    let dir = state.path("files");
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let hash = entry.file_name().to_str().and_then(|name| name.parse::<Sha256>().ok());
        if hash.is_some_and(|hash| !kept.files.contains(&hash)) {
            state
                .remove(bundle::file_name(&hash.unwrap_or_else(|| Sha256::of(b""))))
                .map_err(|error| error.to_string())?;
            removed += 1;
        }
    }
    Ok((gone.len(), removed))
}

/// What stays.
#[derive(Default)]
struct Kept {
    files: BTreeSet<Sha256>,
    sealed: BTreeSet<Sha256>,
    bytes: u64,
}

impl Kept {
    fn keep(&mut self, snapshot: &Snapshot) {
        for file in &snapshot.files {
            if self.files.insert(file.sha256) {
                self.bytes += file.bytes;
            }
            if file.sealed_for.is_some() {
                self.sealed.insert(file.sha256);
            }
        }
    }

    fn more(&self, snapshot: &Snapshot) -> u64 {
        let new = snapshot.files.iter().filter(|file| !self.files.contains(&file.sha256));
        new.map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use nearside_fleet::snapshot::Signed;

    use super::*;
    use crate::journal::publications::Outcome;

    fn file(path: &str, content: &str, node: Option<&str>) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            sha256: Sha256::of(content.as_bytes()),
            bytes: content.len() as u64,
            sealed_for: node.map(str::to_owned),
        }
    }

    struct Rig {
        _temp: tempfile::TempDir,
        state: StateDir,
        journal: Journal,
    }

    impl Rig {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let state = StateDir::open(temp.path().join("home")).unwrap();
            let journal = Journal::open(&state.path("j.db")).unwrap();
            Self { _temp: temp, state, journal }
        }

        fn publish(&self, number: u64, files: Vec<FileEntry>) {
            let snapshot = Snapshot {
                fleet: "x".into(),
                number,
                created: 1,
                rollback_of: None,
                fleet_file: "f".into(),
                files,
            };
            let signed =
                Signed { snapshot: serde_json::to_string(&snapshot).unwrap(), signature: String::new() };
            let publication = Publication {
                number,
                created: 1,
                who: "test".into(),
                note: String::new(),
                source: String::new(),
                rollback_of: None,
                outcome: Outcome::Sent,
                told: String::new(),
                waves: None,
            };
            self.journal.keep_snapshot(&publication, "", &signed).unwrap();
        }

        fn keep(&self, content: &str) -> Sha256 {
            let hash = Sha256::of(content.as_bytes());
            self.state.write(bundle::file_name(&hash), content.as_bytes()).unwrap();
            hash
        }
    }

    #[test]
    fn changes_are_told_by_path_and_secrets_by_fingerprint_alone() {
        let rig = Rig::new();
        rig.publish(
            1,
            vec![file("f", "one", None), file("k", "sealed", Some("fra")), file("gone", "x", None)],
        );
        rig.publish(
            2,
            vec![
                file("f", "two", None),
                file("k", "sealed", Some("fra")),
                file("k", "sealed too", Some("nyc")),
                file("new", "y", None),
            ],
        );
        let told = one(&rig.journal, 2).unwrap().unwrap().changes.unwrap();
        let words: Vec<(&str, What, bool)> =
            told.iter().map(|change| (change.path.as_str(), change.what, change.sealed)).collect();
        assert_eq!(
            words,
            [
                ("f", What::Changed, false),
                ("gone", What::Removed, false),
                ("k", What::Changed, true),
                ("new", What::Added, false),
            ]
        );
        assert_eq!(told[2].nodes, ["fra", "nyc"]);
        let all = history(&rig.journal, 10).unwrap();
        assert_eq!(all.iter().map(|told| told.publication.number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(all[0].changes.as_ref(), Some(&told));
        assert_eq!(all[1].changes.as_ref().unwrap().len(), 3, "all of the first is new");
        assert_eq!(history(&rig.journal, 1).unwrap().len(), 1);
        assert!(one(&rig.journal, 3).unwrap().is_none());
    }

    #[test]
    fn nothing_that_is_named_or_served_is_ever_removed() {
        let rig = Rig::new();
        let shared = rig.keep("shared");
        let total = SNAPSHOTS_KEPT as u64 + 20;
        for number in 1..=total {
            let own = format!("content {number}");
            rig.keep(&own);
            rig.publish(number, vec![file("f", &own, None), file("s", "shared", Some("fra"))]);
        }
        rig.journal.keep_served("fra", 3).unwrap();
        let stray = rig.keep("of a publish that came to nothing");
        rig.state.write("files/note.txt", b"not ours").unwrap();
        assert_eq!(try_forget(&rig.state, &rig.journal).unwrap(), (19, 20));

        let kept: BTreeSet<u64> =
            rig.journal.publications(1000).unwrap().iter().map(|one| one.number).collect();
        let wanted: BTreeSet<u64> = (21..=total).chain([3]).collect();
        assert_eq!(kept, wanted, "the newest, and what a node was last seen with");
        for number in kept {
            let snapshot = read(&rig.journal, number).unwrap().unwrap();
            for file in snapshot.files {
                assert!(bundle::content(&rig.state, &file.sha256).is_ok(), "{number} lost {}", file.path);
            }
        }
        assert!(rig.state.path(bundle::file_name(&shared)).exists());
        assert!(!rig.state.path(bundle::file_name(&stray)).exists());
        assert!(rig.state.path("files/note.txt").exists(), "what is no hash is not ours");
        assert_eq!(try_forget(&rig.state, &rig.journal).unwrap(), (0, 0));
    }

    #[test]
    fn large_files_push_old_snapshots_out_but_never_the_last_few() {
        let rig = Rig::new();
        for number in 1..=30 {
            let mut large = file("db", &format!("{number}"), None);
            large.bytes = FILES_BYTES_KEPT / 20;
            rig.publish(number, vec![large]);
        }
        assert_eq!(try_forget(&rig.state, &rig.journal).unwrap().0, 10, "twenty fit");
        for number in 31..=45 {
            let mut huge = file("db", &format!("{number}"), None);
            huge.bytes = FILES_BYTES_KEPT;
            rig.publish(number, vec![huge]);
        }
        try_forget(&rig.state, &rig.journal).unwrap();
        let kept = rig.journal.publications(1000).unwrap().len();
        assert_eq!(kept, SNAPSHOTS_KEPT_MIN);
    }
}
