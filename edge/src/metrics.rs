//! What the edge counts, as Prometheus reads it: `nearside_edge_*`.
//!
//! Collected when scraped, from counters that hot paths keep per worker; nothing here is touched by a
//! request.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use nearside_fleet::config::gates::Mode;
use nearside_node::metrics::Metrics;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::{
    cache::metrics::Kind,
    code::{self, Hook},
    gates::{Gate, rate::RateGates},
    listen::{Front, share::Limit},
    origin::{Checked, GroupStats, Origin, Shown, Stand},
    request::Edge,
    stats::SiteStats,
    tls::Resolver,
    transform::stats::{End, Kind as Made, OfKind},
};

/// Registers the edge's collector.
pub fn register(metrics: &Metrics, edge: &Arc<Edge>, front: &Arc<Front>, resolver: &Arc<Resolver>) {
    let collector = EdgeCollector { edge: edge.clone(), front: front.clone(), resolver: resolver.clone() };
    metrics.register("nearside_edge", |registry| registry.register_collector(Box::new(collector)));
}

struct EdgeCollector {
    edge: Arc<Edge>,
    front: Arc<Front>,
    resolver: Arc<Resolver>,
}

impl fmt::Debug for EdgeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeCollector")
    }
}

/// What a request or response that belongs to no site is counted under.
const NO_SITE: &str = "";

impl Collector for EdgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.front(&mut encoder)?;
        self.sites(&mut encoder)?;
        self.gates(&mut encoder)?;
        self.origins(&mut encoder)?;
        self.cache(&mut encoder)?;
        self.transforms(&mut encoder)?;
        self.code(&mut encoder)?;
        self.certificates(&mut encoder)
    }
}

impl EdgeCollector {
    fn front(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.front.stats;
        gauge(
            encoder,
            "load",
            "How busy the edge is, as health checks are told; 1 is all it has",
            self.edge.load.now(),
        )?;
        gauge(encoder, "connections", "Client connections open", self.front.admission.open() as f64)?;
        counter(
            encoder,
            "connections_accepted",
            "Client connections accepted",
            stats.accepted.load(Relaxed),
        )?;
        counter(encoder, "handshakes", "TLS handshakes completed", stats.handshakes.load(Relaxed))?;
        counter(
            encoder,
            "handshakes_resumed",
            "TLS handshakes that resumed a session",
            stats.handshakes_resumed.load(Relaxed),
        )?;
        counter(
            encoder,
            "tickets_unknown",
            "Session tickets that none of the keys opens",
            self.front.tickets.unknown.load(Relaxed),
        )?;
        counter(
            encoder,
            "handshakes_unknown_name",
            "TLS handshakes for names without a certificate",
            self.resolver.refused.load(Relaxed),
        )?;
        counter(
            encoder,
            "quic_retries",
            "QUIC clients asked to prove their address first",
            stats.retries.load(Relaxed),
        )?;
        counter(encoder, "http3_requests", "Requests over HTTP/3", stats.http3_requests.load(Relaxed))?;
        let mut family = encoder.encode_descriptor(
            "turned_away",
            "Connections ended by a limit or deadline",
            None,
            MetricType::Counter,
        )?;
        for (why, count) in stats.all_turned() {
            labelled(&mut family, &[("limit", why.name())], &ConstCounter::new(count))?;
        }
        let mut family = encoder.encode_descriptor(
            "framing_refused",
            "Requests refused because their framing is ambiguous",
            None,
            MetricType::Counter,
        )?;
        for (what, count) in stats.all_violations() {
            labelled(&mut family, &[("violation", what.name())], &ConstCounter::new(count))?;
        }
        Ok(())
    }

    /// Every site's counters, and those of requests that belong to none.
    fn all_stats(&self) -> Vec<(String, Arc<SiteStats>)> {
        let sites = self.edge.sites.load();
        let named = sites.iter().map(|site| (site.name.clone(), site.stats.clone()));
        named.chain([(NO_SITE.to_owned(), self.edge.unknown.clone())]).collect()
    }

    fn sites(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let all = self.all_stats();
        let mut family = encoder.encode_descriptor(
            "requests",
            "Requests by site, how they met the cache, and status class",
            None,
            MetricType::Counter,
        )?;
        for (site, stats) in &all {
            for (outcome, class, count) in stats.requests().filter(|&(_, _, count)| count > 0) {
                let labels =
                    [("site", site.as_str()), ("cache", outcome.name()), ("status", CLASSES[class - 1])];
                labelled(&mut family, &labels, &ConstCounter::new(count))?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "site_refused",
            "Connections and requests refused by a limit of their site",
            None,
            MetricType::Counter,
        )?;
        for site in self.edge.sites.load().iter() {
            for limit in Limit::ALL {
                let labels = [("site", site.name.as_str()), ("limit", limit.name())];
                labelled(&mut family, &labels, &ConstCounter::new(site.share.refused(limit)))?;
            }
        }
        type Pick = fn(&SiteStats) -> u64;
        let sums: [(&str, &str, Pick); 5] = [
            ("body_bytes", "Bytes of response bodies sent", SiteStats::body_bytes),
            ("origin_body_bytes", "Bytes of bodies that origins sent", SiteStats::origin_bytes),
            ("origin_fetches", "Requests sent to origins", |stats| stats.origin().0),
            ("origin_failures", "Requests that origins did not answer", |stats| stats.origin().1),
            ("refreshes", "Refreshes in the background", SiteStats::refreshes),
        ];
        for (name, help, pick) in sums {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (site, stats) in &all {
                labelled(&mut family, &[("site", site.as_str())], &ConstCounter::new(pick(stats)))?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "rule_matched",
            "Requests that a rule of their site matched",
            None,
            MetricType::Counter,
        )?;
        for site in self.edge.sites.load().iter() {
            for (rule, count) in site.rulebook.iter().flat_map(|rulebook| rulebook.stats.all()) {
                let labels = [("site", site.name.as_str()), ("rule", rule)];
                labelled(&mut family, &labels, &ConstCounter::new(count))?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "head_seconds",
            "From a request read to its response head made",
            None,
            MetricType::Histogram,
        )?;
        for (site, stats) in &all {
            let (sum, count, buckets) = stats.latency();
            let labels = [("site", site.as_str())];
            family
                .encode_family(&labels)?
                .encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn origins(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Pick = fn(&Origin) -> u64;
        const COUNTERS: [(&str, &str, Pick); 7] = [
            ("origin_requests", "Requests sent to an origin, repetitions included", Origin::requests),
            ("origin_connections_opened", "Connections opened to an origin", |origin| {
                origin.pool().0.opened.load(Relaxed)
            }),
            ("origin_connections_failed", "Connections to an origin that could not be opened", |origin| {
                origin.pool().0.connect_failed.load(Relaxed)
            }),
            ("origin_connections_reused", "Requests sent over a kept connection", |origin| {
                origin.pool().0.reused.load(Relaxed)
            }),
            ("origin_retries", "Requests repeated because a kept connection proved dead", |origin| {
                origin.pool().0.retried.load(Relaxed)
            }),
            (
                "origin_unprocessed",
                "Requests repeated because the origin had not begun with them",
                |origin| origin.pool().0.unprocessed.load(Relaxed),
            ),
            ("origin_retries_forbidden", "Requests not repeated because of the retry budget", |origin| {
                origin.pool().0.unretried.load(Relaxed)
            }),
        ];
        const GAUGES: [(&str, &str, Pick); 3] = [
            ("origin_waiting", "Requests waiting for an origin connection", |origin| {
                origin.pool().0.waiting.load(Relaxed) as u64
            }),
            ("origin_connections_idle", "Kept connections that are idle", |origin| origin.pool().1 as u64),
            ("origin_connections_http2", "HTTP/2 connections open", |origin| origin.multiplexed() as u64),
        ];
        let sites = self.edge.sites.load();
        let origins: Vec<([(&str, &str); 2], &Origin)> = sites
            .iter()
            .flat_map(|site| site.origins.iter().map(|origin| (site.name.as_str(), &**origin)))
            .map(|(site, origin)| ([("site", site), ("origin", origin.settings().name.as_str())], origin))
            .collect();
        for (name, help, pick) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, origin) in &origins {
                labelled(&mut family, labels, &ConstCounter::new(pick(origin)))?;
            }
        }
        for (name, help, pick) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, origin) in &origins {
                labelled(&mut family, labels, &ConstGauge::new(pick(origin) as f64))?;
            }
        }
        self.shields(encoder)?;
        self.groups(encoder)
    }

    /// What became of requests of sites that are fetched through other PoPs.
    fn shields(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sites = self.edge.sites.load();
        let help =
            "Requests for shields: answered, refused for a purge they had missed, gone to the origin instead";
        let mut family = encoder.encode_descriptor("shield_requests", help, None, MetricType::Counter)?;
        for site in sites.iter() {
            let Some(shields) = &site.shields else { continue };
            let stats = &shields.stats;
            let outcomes =
                [("answered", &stats.answered), ("behind", &stats.behind), ("fell_back", &stats.fell_back)];
            for (outcome, count) in outcomes {
                let labels = [("site", site.name.as_str()), ("outcome", outcome)];
                labelled(&mut family, &labels, &ConstCounter::new(count.load(Relaxed)))?;
            }
        }
        Ok(())
    }

    /// How the origins of sites with a balance are.
    fn groups(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Pick = fn(&GroupStats) -> u64;
        const COUNTERS: [(&str, &str, Pick); 4] = [
            ("origin_failovers", "Requests that went on to another origin", |stats| {
                stats.failovers.load(Relaxed)
            }),
            (
                "origin_failovers_forbidden",
                "Requests kept from another origin by the retry budget",
                |stats| stats.budget_exhausted.load(Relaxed),
            ),
            ("origin_circuits_opened", "Times an origin that did not answer was left alone", |stats| {
                stats.opened.load(Relaxed)
            }),
            ("origin_ejections", "Times an origin was left out because of its errors", |stats| {
                stats.ejected.load(Relaxed)
            }),
        ];
        type See = fn(&Shown) -> bool;
        const STATES: [(&str, &str, See); 3] = [
            ("origin_up", "1 unless the checks of an origin fail", |shown| shown.checked != Checked::Down),
            ("origin_circuit_closed", "1 while an origin is asked without reserve", |shown| {
                shown.circuit == Stand::Closed
            }),
            ("origin_ejected", "1 while an origin is left out because of its errors", |shown| {
                shown.ejected_for.is_some()
            }),
        ];
        let sites = self.edge.sites.load();
        let groups: Vec<_> =
            sites.iter().filter_map(|site| Some((site.name.as_str(), site.origins.group()?))).collect();
        for (name, help, pick) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (site, group) in &groups {
                labelled(&mut family, &[("site", *site)], &ConstCounter::new(pick(&group.stats)))?;
            }
        }
        for (name, help, see) in STATES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (site, group) in &groups {
                for (origin, _, shown) in group.shown() {
                    let labels = [("site", *site), ("origin", origin.settings().name.as_str())];
                    let value = ConstGauge::new(f64::from(u8::from(see(&shown))));
                    labelled(&mut family, &labels, &value)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "origin_under_way",
            "Requests under way at an origin, bodies included",
            None,
            MetricType::Gauge,
        )?;
        for (site, group) in &groups {
            for (origin, under_way, _) in group.shown() {
                let labels = [("site", *site), ("origin", origin.settings().name.as_str())];
                labelled(&mut family, &labels, &ConstGauge::new(f64::from(under_way)))?;
            }
        }
        Ok(())
    }

    /// What gates objected to, of sites that have some.
    fn gates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        const COUNTERS: [(&str, &str, Mode); 2] = [
            ("gate_refused", "Requests that a gate refused", Mode::Enforce),
            ("gate_would_refuse", "Requests that a gate in detect mode let go on", Mode::Detect),
        ];
        let sites = self.edge.sites.load();
        for (name, help, mode) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for site in sites.iter() {
                let Some(gates) = &site.gates else { continue };
                for gate in Gate::ALL {
                    let labels = [("site", site.name.as_str()), ("gate", gate.name())];
                    labelled(&mut family, &labels, &ConstCounter::new(gates.stats().count(gate, mode)))?;
                }
            }
        }
        type Pick = fn(&RateGates) -> u64;
        const RATES: [(&str, &str, Pick); 2] = [
            (
                "rate_displaced",
                "Buckets of rate limits that made room for others before they were full",
                RateGates::displaced,
            ),
            (
                "rate_untold",
                "Tokens of shared limits that other edges were not told of, for there were too many",
                |rates| rates.ledger().untold(),
            ),
        ];
        for (name, help, pick) in RATES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for site in sites.iter() {
                let Some(rates) = site.gates.as_ref().and_then(|gates| gates.rates()) else { continue };
                labelled(&mut family, &[("site", site.name.as_str())], &ConstCounter::new(pick(rates)))?;
            }
        }
        let stats = &self.edge.shared;
        let up = f64::from(u8::from(stats.up.load(Relaxed)));
        gauge(encoder, "shared_limits_up", "1 while limits are shared with other edges", up)?;
        let (name, help) = ("shared_limits_exchanges", "Exchanges of counts with other edges");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (result, count) in [("answered", &stats.answered), ("failed", &stats.failed)] {
            labelled(&mut family, &[("result", result)], &ConstCounter::new(count.load(Relaxed)))?;
        }
        Ok(())
    }

    fn cache(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, kind, value) in self.edge.cache.metrics().each() {
            let name = format!("cache_{name}");
            match kind {
                Kind::Counter => counter(encoder, &name, help, value)?,
                Kind::Gauge => gauge(encoder, &name, help, value as f64)?,
            }
        }
        Ok(())
    }

    /// What was made of stored responses.
    fn transforms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let workshop = &self.edge.workshop;
        let help = "What was to be made of stored responses, by how that ended";
        let mut family = encoder.encode_descriptor("transforms", help, None, MetricType::Counter)?;
        for kind in Made::ALL {
            for end in End::ALL {
                let labels = [("kind", kind.name()), ("end", end.name())];
                labelled(&mut family, &labels, &ConstCounter::new(workshop.stats.of(kind).ended(end)))?;
            }
        }
        type Pick = fn(&OfKind) -> u64;
        const SUMS: [(&str, &str, Pick); 4] = [
            ("transforms_served", "Responses sent in a form that was made here", |of| {
                of.served.load(Relaxed)
            }),
            ("transform_input_bytes", "Bytes of which other forms were made", |of| {
                of.input_bytes.load(Relaxed)
            }),
            ("transform_output_bytes", "Bytes that were made of them", |of| of.output_bytes.load(Relaxed)),
            ("transform_work_us", "Time that threads spent making them, microseconds", |of| {
                of.work_us.load(Relaxed)
            }),
        ];
        for (name, help, pick) in SUMS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for kind in Made::ALL {
                let value = ConstCounter::new(pick(workshop.stats.of(kind)));
                labelled(&mut family, &[("kind", kind.name())], &value)?;
            }
        }
        counter(encoder, "transform_panics", "Transformations that panicked", workshop.pool().panics())?;
        gauge(
            encoder,
            "transforms_waiting",
            "Transformations that wait for a thread",
            workshop.pool().waiting() as f64,
        )
    }

    /// What became of calls of sites' own code.
    fn code(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sites = self.edge.sites.load();
        let with_code = || sites.iter().filter_map(|site| Some((site.name.as_str(), site.code.as_ref()?)));
        let help = "Calls of a site's own code, by how they ended";
        let mut family = encoder.encode_descriptor("code_calls", help, None, MetricType::Counter)?;
        for (site, code) in with_code() {
            for hook in Hook::ALL {
                for end in code::End::ALL {
                    let labels = [("site", site), ("hook", hook.name()), ("end", end.name())];
                    labelled(&mut family, &labels, &ConstCounter::new(code.stats.calls(hook, end)))?;
                }
            }
        }
        let help = "Instructions that calls of a site's own code used, about";
        let mut family = encoder.encode_descriptor("code_fuel", help, None, MetricType::Counter)?;
        for (site, code) in with_code() {
            labelled(&mut family, &[("site", site)], &ConstCounter::new(code.stats.fuel.load(Relaxed)))?;
        }
        Ok(())
    }

    fn certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "certificate_not_after_seconds",
            "When a site's certificate ends, seconds since the epoch",
            None,
            MetricType::Gauge,
        )?;
        for (site, served) in self.resolver.table().by_site() {
            labelled(&mut family, &[("site", site)], &ConstGauge::new(served.not_after_secs as f64))?;
        }
        Ok(())
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn labelled(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(family.encode_family(labels)?)
}
