//! A tunnel after both sides agreed to switch protocols (RFC 9110 section 7.8).
//!
//! It exists only once the origin has answered 101 and the client has been told: until then the client speaks HTTP to
//! us. What it sent ahead of that goes to the origin after it, or is HTTP if there is no 101.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    time::Instant,
};

use crate::{listen::connection::Client, origin::FetchBody};

/// A tunnel on which neither side says anything is closed. Applications ping each minute or so; whoever
/// is silent this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// Bytes in flight per direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// A client's connection, once it no longer speaks HTTP.
pub trait NearSide: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NearSide for T {}

/// Brings the client's connection once its head is sent; fails if it ended before.
pub type Upgrade = oneshot::Receiver<Box<dyn NearSide>>;

/// Joins both sides until one ends or both are silent. `origin` keeps its connection's slot.
pub async fn run(client: Arc<Client>, client_side: Upgrade, origin_side: OnUpgrade, origin: FetchBody) {
    client.tunnel.store(true, Ordering::Relaxed);
    let (Ok(near), Ok(far)) = tokio::join!(client_side, origin_side) else { return };
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(TokioIo::new(far));
    let started = Instant::now();
    let moved = AtomicU64::new(0);
    let up = copy(near_read, far_write, &moved);
    let down = copy(far_read, near_write, &moved);
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        () = silence(&moved) => {}
    }
    tracing::debug!(
        peer = %client.peer,
        bytes = moved.load(Ordering::Relaxed),
        seconds = started.elapsed().as_secs(),
        "tunnel closed"
    );
    drop(origin);
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        moved.fetch_add(read as u64, Ordering::Relaxed);
    }
}

async fn silence(moved: &AtomicU64) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(SILENCE_MAX).await;
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}
