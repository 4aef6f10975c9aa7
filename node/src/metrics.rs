//! The metrics registry of a process, and what every process says of itself.
//!
//! Programs register their families once, at the start, and keep the handles: nothing on a hot path looks
//! one up. The text form is OpenMetrics 1.0, which Prometheus reads.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::Counter, gauge::ConstGauge, gauge::Gauge, info::Info},
    registry::Registry,
};

/// `Content-Type` of what [`Metrics::encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<std::sync::Mutex<Registry>>,
    /// What the node itself counts.
    pub node: NodeMetrics,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Counters of staging and swapping, `nearside_node_*`.
#[derive(Clone, Debug, Default)]
pub struct NodeMetrics {
    /// Desired states taken.
    pub reloads: Counter,
    /// Desired states refused; the last good one kept serving.
    pub reloads_refused: Counter,
    /// When the serving state was swapped in, seconds since the epoch.
    pub state_since: Gauge,
    /// Number of the accepted snapshot; 0 without one.
    pub snapshot: Gauge,
    /// 1 while the serving state differs from what was asked for last.
    pub refusing: Gauge,
    /// Control requests answered.
    pub control_requests: Counter,
    /// Control connections and requests turned away (limits, roles, handshakes).
    pub control_refused: Counter,
}

impl Metrics {
    /// A registry with the process's and the node's own metrics in it.
    pub fn new(program: &str, version: &str) -> Self {
        let mut registry = Registry::default();
        let node = NodeMetrics::default();
        let own = registry.sub_registry_with_prefix("nearside_node");
        let labels = vec![("program", program.to_owned()), ("version", version.to_owned())];
        own.register("build", "The program and its version", Info::new(labels));
        own.register("reloads", "Desired states swapped in", node.reloads.clone());
        own.register("reloads_refused", "Desired states refused", node.reloads_refused.clone());
        own.register(
            "state_since_seconds",
            "When the serving state was swapped in",
            node.state_since.clone(),
        );
        own.register("snapshot", "Number of the accepted snapshot", node.snapshot.clone());
        own.register("refusing", "1 while the newest desired state stands refused", node.refusing.clone());
        own.register("control_requests", "Control requests answered", node.control_requests.clone());
        own.register(
            "control_refused",
            "Control connections and requests refused",
            node.control_refused.clone(),
        );
        registry.register_collector(Box::new(Process { started: SystemTime::now() }));
        Self { registry: Arc::new(std::sync::Mutex::new(registry)), node }
    }

    /// Registers a program's metrics. Names there are given without the prefix.
    ///
    /// ```
    /// use nearside_node::metrics::Metrics;
    /// use prometheus_client::metrics::counter::Counter;
    ///
    /// let metrics = Metrics::new("nearside-dns", "0.1.0");
    /// let queries: Counter = Counter::default();
    /// metrics.register("nearside_dns", |registry| {
    ///     registry.register("queries", "Queries received", queries.clone());
    /// });
    /// queries.inc();
    /// assert!(metrics.encode().contains("nearside_dns_queries_total 1"));
    /// ```
    pub fn register(&self, prefix: &str, register: impl FnOnce(&mut Registry)) {
        let mut registry = self.lock();
        register(registry.sub_registry_with_prefix(prefix));
    }

    /// The OpenMetrics text of now.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.lock()) {
            Ok(()) => out,
            // Writing to a String does not fail; a collector that does is a bug we show, not a crash.
            Err(_) => "# a collector failed\n# EOF\n".to_owned(),
        }
    }

    /// A poisoned lock means that a registration panicked; what is registered is still whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What the kernel knows of this process, read at each scrape. The names are Prometheus' own.
#[derive(Debug)]
struct Process {
    started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64());
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)
        };
        gauge("process_start_time_seconds", "When the process started", started)?;
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory_bytes", "Resident memory", bytes as f64)?;
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors", entries.count() as f64)?;
        }
        Ok(())
    }
}

/// `VmRSS` of this process; `None` off Linux.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_build_and_the_process() {
        let metrics = Metrics::new("nearside-edge", "9.9.9");
        metrics.node.reloads.inc();
        let text = metrics.encode();
        assert!(
            text.contains(r#"nearside_node_build_info{program="nearside-edge",version="9.9.9"} 1"#),
            "{text}"
        );
        assert!(text.contains("nearside_node_reloads_total 1"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
