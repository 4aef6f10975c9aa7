//! benchorigin: an HTTP origin whose only content is bytes, and which counts what it is asked.
//!
//! `GET /<bytes>/anything` answers that many bytes, cacheable for an hour with an ETag; `GET /count` how
//! many such requests there were. `--first-byte-ms` delays every head, as a far origin does.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Frame, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

/// Serve bytes over HTTP/1.1.
#[derive(Parser, Clone, Copy)]
#[command(version, after_help = "Example:\n  benchorigin 127.0.30.1:9000 --first-byte-ms 50")]
struct Args {
    /// Address and port to listen on.
    listen: SocketAddr,
    /// Delay before each response head, milliseconds.
    #[arg(long, default_value_t = 0)]
    first_byte_ms: u64,
}

/// One frame of a body; larger ones only cost memory.
const FRAME: usize = 64 * 1024;
static ZEROS: [u8; FRAME] = [b'n'; FRAME];
/// Largest object that is made up: an absurd path must not stream for ever.
const OBJECT_BYTES_MAX: usize = 16 << 30;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let listener = match tokio::net::TcpListener::bind(args.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("benchorigin: cannot listen on {}: {error}", args.listen);
            return ExitCode::FAILURE;
        }
    };
    let count = Arc::new(AtomicU64::new(0));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let count = count.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| answer(request, args, count.clone()));
            // A client that goes away is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    args: Args,
    count: Arc<AtomicU64>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path();
    if path == "/count" {
        return Ok(respond(StatusCode::OK, count.load(Ordering::Relaxed).to_string()));
    }
    let size = path.split('/').nth(1).and_then(|size| size.parse::<usize>().ok());
    let Some(size) = size.filter(|size| *size <= OBJECT_BYTES_MAX) else {
        return Ok(respond(StatusCode::NOT_FOUND, "ask for /BYTES/NAME or /count\n".to_owned()));
    };
    count.fetch_add(1, Ordering::Relaxed);
    if args.first_byte_ms > 0 {
        tokio::time::sleep(Duration::from_millis(args.first_byte_ms)).await;
    }
    let frames = (0..size.div_ceil(FRAME))
        .map(move |index| Ok(Frame::data(Bytes::from_static(&ZEROS[..FRAME.min(size - index * FRAME)]))));
    let response = Response::builder()
        .header("content-type", "application/octet-stream")
        .header("cache-control", "public, max-age=3600")
        .header("etag", format!("\"{size}\""))
        .header("last-modified", "Thu, 01 Oct 2026 08:00:00 GMT")
        .header("content-length", size)
        .body(StreamBody::new(futures_util::stream::iter(frames)).boxed());
    Ok(response.unwrap_or_else(|_| respond(StatusCode::INTERNAL_SERVER_ERROR, String::new())))
}

fn respond(status: StatusCode, text: String) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response
}
