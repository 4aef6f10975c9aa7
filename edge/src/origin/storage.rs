//! Object storage as an origin: which object a path means, the signature on the request, and what of
//! storage's answer is nobody's business.
//!
//! Storage speaks HTTP but is no web server. Its query selects operations (`?list-type=2`, `?acl`), so
//! a client's never reaches it; a bucket's own path lists the bucket, so only objects are asked for; its
//! errors quote bucket names, request ids and, at Azure, the string that was signed, so their bodies end
//! here. Of the client's fields only the conditions and the range go on: what is signed is ours.
//!
//! Signing is reqsign's. The secret comes from a file of its own and is in no error, log line, cache key
//! or field that a client sees; a shared access signature travels in the query of the one request that is
//! written to storage.

use std::{fmt, io, path::PathBuf};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::BodyExt as _;
use nearside_fleet::config;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqsign::{Context, SignRequest as _, aws, azure};
use thiserror::Error;

use super::body::{FetchBody, SendBody};

/// Bytes of an error document that are read for its code; longer ones cost the connection.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a key, S3's and Azure's limit alike.
const KEY_BYTES_MAX: usize = 1024;

/// Bytes of a secret's file. A shared access signature has some hundred.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// The version of Azure's protocol that is spoken: ranges and error codes are as described since then.
const AZURE_VERSION: HeaderValue = HeaderValue::from_static("2021-08-06");

/// SHA-256 of nothing: what a request without content is signed with.
const EMPTY_SHA256: HeaderValue =
    HeaderValue::from_static("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");

/// What stays as it is in a key's path (RFC 3986 section 2.3; SigV4 asks for exactly these).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Of a client's fields, those that choose within an object.
const TO_STORAGE: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Of storage's fields, those that are about the object.
const FROM_STORAGE: [HeaderName; 13] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
];

/// Metadata by which an object names its purge tags, and the field that carries them here.
const TAGS: [(HeaderName, HeaderName); 4] = [
    (HeaderName::from_static("x-amz-meta-surrogate-key"), HeaderName::from_static("surrogate-key")),
    (HeaderName::from_static("x-amz-meta-cache-tag"), HeaderName::from_static("cache-tag")),
    (HeaderName::from_static("x-ms-meta-surrogate_key"), HeaderName::from_static("surrogate-key")),
    (HeaderName::from_static("x-ms-meta-cache_tag"), HeaderName::from_static("cache-tag")),
];

/// Why a storage origin could not be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The secret's file can't be read.
    #[error("read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds no such secret. What it does hold is not repeated.
    #[error("{path}: expected {expected} on one line")]
    Secret {
        /// The file.
        path: PathBuf,
        /// What it should have held.
        expected: &'static str,
    },
    /// Host and bucket make no address.
    #[error("{0:?} is no host name to ask")]
    Host(String),
}

/// Why an answer can't be had from storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageError {
    /// The path names no object: a listing would be the answer.
    NoObject,
    /// The path is none that a key can have.
    BadKey,
    /// Objects are only read here.
    Method,
    /// The request could not be signed: the credential is not usable (expired, malformed).
    Unsigned,
    /// Storage refused our signature, not the object.
    Denied,
    /// Storage sent us elsewhere: wrong endpoint or region.
    Redirected,
}

impl StorageError {
    /// A token for `Cache-Status` and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            StorageError::NoObject => "storage-no-object",
            StorageError::BadKey => "storage-bad-key",
            StorageError::Method => "storage-method",
            StorageError::Unsigned => "storage-unsigned",
            StorageError::Denied => "storage-denied",
            StorageError::Redirected => "storage-redirected",
        }
    }

    /// What the client is answered. Ours are 502: another origin, or what is stale, may do better.
    pub fn status(self) -> StatusCode {
        match self {
            StorageError::NoObject | StorageError::BadKey => StatusCode::NOT_FOUND,
            StorageError::Method => StatusCode::METHOD_NOT_ALLOWED,
            StorageError::Unsigned | StorageError::Denied | StorageError::Redirected => {
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// Whether the request itself is to blame: asking another origin would not help.
    pub fn is_the_clients(self) -> bool {
        matches!(self, StorageError::NoObject | StorageError::BadKey | StorageError::Method)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StorageError::NoObject => "the path names no object, and listings are not served",
            StorageError::BadKey => "no object can have this path as its key",
            StorageError::Method => "objects are only read here",
            StorageError::Unsigned => "the request could not be signed with the configured credential",
            StorageError::Denied => "storage refused our credential; its code is in the log",
            StorageError::Redirected => "storage redirected us: wrong endpoint or region",
        })
    }
}

impl std::error::Error for StorageError {}

enum Signer {
    S3(aws::RequestSigner, aws::Credential),
    Azure(azure::RequestSigner, azure::Credential),
}

/// A bucket or container, and how to ask it.
pub struct Storage {
    signer: Signer,
    scheme: Scheme,
    authority: Authority,
    /// Before the key in the path: `/bucket/`, `/container/` or `/`, and the configured prefix. Encoded.
    base: String,
    index: Option<String>,
}

/// The secret of a storage origin: compared at a reload, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads the file a configuration names.
    ///
    /// # Errors
    /// [`SetupError::Read`] and, for anything but one line of visible ASCII, [`SetupError::Secret`].
    pub fn load(storage: &config::Storage) -> Result<Self, SetupError> {
        let path = storage.secret_file();
        let read = |cause| SetupError::Read { path: path.to_owned(), cause };
        let too_long = || SetupError::Secret { path: path.to_owned(), expected: expected(storage) };
        if std::fs::metadata(path).map_err(read)?.len() > SECRET_BYTES_MAX {
            return Err(too_long());
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let line = text.trim();
        let sound = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_graphic());
        if sound { Ok(Secret(line.to_owned())) } else { Err(too_long()) }
    }
}

fn expected(storage: &config::Storage) -> &'static str {
    match &storage.kind {
        config::StorageKind::S3 { .. } => "an S3 secret access key",
        config::StorageKind::AzureKey { .. } => "an Azure storage account key",
        config::StorageKind::AzureSas { .. } => "a shared access signature like \"sv=…&sig=…\"",
    }
}

/// The host that a storage origin is asked at: virtual-host style puts the bucket before it.
pub fn host_of(origin: &config::Origin) -> String {
    match origin.storage.as_ref().map(|storage| (&storage.kind, storage)) {
        Some((config::StorageKind::S3 { style: config::BucketStyle::VirtualHost, .. }, storage)) => {
            format!("{}.{}", storage.bucket, origin.host)
        }
        _ => origin.host.clone(),
    }
}

impl Storage {
    /// What `origin.storage` describes.
    ///
    /// # Errors
    /// [`SetupError::Host`] where endpoint and bucket make no host.
    pub fn new(
        origin: &config::Origin,
        storage: &config::Storage,
        secret: &Secret,
    ) -> Result<Self, SetupError> {
        let (scheme, default_port) = match origin.scheme {
            config::Scheme::Http => (Scheme::HTTP, 80),
            config::Scheme::Https => (Scheme::HTTPS, 443),
        };
        let host = host_of(origin);
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host };
        let authority = match origin.port {
            port if port == default_port => bracketed,
            port => format!("{bracketed}:{port}"),
        };
        let authority = authority.parse().map_err(|_invalid| SetupError::Host(authority))?;
        let before = match &storage.kind {
            config::StorageKind::S3 { style: config::BucketStyle::VirtualHost, .. } => "/".to_owned(),
            config::StorageKind::AzureKey { path_style: true, account, .. }
            | config::StorageKind::AzureSas { path_style: true, account, .. } => {
                format!("/{account}/{}/", storage.bucket)
            }
            _ => format!("/{}/", storage.bucket),
        };
        let base = format!("{before}{}", utf8_percent_encode(&storage.prefix, PATH));
        let signer = match &storage.kind {
            config::StorageKind::S3 { region, access_key_id, .. } => Signer::S3(
                aws::RequestSigner::new("s3", region),
                aws::Credential {
                    access_key_id: access_key_id.clone(),
                    secret_access_key: secret.0.clone(),
                    ..Default::default()
                },
            ),
            config::StorageKind::AzureKey { account, .. } => Signer::Azure(
                azure::RequestSigner::new(),
                azure::Credential::with_shared_key(account, &secret.0),
            ),
            config::StorageKind::AzureSas { .. } => Signer::Azure(
                azure::RequestSigner::new(),
                azure::Credential::with_sas_token(secret.0.trim_start_matches('?')),
            ),
        };
        Ok(Storage { signer, scheme, authority, base, index: storage.index.clone() })
    }

    /// Makes of a request for a path of the site the signed one for the object behind it, in origin form.
    ///
    /// # Errors
    /// [`StorageError`]: the request's own, or [`StorageError::Unsigned`].
    pub async fn prepare(&self, request: Request<SendBody>) -> Result<Request<SendBody>, StorageError> {
        let (mut parts, body) = request.into_parts();
        if !matches!(parts.method, Method::GET | Method::HEAD) || !body.is_empty() {
            return Err(StorageError::Method);
        }
        let path = format!("{}{}", self.base, self.key(parts.uri.path())?);
        let mut headers = HeaderMap::new();
        for name in &TO_STORAGE {
            for value in parts.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let host = HeaderValue::from_str(self.authority.as_str());
        headers.insert(header::HOST, host.map_err(|_invalid| StorageError::Unsigned)?);
        parts.headers = headers;
        parts.uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_invalid| StorageError::BadKey)?;
        self.sign(&mut parts).await?;
        let target = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(target);
        Ok(Request::from_parts(parts, body))
    }

    async fn sign(&self, parts: &mut Parts) -> Result<(), StorageError> {
        let context = Context::new();
        let signed = match &self.signer {
            Signer::S3(signer, credential) => {
                parts.headers.insert("x-amz-content-sha256", EMPTY_SHA256);
                signer.sign_request(&context, parts, Some(credential), None).await
            }
            Signer::Azure(signer, credential) => {
                parts.headers.insert("x-ms-version", AZURE_VERSION);
                signer.sign_request(&context, parts, Some(credential), None).await
            }
        };
        signed.map_err(|error| {
            // Its kind only: an error may quote what it was given.
            tracing::warn!(kind = ?error.kind(), host = %self.authority, "storage request could not be signed");
            StorageError::Unsigned
        })
    }

    /// The key that a path names, encoded anew. A path is compared with rules and keyed as it is written, so
    /// what would be another spelling of the same object (`%2F`) names none.
    fn key(&self, path: &str) -> Result<String, StorageError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let lower = path.to_ascii_lowercase();
        if lower.contains("%2f") || lower.contains("%5c") {
            return Err(StorageError::BadKey);
        }
        let mut key =
            percent_decode_str(path).decode_utf8().map_err(|_not_text| StorageError::BadKey)?.into_owned();
        if key.is_empty() || key.ends_with('/') {
            key.push_str(self.index.as_deref().ok_or(StorageError::NoObject)?);
        }
        let dotted = key.split('/').any(|segment| matches!(segment, "." | ".."));
        if dotted || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
            return Err(StorageError::BadKey);
        }
        Ok(utf8_percent_encode(&key, PATH).to_string())
    }

    /// Leaves of storage's answer what is about the object.
    ///
    /// # Errors
    /// [`StorageError::Denied`] and [`StorageError::Redirected`], which say that our configuration is
    /// wrong: what is stale, or another origin, may stand in.
    pub async fn clean(&self, response: Response<FetchBody>) -> Result<Response<FetchBody>, StorageError> {
        let (mut parts, body) = response.into_parts();
        let status = parts.status;
        let is_content = status.is_success() || status == StatusCode::NOT_MODIFIED;
        parts.headers = about_the_object(&parts.headers, is_content);
        if is_content {
            return Ok(Response::from_parts(parts, body));
        }
        let (code, body) = code_of(body).await;
        if status.is_redirection() {
            self.complain(status, &code);
            return Err(StorageError::Redirected);
        }
        if is_our_fault(status, &code) {
            self.complain(status, &code);
            return Err(StorageError::Denied);
        }
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        Ok(Response::from_parts(parts, body.withheld()))
    }

    fn complain(&self, status: StatusCode, code: &str) {
        tracing::warn!(
            host = %self.authority,
            status = status.as_u16(),
            code,
            "storage refused our request; check endpoint, region, credential and this machine's clock"
        );
    }
}

fn about_the_object(from: &HeaderMap, is_content: bool) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let about_errors = [header::DATE, header::CONTENT_RANGE];
    let kept = if is_content { &FROM_STORAGE[..] } else { &about_errors[..] };
    for name in kept {
        for value in from.get_all(name) {
            fields.append(name, value.clone());
        }
    }
    for (metadata, field) in TAGS.iter().filter(|_| is_content) {
        for value in from.get_all(metadata) {
            fields.append(field, value.clone());
        }
    }
    fields
}

/// Whether a refusal is about our credential rather than about the object. A key that is not there is
/// `AccessDenied` to whoever may not list the bucket, so that one stays a 403.
fn is_our_fault(status: StatusCode, code: &str) -> bool {
    let of_the_object =
        ["", "AccessDenied", "NoSuchKey", "BlobNotFound", "InvalidRange", "InvalidObjectState"];
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 405 | 409 | 411 | 501) && !of_the_object.contains(&code)
}

/// The `<Code>` of an error document, empty where there is none, and the body, read to its end if it is not
/// too long. Letters and digits only, so that nothing else of the document can reach a log.
async fn code_of(mut body: FetchBody) -> (String, FetchBody) {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > ERROR_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let rest = text.split_once("<Code>").map_or("", |(_, rest)| rest);
    let code = rest.split_once("</Code>").map_or("", |(code, _)| code);
    (code.chars().filter(char::is_ascii_alphanumeric).take(64).collect(), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==";

    fn origin(kind: config::StorageKind, prefix: &str, index: Option<&str>) -> config::Origin {
        let mut origin = config::Origin::at(config::Scheme::Https, "storage.test", 443);
        origin.storage = Some(config::Storage {
            kind,
            bucket: "media".into(),
            prefix: prefix.into(),
            index: index.map(str::to_owned),
        });
        origin
    }

    fn s3(style: config::BucketStyle) -> config::StorageKind {
        config::StorageKind::S3 {
            region: "eu-central-1".into(),
            style,
            access_key_id: "AKIDEXAMPLE".into(),
            secret_file: PathBuf::new(),
        }
    }

    fn storage(origin: &config::Origin) -> Storage {
        Storage::new(origin, origin.storage.as_ref().unwrap(), &Secret(SECRET.into())).unwrap()
    }

    async fn prepared(storage: &Storage, target: &str) -> Result<Request<SendBody>, StorageError> {
        let mut request = Request::new(SendBody::Empty);
        *request.uri_mut() = target.parse().unwrap();
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("a.test"));
        headers.insert(header::COOKIE, HeaderValue::from_static("session=1"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer client"));
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-9"));
        storage.prepare(request).await
    }

    #[tokio::test]
    async fn a_path_becomes_a_signed_request_for_its_object_and_nothing_of_the_clients_goes_along() {
        let storage = storage(&origin(s3(config::BucketStyle::Path), "public/", None));
        let request = prepared(&storage, "/a%20b/c%C3%A4.mp3?list-type=2&acl").await.unwrap();
        assert_eq!(request.uri(), "/media/public/a%20b/c%C3%A4.mp3");
        let headers = request.headers();
        assert_eq!(headers[header::HOST], "storage.test");
        assert_eq!(headers[header::RANGE], "bytes=0-9");
        assert!(!headers.contains_key(header::COOKIE));
        let authorization = headers[header::AUTHORIZATION].to_str().unwrap();
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
        assert!(authorization.contains("/eu-central-1/s3/aws4_request"), "{authorization}");
        assert!(!authorization.contains(SECRET));
    }

    #[tokio::test]
    async fn a_bucket_can_be_part_of_the_host() {
        let origin = origin(s3(config::BucketStyle::VirtualHost), "", None);
        assert_eq!(host_of(&origin), "media.storage.test");
        let request = prepared(&storage(&origin), "/x").await.unwrap();
        assert_eq!(request.uri(), "/x");
        assert_eq!(request.headers()[header::HOST], "media.storage.test");
    }

    #[tokio::test]
    async fn a_shared_access_signature_travels_in_the_one_request_alone() {
        let kind = config::StorageKind::AzureSas {
            account: "acct".into(),
            path_style: false,
            secret_file: PathBuf::new(),
        };
        let origin = origin(kind, "", None);
        let secret = Secret("?sv=2021-08-06&sig=abc%3D".into());
        let storage = Storage::new(&origin, origin.storage.as_ref().unwrap(), &secret).unwrap();
        let request = prepared(&storage, "/x?comp=list").await.unwrap();
        assert_eq!(request.uri(), "/media/x?sv=2021-08-06&sig=abc%3D");
        assert!(!request.headers().contains_key(header::AUTHORIZATION));
        assert!(!format!("{secret:?}").contains("abc"));
    }

    #[tokio::test]
    async fn listings_and_second_spellings_name_no_object() {
        let plain = storage(&origin(s3(config::BucketStyle::Path), "", None));
        for (target, error) in [
            ("/", StorageError::NoObject),
            ("/dir/", StorageError::NoObject),
            ("/a%2Fb", StorageError::BadKey),
            ("/a%5cb", StorageError::BadKey),
            ("/a%00b", StorageError::BadKey),
            ("/%ff", StorageError::BadKey),
            ("/a/%2e%2e/b", StorageError::BadKey),
        ] {
            assert_eq!(prepared(&plain, target).await.err(), Some(error), "{target}");
        }
        let indexed = storage(&origin(s3(config::BucketStyle::Path), "", Some("index.html")));
        assert_eq!(prepared(&indexed, "/").await.unwrap().uri(), "/media/index.html");
        assert_eq!(prepared(&indexed, "/dir/").await.unwrap().uri(), "/media/dir/index.html");
        let mut post = Request::new(SendBody::Empty);
        *post.method_mut() = Method::DELETE;
        assert_eq!(indexed.prepare(post).await.err(), Some(StorageError::Method));
    }

    #[test]
    fn only_what_is_about_the_object_is_kept() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("etag", "\"x\""),
            ("x-amz-request-id", "1"),
            ("x-ms-version", "1"),
            ("server", "AmazonS3"),
            ("location", "https://elsewhere.test/?sig=1"),
            ("set-cookie", "a=b"),
            ("x-amz-meta-surrogate-key", "a b"),
        ] {
            from.append(name, HeaderValue::from_static(value));
        }
        let kept = about_the_object(&from, true);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept["surrogate-key"], "a b");
        assert!(about_the_object(&from, false).is_empty());
    }

    #[test]
    fn a_bad_credential_is_ours_a_missing_key_is_not() {
        for code in ["SignatureDoesNotMatch", "InvalidAccessKeyId", "RequestTimeTooSkewed", "NoSuchBucket"] {
            assert!(is_our_fault(StatusCode::FORBIDDEN, code), "{code}");
        }
        assert!(is_our_fault(StatusCode::NOT_FOUND, "NoSuchBucket"));
        for (status, code) in
            [(403, "AccessDenied"), (403, ""), (404, "NoSuchKey"), (416, "InvalidRange"), (503, "SlowDown")]
        {
            assert!(!is_our_fault(StatusCode::from_u16(status).unwrap(), code), "{code}");
        }
    }
}
