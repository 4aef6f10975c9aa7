//! Signed addresses, signed cookies and tokens, as clients, cache and origin meet them.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nearside_fleet::{
    config::{
        Config,
        gates::Acting,
        tokens::{self, Jwt, JwtKeys, Signed, TokenSource},
    },
    signing::{self, Grant, Keys},
};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use support::{Edge, Origin, fleet, said};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An origin that says what it was asked and by whom, for a minute.
async fn origin() -> Origin {
    Origin::start(|number, asked| async move {
        let field =
            |name: &str| asked.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let fields = ["authorization", "cookie", "x-user"].map(field).join(" ");
        said(200, &[("cache-control", "public, max-age=60")], format!("{number} {} {fields}", asked.uri()))
    })
    .await
}

async fn edge(origin: &Origin, change: impl FnOnce(&mut Config, &Path)) -> Edge {
    let dir = TempDir::new().unwrap();
    let mut config = fleet(origin.address, &dir, None);
    change(&mut config, dir.path());
    Edge::with(config, dir).await
}

fn signed(dir: &Path) -> Signed {
    Signed {
        keys: dir.join("urls.keys"),
        paths: vec!["/private/".to_owned()],
        unsigned_query: vec!["t".to_owned()],
        cookie: "ns-access".to_owned(),
        life_max: Duration::from_secs(3600),
        acting: Acting::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_is_served_and_stored_once_under_all_its_signatures() {
    let origin = origin().await;
    let (old, new) = (Keys::new_line("old").unwrap(), Keys::new_line("new").unwrap());
    let edge = edge(&origin, |config, dir| {
        fs::write(dir.join("urls.keys"), format!("{new}{old}")).unwrap();
        config.sites.get_mut("www").unwrap().gates.signed = Some(signed(dir));
    })
    .await;
    let keys = Keys::parse(&format!("{new}{old}")).unwrap();
    let sign = |key: &str, expires: u64, from: Option<&str>| {
        let from = from.map(|from| signing::network(from).unwrap());
        let grant = Grant { expires, from };
        let query = signing::sign_url(&keys, Some(key), "www", "/private/a", Some("v=1"), &grant, &|_| false);
        format!("/private/a?{}", query.unwrap())
    };
    let first = edge.get(&sign("new", now() + 60, None), &[]).await;
    assert_eq!((first.status.as_u16(), first.field("x-cache-status")), (200, "MISS"));
    assert_eq!(first.text(), "1 /private/a?v=1 - - -", "nothing of the signature reaches the origin");
    for again in [sign("old", now() + 61, None), sign("new", now() + 62, Some("127.0.0.0/8"))] {
        let reply = edge.get(&again, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.field("x-cache-status")), (200, "HIT"), "{again}");
    }
    for (target, status) in [
        ("/private/a?v=1".to_owned(), 403),
        (sign("new", now(), None), 410),
        (sign("new", now() + 60, Some("192.0.2.0/24")), 403),
        (sign("new", now() + 4000, None), 403),
        (sign("new", now() + 60, None).replace("v=1", "v=2"), 403),
        ("/a/%2e%2e/private/a?v=1".to_owned(), 403),
        ("/x%2F..%2Fprivate/a".to_owned(), 403),
    ] {
        let reply = edge.get(&target, &[]).await;
        assert_eq!(reply.status, status, "{target}");
        assert_eq!(reply.field("cache-control"), "no-store");
    }
    assert_eq!(edge.get("/public", &[]).await.status, 200);
    assert_eq!(origin.requests(), 2);
    assert_eq!(edge.metric("nearside_edge_gate_refused_total", &["site=\"www\"", "gate=\"signed\""]), 7);

    // A key that is taken away is gone with the next configuration; a broken file changes nothing.
    let mut config = edge.config.clone();
    fs::write(edge.dir.path().join("urls.keys"), &new).unwrap();
    edge.reload(config.clone()).unwrap();
    assert_eq!(edge.get(&sign("old", now() + 60, None), &[]).await.status, 403);
    fs::write(edge.dir.path().join("urls.keys"), "new c2hvcnQ=\n").unwrap();
    config.sites.get_mut("www").unwrap().front.limits.body_bytes_max = 1;
    let refused = edge.reload(config).unwrap_err().to_string();
    assert!(refused.contains("urls.keys") && !refused.contains("c2hvcnQ"), "{refused}");
    assert_eq!(edge.get(&sign("new", now() + 60, None), &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_cookie_opens_all_paths_below_its_own() {
    let origin = origin().await;
    let line = Keys::new_line("k").unwrap();
    let edge = edge(&origin, |config, dir| {
        fs::write(dir.join("urls.keys"), &line).unwrap();
        config.sites.get_mut("www").unwrap().gates.signed = Some(signed(dir));
    })
    .await;
    let grant = Grant { expires: now() + 60, from: None };
    let value =
        signing::sign_cookie(&Keys::parse(&line).unwrap(), None, "www", "/private/7/", &grant).unwrap();
    let cookie = format!("theme=dark; ns-access={value}");
    for segment in ["1.ts", "2.ts"] {
        let reply = edge.get(&format!("/private/7/{segment}"), &[("cookie", &cookie)]).await;
        assert_eq!(reply.status, 200);
        assert!(reply.text().ends_with("- theme=dark -"), "{}", reply.text());
    }
    let other = edge.get("/private/8/1.ts", &[("cookie", &cookie)]).await;
    assert_eq!(other.status, 403);
    assert!(other.field("cache-status").contains("gate-signed"), "{}", other.field("cache-status"));
}

struct Issuer {
    key: EncodingKey,
    set: String,
}

impl Issuer {
    fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y}]}).to_string();
        Issuer { key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()), set }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let head = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        format!("Bearer {}", jsonwebtoken::encode(&head, claims, &self.key).unwrap())
    }
}

fn jwt(keys: JwtKeys) -> Jwt {
    Jwt {
        paths: vec!["/members/".to_owned()],
        sources: vec![TokenSource::Authorization],
        algorithms: vec![tokens::Algorithm::Es256],
        keys,
        issuers: vec!["https://id.test/".to_owned()],
        audiences: Vec::new(),
        leeway: Duration::from_secs(5),
        claims: Vec::new(),
        forward: false,
        shared: false,
        acting: Acting::default(),
    }
}

fn claims(sub: &str) -> Value {
    json!({"iss": "https://id.test/", "exp": now() + 60, "sub": sub})
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_let_in_and_what_depends_on_them_is_not_shared() {
    let (origin, issuer) = (origin().await, Issuer::new("k1"));
    let edge = edge(&origin, |config, dir| {
        fs::write(dir.join("jwks.json"), &issuer.set).unwrap();
        let keys = JwtKeys::File(dir.join("jwks.json"));
        config.sites.get_mut("www").unwrap().gates.jwt = Some(jwt(keys));
    })
    .await;
    let (alice, bob) = (issuer.token("k1", &claims("alice")), issuer.token("k1", &claims("bob")));
    let refused = edge.get("/members/a", &[("x-user", "root")]).await;
    assert_eq!((refused.status.as_u16(), refused.field("www-authenticate")), (401, "Bearer realm=\"www\""));
    // Nothing of the token reaches the origin, so what it says is for all who are let in.
    assert_eq!(edge.get("/members/a", &[("authorization", &alice)]).await.text(), "1 /members/a - - -");
    assert_eq!(edge.get("/members/a", &[("authorization", &bob)]).await.field("x-cache-status"), "HIT");

    let mut config = edge.config.clone();
    let gate = config.sites.get_mut("www").unwrap().gates.jwt.as_mut().unwrap();
    gate.claims = vec![("sub".to_owned(), "x-user".to_owned())];
    edge.reload(config.clone()).unwrap();
    let hers = edge.get("/members/b", &[("authorization", &alice), ("x-user", "root")]).await;
    assert!(hers.text().ends_with("- - alice"), "{}", hers.text());
    let his = edge.get("/members/b", &[("authorization", &bob)]).await;
    assert!(his.text().ends_with("- - bob"), "{}", his.text());
    assert_eq!((hers.field("x-cache-status"), his.field("x-cache-status")), ("BYPASS", "BYPASS"));
    let public = edge.get("/public", &[("x-user", "root")]).await;
    assert!(public.text().ends_with("- - -"), "{}", public.text());

    let gate = config.sites.get_mut("www").unwrap().gates.jwt.as_mut().unwrap();
    gate.shared = true;
    edge.reload(config).unwrap();
    assert_eq!(edge.get("/members/c", &[("authorization", &alice)]).await.field("x-cache-status"), "MISS");
    assert_eq!(edge.get("/members/c", &[("authorization", &bob)]).await.field("x-cache-status"), "HIT");
    assert_eq!(edge.get("/members/c", &[]).await.status, 401);
}

/// A TLS server that answers every connection's request with what is in `says`: a status and a body.
async fn key_server(dir: &Path, says: Arc<Mutex<(u16, String)>>) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let certificate = params.self_signed(&key).unwrap();
    fs::write(dir.join("issuer.pem"), certificate.pem()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    nearside_node::tls::install_provider();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, says) = (acceptor.clone(), says.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let (status, body) = says.lock().unwrap().clone();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_and_nobody_is_let_in_before_they_came() {
    let (origin, issuer) = (origin().await, Issuer::new("k1"));
    let says = Arc::new(Mutex::new((500, String::new())));
    let keys = TempDir::new().unwrap();
    let server = key_server(keys.path(), says.clone()).await;
    let edge = edge(&origin, |config, _| {
        let url = JwtKeys::Url {
            url: format!("https://{server}/jwks.json"),
            ca: Some(keys.path().join("issuer.pem")),
            refresh: Duration::from_secs(60),
        };
        config.sites.get_mut("www").unwrap().gates.jwt = Some(jwt(url));
    })
    .await;
    let token = issuer.token("k1", &claims("alice"));
    let early = edge.get("/members/a", &[("authorization", &token)]).await;
    assert_eq!((early.status.as_u16(), early.field("retry-after")), (503, "2"));
    *says.lock().unwrap() = (200, issuer.set.clone());
    let let_in = async {
        while edge.get("/members/a", &[("authorization", &token)]).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, let_in).await.unwrap();
    // A reload keeps them, though the issuer is gone.
    *says.lock().unwrap() = (500, String::new());
    edge.reload(edge.config.clone()).unwrap();
    assert_eq!(edge.get("/members/a", &[("authorization", &token)]).await.status, 200);
    let unknown = issuer.token("k2", &claims("alice"));
    assert_eq!(edge.get("/members/a", &[("authorization", &unknown)]).await.status, 401);
}
