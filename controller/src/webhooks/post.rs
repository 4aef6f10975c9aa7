//! One POST to somebody else's server: resolve, connect, TLS, send, read the answer within bounds.
//!
//! No redirects, no proxies, no connection kept: events are rare.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nearside_fleet::config::{Scheme, webhook::WebhookUrl};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::format::{Message, SIGNATURE};

/// For all of it. Chat services answer within a second.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer; more is not ours to keep.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Posts a message. Returns the answer's body.
///
/// # Errors
/// In words: no connection, no answer in time, a status that is no success. The URL's path is not in them, it may be a secret.
pub async fn post(url: &WebhookUrl, ca: Option<&Path>, message: &Message) -> Result<Bytes, String> {
    let sending = async {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(words)?;
        match url.scheme {
            Scheme::Http => exchange(stream, url, message).await,
            Scheme::Https => {
                let name = ServerName::try_from(url.host.clone()).map_err(words)?;
                let connector = TlsConnector::from(tls(ca)?);
                exchange(connector.connect(name, stream).await.map_err(words)?, url, message).await
            }
        }
    };
    let sent = timeout(TIMEOUT, sending).await;
    sent.unwrap_or_else(|_elapsed| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
        .map_err(|reason| format!("{}:{}: {reason}", url.host, url.port))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &WebhookUrl,
    message: &Message,
) -> Result<Bytes, String> {
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    // Ends with `send`; what goes wrong is told there.
    tokio::spawn(async move {
        let _told_elsewhere = connection.await;
    });
    let default = if url.scheme == Scheme::Https { 443 } else { 80 };
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let host = if url.port == default { host } else { format!("{host}:{}", url.port) };
    let mut request = Request::post(url.path.as_str())
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("nearside/", env!("CARGO_PKG_VERSION")));
    if let Some(signature) = &message.signature {
        request = request.header(SIGNATURE, signature);
    }
    let request = request.body(Full::new(Bytes::from(message.body.clone()))).map_err(words)?;
    let (head, body) = send.send_request(request).await.map_err(words)?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(words)?.to_bytes();
    if head.status.is_success() {
        return Ok(body);
    }
    let said: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
    Err(format!("answered {}: {said}", head.status.as_u16()))
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Trust in the system's roots, or in those of one PEM file, read for every message so that it may be renewed.
fn tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(ca) = ca {
        let failed = |reason: String| format!("{}: {reason}", ca.display());
        let certificates = CertificateDer::pem_file_iter(ca).map_err(|error| failed(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        return Ok(trusting(roots));
    }
    let config = SYSTEM.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // Without any, every handshake fails and says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        trusting(roots)
    });
    Ok(Arc::clone(config))
}

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The first line of a file that holds a secret.
///
/// # Errors
/// In words, with the path.
pub fn first_line(path: &PathBuf) -> Result<String, String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let bytes = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if bytes > SECRET_BYTES_MAX {
        return Err(failed(format!("is {bytes} bytes long, expected at most {SECRET_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(failed("its first line is empty".to_owned())),
    }
}

/// Secrets and URLs are short.
const SECRET_BYTES_MAX: u64 = 16 << 10;
