//! A bucket that verifies every signature as the origin: what is fetched, kept, refused, and what of either side
//! never crosses.
//!
//! The bucket is the test's own, its verification written from Amazon's description and sharing no code with what
//! signs; `scripts/try-storage` does the same with servers of other people.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::{Method, StatusCode};
use nearside_fleet::config::{BucketStyle, Config, QueryKey, Storage, StorageKind};
use parking_lot::Mutex;
use support::{Asked, Edge, Origin, Said, fleet, said};
use tempfile::TempDir;

const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Whether a request without query and content is signed with [`SECRET`], by Signature Version 4.
fn is_signed(asked: &Asked) -> bool {
    let field = |name: &str| asked.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let Some(rest) = field("authorization").strip_prefix("AWS4-HMAC-SHA256 ") else { return false };
    let said: BTreeMap<&str, &str> = rest.split(',').filter_map(|part| part.trim().split_once('=')).collect();
    let scope: Vec<&str> = said["Credential"].split('/').collect();
    let [access_key, day, region, service, terminal] = scope[..] else { return false };
    let names: Vec<&str> = said["SignedHeaders"].split(';').collect();
    let required = ["host", "x-amz-content-sha256", "x-amz-date"].iter().all(|name| names.contains(name));
    if access_key != ACCESS_KEY || !required || field("x-amz-content-sha256") != sha256(b"") {
        return false;
    }
    let headers: String = names.iter().map(|name| format!("{name}:{}\n", field(name).trim())).collect();
    let (path, query) = (asked.uri().path(), asked.uri().query().unwrap_or(""));
    let canonical = format!(
        "{}\n{path}\n{query}\n{headers}\n{}\n{}",
        asked.method(),
        said["SignedHeaders"],
        field("x-amz-content-sha256"),
    );
    let scope = format!("{day}/{region}/{service}/{terminal}");
    let text =
        format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", field("x-amz-date"), sha256(canonical.as_bytes()));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [day, region, service, terminal] {
        key = hmac_sha256(&key, part);
    }
    (region, service) == ("eu-central-1", "s3") && hex(&hmac_sha256(&key, &text)) == said["Signature"]
}

/// A bucket `media` that knows one credential, and what it was asked.
struct Bucket {
    origin: Origin,
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Bucket {
    async fn start() -> Bucket {
        let (objects, asked) =
            (Arc::<Mutex<BTreeMap<String, Bytes>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (stored, log) = (objects.clone(), asked.clone());
        let origin = Origin::start(move |_, asked| {
            log.lock().push(format!("{} {}\n{:?}", asked.method(), asked.uri(), asked.headers()));
            let answer = Bucket::answer(&asked, &stored.lock());
            async move { answer }
        })
        .await;
        Bucket { origin, objects, asked }
    }

    fn answer(asked: &Asked, objects: &BTreeMap<String, Bytes>) -> Said {
        let fields = [("server", "AmazonS3"), ("x-amz-request-id", "R"), ("content-type", "application/xml")];
        let error = |status, code: &str| {
            said(status, &fields, format!("<Error><Code>{code}</Code><BucketName>media</BucketName></Error>"))
        };
        if !is_signed(asked) {
            return error(403, "SignatureDoesNotMatch");
        }
        let Some(key) = asked.uri().path().strip_prefix("/media/") else { return error(404, "NoSuchBucket") };
        if key.is_empty() {
            return said(200, &fields, "<ListBucketResult><Key>secret.txt</Key></ListBucketResult>");
        }
        let Some(content) = objects.get(key) else { return error(404, "NoSuchKey") };
        let etag = format!("\"{}\"", &sha256(content)[..16]);
        let fields = [("etag", &*etag), ("x-amz-request-id", "R"), ("server", "AmazonS3")];
        let range = asked.headers().get("range").map(|range| range.to_str().unwrap());
        let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
        else {
            return said(200, &fields, content.clone());
        };
        let first: usize = first.parse().unwrap();
        let last = last.parse::<usize>().map_or(content.len() - 1, |last| last.min(content.len() - 1));
        let mut answer = said(206, &fields, content.slice(first..=last));
        let range = format!("bytes {first}-{last}/{}", content.len());
        answer.headers_mut().insert("content-range", range.parse().unwrap());
        answer
    }

    /// `key` as it is written in a path.
    fn put(&self, key: &str, content: impl Into<Bytes>) {
        self.objects.lock().insert(key.to_owned(), content.into());
    }

    fn requests(&self) -> u64 {
        self.origin.requests()
    }

    fn config(&self, dir: &TempDir, secret: &str) -> Config {
        let secret_file = dir.path().join("s3.secret");
        std::fs::write(&secret_file, format!("{secret}\n")).unwrap();
        let mut config = fleet(self.origin.address, dir, None);
        let site = config.sites.get_mut("www").unwrap();
        site.cache.query = QueryKey::Ignore;
        site.cache.default_ttl = Some(Duration::from_secs(60));
        site.origins[0].storage = Some(Storage {
            kind: StorageKind::S3 {
                region: "eu-central-1".to_owned(),
                style: BucketStyle::Path,
                access_key_id: ACCESS_KEY.to_owned(),
                secret_file,
            },
            bucket: "media".to_owned(),
            prefix: String::new(),
            index: Some("index.html".to_owned()),
        });
        config
    }

    async fn edge(&self) -> Edge {
        let dir = TempDir::new().unwrap();
        let config = self.config(&dir, SECRET);
        Edge::with(config, dir).await
    }
}

#[tokio::test]
async fn objects_are_fetched_with_a_valid_signature_and_kept() {
    let bucket = Bucket::start().await;
    bucket.put("a%20b/%C3%A4%2B1.txt", "object");
    bucket.put("dir/index.html", "<p>index");
    let edge = bucket.edge().await;
    let path = "/a%20b/%C3%A4+1.txt";
    let first = edge.get(path, &[("cookie", "session=1")]).await;
    assert_eq!((first.status, first.text()), (StatusCode::OK, "object"));
    let second = edge.get(&format!("{path}?x=1&list-type=2"), &[]).await;
    assert_eq!(
        (second.status, second.text(), second.field("x-cache-status")),
        (StatusCode::OK, "object", "HIT")
    );
    assert_eq!(bucket.requests(), 1, "the query is no part of the key");
    let index = edge.get("/dir/", &[("authorization", "Bearer client")]).await;
    assert_eq!(index.text(), "<p>index");
    assert_eq!(edge.get("/none.txt", &[]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(edge.send(Method::HEAD, "/dir/index.html", &[], "").await.status, StatusCode::OK);
    for asked in bucket.asked.lock().iter() {
        assert!(
            !asked.contains("list-type") && !asked.contains("cookie") && !asked.contains("Bearer"),
            "{asked}"
        );
    }
}

#[tokio::test]
async fn ranges_of_large_objects_are_fetched_in_chunks() {
    let bucket = Bucket::start().await;
    let content: Vec<u8> = (0..3_500_000u32).map(|at| (at / 3) as u8).collect();
    bucket.put("large.bin", content.clone());
    let edge = bucket.edge().await;
    let part = edge.get("/large.bin", &[("range", "bytes=2000000-2000099")]).await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.field("content-range"), "bytes 2000000-2000099/3500000");
    assert_eq!(part.body.unwrap(), Bytes::copy_from_slice(&content[2_000_000..2_000_100]));
    assert_eq!(edge.get("/large.bin", &[]).await.body.unwrap(), Bytes::from(content));
}

#[tokio::test]
async fn nothing_but_objects_is_asked_for() {
    let bucket = Bucket::start().await;
    bucket.put("secret.txt", "x");
    let dir = TempDir::new().unwrap();
    let mut config = bucket.config(&dir, SECRET);
    config.sites.get_mut("www").unwrap().origins[0].storage.as_mut().unwrap().index = None;
    let edge = Edge::with(config, dir).await;
    for path in ["/", "/?list-type=2", "/?acl", "/dir/", "/a%2Fb", "/%2e%2e/other/x%2F"] {
        let reply = edge.get(path, &[]).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        assert!(!reply.text().contains("secret.txt"));
    }
    for method in [Method::PUT, Method::POST, Method::DELETE] {
        let reply = edge.send(method, "/secret.txt", &[], "content").await;
        assert_eq!((reply.status, reply.field("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    }
    assert_eq!(bucket.requests(), 0);
    assert_eq!(edge.get("/secret.txt", &[]).await.text(), "x");
}

#[tokio::test]
async fn a_wrong_secret_is_our_failure_and_shows_nothing_of_it() {
    let bucket = Bucket::start().await;
    bucket.put("a.txt", "object");
    let dir = TempDir::new().unwrap();
    let config = bucket.config(&dir, "wrong-secret-wrong-secret");
    let edge = Edge::with(config.clone(), dir).await;
    let reply = edge.get("/a.txt", &[]).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert!(reply.field("cache-status").contains("storage-denied"), "{}", reply.field("cache-status"));
    let shown = format!("{:?}{}", reply.headers, reply.text());
    for secret in ["wrong-secret", "AKIDEXAMPLE", "SignatureDoesNotMatch", "media"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    // The secret is corrected in its file: the next configuration signs with it.
    std::fs::write(edge.dir.path().join("s3.secret"), SECRET).unwrap();
    edge.reload(config).unwrap();
    assert_eq!(edge.get("/a.txt", &[]).await.text(), "object");
}
