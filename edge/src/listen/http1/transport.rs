//! What carries a connection's bytes: a socket, or TLS over one.

use std::{
    fs::File,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::sys::sendfile::sendfile64;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::listen::coalesce::Coalesce;

/// A connection's bytes, both ways.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Whether files can be sent as they are.
    const SENDS_FILES: bool;

    /// Sends bytes that more will follow at once.
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends up to `bytes` bytes of `file` from `at` on. 0: it ends there.
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        at: u64,
        bytes: u64,
    ) -> Poll<io::Result<usize>>;

    /// The connection ends in a way that its client can't take for the end of what was sent.
    fn reset(&mut self);
}

impl Transport for TcpStream {
    const SENDS_FILES: bool = true;

    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = socket2::SockRef::from(&*self);
        poll_writable(self, cx, || socket.send_with_flags(bytes, libc::MSG_MORE | libc::MSG_NOSIGNAL))
    }

    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        at: u64,
        bytes: u64,
    ) -> Poll<io::Result<usize>> {
        let (Ok(at), Ok(bytes)) = (i64::try_from(at), usize::try_from(bytes)) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let this = &*self;
        poll_writable(this, cx, || {
            let mut at = at;
            sendfile64(this, file, Some(&mut at), bytes).map_err(io::Error::from)
        })
    }

    fn reset(&mut self) {
        // Closing then sends RST. Where that fails, the connection is gone already.
        let _ = socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
}

fn poll_writable<T>(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, &mut write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

impl Transport for TlsStream<Coalesce> {
    const SENDS_FILES: bool = false;

    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(self).poll_write(cx, bytes)
    }

    fn poll_send_file(&mut self, _: &mut Context<'_>, _: &File, _: u64, _: u64) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Without close_notify what was sent is known to be cut (RFC 8446 section 6.1).
    fn reset(&mut self) {}
}
