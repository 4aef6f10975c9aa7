//! Warming: lists of URLs that edges fetch ahead, as jobs whose progress home knows.
//!
//! An edge does the fetching and counts it in the job's name; here is who is asked for what, how fast, and how far each is.
//! One task per job and PoP hands URLs over as the rate allows, looks, and hands them over again where an edge was
//! restarted. Jobs live in memory: a restart of home forgets them, and edges finish what they were handed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    client::{ClientError, Connection, Peer, json},
    home::seconds,
};

/// URLs of a job: a deploy's, or a catalogue's hot part.
pub const URLS_MAX: usize = 10_000;
/// Bytes of a job's URLs together.
pub const URLS_BYTES_MAX: usize = 4 << 20;
/// Jobs under way; each holds its URLs and a task per PoP.
pub const RUNNING_MAX: usize = 8;
/// Jobs that can be asked after.
const JOBS_KEPT: usize = 100;
/// URLs handed over in one message.
const HANDED_MAX: usize = 256;
/// URLs that one edge has of a job and has not fetched: enough to keep it busy between two looks.
const AHEAD_MAX: u64 = 1_024;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// For one answer of an edge: from memory.
const ANSWER: Duration = Duration::from_secs(10);
/// An edge that was not reached for so long is given up for the job.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Failures told of a PoP.
const FAILURES_MAX: usize = 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Absolute URLs.
    pub urls: Vec<String>,
    /// URLs per second and PoP; `None`: as fast as each edge fetches.
    pub per_second: Option<f64>,
}

/// A URL that is not warm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub url: String,
    /// Why.
    pub reason: String,
}

/// How far a job is at a PoP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmed {
    /// Which.
    pub pop: String,
    /// Whether it is over there.
    pub state: State,
    /// Fetched, or found stored.
    pub done: u64,
    /// Not to be had, or not to be stored.
    pub failed: u64,
    /// Bytes of those that are done.
    pub bytes: u64,
    /// Why it is not under way, or was given up.
    pub error: Option<String>,
    /// The last that failed.
    pub failures: Vec<Failure>,
}

/// Whether a job is over at a PoP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Under way.
    Running,
    /// Every URL was tried.
    Done,
    /// It could not be reached for a minute, or does not take the list.
    Failed,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its number.
    pub job: u64,
    /// URLs of it.
    pub urls: u64,
    /// When it was ordered, seconds since the epoch.
    pub ordered: u64,
    /// By PoP, in order of names.
    pub pops: Vec<Warmed>,
}

/// A job.
#[derive(Debug)]
pub struct Job {
    number: u64,
    urls: u64,
    ordered: u64,
    pops: Mutex<BTreeMap<String, Warmed>>,
    running: watch::Sender<usize>,
}

/// The jobs of late.
#[derive(Debug)]
pub struct Jobs {
    /// Tells edges this home's jobs from those before its restart.
    epoch: u64,
    next: AtomicU64,
    jobs: Mutex<VecDeque<Arc<Job>>>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { epoch: seconds(SystemTime::now()), next: AtomicU64::new(1), jobs: Mutex::default() }
    }
}

impl Jobs {
    /// Begins a job at these edges. `None`: too many are under way.
    pub fn begin(&self, wanted: Wanted, edges: Vec<Peer>) -> Option<Arc<Job>> {
        let mut jobs = self.jobs.lock();
        if jobs.iter().filter(|job| job.is_running()).count() >= RUNNING_MAX {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let pops = edges.iter().map(|edge| (edge.name.clone(), Warmed::new(&edge.name))).collect();
        let job = Arc::new(Job {
            number,
            urls: wanted.urls.len() as u64,
            ordered: seconds(SystemTime::now()),
            pops: Mutex::new(pops),
            running: watch::channel(edges.len()).0,
        });
        let wanted = Arc::new(wanted);
        let name = format!("home-{}-{number}", self.epoch);
        for peer in edges {
            let hand = Hand { job: Arc::clone(&job), wanted: Arc::clone(&wanted), name: name.clone(), peer };
            tokio::spawn(hand.work());
        }
        jobs.push_back(Arc::clone(&job));
        if jobs.len() > JOBS_KEPT
            && let Some(over) = jobs.iter().position(|job| !job.is_running())
        {
            jobs.remove(over);
        }
        Some(job)
    }

    /// A job of late.
    pub fn find(&self, number: u64) -> Option<Arc<Job>> {
        self.jobs.lock().iter().find(|job| job.number == number).cloned()
    }
}

impl Job {
    fn is_running(&self) -> bool {
        *self.running.borrow() > 0
    }

    /// How far it is.
    pub fn told(&self) -> Told {
        let pops = self.pops.lock().values().cloned().collect();
        Told { job: self.number, urls: self.urls, ordered: self.ordered, pops }
    }

    /// Waits until it is over everywhere, no longer than `within`.
    pub async fn over(&self, within: Duration) {
        let mut running = self.running.subscribe();
        // Whether in time or not, `told` says.
        let _in_time = tokio::time::timeout(within, running.wait_for(|&running| running == 0)).await;
    }

    fn note(&self, pop: &str, change: impl FnOnce(&mut Warmed)) {
        let mut pops = self.pops.lock();
        if let Some(warmed) = pops.get_mut(pop) {
            change(warmed);
        }
        let running = pops.values().filter(|pop| pop.state == State::Running).count();
        drop(pops);
        self.running.send_replace(running);
    }
}

impl Warmed {
    fn new(pop: &str) -> Self {
        Self {
            pop: pop.to_owned(),
            state: State::Running,
            done: 0,
            failed: 0,
            bytes: 0,
            error: None,
            failures: Vec::new(),
        }
    }
}

/// An edge's `GET /v1/warm?job=`.
#[derive(Debug, Deserialize)]
struct Progress {
    done: u64,
    failed: u64,
    bytes: u64,
    failures: VecDeque<Failure>,
}

/// Works one job off at one edge.
struct Hand {
    job: Arc<Job>,
    wanted: Arc<Wanted>,
    name: String,
    peer: Peer,
}

/// Why a look failed.
enum Missed {
    /// Try again.
    Unreachable(String),
    /// It will not take it.
    Refused(String),
    /// It knows nothing of the job: it was restarted.
    Forgotten,
}

impl From<ClientError> for Missed {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Status { status: 404 | 400, message, .. } => Self::Refused(message),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl Hand {
    async fn work(self) {
        let (began, mut reached) = (Instant::now(), Instant::now());
        let mut line: Option<Connection> = None;
        let (mut handed, mut tried) = (0_u64, 0_u64);
        loop {
            match self.step(&mut line, began, &mut handed, &mut tried).await {
                Ok(true) => return self.job.note(&self.peer.name, |pop| pop.state = State::Done),
                Ok(false) => reached = Instant::now(),
                Err(Missed::Forgotten) => (handed, tried) = (0, 0),
                Err(Missed::Refused(reason)) => return self.fail(&reason),
                Err(Missed::Unreachable(reason)) => {
                    line = None;
                    if reached.elapsed() >= GIVE_UP {
                        return self.fail(&reason);
                    }
                    self.job.note(&self.peer.name, |pop| pop.error = Some(reason));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn fail(&self, reason: &str) {
        self.job.note(&self.peer.name, |pop| {
            (pop.state, pop.error) = (State::Failed, Some(reason.to_owned()));
        });
    }

    /// Hands over what may be, and looks. Whether all is tried.
    async fn step(
        &self,
        line: &mut Option<Connection>,
        began: Instant,
        handed: &mut u64,
        tried: &mut u64,
    ) -> Result<bool, Missed> {
        let mut open = match line.take() {
            Some(open) => open,
            None => self.peer.connect().await?,
        };
        let part = due(self.job.urls, self.wanted.per_second, began.elapsed(), *handed, *tried);
        if part > 0 {
            let first = usize::try_from(*handed).unwrap_or(usize::MAX);
            let urls: Vec<&String> = self.wanted.urls.iter().skip(first).take(part).collect();
            let body = json(&serde_json::json!({ "urls": urls, "job": self.name }));
            open.ask(Method::POST, "/v1/warm", body, ANSWER).await?.good()?;
            *handed += urls.len() as u64;
        }
        if *handed == 0 {
            *line = Some(open);
            return Ok(self.job.urls == 0);
        }
        let path = format!("/v1/warm?job={}", self.name);
        let answer = open.ask(Method::GET, &path, Bytes::new(), ANSWER).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Missed::Forgotten);
        }
        let progress: Progress = answer.good()?.json()?;
        *line = Some(open);
        *tried = progress.done + progress.failed;
        let all = *tried >= self.job.urls;
        self.job.note(&self.peer.name, |pop| {
            (pop.done, pop.failed, pop.bytes, pop.error) =
                (progress.done, progress.failed, progress.bytes, None);
            let skipped = progress.failures.len().saturating_sub(FAILURES_MAX);
            pop.failures = progress.failures.into_iter().skip(skipped).collect();
        });
        Ok(all)
    }
}

/// How many URLs to hand over now.
fn due(urls: u64, per_second: Option<f64>, elapsed: Duration, handed: u64, tried: u64) -> usize {
    let allowed = match per_second {
        // A positive number of URLs; as large as it may be, it stays below `urls`.
        Some(rate) => ((elapsed.as_secs_f64() * rate) as u64).saturating_add(1).min(urls),
        None => urls,
    };
    let ahead = AHEAD_MAX.saturating_sub(handed.saturating_sub(tried));
    usize::try_from(allowed.saturating_sub(handed).min(ahead)).unwrap_or(0).min(HANDED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_and_the_edge_say_how_much_is_due() {
        let second = Duration::from_secs;
        assert_eq!(due(10, None, second(0), 0, 0), 10);
        assert_eq!(due(10_000, None, second(0), 0, 0), HANDED_MAX);
        assert_eq!(due(10_000, None, second(9), 1_024, 0), 0, "it has enough to do");
        assert_eq!(due(10_000, None, second(9), 1_024, 1_000), HANDED_MAX);
        assert_eq!(due(100, Some(5.0), second(0), 0, 0), 1, "the first at once");
        assert_eq!(due(100, Some(5.0), second(2), 1, 1), 10);
        assert_eq!(due(100, Some(0.1), second(5), 1, 0), 0);
        assert_eq!(due(100, Some(1e9), second(5), 0, 0), 100);
        assert_eq!(due(100, None, second(5), 100, 10), 0);
    }
}
