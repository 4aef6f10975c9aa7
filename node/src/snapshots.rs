//! Takes desired states from home: verified, complete, staged, kept, or refused whole.
//!
//! Home sends the files a node lacks (`PUT /v1/files/HASH`) and then the signed list of all
//! (`POST /v1/snapshots`). What was accepted last is kept as it came, signature and all, and verified again
//! at every start. Invariants: the number of the accepted snapshot never falls, nothing of a refused one is ever
//! served, and what serves is on disk: a node without room for a snapshot refuses it whole.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::StatusCode;
use nearside_fleet::{
    digest::Sha256,
    report,
    seal::{OpeningKey, SealError},
    snapshot::{KeyError, PublicKey, SIGNED_BYTES_MAX, Signed, Snapshot, SnapshotError},
};
use serde_json::json;

use crate::{
    apply::Applier,
    control::ControlResponse,
    daemon::Daemon,
    desired::{Desired, Refusal, Source},
    enrolled::Enrolment,
    identity, last_good, load,
    state::{StateDir, StateError},
    store::{Content, Entry, Store, StoreError},
};

/// The accepted snapshot, as it came.
const ACCEPTED: &str = "accepted.json";
/// One that is being taken: written before it serves, so that a full disk is found while there is a way back.
const TAKING: &str = "taking.json";

/// Keys are small text files.
const KEY_BYTES_MAX: u64 = 4096;

/// Receives snapshots for a daemon.
#[derive(Debug)]
pub struct Snapshots<D: Daemon> {
    node: String,
    kept: Option<(StateDir, Store)>,
    applier: Arc<Applier<D>>,
    enrolment: Arc<Enrolment>,
    accepted: Mutex<Option<Accepted>>,
    /// One at a time, from the first check to the last write.
    receiving: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Accepted {
    signed: Signed,
    snapshot: Snapshot,
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("this node is not enrolled: it has no identity in its state directory")]
    NotEnrolled,
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("{0}: {1}")]
    Key(PathBuf, KeyError),
    #[error("{0}: {1}")]
    Opening(PathBuf, SealError),
    #[error("{0}: is missing")]
    KeyMissing(PathBuf),
    #[error("{path}: {error}")]
    Sealed { path: String, error: SealError },
    #[error("files are missing")]
    Missing(Vec<Sha256>),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(Refusal),
}

impl NotTaken {
    /// Whether others would refuse it too (`snapshot`) or the reason lies here (`node`), and how that is answered.
    fn blame(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Snapshot(_) | Self::Refused(_) | Self::Store(StoreError::Path(_)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "snapshot")
            }
            Self::State(_) | Self::Store(_) => (StatusCode::INSUFFICIENT_STORAGE, "node"),
            Self::NotEnrolled
            | Self::Key(..)
            | Self::Opening(..)
            | Self::KeyMissing(_)
            | Self::Sealed { .. }
            | Self::Missing(_) => (StatusCode::UNPROCESSABLE_ENTITY, "node"),
        }
    }
}

impl<D: Daemon> Snapshots<D> {
    /// A receiver that has accepted nothing yet; see [`Snapshots::boot`].
    pub fn new(
        node: &str,
        kept: Option<(StateDir, Store)>,
        applier: Arc<Applier<D>>,
        enrolment: Arc<Enrolment>,
    ) -> Self {
        let (accepted, receiving) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { node: node.to_owned(), kept, applier, enrolment, accepted, receiving }
    }

    /// Whether home governs this node: local edits are then ignored.
    pub fn governs(&self) -> bool {
        self.lock().is_some() && self.enrolment.identity().is_some()
    }

    /// Whether anything is kept over a restart.
    pub fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// Starts from the accepted snapshot. `false`: there is none, or it can't be used any more (said in the
    /// log); the local file is next.
    pub async fn boot(&self) -> bool {
        if self.enrolment.identity().is_none() {
            return false;
        }
        let Some((state, _)) = &self.kept else { return false };
        let signed = match state.read(ACCEPTED, SIGNED_BYTES_MAX as u64) {
            Ok(Some(bytes)) => serde_json::from_slice::<Signed>(&bytes).map_err(|error| error.to_string()),
            Ok(None) => return false,
            Err(error) => Err(error.to_string()),
        };
        let taken = match signed {
            Ok(signed) => self.take(signed, Keep::AlreadyKept).await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match taken {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(
                    "the accepted snapshot can't be used, the local fleet file is tried: {error}"
                );
                false
            }
        }
    }

    /// `GET /v1/snapshot`: the accepted snapshot as it came.
    pub fn accepted(&self) -> ControlResponse {
        match &*self.lock() {
            Some(accepted) => ControlResponse::ok(&accepted.signed),
            None => ControlResponse::error(StatusCode::NOT_FOUND, "no snapshot was accepted yet"),
        }
    }

    /// `POST /v1/snapshots`: 200 once it serves, 409 with what is missing, 422 with why it is refused.
    pub async fn receive(&self, body: Bytes) -> ControlResponse {
        if body.len() > SIGNED_BYTES_MAX {
            let message = format!("a signed snapshot has at most {SIGNED_BYTES_MAX} bytes");
            return ControlResponse::error(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        let signed = match serde_json::from_slice::<Signed>(&body) {
            Ok(signed) => signed,
            Err(error) => {
                return ControlResponse::error(
                    StatusCode::BAD_REQUEST,
                    format!("the body is not a signed snapshot: {error}"),
                );
            }
        };
        match self.take(signed, Keep::Now).await {
            Ok(number) => ControlResponse::ok(&json!({ "accepted": number })),
            Err(NotTaken::Missing(missing)) => {
                ControlResponse::json(StatusCode::CONFLICT, &report::Missing { missing })
            }
            Err(not_taken) => {
                // What the daemon refused, or found no room, is told already.
                if !matches!(not_taken, NotTaken::Refused(_) | NotTaken::State(_) | NotTaken::Store(_)) {
                    tracing::error!("a snapshot was refused: {not_taken}");
                    self.applier.count_refusal();
                }
                let (status, cause) = not_taken.blame();
                ControlResponse::json(status, &json!({ "reason": not_taken.to_string(), "cause": cause }))
            }
        }
    }

    /// `PUT /v1/files/HASH`: keeps a file that a snapshot will name.
    pub async fn receive_file(&self, hash: &str, body: Bytes) -> ControlResponse {
        let Ok(hash) = hash.parse::<Sha256>() else {
            return ControlResponse::error(StatusCode::BAD_REQUEST, "expected /v1/files/ and a SHA-256");
        };
        let Some((_, store)) = self.kept.clone().filter(|_| self.enrolment.identity().is_some()) else {
            return ControlResponse::error(StatusCode::CONFLICT, NotTaken::NotEnrolled);
        };
        let stored = tokio::task::spawn_blocking(move || store.put(hash, &body)).await;
        match stored {
            Ok(Ok(())) => ControlResponse::ok(&json!({ "stored": hash })),
            Ok(Err(error @ StoreError::WrongHash { .. })) => {
                ControlResponse::error(StatusCode::BAD_REQUEST, error)
            }
            Ok(Err(error)) => ControlResponse::error(StatusCode::INSUFFICIENT_STORAGE, error),
            Err(error) => ControlResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    async fn take(&self, signed: Signed, keep: Keep) -> Result<u64, NotTaken> {
        let _one = self.receiving.lock().await;
        let (state, store) = self.kept.clone().ok_or(NotTaken::NotEnrolled)?;
        if self.enrolment.identity().is_none() {
            return Err(NotTaken::NotEnrolled);
        }
        let current = self.lock().as_ref().map(|accepted| accepted.snapshot.number);
        // The very same one again: home did not hear our first answer.
        if self.lock().as_ref().is_some_and(|accepted| accepted.signed == signed) {
            return Ok(current.unwrap_or_default());
        }
        let snapshot = signed.verify(&home_key(&state)?, self.fleet().as_deref(), current)?;
        let desired = self.prepare(&state, &store, &signed, &snapshot, keep).await;
        let desired = desired.inspect_err(|not_taken| {
            let refusal = match not_taken {
                NotTaken::Refused(refusal) => refusal.clone(),
                NotTaken::State(_) | NotTaken::Store(_) => Refusal::new(not_taken),
                _ => return,
            };
            self.applier.refuse(Source::Snapshot(snapshot.number), &refusal);
        })?;
        if let Err(refusal) = self.applier.apply(desired).await {
            // It is only in the way: a start looks at the accepted one alone.
            let _left_behind = state.remove(TAKING);
            return Err(NotTaken::Refused(refusal));
        }
        let number = snapshot.number;
        // It serves from here on, and room was found for it: a rename is all that is left.
        let kept = keep == Keep::AlreadyKept
            || match state.rename(TAKING, ACCEPTED) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!("snapshot {number} serves but can't be kept over a restart: {error}");
                    false
                }
            };
        if kept {
            clean(&state, &store, &snapshot, &self.node);
        }
        *self.lock() = Some(Accepted { signed, snapshot });
        Ok(number)
    }

    /// Everything that takes room, before anything changes.
    async fn prepare(
        &self,
        state: &StateDir,
        store: &Store,
        signed: &Signed,
        snapshot: &Snapshot,
        keep: Keep,
    ) -> Result<Desired, NotTaken> {
        let desired = self.lay_out(state, store, snapshot).await?;
        if keep == Keep::Now {
            // Our own type: it was read from JSON a moment ago.
            state.write(TAKING, &serde_json::to_vec(signed).unwrap_or_default())?;
        }
        Ok(desired)
    }

    /// The fleet this node belongs to: that of its first snapshot, or of the local file before.
    fn fleet(&self) -> Option<String> {
        if let Some(accepted) = &*self.lock() {
            return Some(accepted.snapshot.fleet.clone());
        }
        self.applier.status().serving.map(|serving| serving.config.fleet.clone())
    }

    /// Lays the snapshot's files out and loads the fleet file among them.
    async fn lay_out(
        &self,
        state: &StateDir,
        store: &Store,
        snapshot: &Snapshot,
    ) -> Result<Desired, NotTaken> {
        let files = snapshot.files_for(&self.node);
        let missing: BTreeSet<Sha256> =
            files.map(|file| file.sha256).filter(|hash| !store.has(hash)).collect();
        if !missing.is_empty() {
            return Err(NotTaken::Missing(missing.into_iter().collect()));
        }
        let (state, store) = (state.clone(), store.clone());
        let (snapshot, node) = (snapshot.clone(), self.node.clone());
        let laid_out = tokio::task::spawn_blocking(move || lay_out(&state, &store, &snapshot, &node));
        match laid_out.await {
            Ok(result) => result,
            Err(error) => Err(NotTaken::Refused(Refusal::new(format!("laying out failed: {error}")))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Accepted>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an accepted snapshot has yet to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Now,
    AlreadyKept,
}

fn lay_out(state: &StateDir, store: &Store, snapshot: &Snapshot, node: &str) -> Result<Desired, NotTaken> {
    let mut opening_key = None;
    let mut entries = Vec::new();
    for file in snapshot.files_for(node) {
        let content = if file.sealed_for.is_some() {
            let key = match &opening_key {
                Some(key) => key,
                None => opening_key.insert(read_opening_key(state)?),
            };
            let opened = key.open(&file.path, &store.read(&file.sha256)?);
            Content::Bytes(opened.map_err(|error| NotTaken::Sealed { path: file.path.clone(), error })?)
        } else {
            Content::Stored(file.sha256)
        };
        entries.push(Entry { path: PathBuf::from(&file.path), content });
    }
    let root = match store.tree(&tree_name(snapshot.number), &entries) {
        // It rotted on the disk and was dropped just now: asked for like any other.
        Err(StoreError::Missing(hash)) => return Err(NotTaken::Missing(vec![hash])),
        result => result?,
    };
    let fleet_file = root.join(&snapshot.fleet_file);
    let loaded = load::load(&fleet_file, Some(&root)).map_err(NotTaken::Refused)?;
    if loaded.config.fleet != snapshot.fleet {
        let (read, expected) = (loaded.config.fleet.clone(), snapshot.fleet.clone());
        return Err(SnapshotError::OtherFleet { read, expected }.into());
    }
    Ok(Desired { config: loaded.config, fleet_file, source: Source::Snapshot(snapshot.number) })
}

/// Removes files and trees that neither the accepted snapshot nor the last good local state needs.
fn clean(state: &StateDir, store: &Store, accepted: &Snapshot, node: &str) {
    let mut files: BTreeSet<Sha256> = accepted.files_for(node).map(|file| file.sha256).collect();
    files.extend(last_good::needs(state));
    let trees = BTreeSet::from([tree_name(accepted.number), last_good::TREE.to_owned()]);
    store.retain(&files, &trees);
}

fn tree_name(number: u64) -> String {
    format!("snapshot-{number}")
}

fn home_key(state: &StateDir) -> Result<PublicKey, NotTaken> {
    let (path, text) = read_key(state, identity::SNAPSHOT_KEY)?;
    text.parse().map_err(|error| NotTaken::Key(path, error))
}

fn read_opening_key(state: &StateDir) -> Result<OpeningKey, NotTaken> {
    let (path, text) = read_key(state, identity::SEAL_KEY)?;
    OpeningKey::from_text(&text).map_err(|error| NotTaken::Opening(path, error))
}

fn read_key(state: &StateDir, name: &str) -> Result<(PathBuf, String), NotTaken> {
    let name = PathBuf::from(identity::DIR).join(name);
    let path = state.path(&name);
    let bytes = state.read(&name, KEY_BYTES_MAX)?.ok_or_else(|| NotTaken::KeyMissing(path.clone()))?;
    Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use nearside_fleet::{
        seal::{self, SealingKey},
        snapshot::{FileEntry, SigningKey},
    };

    use super::*;
    use crate::{
        metrics::NodeMetrics,
        test_daemon::{TestDaemon, write_fleet},
        test_identities::Ca,
    };

    const FLEET: &str = "version = 1\nfleet = \"test\"\n[dns.ns1]\nlisten = \"127.0.0.1:5353\"\n\
                         [zone.\"cdn.test\"]\nfile = \"zones/cdn.test.zone\"\n";

    /// Home and one enrolled node.
    struct Pair {
        temp: tempfile::TempDir,
        home: SigningKey,
        sealing: SealingKey,
    }

    impl Pair {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let dir = temp.path().join("state/identity");
            Ca::new().write_identity(&dir, "node:ns1");
            let (home, _) = SigningKey::generate().unwrap();
            let (opening, sealing) = seal::generate().unwrap();
            fs::write(dir.join(identity::SNAPSHOT_KEY), home.public_key().to_string()).unwrap();
            fs::write(dir.join(identity::SEAL_KEY), opening).unwrap();
            Self { temp, home, sealing: SealingKey::from_text(&sealing).unwrap() }
        }

        /// The node, started anew on its state directory.
        fn node(&self) -> Snapshots<TestDaemon> {
            let state = StateDir::open(self.state()).unwrap();
            let kept = Some((state.clone(), Store::open(&state).unwrap()));
            let applier =
                Arc::new(Applier::new("ns1", Arc::new(TestDaemon::default()), NodeMetrics::default()));
            Snapshots::new("ns1", kept, applier, Arc::new(Enrolment::new("ns1", Some(state))))
        }

        fn state(&self) -> std::path::PathBuf {
            self.temp.path().join("state")
        }

        /// A snapshot with this zone and a sealed key, and the files it needs.
        fn snapshot(&self, number: u64, zone: &str) -> (Snapshot, Vec<Vec<u8>>) {
            let sealed = self.sealing.seal("home/key.pem", b"the private key").unwrap();
            let mut files = Vec::new();
            let mut entry = |path: &str, content: &[u8], sealed_for: Option<&str>| {
                files.push(content.to_vec());
                FileEntry {
                    path: path.to_owned(),
                    sha256: Sha256::of(content),
                    bytes: content.len() as u64,
                    sealed_for: sealed_for.map(str::to_owned),
                }
            };
            let entries = vec![
                entry("home/nearside.toml", FLEET.as_bytes(), None),
                entry("home/zones/cdn.test.zone", zone.as_bytes(), None),
                entry("home/key.pem", &sealed, Some("ns1")),
                // For somebody else: not sent here, and not asked for.
                FileEntry {
                    path: "home/key.pem".to_owned(),
                    sha256: Sha256::of(b"other"),
                    bytes: 5,
                    sealed_for: Some("ns2".to_owned()),
                },
            ];
            let snapshot = Snapshot {
                fleet: "test".to_owned(),
                number,
                created: 1,
                rollback_of: None,
                fleet_file: "home/nearside.toml".to_owned(),
                files: entries,
            };
            (snapshot, files)
        }

        /// Sends files and snapshot as home does.
        async fn publish(
            &self,
            node: &Snapshots<TestDaemon>,
            number: u64,
            zone: &str,
        ) -> (StatusCode, String) {
            let (snapshot, files) = self.snapshot(number, zone);
            for file in files {
                let hash = Sha256::of(&file).to_string();
                assert_eq!(node.receive_file(&hash, file.into()).await.status, StatusCode::OK);
            }
            send(node, &self.home.sign(&snapshot).unwrap()).await
        }
    }

    async fn send(node: &Snapshots<TestDaemon>, signed: &Signed) -> (StatusCode, String) {
        let response = node.receive(serde_json::to_vec(signed).unwrap().into()).await;
        (response.status, String::from_utf8(response.body.to_vec()).unwrap())
    }

    fn serves(node: &Snapshots<TestDaemon>) -> Option<String> {
        node.applier.daemon().serves()
    }

    #[tokio::test]
    async fn a_snapshot_is_asked_for_taken_kept_and_booted_from() {
        let pair = Pair::new();
        let node = pair.node();
        assert!(!node.boot().await, "nothing was accepted yet");
        let (snapshot, _) = pair.snapshot(7, "seven");
        let (status, body) = send(&node, &pair.home.sign(&snapshot).unwrap()).await;
        assert_eq!(status, StatusCode::CONFLICT);
        let missing: report::Missing = serde_json::from_str(&body).unwrap();
        assert_eq!(missing.missing.len(), 3, "those for this node, not those for others");

        assert_eq!(pair.publish(&node, 7, "seven").await.0, StatusCode::OK);
        assert_eq!(serves(&node).as_deref(), Some("seven"));
        assert!(node.governs());
        let key = fs::read(pair.state().join("trees/snapshot-7/home/key.pem")).unwrap();
        assert_eq!(key, b"the private key", "it was opened");

        let again = pair.node();
        assert!(again.boot().await);
        assert_eq!(serves(&again).as_deref(), Some("seven"));
        assert_eq!(again.accepted().status, StatusCode::OK);
    }

    #[tokio::test]
    async fn old_ones_are_cleaned_away_and_the_same_one_again_is_fine() {
        let pair = Pair::new();
        let node = pair.node();
        pair.publish(&node, 1, "one").await;
        assert_eq!(pair.publish(&node, 2, "two").await.0, StatusCode::OK);
        let signed = node.lock().clone().unwrap().signed;
        assert_eq!(send(&node, &signed).await.0, StatusCode::OK, "home did not hear the first answer");
        assert!(!pair.state().join("trees/snapshot-1").exists());
        assert!(!pair.state().join(TAKING).exists());
        let zone = pair.state().join("files").join(Sha256::of(b"one").to_string());
        assert!(!zone.exists());
    }

    #[tokio::test]
    async fn forged_replayed_and_foreign_ones_are_refused() {
        let pair = Pair::new();
        let node = pair.node();
        pair.publish(&node, 5, "five").await;
        let (thief, _) = SigningKey::generate().unwrap();
        let (snapshot, _) = pair.snapshot(6, "six");
        let forged = thief.sign(&snapshot).unwrap();
        let mut changed = pair.home.sign(&snapshot).unwrap();
        changed.snapshot = changed.snapshot.replace("\"number\":6", "\"number\":9");
        let replayed = pair.home.sign(&pair.snapshot(4, "four").0).unwrap();
        let foreign = pair.home.sign(&Snapshot { fleet: "other".to_owned(), ..snapshot }).unwrap();
        for (signed, reason) in [
            (forged, "not one of this fleet"),
            (changed, "not one of this fleet"),
            (replayed, "not newer than 5"),
            (foreign, "belongs to"),
        ] {
            let (status, body) = send(&node, &signed).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
            assert!(body.contains(reason), "{body}");
        }
        assert_eq!(serves(&node).as_deref(), Some("five"));
        assert!(node.applier.status().refused.is_none(), "a stranger does not change what is shown");
        // The replay is refused after a restart too.
        let again = pair.node();
        assert!(again.boot().await);
        assert_eq!(pair.publish(&again, 4, "four").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[tokio::test]
    async fn what_the_daemon_refuses_is_refused_whole_with_the_reason() {
        let pair = Pair::new();
        let node = pair.node();
        pair.publish(&node, 1, "good").await;
        let (status, body) = pair.publish(&node, 2, "BAD").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(body.contains("cdn.test.zone:1:1") && body.contains("\"cause\":\"snapshot\""), "{body}");
        assert_eq!(serves(&node).as_deref(), Some("good"));
        assert_eq!(node.applier.status().refused.unwrap().source, Source::Snapshot(2));
        let again = pair.node();
        assert!(again.boot().await);
        assert_eq!(serves(&again).as_deref(), Some("good"), "the last accepted one is what a restart takes");
        assert_eq!(pair.publish(&node, 3, "mended").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_refused_whole_and_is_the_nodes_own_fault() {
        let pair = Pair::new();
        let node = pair.node();
        pair.publish(&node, 1, "good").await;
        // A directory in the way fails for root too, as a full disk would.
        fs::create_dir_all(pair.state().join(TAKING).join("x")).unwrap();
        let (status, body) = pair.publish(&node, 2, "newer").await;
        assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE);
        assert!(body.contains("\"cause\":\"node\"") && body.contains("taking.json"), "{body}");
        assert_eq!(serves(&node).as_deref(), Some("good"), "what can't be kept is not served either");
        assert_eq!(node.applier.status().refused.unwrap().source, Source::Snapshot(2));
        let again = pair.node();
        assert!(again.boot().await);
        assert_eq!(serves(&again).as_deref(), Some("good"));
        fs::remove_dir_all(pair.state().join(TAKING)).unwrap();
        assert_eq!(pair.publish(&node, 2, "newer").await.0, StatusCode::OK, "it heals when there is room");
        let again = pair.node();
        assert!(again.boot().await);
        assert_eq!(serves(&again).as_deref(), Some("newer"));
    }

    #[tokio::test]
    async fn a_truncated_stored_file_is_asked_for_again() {
        let pair = Pair::new();
        let node = pair.node();
        let (snapshot, files) = pair.snapshot(1, "a zone");
        for file in files {
            node.receive_file(&Sha256::of(&file).to_string(), file.into()).await;
        }
        let hash = Sha256::of(b"a zone");
        fs::write(pair.state().join("files").join(hash.to_string()), "a z").unwrap();
        let (status, body) = send(&node, &pair.home.sign(&snapshot).unwrap()).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(body.contains(&hash.to_string()), "{body}");
        assert_eq!(pair.publish(&node, 1, "a zone").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_sealed_file_for_another_key_is_refused() {
        let mut pair = Pair::new();
        let (_, other) = seal::generate().unwrap();
        pair.sealing = SealingKey::from_text(&other).unwrap();
        let node = pair.node();
        let (status, body) = pair.publish(&node, 1, "x").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(body.contains("home/key.pem"), "{body}");
    }

    #[tokio::test]
    async fn a_node_without_an_identity_takes_nothing() {
        let pair = Pair::new();
        fs::remove_dir_all(pair.state().join(identity::DIR)).unwrap();
        let node = pair.node();
        let hash = Sha256::of(b"x").to_string();
        assert_eq!(node.receive_file(&hash, Bytes::from_static(b"x")).await.status, StatusCode::CONFLICT);
        let (snapshot, _) = pair.snapshot(1, "x");
        let (status, body) = send(&node, &pair.home.sign(&snapshot).unwrap()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(body.contains("not enrolled"), "{body}");
    }

    #[tokio::test]
    async fn a_damaged_accepted_snapshot_gives_way() {
        let pair = Pair::new();
        pair.publish(&pair.node(), 1, "x").await;
        fs::write(pair.state().join(ACCEPTED), "{").unwrap();
        assert!(!pair.node().boot().await);
    }

    #[test]
    fn the_test_fleet_is_the_one_of_other_tests() {
        let temp = tempfile::tempdir().unwrap();
        let file = write_fleet(Path::new(temp.path()), "x");
        assert_eq!(fs::read_to_string(file).unwrap(), FLEET);
    }
}
