//! What home knows of each node, for `/metrics`.
//!
//! Read from the nodes' tasks at each scrape, so that a node that left the fleet leaves no trace. A node that home
//! never saw has no snapshot here, not an old one.

use std::{fmt, sync::Weak};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::{
    nodes::{Kind, Phase, Status},
    serve::{Controller, FleetStatus},
};

/// The gauges of every node. Weak: the controller lives with the program, the registry must not keep it.
pub struct Gauges(pub Weak<Controller>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

/// What a gauge shows of a node; `None`: nothing is known.
type Pick = fn(&FleetStatus, &Status) -> Option<u64>;

/// Name, help, value. Lags count from what home wants at the moment of the scrape.
const GAUGES: [(&str, &str, Pick); 4] = [
    ("node_reachable", "1 if the node answered when home looked last", |_, node| {
        Some(u64::from(!matches!(node.phase, Phase::Unknown | Phase::Unreachable)))
    }),
    ("node_refusing", "1 while the node refuses the newest snapshot", |_, node| {
        Some(u64::from(node.phase == Phase::Refusing))
    }),
    ("node_snapshot_lag", "Snapshots that the node is behind what it should have", |_, node| node.lag()),
    ("node_purge_lag", "Purges that the edge has not acknowledged", |fleet, node| {
        (node.kind == Kind::Edge).then(|| fleet.purges.saturating_sub(node.purges))
    }),
];

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A journal that fails is told where it is needed; a scrape shows the rest.
        let Some(status) = self.0.upgrade().and_then(|controller| controller.status().ok()) else {
            return Ok(());
        };
        for (name, help, pick) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for node in &status.nodes {
                let Some(value) = pick(&status, node) else { continue };
                let labels = [("node", node.node.as_str())];
                ConstGauge::new(value as f64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
