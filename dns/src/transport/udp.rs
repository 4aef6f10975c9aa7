//! Serves datagrams: one thread per core and listen address, each with a socket of its own.
//!
//! A worker takes a batch, loads the view once, answers in place, sends the batch. It takes no lock, does
//! not allocate and does not await; what it decides is [`View::respond`]'s. Invariant: a worker never
//! dies: a socket error is waited out, a panic in the answer (a bug) costs its own batch and is counted.

use std::{
    io,
    net::UdpSocket,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tracing::{error, warn};

use super::{
    batch::{Batch, Bound},
    bind::Listener,
    stats::{Counters, Stats},
};
use crate::{
    answer::{Scratch, Transport},
    clock,
    view::View,
};

/// A stopping worker answers what is queued already, but no longer than this: under load the queue never
/// runs empty.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Pause after a socket error that is not a matter of one datagram, so that a broken socket does not
/// spin a core.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// The threads that serve datagrams.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Workers {
    /// Starts a thread for each UDP socket of each listener, leaving the sockets' places empty.
    ///
    /// # Errors
    /// What the system says if it gives no thread or no second handle of a socket.
    pub fn start(
        listeners: &mut [Listener],
        views: &Arc<ArcSwap<View>>,
        stats: &Stats,
    ) -> io::Result<Workers> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for listener in listeners {
            for (number, socket) in listener.udp.drain(..).enumerate() {
                let worker = Worker {
                    counters: stats.worker(socket.try_clone()?),
                    socket,
                    bound: listener.bound,
                    views: Arc::clone(views),
                    stop: Arc::clone(&stop),
                };
                let name = format!("udp-{number}");
                threads.push(thread::Builder::new().name(name).spawn(move || worker.run())?);
            }
        }
        Ok(Workers { threads, stop })
    }

    /// Tells every worker to answer what is queued and end, and waits for them. Blocks for
    /// [`super::bind::RECEIVE_TIMEOUT`] and [`DRAIN_MAX`] at most.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a UDP worker had panicked outside the answer");
            }
        }
    }
}

struct Worker<C> {
    socket: UdpSocket,
    bound: Bound,
    views: Arc<ArcSwap<View>>,
    counters: C,
    stop: Arc<AtomicBool>,
}

impl<C: std::ops::Deref<Target = crossbeam_utils::CachePadded<Counters>>> Worker<C> {
    fn run(self) {
        let mut batch = Batch::new(self.bound);
        let mut scratch = Scratch::default();
        let mut stopping: Option<Instant> = None;
        loop {
            let received = batch.receive(&self.socket);
            if stopping.is_none() && self.stop.load(Ordering::Relaxed) {
                stopping = Some(Instant::now() + DRAIN_MAX);
            }
            match received {
                Ok(count) => self.answer(&mut batch, &mut scratch, count),
                Err(_) if stopping.is_some() => return,
                Err(error) => self.wait_out(&error),
            }
            if stopping.is_some_and(|end| Instant::now() >= end) {
                return;
            }
        }
    }

    /// Answers a batch, whatever is in it.
    fn answer(&self, batch: &mut Batch, scratch: &mut Scratch, count: usize) {
        let answered = catch_unwind(AssertUnwindSafe(|| self.respond(batch, scratch, count)));
        if answered.is_err() {
            // Whatever the panic left in the scratch is not used again.
            *scratch = Scratch::default();
            self.counters.panicked();
            error!("a query made the answer panic; its batch is lost. Please report this as a bug");
        }
    }

    fn respond(&self, batch: &mut Batch, scratch: &mut Scratch, count: usize) {
        let view = self.views.load();
        let now = clock::now();
        for i in 0..count {
            let parts = batch.parts(i);
            let Some(source) = parts.source else {
                self.counters.dropped();
                continue;
            };
            let outcome = view.respond(scratch, parts.query, source, Transport::Udp, now, parts.reply);
            self.counters.count(&outcome, &view.base.slots);
            batch.reply(i, outcome.bytes);
        }
        let sent = batch.send(&self.socket, count);
        if sent.lost > 0 {
            self.counters.lost(sent.lost);
        }
    }

    /// Silence and interruptions are normal, as is an ICMP error for an earlier reply; anything else is
    /// said and waited out.
    fn wait_out(&self, error: &io::Error) {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock,
        };
        if matches!(
            error.kind(),
            WouldBlock | Interrupted | ConnectionRefused | HostUnreachable | NetworkUnreachable
        ) {
            return;
        }
        warn!(%error, "a UDP socket can't receive");
        thread::sleep(ERROR_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{transport::bind, view::sample};

    #[test]
    fn answers_and_ends_when_told() {
        let views = Arc::new(ArcSwap::from_pointee(sample::view()));
        let stats = Stats::default();
        let mut listeners = bind::bind(&["127.0.0.1:0".parse().unwrap()], 2).unwrap();
        let address = listeners[0].address;
        let workers = Workers::start(&mut listeners, &views, &stats).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect(address).unwrap();
        for id in 0..100 {
            client.send(&sample::query(id, "static.cdn.test")).unwrap();
        }
        let mut room = [0; 512];
        for id in 0..100_u16 {
            let bytes = client.recv(&mut room).unwrap();
            assert_eq!(room[..2], id.to_be_bytes());
            assert_eq!(room[bytes - 4..bytes], [192, 0, 2, 2]);
        }
        let stopping = Instant::now();
        workers.stop();
        assert!(stopping.elapsed() < bind::RECEIVE_TIMEOUT + DRAIN_MAX + Duration::from_secs(1));
        stats.close();
        UdpSocket::bind(address).expect("the port is free again");
    }
}
