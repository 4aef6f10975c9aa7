//! An origin that counts what it is asked.
//!
//! `/hello` and everything else: a small cacheable text that says which fetch it was. `/uncacheable/…`:
//! `no-store`. `/large`: 3 MiB. `/_count`: the fetches so far, in all and by path, not counted itself. After `/_fail`
//! everything is answered with 500, until `/_mend`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Body of `/large`, bytes: more than any cache keeps in one piece of its memory tier.
const LARGE_BYTES: usize = 3 << 20;

/// Fetches by path.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<String, u64>>>, Arc<AtomicBool>);

impl Counts {
    /// Fetches of a path so far.
    pub fn of(&self, path: &str) -> u64 {
        self.lock().get(path).copied().unwrap_or(0)
    }

    /// All fetches so far.
    pub fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    fn count(&self, path: &str) -> u64 {
        let mut counts = self.lock();
        let count = counts.entry(path.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves on a listener until dropped.
///
/// # Errors
/// Where accepting fails.
pub async fn serve(listener: TcpListener, counts: Counts) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let counts = counts.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &counts);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that goes away is its own business.
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Serves in a thread of its own for the rest of the process.
///
/// # Panics
/// Where the address can't be bound.
pub fn start(address: SocketAddr) -> Counts {
    let counts = Counts::default();
    let serving = counts.clone();
    let listener = std::net::TcpListener::bind(address).expect("the origin's address is free");
    listener.set_nonblocking(true).expect("non-blocking");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            serve(listener, serving).await.expect("the origin accepts");
        });
    });
    counts
}

fn answer(request: &Request<Incoming>, counts: &Counts) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/_count" {
        let by_path = counts.lock().clone();
        let body = serde_json::json!({ "total": counts.total(), "by_path": by_path }).to_string() + "\n";
        return reply(StatusCode::OK, "no-store", None, Bytes::from(body));
    }
    if path == "/_fail" || path == "/_mend" {
        counts.1.store(path == "/_fail", Ordering::SeqCst);
        return reply(StatusCode::OK, "no-store", None, Bytes::from_static(b"as you say\n"));
    }
    let count = counts.count(path);
    if counts.1.load(Ordering::SeqCst) {
        return reply(StatusCode::INTERNAL_SERVER_ERROR, "no-store", None, Bytes::from_static(b"failing\n"));
    }
    let caching = if path.starts_with("/uncacheable") { "no-store" } else { "max-age=3600" };
    let etag = format!("\"{path}\"");
    if request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| *known == *etag) {
        return reply(StatusCode::NOT_MODIFIED, caching, Some(&etag), Bytes::new());
    }
    let body = match path {
        "/large" => Bytes::from(vec![b'x'; LARGE_BYTES]),
        _ => Bytes::from(format!("Hello from the origin: {path}, fetch number {count}\n")),
    };
    reply(StatusCode::OK, caching, Some(&etag), body)
}

fn reply(
    status: StatusCode,
    caching: &'static str,
    etag: Option<&str>,
    body: Bytes,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static(caching));
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(etag) = etag.and_then(|etag| etag.parse().ok()) {
        headers.insert(header::ETAG, etag);
    }
    response
}
