//! Clients that leave, and clients that only close their sending side, while the origin is being asked.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use support::{Edge, Origin, fleet, said};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Counts the requests whose answer is no longer awaited.
struct Dropped(Arc<AtomicU64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_fetch_that_nobody_else_wants() {
    let dropped = Arc::new(AtomicU64::new(0));
    let counted = dropped.clone();
    let origin = Origin::start(move |_, _| {
        let dropped = Dropped(counted.clone());
        async move {
            let _dropped = dropped;
            std::future::pending().await
        }
    })
    .await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(origin.address, &dir, None);
    config.sites.get_mut("www").unwrap().origins[0].first_byte_timeout = Duration::from_secs(60);
    let edge = Edge::with(config, dir).await;
    let post = format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\nhi", support::HOST);
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    stream.write_all(post.as_bytes()).await.unwrap();
    support::until("the origin is asked", || origin.requests() == 1).await;
    drop(stream);
    support::until("its answer is no longer awaited", || dropped.load(Ordering::SeqCst) == 1).await;
    assert_eq!(edge.metric("nearside_edge_turned_away_total", &["client_gone"]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_half_closes_gets_its_answers() {
    let origin = Origin::start(|number, _| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        said(200, &[], format!("answer {number}"))
    })
    .await;
    let edge = Edge::start(&origin).await;
    // The second request comes while the first one's origin is asked.
    let post = format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\nhi", support::HOST);
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    stream.write_all(post.as_bytes()).await.unwrap();
    support::until("the origin is asked", || origin.requests() == 1).await;
    stream.write_all(post.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = String::new();
    tokio::time::timeout(support::PATIENCE, stream.read_to_string(&mut answers)).await.unwrap().unwrap();
    assert!(answers.contains("answer 1") && answers.contains("answer 2"), "{answers}");
    assert_eq!(origin.requests(), 2);
    assert_eq!(edge.metric("nearside_edge_turned_away_total", &["client_gone"]), 0);
}
