//! Counts what becomes of queries, without two cores ever writing the same cache line.
//!
//! Every UDP worker has a [`Counters`] of its own, the streams share one; a [`Collector`] sums them at
//! each scrape. Counting is a relaxed add on a line that only its core touches (5 ns); a shared
//! `Family::get_or_create` would take a lock per query.
//!
//! Invariant: every query adds one to exactly one verdict.

use std::{
    collections::HashMap,
    fmt,
    net::UdpSocket,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter},
};

use nearside_fleet::config::Config;

use super::batch;
use crate::{
    answer::{Outcome, Verdict},
    health::plan,
    steering::{PopId, ServiceId},
};

/// Pairs of service and PoP whose answers are counted apart, over the life of the process: those of the
/// fleet file and those that reloads took away. 64 KiB per worker. Past it, answers are counted under the
/// last slot, named `other`.
pub const SLOTS: usize = 4096;

/// Every verdict, in the order of the enum: the index of its counter.
const VERDICTS: [Verdict; 14] = [
    Verdict::Dropped,
    Verdict::RateLimited,
    Verdict::NoError,
    Verdict::NoData,
    Verdict::Referral,
    Verdict::NxDomain,
    Verdict::FormErr,
    Verdict::ServFail,
    Verdict::NotImp,
    Verdict::Refused,
    Verdict::YxDomain,
    Verdict::NotAuth,
    Verdict::BadVers,
    Verdict::BadCookie,
];

/// How a verdict is named in metrics: its outcome, and the rcode sent (`none`: nothing was).
fn labels(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Dropped => ("dropped", "none"),
        Verdict::RateLimited => ("rate_limited", "none"),
        Verdict::NoError => ("answer", "NOERROR"),
        Verdict::NoData => ("no_data", "NOERROR"),
        Verdict::Referral => ("referral", "NOERROR"),
        Verdict::NxDomain => ("no_name", "NXDOMAIN"),
        Verdict::FormErr => ("malformed", "FORMERR"),
        Verdict::ServFail => ("failed", "SERVFAIL"),
        Verdict::NotImp => ("not_implemented", "NOTIMP"),
        Verdict::Refused => ("refused", "REFUSED"),
        Verdict::YxDomain => ("too_long", "YXDOMAIN"),
        Verdict::NotAuth => ("not_authorized", "NOTAUTH"),
        Verdict::BadVers => ("bad_version", "BADVERS"),
        Verdict::BadCookie => ("bad_cookie", "BADCOOKIE"),
    }
}

/// What one writer counts.
pub struct Counters {
    verdicts: [AtomicU64; VERDICTS.len()],
    truncated: AtomicU64,
    client_subnet: AtomicU64,
    lost: AtomicU64,
    panics: AtomicU64,
    tailored: [AtomicU64; SLOTS],
    all_down: [AtomicU64; SLOTS],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            verdicts: [const { AtomicU64::new(0) }; VERDICTS.len()],
            truncated: AtomicU64::new(0),
            client_subnet: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            tailored: [const { AtomicU64::new(0) }; SLOTS],
            all_down: [const { AtomicU64::new(0) }; SLOTS],
        }
    }
}

impl Counters {
    /// Counts one query. `slots` are the view's.
    #[inline]
    pub fn count(&self, outcome: &Outcome, slots: &SlotTable) {
        add(&self.verdicts[outcome.verdict as usize], 1);
        if outcome.truncated {
            add(&self.truncated, 1);
        }
        if outcome.client_subnet {
            add(&self.client_subnet, 1);
        }
        if let Some(slot) = outcome.service.and_then(|service| slots.of(service, outcome.pop)) {
            add(&self.tailored[slot], 1);
            if outcome.all_down {
                add(&self.all_down[slot], 1);
            }
        }
    }

    /// Counts a query that never reached the answer function (a source of an unknown family).
    pub fn dropped(&self) {
        add(&self.verdicts[Verdict::Dropped as usize], 1);
    }

    /// Counts replies the kernel refused to send.
    pub fn lost(&self, replies: usize) {
        add(&self.lost, replies as u64);
    }

    /// Counts a query that made the answer function panic: a bug, survived.
    pub fn panicked(&self) {
        add(&self.panics, 1);
    }
}

#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Connections, counted by the streams.
#[derive(Default)]
pub struct Connections {
    /// Accepted and served.
    pub accepted: AtomicU64,
    /// Turned away at a limit.
    pub refused: AtomicU64,
    /// Closed because the client was too slow.
    pub timed_out: AtomicU64,
    /// Open now.
    pub open: AtomicU64,
}

/// The counters of all writers.
#[derive(Default)]
pub struct Stats {
    udp: Mutex<Vec<(Arc<CachePadded<Counters>>, UdpSocket)>>,
    stream: Arc<CachePadded<Counters>>,
    /// Stream connections.
    pub connections: Connections,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    labels: Vec<(String, String)>,
    by_label: HashMap<(String, String), usize>,
}

/// Where each pair of service and PoP is counted under one configuration.
#[derive(Debug, Default)]
pub struct SlotTable {
    /// Service by service; in each, every PoP, then the answers without one.
    slots: Box<[usize]>,
    /// Slots of one service.
    stride: usize,
}

impl SlotTable {
    #[inline]
    fn of(&self, service: ServiceId, pop: Option<PopId>) -> Option<usize> {
        let pop = pop.map_or(self.stride.wrapping_sub(1), |pop| pop.0 as usize);
        self.slots.get(service.0 as usize * self.stride + pop).copied()
    }
}

impl Stats {
    /// Counters for a new worker that serves this socket; its drops are read through a second handle.
    pub fn worker(&self, socket: UdpSocket) -> Arc<CachePadded<Counters>> {
        let counters = Arc::new(CachePadded::new(Counters::default()));
        self.udp.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::clone(&counters), socket));
        counters
    }

    /// The counters all stream connections share.
    pub fn stream(&self) -> Arc<CachePadded<Counters>> {
        Arc::clone(&self.stream)
    }

    /// The slots of a configuration, the same for the same names as long as the process lives.
    pub fn slots(&self, config: &Config) -> SlotTable {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Vec::new();
        for (name, service) in &config.services {
            let named = config.pops.keys().map(|pop| {
                // A PoP the service can't name takes no slot of its own.
                if plan::pops_of(service).contains(pop) { slots.of(name, pop) } else { SLOTS - 1 }
            });
            table.extend(named.collect::<Vec<_>>());
            table.push(slots.of(name, "none"));
        }
        SlotTable { slots: table.into(), stride: config.pops.len() + 1 }
    }

    /// Forgets the sockets, so that they can close.
    pub fn close(&self) {
        self.udp.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Slots {
    fn of(&mut self, service: &str, pop: &str) -> usize {
        let label = (service.to_owned(), pop.to_owned());
        if let Some(&slot) = self.by_label.get(&label) {
            return slot;
        }
        let slot = self.labels.len();
        if slot >= SLOTS - 1 {
            return SLOTS - 1;
        }
        self.labels.push(label.clone());
        self.by_label.insert(label, slot);
        slot
    }

    fn label(&self, slot: usize) -> (&str, &str) {
        self.labels.get(slot).map_or(("other", "other"), |(service, pop)| (service, pop))
    }
}

/// [`Stats`] as metrics.
pub struct Sums(pub Arc<Stats>);

impl fmt::Debug for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sums")
    }
}

/// Writes one labelled value of a counter family.
fn write(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(metric.encode_family(&labels)?)
}

impl Collector for Sums {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.0;
        let udp = stats.udp.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |read: &dyn Fn(&Counters) -> &AtomicU64| -> [(&str, u64); 2] {
            let load = |counters: &Counters| read(counters).load(Ordering::Relaxed);
            [("udp", udp.iter().map(|(counters, _)| load(counters)).sum()), ("tcp", load(&stats.stream))]
        };
        let counter = MetricType::Counter;

        let mut metric =
            encoder.encode_descriptor("queries", "Queries, by what became of them", None, counter)?;
        for verdict in VERDICTS {
            let (outcome, rcode) = labels(verdict);
            for (transport, value) in sum(&|counters| &counters.verdicts[verdict as usize]) {
                write(
                    &mut metric,
                    &[("transport", transport), ("outcome", outcome), ("rcode", rcode)],
                    value,
                )?;
            }
        }
        type Field = fn(&Counters) -> &AtomicU64;
        let plain: [(&str, &str, Field); 4] = [
            ("truncated", "Answers with the TC bit", |counters| &counters.truncated),
            ("client_subnet", "Queries with a client subnet", |counters| &counters.client_subnet),
            ("lost", "Replies the kernel refused to send", |counters| &counters.lost),
            ("panics", "Queries that made the server panic: each is a bug", |counters| &counters.panics),
        ];
        for (name, help, field) in plain {
            let mut metric = encoder.encode_descriptor(name, help, None, counter)?;
            for (transport, value) in sum(&field) {
                write(&mut metric, &[("transport", transport)], value)?;
            }
        }
        let dropped: u64 = udp.iter().filter_map(|(_, socket)| batch::dropped(socket)).sum();
        let mut metric =
            encoder.encode_descriptor("dropped_by_kernel", "Datagrams a full queue lost", None, counter)?;
        write(&mut metric, &[("transport", "udp")], dropped)?;

        let slots = stats.slots.lock().unwrap_or_else(PoisonError::into_inner);
        type Slot = fn(&Counters) -> &[AtomicU64; SLOTS];
        let tailored: [(&str, &str, Slot); 2] = [
            ("tailored", "Answers a service decided, by the first PoP they name", |counters| {
                &counters.tailored
            }),
            ("all_down", "Tailored answers while every PoP was down", |counters| &counters.all_down),
        ];
        for (name, help, field) in tailored {
            let mut metric = encoder.encode_descriptor(name, help, None, counter)?;
            // The last slot holds what found no slot of its own.
            for slot in (0..slots.labels.len()).chain([SLOTS - 1]) {
                let (service, pop) = slots.label(slot);
                for (transport, value) in sum(&|counters| &field(counters)[slot]) {
                    // What never happened takes no line: services × PoPs are many.
                    if value > 0 {
                        let labels = [("service", service), ("pop", pop), ("transport", transport)];
                        write(&mut metric, &labels, value)?;
                    }
                }
            }
        }
        drop(slots);
        let connections = &stats.connections;
        for (name, help, value) in [
            ("connections_accepted", "Stream connections accepted", &connections.accepted),
            ("connections_refused", "Stream connections over a limit", &connections.refused),
            ("connections_timed_out", "Stream connections that were too slow", &connections.timed_out),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, counter)?;
            ConstCounter::new(value.load(Ordering::Relaxed)).encode(metric)?;
        }
        let mut open = encoder.encode_descriptor(
            "connections_open",
            "Stream connections open",
            None,
            MetricType::Gauge,
        )?;
        open.encode_gauge(&connections.open.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::view::sample;

    fn outcome(verdict: Verdict, service: Option<u32>) -> Outcome {
        Outcome {
            bytes: 0,
            verdict,
            truncated: true,
            service: service.map(ServiceId),
            pop: service.map(|_| PopId(1)),
            all_down: true,
            client_subnet: true,
        }
    }

    #[test]
    fn the_order_of_verdicts_is_that_of_the_enum() {
        for (index, verdict) in VERDICTS.into_iter().enumerate() {
            assert_eq!(verdict as usize, index);
        }
    }

    #[test]
    fn workers_are_summed_and_services_named() {
        let stats = Arc::new(Stats::default());
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let workers = [stats.worker(socket()), stats.worker(socket())];
        let mut config = (*sample::view().base.config).clone();
        let service = config.services["www"].clone();
        config.services.insert("gone".into(), service);
        stats.slots(&config);
        config.services.remove("gone");
        let slots = stats.slots(&config);
        assert_eq!(
            (slots.of(ServiceId(0), Some(PopId(1))), slots.of(ServiceId(0), None)),
            (Some(4), Some(5))
        );
        for worker in &workers {
            worker.count(&outcome(Verdict::NoError, Some(0)), &slots);
        }
        stats.stream().count(&outcome(Verdict::NxDomain, None), &slots);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Sums(Arc::clone(&stats))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"queries_total{transport="udp",outcome="answer",rcode="NOERROR"} 2"#,
            r#"queries_total{transport="tcp",outcome="no_name",rcode="NXDOMAIN"} 1"#,
            r#"tailored_total{service="www",pop="nyc",transport="udp"} 2"#,
            r#"all_down_total{service="www",pop="nyc",transport="udp"} 2"#,
            r#"dropped_by_kernel_total{transport="udp"} 0"#,
            "connections_open 0",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[test]
    fn pairs_past_the_slots_are_counted_together() {
        let mut slots = Slots::default();
        for number in 0..SLOTS - 1 {
            assert_eq!(slots.of("www", &number.to_string()), number);
        }
        assert_eq!(slots.of("www", "one more"), SLOTS - 1);
        assert_eq!((slots.of("www", "7"), slots.label(SLOTS - 1)), (7, ("other", "other")));
    }
}
