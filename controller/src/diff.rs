//! What differs between two snapshots, or between what is published and what is on disk, for people to read.
//!
//! Text comes as a unified diff, within bounds; private files by name and fingerprint alone. Files that home adds by
//! itself are compared between snapshots only: on disk there are none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use nearside_fleet::{Sha256, files::Role, snapshot::tree_path};
use nearside_node::state::read_bounded;
use serde::{Deserialize, Serialize};
use similar::TextDiff;

use crate::{
    bundle, check,
    history::{self, Change, File},
    home::Home,
    journal::Journal,
};

/// A longer file is told of by its fingerprints.
const FILE_BYTES_MAX: usize = 1 << 20;
/// All the text of one answer; files past it are told of by their fingerprints.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Two files without a line in common are not worth more.
const FILE_TIME_MAX: Duration = Duration::from_millis(500);
/// Lines shown around a change.
const CONTEXT_LINES: usize = 3;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A kept snapshot.
    Snapshot(u64),
    /// The files as they are now.
    Disk,
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "disk" {
            return Ok(Self::Disk);
        }
        text.parse()
            .map(Self::Snapshot)
            .map_err(|_| format!("{text:?}: expected a snapshot's number or `disk`"))
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot(number) => write!(f, "{number}"),
            Self::Disk => f.write_str("disk"),
        }
    }
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The one side: a number or `disk`.
    pub from: String,
    /// The other.
    pub to: String,
    /// Files that differ.
    pub files: Vec<FileDiff>,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDiff {
    /// How.
    #[serde(flatten)]
    pub change: Change,
    /// A unified diff; absent: it is private, no text, or too long.
    pub text: Option<String>,
}

/// One side, read.
struct Read {
    files: BTreeMap<String, File>,
    fleet_file: String,
    side: Side,
}

/// Compares two sides.
///
/// # Errors
/// Why one can't be read, in words; mistakes of the files on disk with their places.
pub fn diff(
    home: &Home,
    journal: &Journal,
    fleet_file: &Path,
    from: Side,
    to: Side,
    now: std::time::SystemTime,
) -> Result<Diff, String> {
    let read = |side| match side {
        Side::Snapshot(number) => {
            let (snapshot, _) = bundle::kept(home, journal, fleet_file, number)?;
            Ok(Read { files: history::by_path(&snapshot.files), fleet_file: snapshot.fleet_file, side })
        }
        Side::Disk => disk(home, journal, fleet_file, now),
    };
    let (mut before, mut after) = (read(from)?, read(to)?);
    if [from, to].contains(&Side::Disk) {
        for read in [&mut before, &mut after] {
            read.files.retain(|path, _| !bundle::is_added(&read.fleet_file, path));
        }
    }
    let mut left = TEXT_BYTES_MAX;
    let changes = history::changes(&before.files, &after.files).into_iter();
    let files = changes.map(|change| {
        let text = text(home, &before, &after, &change.path).filter(|text| text.len() <= left);
        left -= text.as_ref().map_or(0, String::len);
        FileDiff { change, text }
    });
    Ok(Diff { from: from.to_string(), to: to.to_string(), files: files.collect() })
}

/// The files on disk as they would be published. A private one whose content was sealed before is known by that.
fn disk(
    home: &Home,
    journal: &Journal,
    fleet_file: &Path,
    now: std::time::SystemTime,
) -> Result<Read, String> {
    let checked = check::check(fleet_file, now);
    let Some(loaded) = checked.loaded.filter(|_| checked.mistakes.is_empty()) else {
        return Err(checked.mistakes.join("\n"));
    };
    let named = loaded.files.iter().map(|named| (named.path.clone(), named.role));
    let included = checked.included.into_iter().map(|path| (path, Role::Content));
    let fleet = nearside_fleet::files::absolute(fleet_file);
    let all: BTreeMap<_, _> = included.chain([(fleet.clone(), Role::Content)]).chain(named).collect();
    let mut files = BTreeMap::new();
    for (path, role) in all {
        let bytes = read_bounded(&path, nearside_fleet::snapshot::FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| error.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("{}: vanished while it was read", path.display()))?;
        let (plain, tree) = (Sha256::of(&bytes), tree_path(&path));
        let mut file = File::default();
        if role == Role::Key {
            let owners: BTreeSet<&String> = bundle::owners(&loaded.config, &path);
            for node in owners {
                let key = bundle::key_id(&home.state, node)?;
                let known = journal.sealed(&plain, &tree, node, &key).map_err(|error| error.to_string())?;
                let sealed = known.map_or("not sealed yet".to_owned(), |(hash, _)| hash.to_string());
                file.sealed.insert(node.clone(), sealed);
            }
        } else {
            file.clear = Some(plain);
        }
        files.insert(tree, file);
    }
    Ok(Read { files, fleet_file: tree_path(&fleet), side: Side::Disk })
}

/// The unified diff of a file, where both sides are text of a reasonable length.
fn text(home: &Home, before: &Read, after: &Read, path: &str) -> Option<String> {
    let (old, new) = (content(home, before, path)?, content(home, after, path)?);
    let diff = TextDiff::configure().timeout(FILE_TIME_MAX).diff_lines(&old, &new);
    let (from, to) = (format!("{path} ({})", before.side), format!("{path} ({})", after.side));
    Some(diff.unified_diff().context_radius(CONTEXT_LINES).header(&from, &to).to_string())
}

/// The text of a file in the clear; empty where there is none. `None`: not to be shown.
fn content(home: &Home, read: &Read, path: &str) -> Option<String> {
    let Some(file) = read.files.get(path) else { return Some(String::new()) };
    let hash = file.clear?;
    let bytes = match read.side {
        Side::Snapshot(_) => bundle::content(&home.state, &hash).ok()?,
        Side::Disk => read_bounded(&Path::new("/").join(path), FILE_BYTES_MAX as u64).ok()??,
    };
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= FILE_BYTES_MAX)?;
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use nearside_node::state::StateDir;

    use super::*;
    use crate::{
        bundle::{Bundler, Content, Draft, How},
        home,
    };

    const FLEET: &str = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
        [site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\n\
        tls = { certificate = \"c.pem\", key = \"k.pem\" }\n";

    #[test]
    fn text_is_shown_line_by_line_and_a_key_by_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let fleet_file = dir.join("nearside.toml");
        let write_key = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            fs::write(dir.join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(dir.join("k.pem"), key.serialize_pem()).unwrap();
            key.serialize_pem()
        };
        write_key();
        fs::write(&fleet_file, FLEET).unwrap();
        let state = StateDir::open(dir.join("home")).unwrap();
        let config = nearside_fleet::load(&fleet_file).unwrap().config;
        let now = SystemTime::now();
        home::init(&state, &state.subdir("identities").unwrap(), &config, now).unwrap();
        let home = Home::open(state.clone()).unwrap();
        let journal = Journal::open(&state.path("nearside.db")).unwrap();
        let publish = || {
            let order =
                Draft { content: Content::Disk, who: "test".into(), note: String::new(), how: How::AtOnce };
            let bundler = Bundler { home: &home, journal: &journal, fleet_file: &fleet_file, now };
            bundler.publish(&order).0.unwrap().number
        };
        let compare = |from, to| diff(&home, &journal, &fleet_file, from, to, now);
        publish();
        assert_eq!(compare(Side::Snapshot(1), Side::Disk).unwrap().files, [], "nothing changed");

        fs::write(&fleet_file, FLEET.replace("8.6", "8.7")).unwrap();
        let secret = write_key();
        let with_disk = compare(Side::Snapshot(1), Side::Disk).unwrap();
        let file = |diff: &Diff, end: &str| {
            diff.files.iter().find(|file| file.change.path.ends_with(end)).cloned().unwrap()
        };
        let text = file(&with_disk, "nearside.toml").text.unwrap();
        assert!(text.contains("-location = [50.1, 8.6]\n+location = [50.1, 8.7]\n"), "{text}");
        assert!(text.contains("nearside.toml (1)") && text.contains("nearside.toml (disk)"), "{text}");
        let key = file(&with_disk, "k.pem");
        assert_eq!((key.change.sealed, key.text, key.change.nodes), (true, None, vec!["fra".to_owned()]));
        let line = secret.lines().nth(1).unwrap();
        assert!(!serde_json::to_string(&with_disk).unwrap().contains(line), "no secret is shown");

        assert_eq!(publish(), 2);
        let kept = compare(Side::Snapshot(1), Side::Snapshot(2)).unwrap();
        assert_eq!(file(&kept, "nearside.toml").text.map(|text| text.lines().count()), Some(11));
        fs::write(&fleet_file, FLEET.replace("origin", "orgin")).unwrap();
        assert!(compare(Side::Snapshot(2), Side::Disk).unwrap_err().contains("nearside.toml:8:1"));
        assert!(compare(Side::Snapshot(2), Side::Snapshot(9)).unwrap_err().contains("no snapshot 9"));
    }
}
