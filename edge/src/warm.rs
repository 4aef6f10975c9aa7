//! Fetches ahead of clients: a list of URLs, a few at a time, with progress.
//!
//! A warmed URL goes the way of a client's request, collapsing included, and its body is read to the end and
//! dropped; what may not be stored is not, and counts as failed. What is stored and fresh costs a
//! lookup, and reading it. Only the variant of a client without preferences is fetched.
//! The list lives in memory: a restart forgets what is left of it. Who adds to it may name a job, and ask how far that is;
//! the last [`JOBS_MAX`] are remembered.

use std::{collections::VecDeque, sync::Arc};

use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    policy::{Target, status::X_CACHE_STATUS},
    request::{Edge, Exchange},
    site::Site,
};

/// URLs that wait: about 100 bytes each.
pub const QUEUE_MAX: usize = 100_000;
/// Fetched at once: enough to fill a line, few beside what clients ask of an origin.
const AT_ONCE: usize = 8;
/// Failures told; the last ones.
const FAILURES_MAX: usize = 100;
/// Jobs remembered; home has a few under way.
pub const JOBS_MAX: usize = 64;
/// Bytes of a job's name.
pub const JOB_NAME_BYTES_MAX: usize = 64;

/// A URL that some site here serves.
pub struct Wanted {
    /// As it was written.
    pub url: String,
    /// Who serves it.
    pub site: Arc<Site>,
    /// How it is asked for.
    pub scheme: &'static str,
    /// What.
    pub target: Target,
}

/// How far it has come since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// URLs that wait.
    pub queued: usize,
    /// URLs being fetched.
    pub running: usize,
    /// Fetched, or found stored.
    pub done: u64,
    /// Not to be had, or not to be stored.
    pub failed: u64,
    /// Bytes read of those that are done.
    pub bytes: u64,
    /// The last that failed.
    pub failures: VecDeque<Failure>,
}

/// Why a URL is not warm.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Which.
    pub url: String,
    /// In words.
    pub reason: String,
}

/// The list and those who work on it.
pub struct Warmer {
    edge: Arc<Edge>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Wanted, Option<Arc<str>>)>,
    progress: Progress,
    /// The oldest first.
    jobs: VecDeque<(Arc<str>, Progress)>,
}

impl Warmer {
    /// With nothing to do.
    pub fn new(edge: Arc<Edge>) -> Arc<Warmer> {
        Arc::new(Warmer { edge, state: Mutex::default() })
    }

    /// Adds to the list, all or none, in the name of a job. Gives how far that is then, or the whole list; `None`: there is no
    /// room.
    pub fn add(self: &Arc<Self>, wanted: Vec<Wanted>, job: Option<&str>) -> Option<Progress> {
        let mut state = self.state.lock();
        if state.queue.len() + wanted.len() > QUEUE_MAX {
            return None;
        }
        let job = match job {
            Some(name) => Some(state.job(name, wanted.len())?),
            None => None,
        };
        state.queue.extend(wanted.into_iter().map(|wanted| (wanted, job.clone())));
        let more = state.queue.len().min(AT_ONCE - state.progress.running);
        state.progress.running += more;
        for _ in 0..more {
            tokio::spawn(self.clone().work());
        }
        state.told(job.as_deref())
    }

    /// How far it has come with a job, or with all; `None`: no such job is remembered.
    pub fn progress(&self, job: Option<&str>) -> Option<Progress> {
        self.state.lock().told(job)
    }

    async fn work(self: Arc<Self>) {
        loop {
            let (wanted, job) = {
                let mut state = self.state.lock();
                let Some((wanted, job)) = state.queue.pop_front() else {
                    state.progress.running -= 1;
                    return;
                };
                state.of_job(job.as_deref(), |progress| {
                    progress.queued -= 1;
                    progress.running += 1;
                });
                (wanted, job)
            };
            let url = wanted.url.clone();
            let fetched = fetch(&self.edge, wanted).await;
            let metrics = self.edge.cache.metrics();
            let mut state = self.state.lock();
            state.of_job(job.as_deref(), |progress| {
                progress.running -= 1;
                progress.count(&url, &fetched);
            });
            state.progress.count(&url, &fetched);
            match fetched {
                Ok(_) => metrics.warmed.one(),
                Err(_) => metrics.warm_failed.one(),
            }
        }
    }
}

impl State {
    fn told(&self, job: Option<&str>) -> Option<Progress> {
        match job {
            None => Some(Progress { queued: self.queue.len(), ..self.progress.clone() }),
            Some(job) => {
                let known = self.jobs.iter().find(|(name, _)| **name == *job);
                known.map(|(_, progress)| progress.clone())
            }
        }
    }

    /// A job that gets so many URLs more. `None`: too many are under way.
    fn job(&mut self, name: &str, more: usize) -> Option<Arc<str>> {
        if let Some((name, progress)) = self.jobs.iter_mut().find(|(known, _)| **known == *name) {
            progress.queued += more;
            return Some(name.clone());
        }
        if self.jobs.len() >= JOBS_MAX {
            let done = self.jobs.iter().position(|(_, progress)| progress.queued + progress.running == 0)?;
            self.jobs.remove(done);
        }
        let name: Arc<str> = name.into();
        self.jobs.push_back((name.clone(), Progress { queued: more, ..Progress::default() }));
        Some(name)
    }

    fn of_job(&mut self, job: Option<&str>, change: impl FnOnce(&mut Progress)) {
        let Some(job) = job else { return };
        if let Some((_, progress)) = self.jobs.iter_mut().find(|(name, _)| **name == *job) {
            change(progress);
        }
    }
}

impl Progress {
    fn count(&mut self, url: &str, fetched: &Result<u64, String>) {
        match fetched {
            Ok(bytes) => {
                self.done += 1;
                self.bytes += bytes;
            }
            Err(reason) => {
                self.failed += 1;
                if self.failures.len() == FAILURES_MAX {
                    self.failures.pop_front();
                }
                self.failures.push_back(Failure { url: url.to_owned(), reason: reason.clone() });
            }
        }
    }
}

/// Reads it through, and gives its length.
async fn fetch(edge: &Arc<Edge>, wanted: Wanted) -> Result<u64, String> {
    let exchange = Exchange::ahead(edge, wanted.site, wanted.scheme, wanted.target);
    let answer = exchange.obtain().await.map_err(|refusal| refusal.reason().to_owned())?;
    let (head, mut body) = answer.response.into_parts();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    if exchange.is_stored().await {
        return Ok(bytes);
    }
    let status = head.headers.get(X_CACHE_STATUS).and_then(|value| value.to_str().ok()).unwrap_or("none");
    Err(format!("status {}, cache {status}: not stored", head.status.as_u16()))
}
