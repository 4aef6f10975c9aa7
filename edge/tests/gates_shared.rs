//! Limits that edges share, through a real Redis: how much gets in at most, and what happens when it dies.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nearside_fleet::config::gates::{Acting, Gates, Per, RateGate, SharedLimits};
use support::{Edge, Origin, said};
use tempfile::TempDir;

/// A Redis that ends with the test.
struct Redis {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Redis {
    fn start(port: u16) -> Redis {
        let dir = TempDir::new().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--requirepass", "only-for-tests", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Redis { child, port, dir }
    }

    fn stop(mut self) -> u16 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.port
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const BURST: u32 = 20;
const PER_SECOND: u32 = 40;
const INTERVAL: Duration = Duration::from_millis(20);

async fn edge(origin: &Origin, port: u16) -> Arc<Edge> {
    let dir = TempDir::new().unwrap();
    let password = dir.path().join("redis");
    std::fs::write(&password, "only-for-tests\n").unwrap();
    let mut config = support::fleet(origin.address, &dir, None);
    let rate = RateGate {
        name: "each".to_owned(),
        per: Per::Client,
        count: PER_SECOND,
        period: Duration::from_secs(1),
        burst: BURST,
        path: None,
        ipv6_prefix: 64,
        shared: true,
        acting: Acting::default(),
    };
    config.sites.get_mut("www").unwrap().gates = Gates { rates: vec![rate], ..Gates::default() };
    config.shared_limits = Some(SharedLimits {
        host: "127.0.0.1".to_owned(),
        port,
        database: 0,
        username: None,
        password_file: Some(password),
        interval: INTERVAL,
        timeout: Duration::from_secs(1),
    });
    Arc::new(Edge::with(config, dir).await)
}

fn is_up(edge: &Edge) -> bool {
    edge.metric("nearside_edge_shared_limits_up", &[]) == 1
}

/// Asks all edges as fast as they answer, for so long; how many were let in, and how long it really was.
async fn flood(edges: &[Arc<Edge>], time: Duration) -> (u64, Duration) {
    let (began, admitted) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = edges
        .iter()
        .map(|edge| {
            let (edge, admitted) = (edge.clone(), admitted.clone());
            tokio::spawn(async move {
                while began.elapsed() < time {
                    let reply = edge.get("/", &[]).await;
                    admitted.fetch_add(u64::from(reply.status == 200), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    (admitted.load(Ordering::Relaxed), began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_share_a_limit_and_live_without_it() {
    let origin = Origin::start(|_, _| async { said(200, &[("cache-control", "max-age=600")], "x") }).await;
    let redis = Redis::start(free_port());
    let mut edges = Vec::new();
    for _ in 0..3 {
        edges.push(edge(&origin, redis.port).await);
    }
    support::until("all share", || edges.iter().all(|edge| is_up(edge))).await;
    let (burst, rate, others) = (f64::from(BURST), f64::from(PER_SECOND), edges.len() as f64 - 1.0);

    // Three edges at once let in what one may, but for the bound.
    let (admitted, took) = flood(&edges, Duration::from_secs(3)).await;
    let limit = burst + rate * took.as_secs_f64();
    // Generous for a busy machine: an exchange may be late by half a second.
    let bound = others * (burst + rate * (INTERVAL.as_secs_f64() + 0.5));
    let admitted = admitted as f64;
    assert!(admitted <= limit + bound, "{admitted} of {limit} + {bound}");
    assert!(admitted >= limit / 2.0, "{admitted} of {limit}");
    let alone = 3.0 * limit;
    assert!(admitted < alone - rate, "{admitted}: without sharing it would be {alone}");
    eprintln!("three edges, {took:?}: {admitted} admitted, limit {limit:.0}, bound +{bound:.0}");

    // What one edge has let in, another knows.
    let keys =
        edges.iter().map(|edge| edge.metric("nearside_edge_shared_limits_exchanges_total", &["answered"]));
    assert!(keys.min().unwrap() > 5);

    // Without Redis each goes on by itself, and nobody waits for it.
    let port = redis.stop();
    let stop = Arc::new(AtomicBool::new(false));
    support::until("all know", || edges.iter().all(|edge| !is_up(edge)) || stop.load(Ordering::Relaxed))
        .await;
    let (admitted, took) = flood(&edges, Duration::from_secs(1)).await;
    let alone = 3.0 * (burst + rate * took.as_secs_f64());
    assert!(admitted > 0 && admitted as f64 <= alone + 3.0, "{admitted} of {alone}");
    assert!(edges.iter().all(|edge| edge.metric("nearside_edge_gate_refused_total", &["gate=\"rate\""]) > 0));

    // It comes back empty; they find it again, and share.
    let redis = Redis::start(port);
    support::until("all share again", || edges.iter().all(|edge| is_up(edge))).await;
    let (admitted, took) = flood(&edges, Duration::from_secs(2)).await;
    let limit = burst + rate * took.as_secs_f64();
    assert!(admitted as f64 <= limit + bound, "{admitted} of {limit} + {bound}");
    assert!(redis.dir.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_never_was_delays_nobody() {
    let origin = Origin::start(|_, _| async { said(200, &[("cache-control", "max-age=600")], "x") }).await;
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = silent.local_addr().unwrap();
    let edge = edge(&origin, address.port()).await;
    let began = Instant::now();
    for _ in 0..BURST {
        assert_eq!(edge.get("/", &[]).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    edge.until("it has failed", |edge| {
        edge.metric("nearside_edge_shared_limits_exchanges_total", &["failed"]) > 0
    })
    .await;
    assert!(!is_up(&edge));
}
