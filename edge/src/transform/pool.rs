//! The threads that work for [`super`]: few, below everybody else, with short queues.
//!
//! A job is a closure over bytes in memory. There are two queues: jobs that a request waits for, and jobs that nobody
//! waits for; the second is served while the first is empty. Nothing here knows what a job does. Invariant: however many
//! jobs are asked for, at most [`BYTES_MAX`] of content wait or are worked on; a job that panics costs its own result.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::niceness;

/// Jobs that wait in one queue. A job takes 5 to 500 ms: who would be the hundredth is better served without.
pub const QUEUE_MAX: usize = 64;
/// Content of jobs that wait or are under way, in bytes. A job holds about twice as much while it runs.
pub const BYTES_MAX: u64 = 64 << 20;
/// How much lower than the rest of the program the scheduler holds these threads (`nice(1)`).
const NICENESS: i32 = 10;

/// Who waits for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A request.
    Now,
    /// Nobody.
    Later,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Too much waits already.
    #[error("too much waits already")]
    Busy,
    /// The job panicked: a defect, in a decoder most likely.
    #[error("the job panicked")]
    Panicked,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queues {
    now: VecDeque<Job>,
    later: VecDeque<Job>,
    /// Content held, bytes.
    bytes: u64,
    is_started: bool,
    is_stopped: bool,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    comes: Condvar,
    panics: AtomicU64,
}

/// See the module. Its threads start with the first job, and end with it.
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

impl Pool {
    /// A pool of so many threads, at least one.
    pub fn new(threads: usize) -> Pool {
        Pool { shared: Arc::default(), threads: threads.max(1) }
    }

    /// Has `work` done, which is over `bytes` of content. Cancel-safe: a job whose caller left is not begun.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run<T: Send + 'static>(
        &self,
        urgency: Urgency,
        bytes: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let job = move || {
            if !tell.is_closed() {
                match catch_unwind(AssertUnwindSafe(work)) {
                    Ok(done) => drop(tell.send(done)),
                    Err(_panic) => drop(shared.panics.fetch_add(1, Relaxed)),
                }
            }
            shared.queues.lock().bytes -= bytes;
        };
        self.put(urgency, bytes, Box::new(job))?;
        told.await.map_err(|_dropped| Failure::Panicked)
    }

    fn put(&self, urgency: Urgency, bytes: u64, job: Job) -> Result<(), Failure> {
        let mut queues = self.shared.queues.lock();
        let is_idle = queues.bytes == 0;
        let queue = if urgency == Urgency::Now { &mut queues.now } else { &mut queues.later };
        // Alone, a job may be as large as its own limits let it.
        if queue.len() >= QUEUE_MAX {
            return Err(Failure::Busy);
        }
        if !is_idle && queues.bytes + bytes > BYTES_MAX {
            return Err(Failure::Busy);
        }
        if !queues.is_started {
            for number in 0..self.threads {
                let shared = Arc::clone(&self.shared);
                let named = thread::Builder::new().name(format!("transform-{number}"));
                // With none at all, jobs wait for a restart of theirs: no thread is no reason to fail a request.
                if named.spawn(move || work_on(&shared)).is_err() && number == 0 {
                    return Err(Failure::Busy);
                }
            }
            queues.is_started = true;
        }
        queues.bytes += bytes;
        let queue = if urgency == Urgency::Now { &mut queues.now } else { &mut queues.later };
        queue.push_back(job);
        drop(queues);
        self.shared.comes.notify_one();
        Ok(())
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        let queues = self.shared.queues.lock();
        queues.now.len() + queues.later.len()
    }

    /// Jobs that panicked.
    pub fn panics(&self) -> u64 {
        self.shared.panics.load(Relaxed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queues = self.shared.queues.lock();
        queues.is_stopped = true;
        (queues.now, queues.later) = Default::default();
        drop(queues);
        self.shared.comes.notify_all();
    }
}

fn work_on(shared: &Shared) {
    niceness::lower(NICENESS);
    loop {
        let job = {
            let mut queues = shared.queues.lock();
            loop {
                if queues.is_stopped {
                    return;
                }
                if let Some(job) = queues.now.pop_front() {
                    break job;
                }
                if let Some(job) = queues.later.pop_front() {
                    break job;
                }
                shared.comes.wait(&mut queues);
            }
        };
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A job that is under way until it is told to end, and the promise that it is.
    async fn held(pool: &Arc<Pool>, bytes: u64) -> mpsc::Sender<()> {
        let (end, ended) = mpsc::channel();
        let (begin, begun) = oneshot::channel();
        let job_pool = pool.clone();
        tokio::spawn(async move {
            let job = move || {
                let _ = begin.send(());
                let _ = ended.recv();
            };
            job_pool.run(Urgency::Now, bytes, job).await
        });
        begun.await.unwrap();
        end
    }

    #[tokio::test]
    async fn what_a_request_waits_for_goes_first() {
        let pool = Arc::new(Pool::new(1));
        let end = held(&pool, 1).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let put = |urgency| {
            let (pool, order) = (pool.clone(), order.clone());
            async move { pool.run(urgency, 1, move || order.lock().push(urgency)).await.unwrap() }
        };
        let (later, now) = (tokio::spawn(put(Urgency::Later)), tokio::spawn(put(Urgency::Now)));
        while pool.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        end.send(()).unwrap();
        later.await.unwrap();
        now.await.unwrap();
        assert_eq!(*order.lock(), [Urgency::Now, Urgency::Later]);
    }

    #[tokio::test]
    async fn too_much_is_refused_at_once_and_a_panic_costs_one_job() {
        let pool = Arc::new(Pool::new(1));
        let end = held(&pool, BYTES_MAX).await;
        assert_eq!(pool.run(Urgency::Now, 1, || ()).await, Err(Failure::Busy), "bytes");
        end.send(()).unwrap();
        while pool.shared.queues.lock().bytes > 0 {
            tokio::task::yield_now().await;
        }
        let end = held(&pool, 0).await;
        let waiting: Vec<_> = (0..QUEUE_MAX)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.run(Urgency::Now, 0, || ()).await })
            })
            .collect();
        while pool.waiting() < QUEUE_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(Urgency::Now, 0, || ()).await, Err(Failure::Busy), "jobs");
        end.send(()).unwrap();
        for job in waiting {
            assert_eq!(job.await.unwrap(), Ok(()));
        }
        let broken: Result<(), _> = pool.run(Urgency::Now, 1, || panic!("on purpose")).await;
        assert_eq!((broken, pool.panics()), (Err(Failure::Panicked), 1));
        assert_eq!(pool.run(Urgency::Later, 1, || 3).await, Ok(3));
    }
}
