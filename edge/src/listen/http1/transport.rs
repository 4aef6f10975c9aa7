//! What carries a connection's bytes: a socket, or TLS over one.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::listen::coalesce::Coalesce;

/// A connection's bytes, both ways.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The connection ends in a way that its client can't take for the end of what was sent.
    fn reset(&mut self);
}

impl Transport for TcpStream {
    fn reset(&mut self) {
        // Closing then sends RST. Where that fails, the connection is gone already.
        let _ = socket2::SockRef::from(&*self).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl Transport for TlsStream<Coalesce> {
    /// Without close_notify what was sent is known to be cut (RFC 8446 section 6.1).
    fn reset(&mut self) {}
}
