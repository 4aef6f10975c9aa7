//! HTTPS to an authority: one connection per request, bounded in time and size.
//!
//! instant-acme speaks ACME through it, [`super::wire`] what instant-acme lacks. Redirects are not followed and nothing is
//! retried: whoever asks knows whether asking twice is safe.

use std::{future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// For one request, from the name to the last byte: authorities think for seconds when they are busy.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer taken: a chain or an order of a hundred names is some tens of kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A client that trusts either the system's roots or one bundle.
#[derive(Clone)]
pub struct Http {
    connector: TlsConnector,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// A client; `ca` is a PEM bundle in place of the system's roots.
    ///
    /// # Errors
    /// In words, where the roots can't be read.
    pub fn new(ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(path) => {
                let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let bundle = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
                for certificate in bundle {
                    let certificate = certificate.map_err(|error| failed(&error))?;
                    roots.add(certificate).map_err(|error| failed(&error))?;
                }
            }
            // Some of a system's roots may be odd; those that can be used are.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        if roots.is_empty() {
            return Err("there are no root certificates to verify the authority against".to_owned());
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Asks and reads the whole answer. Cancel-safe: the connection is dropped.
    ///
    /// # Errors
    /// In words: nobody there, not in time, not trusted, too long.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Bytes>, String>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let host = request.uri().host().unwrap_or_default().to_owned();
        match timeout(REQUEST_TIMEOUT, self.exchange(request)).await {
            Ok(answered) => answered.map_err(|error| format!("{host}: {error}")),
            Err(_elapsed) => Err(format!("{host}: no answer within {REQUEST_TIMEOUT:?}")),
        }
    }

    async fn exchange<B>(&self, mut request: Request<B>) -> Result<Response<Bytes>, String>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let uri = request.uri().clone();
        if uri.scheme_str() != Some("https") {
            return Err(format!("{uri} is not https"));
        }
        let authority = uri.authority().ok_or("the URL has no host")?.clone();
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|error| words(&error))?;
        let stream = TcpStream::connect((host.as_str(), authority.port_u16().unwrap_or(443)))
            .await
            .map_err(|error| words(&error))?;
        let stream = self.connector.connect(name, stream).await.map_err(|error| words(&error))?;
        let (mut send, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
        // Ends with `send`; what went wrong is told to whoever waits on it.
        tokio::spawn(async move {
            let _told_elsewhere = connection.await;
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| "the URL has no path".to_owned())?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| words(&error))?;
        request.headers_mut().insert(header::HOST, host);
        let (parts, body) = send.send_request(request).await.map_err(|error| words(&error))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| words(&error))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

impl instant_acme::HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let answer =
                this.send(request).await.map_err(|error| instant_acme::Error::Other(error.into()))?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}
