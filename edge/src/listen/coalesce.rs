//! Gathers what one poll of an h2 connection writes, and sends it once.
//!
//! hyper's h2 writes and flushes per response; with fifty streams ready in one poll that is fifty system
//! calls where one would do, half of the cost of a small hit. This layer sits between rustls and the
//! socket: while gathering it takes bytes into a buffer and calls every flush done; [`Sender::poll_send`],
//! called when the connection's poll is over, hands the buffer to the socket.
//!
//! Invariants: bytes leave in the order in which they came; nothing stays behind without the task being
//! woken when the socket takes more; an error of the socket is returned by the next write, flush or
//! send; shutdown sends what is left first. No more than [`BUFFER_BYTES_MAX`] and one
//! write wait in the buffer: past that the layer stops taking bytes, which is how a slow reader is felt above.
//!
//! Off until ALPN has settled on h2 (HTTP/1 writes a response in one call already); then it only passes on.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Bytes gathered before writes wait for the socket. Larger gains nothing: at this size the system call is
/// a small part of the copy.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// A buffer larger than this goes back to the allocator when it is empty, not to the thread.
const BUFFER_BYTES_KEPT: usize = 2 * BUFFER_BYTES_MAX;

thread_local! {
    /// The buffer of whichever connection gathers next: an idle one holds none, a busy one does not grow its own anew
    /// in each poll.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A single write from this size on is sent at once if nothing is gathered: copying it costs more than it
/// saves.
const DIRECT_BYTES: usize = 32 * 1024;

struct Shared {
    stream: OwnedWriteHalf,
    gathering: AtomicBool,
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// How many of them the socket has taken.
    sent: usize,
}

impl Gathered {
    fn left(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn append(&mut self, slices: &[IoSlice<'_>]) {
        // Where the socket takes a part at a time, what it has taken must not pile up. At most as many
        // bytes are moved as were sent.
        if self.sent >= self.left() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
    }

    fn reset(&mut self) {
        self.sent = 0;
        let mut empty = std::mem::take(&mut self.bytes);
        if (1..=BUFFER_BYTES_KEPT).contains(&empty.capacity()) {
            empty.clear();
            SPARE.set(empty);
        }
    }
}

/// The socket as rustls sees it.
pub struct Coalesce {
    /// A half of the socket, because only tokio's own `poll_read` knows after a short read that nothing is left, without
    /// asking the system once more.
    reads: OwnedReadHalf,
    shared: Arc<Shared>,
}

/// The other end: sends what was gathered.
pub struct Sender(Arc<Shared>);

impl Coalesce {
    /// Wraps a socket.
    pub fn new(stream: TcpStream) -> (Coalesce, Sender) {
        let gathering = AtomicBool::new(false);
        let (reads, stream) = stream.into_split();
        let shared = Arc::new(Shared { stream, gathering, gathered: Mutex::default() });
        (Coalesce { reads, shared: shared.clone() }, Sender(shared))
    }
}

impl Sender {
    /// Begins to gather. From here on [`Sender::poll_send`] must be called after each poll that may write.
    pub fn gather(&self) {
        self.0.gathering.store(true, Ordering::Relaxed);
    }

    /// Sends what was gathered. Pending: the socket is full, and the task is woken when it takes more.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_send(cx)
    }
}

impl Shared {
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered.lock();
        while gathered.left() > 0 {
            match self.stream.try_write(&gathered.bytes[gathered.sent..]) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => gathered.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.as_ref().poll_write_ready(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What is left will never leave; the caller ends the connection.
                    gathered.reset();
                    return Poll::Ready(Err(error));
                }
            }
        }
        gathered.reset();
        Poll::Ready(Ok(()))
    }

    fn poll_direct(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.as_ref().poll_write_ready(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if !self.gathering.load(Ordering::Relaxed) {
            return self.poll_direct(cx, slices);
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let left = self.gathered.lock().left();
        if left == 0 && bytes >= DIRECT_BYTES {
            return self.poll_direct(cx, slices);
        }
        if left >= BUFFER_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        self.gathered.lock().append(slices);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for Coalesce {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().reads).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Coalesce {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sent when the poll is over; what the socket does not take then wakes the task.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.shared.poll_send(cx))?;
        // A client that has closed already is no failure of ours.
        match socket2::SockRef::from(self.shared.stream.as_ref()).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A gathering writer with as small a socket buffer as the system allows, and its reader.
    async fn pair() -> (Coalesce, Sender, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        socket2::SockRef::from(&reader).set_recv_buffer_size(1).unwrap();
        let (writer, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&writer).set_send_buffer_size(1).unwrap();
        let (coalesce, sender) = Coalesce::new(writer);
        sender.gather();
        (coalesce, sender, reader)
    }

    /// Bytes that tell where they belong.
    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at / 251 + at) as u8).collect()
    }

    #[tokio::test]
    async fn nothing_leaves_before_the_poll_is_over_and_then_all_of_it_does() {
        let (mut writer, sender, mut reader) = pair().await;
        for part in [&b"one "[..], b"two ", b"three"] {
            writer.write_all(part).await.unwrap();
            writer.flush().await.unwrap();
        }
        let early = tokio::time::timeout(Duration::from_millis(20), reader.read_u8()).await;
        assert!(early.is_err(), "sent early");
        poll_fn(|cx| sender.poll_send(cx)).await.unwrap();
        let mut read = [0; 13];
        reader.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two three");
    }

    #[tokio::test]
    async fn a_reader_that_takes_one_byte_at_a_time_gets_every_byte_in_order() {
        let (mut writer, sender, mut reader) = pair().await;
        // Small writes that are gathered and one that is large enough to go directly.
        let all = pattern(150_000);
        let sizes = [1, 16_406, 7, 40_000, 3, 16_384, 100, 60_000, 5];
        let expected = all.clone();
        let reading = tokio::spawn(async move {
            for (at, &expected) in expected.iter().enumerate() {
                assert_eq!(reader.read_u8().await.unwrap(), expected, "byte {at}");
            }
            assert!(reader.read_u8().await.is_err(), "nothing follows");
        });
        let mut rest = &all[..];
        for &size in sizes.iter().cycle() {
            let size = size.min(rest.len());
            writer.write_all(&rest[..size]).await.unwrap();
            rest = &rest[size..];
            // As the connection does: send what can be sent, do not wait.
            if let Poll::Ready(sent) = poll_fn(|cx| Poll::Ready(sender.poll_send(cx))).await {
                sent.unwrap();
            }
            if rest.is_empty() {
                break;
            }
        }
        writer.shutdown().await.unwrap();
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_stops_the_writer() {
        let (mut writer, sender, reader) = pair().await;
        let mut taken = 0;
        while let Ok(Ok(written)) =
            tokio::time::timeout(Duration::from_millis(50), writer.write(&pattern(8_192))).await
        {
            taken += written;
            assert!(taken < 16 << 20, "the writer is never stopped");
        }
        let gathered = sender.0.gathered.lock();
        assert!(gathered.left() <= BUFFER_BYTES_MAX + 8_192);
        assert!(gathered.bytes.len() <= 2 * (BUFFER_BYTES_MAX + 8_192));
        drop(gathered);
        drop(reader);
    }

    #[tokio::test]
    async fn the_sockets_error_is_returned() {
        let (mut writer, sender, reader) = pair().await;
        drop(reader);
        let error = async {
            loop {
                writer.write_all(&pattern(1_000)).await?;
                poll_fn(|cx| sender.poll_send(cx)).await?;
            }
            #[allow(unreachable_code, reason = "gives the block its type")]
            Ok::<(), io::Error>(())
        };
        assert!(error.await.is_err());
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let (mut writer, sender, mut reader) = pair().await;
        writer.write_all(&pattern(20_000)).await.unwrap();
        let reading = tokio::spawn(async move {
            reader.read_exact(&mut [0; 20_000]).await.unwrap();
        });
        poll_fn(|cx| sender.poll_send(cx)).await.unwrap();
        reading.await.unwrap();
        assert_eq!(sender.0.gathered.lock().bytes.capacity(), 0);
    }
}
