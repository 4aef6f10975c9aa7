//! Webhooks against a real HTTPS receiver.

use std::{collections::VecDeque, path::PathBuf, str::FromStr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use nearside_fleet::config::webhook::{WebhookFormat, WebhookUrl};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::events::{Event, Events};

const SECRET: &[u8] = b"between us";

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Status(u16),
    HangUp,
}

/// Listens with a certificate of its own, tells of every request, and answers as scripted, then with 200.
async fn receiver(script: Vec<Reply>) -> (u16, String, mpsc::UnboundedReceiver<(Reply, String, String)>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, hears) = mpsc::unbounded_channel();
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heard, script) = (acceptor.clone(), heard.clone(), script.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let (heard, script) = (heard.clone(), script.clone());
                    async move {
                        let reply = script.lock().pop_front().unwrap_or(Reply::Status(200));
                        let (head, body) = request.into_parts();
                        let signature = head.headers.get(format::SIGNATURE);
                        let signature = signature.map(|value| value.to_str().unwrap().to_owned());
                        let body = body.collect().await.unwrap().to_bytes();
                        let body = String::from_utf8(body.to_vec()).unwrap();
                        heard.send((reply, signature.unwrap_or_default(), body)).unwrap();
                        match reply {
                            Reply::HangUp => Err(std::io::Error::other("hung up")),
                            Reply::Status(status) => {
                                let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
                                *response.status_mut() = status.try_into().unwrap();
                                Ok(response)
                            }
                        }
                    }
                });
                let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, made.cert.pem(), hears)
}

fn config(hook: Webhook) -> Config {
    let text = "version = 1\nfleet = \"x\"\n[controller]\nlisten = \"127.0.0.1:1\"\n";
    let path = std::path::Path::new("/x/nearside.toml");
    let mut config =
        nearside_fleet::spec::parse(path, text, &nearside_fleet::Files::beside(path)).unwrap().config;
    config.controller.as_mut().unwrap().webhooks.insert(hook.name.clone(), hook);
    config
}

fn hook(port: u16, dir: &std::path::Path, ca: &str, events: &[&str]) -> Webhook {
    let file = |name: &str, content: &[u8]| -> PathBuf {
        std::fs::write(dir.join(name), content).unwrap();
        dir.join(name)
    };
    Webhook {
        name: "ops".to_owned(),
        address: WebhookAddress::Url(
            WebhookUrl::from_str(&format!("https://localhost:{port}/hook")).unwrap(),
        ),
        format: WebhookFormat::Json,
        secret_file: Some(file("secret", SECRET)),
        ca: Some(file("ca.pem", ca.as_bytes())),
        events: events.iter().map(|&kind| kind.to_owned()).collect(),
    }
}

fn number(body: &str) -> u64 {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["event"]["number"].as_u64().unwrap()
}

#[tokio::test]
async fn events_arrive_signed_in_order_and_until_they_are_taken_over_restarts_too() {
    nearside_node::tls::install_provider();
    let temp = tempfile::tempdir().unwrap();
    let script = vec![Reply::Status(500), Reply::HangUp, Reply::Status(429)];
    let (port, ca, mut hears) = receiver(script).await;
    let config = config(hook(port, temp.path(), &ca, &["pop-down", "purge-lag"]));
    let journal = Arc::new(Journal::open(&temp.path().join("j.db")).unwrap());
    let events = Events::new(Arc::clone(&journal));
    events.raise(Event::new(Kind::PopDown, "old", "of before the webhook was there"));
    let webhooks = Webhooks::new(Arc::clone(&journal));
    webhooks.apply(&config, &events.follow());
    assert_eq!(webhooks.test("ops").await, Some(Err(format!("localhost:{port}: answered 500: {{}}"))));
    assert_eq!(webhooks.test("none").await, None);
    let (_, _, body) = hears.recv().await.unwrap();
    assert_eq!(number(&body), 0);

    events.raise(Event::new(Kind::PopDown, "fra", "refused"));
    events.raise(Event::new(Kind::PopDown, "fra", "refused"));
    events.raise(Event::new(Kind::DiskTrouble, "fra", "not asked for"));
    events.raise(Event::new(Kind::PurgeLag, "nyc", "behind"));
    events.clear(Kind::PopDown, "fra");
    let mut told = Vec::new();
    while told.len() < 3 {
        let (reply, signature, body) = hears.recv().await.unwrap();
        let t: u64 = signature.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
        let v1 = format::sign(SECRET, t, body.as_bytes());
        assert_eq!(signature, format!("t={t},v1={v1}"));
        match reply {
            Reply::Status(200) => told.push(number(&body)),
            _ => assert_eq!(number(&body), 2, "what was not taken comes again before anything else"),
        }
    }
    assert_eq!(told, [2, 4, 5]);

    let kept = async {
        while webhooks.status()[0].delivered < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), kept).await.unwrap();

    // Home ends before it hears of the next one, which is told once it is back.
    drop(webhooks);
    let running = Webhooks::new(Arc::clone(&journal));
    events.raise(Event::new(Kind::PopDown, "sin", "refused"));
    running.apply(&config, &events.follow());
    let (_, _, body) = hears.recv().await.unwrap();
    assert_eq!(number(&body), 6);
    let after: Result<_, _> = tokio::time::timeout(Duration::from_millis(300), hears.recv()).await;
    assert!(after.is_err(), "nothing is told twice: {after:?}");
}

#[tokio::test]
async fn a_receiver_that_nobody_vouches_for_is_told_nothing() {
    nearside_node::tls::install_provider();
    let temp = tempfile::tempdir().unwrap();
    let (port, _, mut hears) = receiver(Vec::new()).await;
    let (_, other, _) = receiver(Vec::new()).await;
    let journal = Arc::new(Journal::open(&temp.path().join("j.db")).unwrap());
    let webhooks = Webhooks::new(Arc::clone(&journal));
    let events = Events::new(journal);
    webhooks.apply(&config(hook(port, temp.path(), &other, &[])), &events.follow());
    let refused = webhooks.test("ops").await.unwrap().unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
    assert!(hears.try_recv().is_err());
}

#[test]
fn the_fleet_file_knows_every_kind() {
    let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Test).map(|kind| kind.name());
    assert!(kinds.eq(nearside_fleet::config::webhook::EVENTS.iter().copied()));
}
