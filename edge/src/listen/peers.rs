//! Connections of other edges of the fleet, which fetch through this one: TLS with both sides' identities, HTTP/1.1.
//!
//! A listener of its own, because a public one that asked for client certificates would make browsers ask their
//! users for one. Who can't show an identity of a node of this fleet gets no further than the handshake.

use std::{net::SocketAddr, sync::Arc};

use nearside_node::{Role, identity::facts};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Front, coalesce::Coalesce, connection::Client, http1, limits::Admitted};
use crate::stats::Turned;

/// Serves a connection of another edge.
pub async fn serve(front: Arc<Front>, stream: TcpStream, peer: SocketAddr, place: Admitted) {
    let Ok(local) = stream.local_addr() else { return };
    let Some(tls) = front.peers.load_full() else { return };
    let Some(handshake) = front.begin_handshake() else {
        front.stats.turned(Turned::Handshakes);
        return;
    };
    let (stream, _ungathered) = Coalesce::new(stream);
    let accept = TlsAcceptor::from(tls).accept(stream);
    let stream = match tokio::time::timeout(place.limits().handshake_timeout, accept).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            front.stats.turned(Turned::HandshakeFailed);
            tracing::warn!(%peer, %error, "handshake on the shield listener failed");
            return;
        }
        Err(_) => {
            front.stats.turned(Turned::HandshakeTimeout);
            return;
        }
    };
    drop(handshake);
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let facts = leaf.and_then(|leaf| facts(leaf));
    let role = facts.as_ref().and_then(|facts| Role::from_common_name(&facts.common_name));
    let (Some(Role::Node(node)), Some(facts)) = (role, facts) else {
        front.stats.turned(Turned::HandshakeFailed);
        tracing::warn!(%peer, "only nodes of the fleet are served here");
        return;
    };
    let client = Client::of_node(peer, local, node.clone(), place);
    let mut revoked = front.revoked.subscribe();
    let is_revoked =
        revoked.wait_for(|list| list.as_ref().is_some_and(|list| list.serials.contains(&facts.serial)));
    tokio::select! {
        () = http1::serve(&front, stream, &client) => {}
        Ok(_) = is_revoked => tracing::warn!(%peer, node, "its identity was revoked: the connection is cut"),
    }
}
