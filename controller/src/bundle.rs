//! Makes the next snapshot of what is on disk, or says that nothing changed.
//!
//! Reads the fleet file and all it names once, keeps each content under its hash, seals private keys for
//! every edge, issues certificates that are due, signs. A seal differs at every call, so what was sealed
//! before is taken from the journal: the same input is the same list of hashes. A kept snapshot can be made anew: what
//! people wrote in it stays, what home adds by itself (certificates of the fleet's CA, ticket keys) is that of now.
//!
//! Invariant: no private key is kept or listed in the clear.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nearside_fleet::{
    Sha256,
    config::{Config, SiteTls},
    files::Role,
    snapshot::{FileEntry, Signed, Snapshot, tree_path},
    tickets::{self, TicketSeeds},
};
use nearside_node::state::{StateDir, read_bounded};

use crate::{
    check,
    home::{Home, seconds},
    journal::{
        Issued, Journal, JournalError,
        publications::{Outcome as Became, Publication, Waves},
    },
};

/// Life of a certificate from the fleet's CA. Nothing but our own clients trusts it, so rotation is cheap.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// Directory beside the fleet file where nodes find certificates that home issued.
pub use nearside_fleet::spec::FLEET_CA_DIR;
use nearside_fleet::spec::TICKET_KEYS_FILE;

/// Home's own copy of the ticket seeds, in its state directory.
const TICKET_SEEDS: &str = "tickets.keys";

/// What a snapshot is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The files on disk.
    Disk,
    /// The same, unless they say what was taken back and nobody has asked for again.
    DiskUnlessHeld,
    /// What people wrote in the newest snapshot; the files on disk, if there is none.
    Newest,
    /// What people wrote in this one.
    Rollback(u64),
}

/// A snapshot to be made.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Of what.
    pub content: Content,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub note: String,
    /// How it goes out.
    pub how: How,
}

/// How a snapshot goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// To all nodes at once.
    AtOnce,
    /// As its own fleet file says.
    AsConfigured,
    /// In waves.
    Waves(Waves),
}

/// What is published, or would be.
#[derive(Clone, Debug)]
pub struct Published {
    /// The configuration of it.
    pub config: Config,
    /// Its number.
    pub number: u64,
    /// What is known of it.
    pub publication: Publication,
    /// What nodes are sent.
    pub signed: Signed,
    /// Whether this call made it.
    pub new: bool,
}

/// Why nothing was published, and what to watch for it to be mended.
#[derive(Debug)]
pub struct Refusal {
    /// One entry per mistake.
    pub reasons: Vec<String>,
    /// Nothing is wrong with the files but that they were taken back.
    pub held: bool,
}

impl From<Vec<String>> for Refusal {
    fn from(reasons: Vec<String>) -> Self {
        Self { reasons, held: false }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        vec![reason].into()
    }
}

/// Everything a publish needs of home.
#[derive(Debug)]
pub struct Bundler<'h> {
    /// Keys.
    pub home: &'h Home,
    /// Memory.
    pub journal: &'h Journal,
    /// The fleet file.
    pub fleet_file: &'h Path,
    /// Now.
    pub now: SystemTime,
}

/// Outcome, and the files that were read: they are watched, good or bad.
pub type Outcome = (Result<Published, Refusal>, BTreeSet<PathBuf>);

impl Bundler<'_> {
    /// Checks, gathers, signs and journals; or finds that the newest snapshot says the same already.
    pub fn publish(&self, draft: &Draft) -> Outcome {
        let words = |error: &dyn std::fmt::Display| Refusal::from(error.to_string());
        let base = match draft.content {
            Content::Disk | Content::DiskUnlessHeld => return self.of_disk(draft),
            Content::Rollback(number) => Ok(Some(number)),
            Content::Newest => self.journal.newest().map(|newest| newest.map(|(number, ..)| number)),
        };
        match base {
            Ok(None) => self.of_disk(draft),
            Ok(Some(number)) => (self.of_kept(draft, number), BTreeSet::new()),
            Err(error) => (Err(words(&error)), BTreeSet::new()),
        }
    }

    fn of_disk(&self, draft: &Draft) -> Outcome {
        let checked = check::check(self.fleet_file, self.now);
        let mut read: BTreeSet<PathBuf> = checked.included.iter().cloned().collect();
        read.insert(nearside_fleet::files::absolute(self.fleet_file));
        let Some(loaded) = checked.loaded else {
            return (Err(checked.mistakes.into()), read);
        };
        read.extend(loaded.files.iter().map(|named| named.path.clone()));
        for warning in &checked.warnings {
            tracing::warn!("{warning}");
        }
        if !checked.mistakes.is_empty() {
            return (Err(checked.mistakes.into()), read);
        }
        let keys: BTreeSet<&PathBuf> =
            loaded.files.iter().filter(|named| named.role == Role::Key).map(|named| &named.path).collect();
        let made = self.gather(&loaded.config, &read, &keys).map_err(Refusal::from);
        let made = made.and_then(|(files, source)| {
            self.unless_held(draft, &source)?;
            Ok(self.number(draft, &loaded.config, files, source)?)
        });
        (made, read)
    }

    /// Refuses what was taken back; asked for by a person, it is published and forgotten as such.
    fn unless_held(&self, draft: &Draft, source: &str) -> Result<(), Refusal> {
        let held = self.journal.held(source).map_err(|error| error.to_string())?;
        let newest = self.newest_source().map_err(|error| error.to_string())?;
        let Some(held) = held.filter(|_| newest.as_deref() != Some(source)) else { return Ok(()) };
        if draft.content == Content::Disk {
            self.journal.release(source).map_err(|error| error.to_string())?;
            return Ok(());
        }
        let reason = format!(
            "the files are those of snapshot {}, which was taken back: {}; change them, or have them all the same with \
             `nearside publish`",
            held.number, held.reason
        );
        Err(Refusal { reasons: vec![reason], held: true })
    }

    fn newest_source(&self) -> Result<Option<String>, JournalError> {
        Ok(self.journal.publications(1)?.into_iter().next().map(|newest| newest.source))
    }

    /// What people wrote in a kept snapshot, with what home adds now.
    fn of_kept(&self, draft: &Draft, number: u64) -> Result<Published, Refusal> {
        let (snapshot, config) = kept(self.home, self.journal, self.fleet_file, number)?;
        let publication = self.journal.publication(number).map_err(|error| error.to_string())?;
        let source = publication.map(|publication| publication.source).unwrap_or_default();
        let mut files = BTreeMap::new();
        for entry in snapshot.files.into_iter().filter(|entry| !is_added(&snapshot.fleet_file, &entry.path)) {
            if entry.sealed_for.as_deref().is_some_and(|node| self.is_revoked(node).unwrap_or(true)) {
                continue;
            }
            let entry = self.resealed(entry)?;
            if !self.home.state.path(file_name(&entry.sha256)).exists() {
                return Err(format!("{} of snapshot {number} is no longer kept at home", entry.path).into());
            }
            files.insert((entry.path.clone(), entry.sealed_for.clone()), entry);
        }
        self.add_own(&config, &mut files)?;
        Ok(self.number(draft, &config, files.into_values().collect(), source)?)
    }

    /// What a stolen key could open is no longer sealed for it.
    fn is_revoked(&self, node: &str) -> Result<bool, String> {
        self.journal.is_revoked(&format!("node:{node}")).map_err(|error| error.to_string())
    }

    /// The same file for a node that was given a new key since, as far as what was sealed is still on disk.
    fn resealed(&self, entry: FileEntry) -> Result<FileEntry, String> {
        let Some(node) = entry.sealed_for.clone() else { return Ok(entry) };
        let from = self.journal.sealed_from(&entry.sha256).map_err(|error| error.to_string())?;
        let Some((plain, key)) = from.filter(|(_, key)| self.key_id(&node).as_ref() != Ok(key)) else {
            return Ok(entry);
        };
        let path = Path::new("/").join(&entry.path);
        match read_bounded(&path, nearside_fleet::snapshot::FILE_BYTES_MAX) {
            Ok(Some(bytes)) if Sha256::of(&bytes) == plain => {
                let (sha256, bytes) = self.sealed(&plain, &entry.path, &node, &bytes)?;
                Ok(FileEntry { sha256, bytes, ..entry })
            }
            // The node will say that it can't open it.
            _ => {
                tracing::warn!(node, path = entry.path, key, "sealed for a key that the node no longer has");
                Ok(entry)
            }
        }
    }

    /// Renews a site's certificate from the fleet's CA now.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn renew(&self, config: &Config, site: &str) -> Result<Issued, String> {
        let known = || config.sites.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let found = config
            .sites
            .get(site)
            .ok_or_else(|| format!("there is no site {site}; there are: {}", known()))?;
        if found.tls != Some(SiteTls::FleetCa) {
            return Err(format!("site {site} does not have its certificate from the fleet's CA"));
        }
        let issued = self.home.issue_server(&found.hosts, self.now, CERTIFICATE_LIFE);
        let (chain, key) = issued.map_err(|error| error.to_string())?;
        let (not_before, not_after) = (seconds(self.now), seconds(self.now + CERTIFICATE_LIFE));
        let issued = Issued { hosts: found.hosts.clone(), chain, key, not_before, not_after };
        self.journal.keep_certificate(site, &issued).map_err(|error| error.to_string())?;
        tracing::info!(site, not_after, "issued a certificate from the fleet's CA");
        Ok(issued)
    }

    fn gather(
        &self,
        config: &Config,
        read: &BTreeSet<PathBuf>,
        keys: &BTreeSet<&PathBuf>,
    ) -> Result<(Vec<FileEntry>, String), String> {
        let mut files = Entries::new();
        let mut source = String::new();
        for path in read {
            let bytes = read_bounded(path, nearside_fleet::snapshot::FILE_BYTES_MAX)
                .map_err(|error| error.to_string())?;
            let bytes = bytes.ok_or_else(|| format!("{}: vanished while it was read", path.display()))?;
            source += &format!("{} {}\n", Sha256::of(&bytes), tree_path(path));
            match keys.contains(path) {
                true => self.add_sealed(&mut files, owners(config, path), &tree_path(path), &bytes)?,
                false => self.add_clear(&mut files, &tree_path(path), &bytes)?,
            }
        }
        self.add_own(config, &mut files)?;
        Ok((files.into_values().collect(), Sha256::of(source.as_bytes()).to_string()))
    }

    /// Adds what home makes by itself: certificates of the fleet's CA, keys of session tickets.
    fn add_own(&self, config: &Config, files: &mut Entries) -> Result<(), String> {
        let dir = nearside_fleet::files::absolute(self.fleet_file).parent().map(|dir| dir.join(FLEET_CA_DIR));
        for site in config.sites.values() {
            let issued = match &site.tls {
                Some(SiteTls::FleetCa) => self.certificate(config, &site.name, &site.hosts)?,
                // Until one has come, what the site had before is served on, whoever issued it.
                Some(SiteTls::Acme(_) | SiteTls::Import) => {
                    match self.journal.certificate(&site.name).map_err(|error| error.to_string())? {
                        Some(kept) => kept,
                        None => continue,
                    }
                }
                Some(SiteTls::Files { .. }) | None => continue,
            };
            let dir = dir.as_ref().ok_or("the fleet file is in no directory")?;
            let path = |end: &str| tree_path(&dir.join(format!("{}.{end}", site.name)));
            self.add_clear(files, &path("cert.pem"), issued.chain.as_bytes())?;
            self.add_sealed(files, config.pops.keys().collect(), &path("key.pem"), issued.key.as_bytes())?;
        }
        if let Some(seeds) = self.ticket_seeds(config)? {
            let dir = dir.as_ref().ok_or("the fleet file is in no directory")?;
            let path = tree_path(&dir.join(TICKET_KEYS_FILE));
            self.add_sealed(files, config.pops.keys().collect(), &path, seeds.text().as_bytes())?;
        }
        Ok(())
    }

    /// The seeds of session tickets for edges that serve TLS, a new one where it is due; `None`: the fleet file
    /// names a file of the operator's, or there is nothing to resume.
    fn ticket_seeds(&self, config: &Config) -> Result<Option<TicketSeeds>, String> {
        if config.ticket_keys.is_some() || config.sites.values().all(|site| site.tls.is_none()) {
            return Ok(None);
        }
        let words = |error: &dyn std::fmt::Display| format!("{TICKET_SEEDS}: {error}");
        let kept =
            self.home.state.read(TICKET_SEEDS, tickets::FILE_BYTES_MAX).map_err(|error| error.to_string())?;
        let kept = kept.map(|bytes| TicketSeeds::parse(&String::from_utf8_lossy(&bytes)));
        let kept = kept.transpose().map_err(|error| words(&error))?;
        let (seeds, fresh) = match kept {
            Some(seeds) => (seeds, false),
            None => (TicketSeeds::generate().map_err(|error| words(&error))?, true),
        };
        let renewed = seeds.renew(seconds(self.now)).map_err(|error| words(&error))?;
        if renewed.is_some() || fresh {
            let text = renewed.as_ref().unwrap_or(&seeds).text();
            self.home.state.write(TICKET_SEEDS, text.as_bytes()).map_err(|error| error.to_string())?;
            tracing::info!("made a new key for TLS session tickets");
        }
        Ok(Some(renewed.unwrap_or(seeds)))
    }

    /// The certificate in force: the kept one, unless its hosts changed or two thirds of its life are over.
    fn certificate(&self, config: &Config, site: &str, hosts: &[String]) -> Result<Issued, String> {
        let kept = self.journal.certificate(site).map_err(|error| error.to_string())?;
        match kept {
            Some(issued) if issued.hosts == hosts && !due(&issued, self.now) => Ok(issued),
            _ => self.renew(config, site),
        }
    }

    fn add_clear(&self, files: &mut Entries, path: &str, bytes: &[u8]) -> Result<(), String> {
        let sha256 = Sha256::of(bytes);
        self.keep(&sha256, bytes)?;
        let entry = FileEntry { path: path.to_owned(), sha256, bytes: bytes.len() as u64, sealed_for: None };
        files.insert((path.to_owned(), None), entry);
        Ok(())
    }

    /// One entry per node that may open it.
    fn add_sealed(
        &self,
        files: &mut Entries,
        nodes: BTreeSet<&String>,
        path: &str,
        bytes: &[u8],
    ) -> Result<(), String> {
        let plain = Sha256::of(bytes);
        for node in nodes {
            if self.is_revoked(node)? {
                continue;
            }
            let (sha256, length) = self.sealed(&plain, path, node, bytes)?;
            let entry =
                FileEntry { path: path.to_owned(), sha256, bytes: length, sealed_for: Some(node.clone()) };
            files.insert((path.to_owned(), Some(node.clone())), entry);
        }
        Ok(())
    }

    fn sealed(&self, plain: &Sha256, path: &str, node: &str, bytes: &[u8]) -> Result<(Sha256, u64), String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        // A node that was given a new key needs its files sealed anew.
        let key_id = self.key_id(node)?;
        let kept = self.journal.sealed(plain, path, node, &key_id).map_err(|error| words(&error))?;
        if let Some((hash, length)) = kept.filter(|(hash, _)| self.home.state.path(file_name(hash)).exists())
        {
            return Ok((hash, length));
        }
        let key = self.home.sealing_key(node).map_err(|error| words(&error))?;
        let sealed = key.seal(path, bytes).map_err(|error| format!("{path} for {node}: {error}"))?;
        let (hash, length) = (Sha256::of(&sealed), sealed.len() as u64);
        self.keep(&hash, &sealed)?;
        self.journal.keep_sealed(plain, path, node, &key_id, &hash, length).map_err(|error| words(&error))?;
        Ok((hash, length))
    }

    /// Which key a node has.
    fn key_id(&self, node: &str) -> Result<String, String> {
        key_id(&self.home.state, node)
    }

    fn keep(&self, hash: &Sha256, bytes: &[u8]) -> Result<(), String> {
        let name = file_name(hash);
        if self.home.state.path(&name).exists() {
            return Ok(());
        }
        self.home.state.write(name, bytes).map(drop).map_err(|error| error.to_string())
    }

    fn number(
        &self,
        draft: &Draft,
        config: &Config,
        files: Vec<FileEntry>,
        source: String,
    ) -> Result<Published, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        // A mistake in the wish is told even where nothing changed.
        let waves = waves(&draft.how, config)?;
        let content = serde_json::to_vec(&files).map_err(|error| words(&error))?;
        let content = Sha256::of(&content).to_string();
        let newest = self.journal.newest().map_err(|error| words(&error))?;
        // After a restore: a number that nodes have seen must not come again, whatever is in it.
        let floor = self.journal.snapshot_floor().map_err(|error| words(&error))?;
        let number = match newest {
            Some((number, kept, signed)) if kept == content && number > floor => {
                let publication = self.journal.publication(number).map_err(|error| words(&error))?;
                let publication = publication.ok_or_else(|| format!("snapshot {number} is gone"))?;
                return Ok(Published { config: config.clone(), number, publication, signed, new: false });
            }
            newest => newest.map_or(0, |(number, ..)| number).max(floor) + 1,
        };
        let created = seconds(self.now);
        let rollback_of = match draft.content {
            Content::Rollback(number) => Some(number),
            _ => None,
        };
        let fleet_file = tree_path(self.fleet_file);
        let snapshot =
            Snapshot { fleet: config.fleet.clone(), number, created, rollback_of, fleet_file, files };
        let key = self.home.signing_key().map_err(|error| words(&error))?;
        let signed = key.sign(&snapshot).map_err(|error| words(&error))?;
        // The first one goes to all: there is nothing to go back to.
        let waves = waves.filter(|_| number > 1);
        let outcome = if waves.is_some() { Became::Rolling } else { Became::Sent };
        let publication = Publication {
            number,
            created,
            who: draft.who.clone(),
            note: draft.note.clone(),
            source,
            rollback_of,
            outcome,
            told: String::new(),
            waves,
        };
        self.journal.keep_snapshot(&publication, &content, &signed).map_err(|error| words(&error))?;
        Ok(Published { config: config.clone(), number, publication, signed, new: true })
    }
}

/// The waves of a snapshot, if it goes out in some.
fn waves(how: &How, config: &Config) -> Result<Option<Waves>, String> {
    let waves = match how {
        How::AtOnce => return Ok(None),
        How::Waves(waves) => waves.clone(),
        How::AsConfigured => {
            let rollout = config.controller.as_ref().and_then(|controller| controller.rollout.as_ref());
            let Some(rollout) = rollout else { return Ok(None) };
            let watch_seconds = rollout.watch.map(|watch| watch.as_secs());
            Waves { canary: rollout.canary.clone(), percents: rollout.waves.clone(), watch_seconds }
        }
    };
    let is_node = |name: &String| config.pops.contains_key(name) || config.dns.contains_key(name);
    if let Some(stranger) = waves.canary.iter().find(|name| !is_node(name)) {
        let known: Vec<&str> = config.pops.keys().chain(config.dns.keys()).map(String::as_str).collect();
        return Err(format!("there is no node {stranger} to be the canary; there are: {}", known.join(", ")));
    }
    Ok(Some(waves))
}

/// By path and node, so that the order never depends on how things were found.
type Entries = BTreeMap<(String, Option<String>), FileEntry>;

/// A kept snapshot of ours and the configuration in it.
///
/// # Errors
/// Why it can't be had, in words.
pub fn kept(
    home: &Home,
    journal: &Journal,
    fleet_file: &Path,
    number: u64,
) -> Result<(Snapshot, Config), String> {
    let signed = journal.snapshot(number).map_err(|error| error.to_string())?;
    let signed = signed.ok_or_else(|| {
        format!("there is no snapshot {number} (any more); `nearside history` lists what is kept")
    })?;
    let key = home.signing_key().map_err(|error| error.to_string())?.public_key();
    let snapshot = signed.verify(&key, None, None).map_err(|error| format!("snapshot {number}: {error}"))?;
    let entry = snapshot.files.iter().find(|file| file.path == snapshot.fleet_file);
    let entry = entry.ok_or_else(|| format!("snapshot {number} has no fleet file"))?;
    let text = String::from_utf8(content(&home.state, &entry.sha256)?)
        .map_err(|_| format!("the fleet file of snapshot {number} is no text"))?;
    let files = nearside_fleet::Files::beside(fleet_file);
    let loaded = nearside_fleet::spec::parse(fleet_file, &text, &files);
    let loaded = loaded.map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        format!("the fleet file of snapshot {number} does not read any more: {}", lines.join("; "))
    })?;
    Ok((snapshot, loaded.config))
}

/// Whether home made a file of a snapshot by itself.
pub fn is_added(fleet_file: &str, path: &str) -> bool {
    let dir = Path::new(fleet_file).parent().unwrap_or(Path::new("")).join(FLEET_CA_DIR);
    Path::new(path).starts_with(dir)
}

/// Which sealing key a node has, as the journal knows it.
pub(crate) fn key_id(state: &StateDir, node: &str) -> Result<String, String> {
    let public = state.read(format!("seal/{node}.pub"), 1 << 10).map_err(|error| error.to_string())?;
    Ok(Sha256::of(&public.unwrap_or_default()).to_string())
}

/// Who needs a private key or a credential. A site's, and those of session tickets: every edge, since the fleet file
/// does not bind sites to PoPs; the password of what edges share, too. That of encrypted DNS listeners: the DNS nodes that name it, and nobody else.
pub(crate) fn owners<'c>(config: &'c Config, key: &Path) -> BTreeSet<&'c String> {
    let of_edges = config.sites.values().any(|site| site.secret_files().contains(&key))
        || config.ticket_keys.as_deref() == Some(key)
        || config.shared_limits.as_ref().is_some_and(|limits| limits.password_file.as_deref() == Some(key));
    let edges = config.pops.keys().filter(|_| of_edges);
    let dns =
        config.dns.iter().filter(|(_, node)| node.encrypted.as_ref().is_some_and(|named| named.key == key));
    edges.chain(dns.map(|(name, _)| name)).collect()
}

/// Forgets the seeds of session tickets: the next snapshot has new ones, and no old ticket is good any more.
///
/// # Errors
/// In words.
pub fn forget_ticket_seeds(state: &StateDir) -> Result<(), String> {
    state.remove(TICKET_SEEDS).map_err(|error| error.to_string())
}

/// Whether two thirds of a certificate's life are over.
pub fn due(issued: &Issued, now: SystemTime) -> bool {
    let life = issued.not_after.saturating_sub(issued.not_before);
    seconds(now) >= issued.not_before + life / 3 * 2
}

pub(crate) fn file_name(hash: &Sha256) -> String {
    format!("files/{hash}")
}

/// The content of a published file.
///
/// # Errors
/// Why it can't be had, in words; also where it no longer has its hash.
pub fn content(state: &StateDir, hash: &Sha256) -> Result<Vec<u8>, String> {
    let read = state
        .read(file_name(hash), nearside_fleet::snapshot::FILE_BYTES_MAX)
        .map_err(|error| error.to_string())?;
    match read {
        Some(bytes) if Sha256::of(&bytes) == *hash => Ok(bytes),
        Some(_) => Err(format!("{}: damaged on disk", state.path(file_name(hash)).display())),
        None => Err(format!("{}: missing", state.path(file_name(hash)).display())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nearside_fleet::seal::OpeningKey;

    use super::*;
    use crate::home;

    const FLEET: &str = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
        [site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\ntls = { issuer = \"fleet\" }\n";

    fn draft(content: Content) -> Draft {
        Draft { content, who: "test".into(), note: String::new(), how: How::AtOnce }
    }

    #[test]
    fn the_same_input_is_the_same_snapshot_and_a_bad_edit_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let fleet_file = temp.path().join("nearside.toml");
        fs::write(&fleet_file, FLEET).unwrap();
        let state = StateDir::open(temp.path().join("home")).unwrap();
        let identities = state.subdir("identities").unwrap();
        let config = nearside_fleet::load(&fleet_file).unwrap().config;
        let now = SystemTime::now();
        home::init(&state, &identities, &config, now).unwrap();
        let home = Home::open(state.clone()).unwrap();
        let journal = Journal::open(&state.path("nearside.db")).unwrap();
        let at = |now| Bundler { home: &home, journal: &journal, fleet_file: &fleet_file, now };

        let first = at(now).publish(&draft(Content::Disk)).0.unwrap();
        assert!((first.number, first.new) == (1, true));
        let again = at(now).publish(&draft(Content::Disk)).0.unwrap();
        assert!((again.number, again.new) == (1, false));
        let key = home.signing_key().unwrap().public_key();
        let snapshot = first.signed.verify(&key, Some("x"), None).unwrap();
        let sealed = snapshot.files.iter().find(|file| file.sealed_for.is_some()).expect("the key is sealed");
        let bytes = content(&state, &sealed.sha256).unwrap();
        let opening =
            OpeningKey::from_text(&fs::read_to_string(identities.path("fra/seal.key")).unwrap()).unwrap();
        let opened = opening.open(&sealed.path, &bytes).unwrap();
        assert!(String::from_utf8(opened).unwrap().contains("PRIVATE KEY"));
        assert!(
            snapshot.files.iter().all(|file| !file.path.ends_with("key.pem") || file.sealed_for.is_some())
        );

        fs::write(&fleet_file, FLEET.replace("origin", "orgin")).unwrap();
        let refusal = at(now).publish(&draft(Content::Disk)).0.expect_err("a bad edit");
        let placed = |reason: &String| reason.contains("nearside.toml:8:1") && reason.contains("`origin`");
        assert!(refusal.reasons.iter().any(placed), "{:?}", refusal.reasons);
        assert_eq!(journal.newest().unwrap().unwrap().0, 1, "the published state stays");

        fs::write(&fleet_file, FLEET).unwrap();
        let later = at(now + CERTIFICATE_LIFE * 2 / 3).publish(&draft(Content::Newest)).0.unwrap();
        assert!((later.number, later.new) == (2, true), "the certificate was renewed");
    }

    #[test]
    fn a_rollback_is_new_and_what_was_taken_back_stays_at_home_until_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        let fleet_file = temp.path().join("nearside.toml");
        fs::write(&fleet_file, FLEET).unwrap();
        let state = StateDir::open(temp.path().join("home")).unwrap();
        let identities = state.subdir("identities").unwrap();
        let config = nearside_fleet::load(&fleet_file).unwrap().config;
        let now = SystemTime::now();
        home::init(&state, &identities, &config, now).unwrap();
        let home = Home::open(state.clone()).unwrap();
        let journal = Journal::open(&state.path("nearside.db")).unwrap();
        let publish = |content, now| {
            let bundler = Bundler { home: &home, journal: &journal, fleet_file: &fleet_file, now };
            bundler.publish(&draft(content)).0
        };
        let hash_of = |published: &Published| {
            let key = home.signing_key().unwrap().public_key();
            let snapshot = published.signed.verify(&key, Some("x"), None).unwrap();
            let file =
                |end: &str| snapshot.files.iter().find(|file| file.path.ends_with(end)).unwrap().sha256;
            (file("nearside.toml"), file("s.cert.pem"), snapshot.rollback_of)
        };
        let first = publish(Content::Disk, now).unwrap();
        fs::write(&fleet_file, FLEET.replace("8.6", "8.7")).unwrap();
        let second = publish(Content::DiskUnlessHeld, now).unwrap();
        let later = now + CERTIFICATE_LIFE * 2 / 3;
        let back = publish(Content::Rollback(1), later).unwrap();
        assert!((back.number, back.new) == (3, true));
        assert_eq!((hash_of(&back).0, hash_of(&back).2), (hash_of(&first).0, Some(1)));
        assert_ne!(hash_of(&back).1, hash_of(&first).1, "a certificate that is due does not come back");
        assert_eq!(back.publication.source, first.publication.source);

        journal.hold(&second.publication.source, 2, "fra is down").unwrap();
        let held = publish(Content::DiskUnlessHeld, later).expect_err("the same as before");
        assert!(
            held.held && held.reasons[0].contains("snapshot 2") && held.reasons[0].contains("fra is down")
        );
        assert!(!publish(Content::Newest, later).unwrap().new, "home's own work goes on without the files");
        let again = publish(Content::Disk, later).unwrap();
        assert_eq!(
            (again.number, hash_of(&again).0),
            (4, hash_of(&second).0),
            "asked for, they are published"
        );
        assert!(!publish(Content::DiskUnlessHeld, later).unwrap().new);
        assert!(publish(Content::Rollback(9), later).unwrap_err().reasons[0].contains("no snapshot 9"));
    }

    #[test]
    fn edges_and_nobody_else_get_ticket_keys_and_new_ones_every_day() {
        let temp = tempfile::tempdir().unwrap();
        let fleet_file = temp.path().join("nearside.toml");
        let text =
            FLEET.to_owned() + "[pop.nyc]\nlocation = [40, -74]\n[dns.ns1]\nlisten = \"192.0.2.5:53\"\n";
        fs::write(&fleet_file, text).unwrap();
        let state = StateDir::open(temp.path().join("home")).unwrap();
        let identities = state.subdir("identities").unwrap();
        let config = nearside_fleet::load(&fleet_file).unwrap().config;
        let now = SystemTime::now();
        home::init(&state, &identities, &config, now).unwrap();
        let home = Home::open(state.clone()).unwrap();
        let journal = Journal::open(&state.path("nearside.db")).unwrap();
        let key = home.signing_key().unwrap().public_key();
        let opened = |hours: u32, node: &str| {
            let now = now + Duration::from_secs(3600) * hours;
            let published = Bundler { home: &home, journal: &journal, fleet_file: &fleet_file, now };
            let published = published.publish(&draft(Content::Disk));
            let snapshot = published.0.unwrap().signed.verify(&key, Some("x"), None).unwrap();
            let mut files = snapshot.files_for(node).filter(|file| file.path.ends_with(TICKET_KEYS_FILE));
            let file = files.next()?.clone();
            let opening = identities.path(format!("{node}/seal.key"));
            let opening = OpeningKey::from_text(&fs::read_to_string(opening).unwrap()).unwrap();
            let opened = opening.open(&file.path, &content(&state, &file.sha256).unwrap()).unwrap();
            Some(TicketSeeds::parse(std::str::from_utf8(&opened).unwrap()).unwrap())
        };
        let seeds = opened(0, "fra").unwrap();
        assert_eq!(opened(0, "nyc").unwrap(), seeds);
        assert_eq!(opened(0, "ns1"), None);
        assert_eq!(opened(11, "fra").unwrap(), seeds, "nothing is due");
        let next = opened(25, "fra").unwrap();
        assert_ne!(next, seeds);
        let epoch = tickets::epoch(seconds(now + Duration::from_secs(25 * 3600)));
        assert_eq!(next.key(epoch), seeds.key(epoch), "an edge that is behind still agrees");
    }

    #[test]
    fn a_key_is_sealed_for_those_who_serve_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let fleet_file = temp.path().join("nearside.toml");
        let text = FLEET
            .replace("tls = { issuer = \"fleet\" }", "tls = { certificate = \"a.pem\", key = \"a.key\" }")
            + "[dns.ns1]\nlisten = \"192.0.2.5:53\"\n[dns.ns1.encrypted]\ntls = \"192.0.2.5:853\"\n\
             certificate = \"ns1.pem\"\nkey = \"ns1.key\"\n[dns.ns2]\nlisten = \"192.0.2.6:53\"\n";
        fs::write(&fleet_file, text).unwrap();
        let loaded = nearside_fleet::load(&fleet_file).unwrap();
        let of = |end: &str| {
            let key = loaded.files.iter().find(|file| file.role == Role::Key && file.path.ends_with(end));
            owners(&loaded.config, &key.expect("a key").path).into_iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(of("a.key"), ["fra"], "a site's: every edge");
        assert_eq!(of("ns1.key"), ["ns1"], "an encrypted listener's: that DNS node alone");
    }
}
