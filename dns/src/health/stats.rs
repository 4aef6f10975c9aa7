//! What the checks count: states, certificates, drains and durations, for `/metrics`.
//!
//! The gauges are read from [`Health`] at each scrape, so that a target that is gone leaves no trace. The
//! histograms are kept per check, not per address: a thousand addresses would make a thousand histograms.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};

use super::{Health, TargetReport};

/// Upper bounds in seconds: from a neighbour on the LAN to the longest sensible timeout.
const BUCKETS_S: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Label names and values.
type Labels = Vec<(&'static str, String)>;

/// Durations of probes by check and result.
#[derive(Clone)]
pub(super) struct Durations(Family<Labels, Histogram, fn() -> Histogram>);

impl Default for Durations {
    fn default() -> Self {
        Durations(Family::new_with_constructor(|| Histogram::new(BUCKETS_S)))
    }
}

impl Durations {
    pub(super) fn observe(&self, check: &str, passed: bool, took: Duration) {
        let result = if passed { "passed" } else { "failed" };
        self.0
            .get_or_create(&vec![("check", check.to_owned()), ("result", result.to_owned())])
            .observe(took.as_secs_f64());
    }
}

impl Health {
    /// Registers the metrics of health.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register("probe_duration_seconds", "How long probes took", self.stats.0.clone());
        registry.register_collector(Box::new(Gauges(Arc::clone(self))));
    }
}

/// The states as gauges.
struct Gauges(Arc<Health>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let targets = self.0.report();
        let labels = |target: &TargetReport| {
            vec![
                ("pop", target.pop.clone()),
                ("check", target.check.clone()),
                ("address", target.address.to_string()),
            ]
        };
        let mut up =
            encoder.encode_descriptor("address_up", "1 while the check passes", None, MetricType::Gauge)?;
        for target in &targets {
            let value = i64::from(target.status.is_up());
            ConstGauge::new(value).encode(up.encode_family(&labels(target))?)?;
        }
        let mut expiry = encoder.encode_descriptor(
            "certificate_expires_seconds",
            "When the certificate a probe saw expires",
            None,
            MetricType::Gauge,
        )?;
        for target in &targets {
            if let Some(expires) = target.certificate_expires {
                ConstGauge::new(expires).encode(expiry.encode_family(&labels(target))?)?;
            }
        }
        let mut load = encoder.encode_descriptor(
            "load",
            "How busy an edge says it is on its health page; 1 is all it has",
            None,
            MetricType::Gauge,
        )?;
        for target in &targets {
            if let Some(told) = target.load {
                ConstGauge::new(told).encode(load.encode_family(&labels(target))?)?;
            }
        }
        let mut offered = encoder.encode_descriptor(
            "offered_share",
            "Part of its client networks that a PoP is offered to, where the service has shed_above",
            None,
            MetricType::Gauge,
        )?;
        for (service, pop, share) in self.0.lock().all_shares() {
            let labels = [("service", service.as_str()), ("pop", pop.as_str())];
            ConstGauge::new(share).encode(offered.encode_family(&labels)?)?;
        }
        let mut drained = encoder.encode_descriptor(
            "drained",
            "1 while an operator drains the PoP",
            None,
            MetricType::Gauge,
        )?;
        for (pop, _) in self.0.drains().iter() {
            ConstGauge::new(1_i64).encode(drained.encode_family(&[("pop", pop)])?)?;
        }
        let peers = self.0.peers();
        let mut heard = encoder.encode_descriptor(
            "peer_heard",
            "1 while another DNS node's view of health counts here",
            None,
            MetricType::Gauge,
        )?;
        for peer in &peers {
            let labels = [("node", peer.node.as_str())];
            ConstGauge::new(i64::from(peer.counts)).encode(heard.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
