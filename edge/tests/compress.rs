//! Compression on a real edge: what clients get, what origins are asked, and that a variant never outlives its source.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{io::Read, sync::Arc};

use http::Method;
use nearside_fleet::config::transform::{Coding, Compress};
use parking_lot::Mutex;
use support::{Edge, Origin, Reply, date, fleet, said};
use tempfile::TempDir;

/// Text of `bytes` that shrinks, and differs by `seed`.
fn prose(seed: u64, bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = format!("{seed}: ");
    while text.len() < bytes {
        text.push_str(["alpha ", "beta ", "gamma, ", "delta. ", "epsilon\n"][random.usize(..5)]);
    }
    text.truncate(bytes);
    text
}

fn decoded(reply: &Reply) -> String {
    let body = reply.body.as_ref().unwrap();
    let mut text = String::new();
    match reply.field("content-encoding") {
        "br" => drop(brotli::Decompressor::new(&body[..], 4096).read_to_string(&mut text).unwrap()),
        "gzip" => drop(flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap()),
        "zstd" => text = String::from_utf8(zstd::stream::decode_all(&body[..]).unwrap()).unwrap(),
        "" => reply.text().clone_into(&mut text),
        other => panic!("coded as {other}"),
    }
    text
}

async fn edge_before(origin: &Origin) -> Edge {
    let dir = TempDir::new().unwrap();
    let mut config = fleet(origin.address, &dir, None);
    config.sites.get_mut("www").unwrap().transform.compress = Some(Compress::default());
    Edge::with(config, dir).await
}

/// An origin of 20 kB of text, another one for each request, that notes what it was told of codings.
async fn texts(fields: &'static [(&'static str, &'static str)]) -> (Origin, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = told.clone();
    let origin = Origin::start(move |number, asked| {
        let accept = asked.headers().get("accept-encoding").map(|value| value.to_str().unwrap().to_owned());
        notes.lock().push(accept.unwrap_or_default());
        async move { said(200, fields, prose(number, 20_000)) }
    })
    .await;
    (origin, told)
}

const TEXT: &[(&str, &str)] =
    &[("content-type", "text/plain; charset=utf-8"), ("cache-control", "max-age=60"), ("etag", "\"v1\"")];
const BROWSER: (&str, &str) = ("accept-encoding", "gzip, deflate, br, zstd");

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_text_is_coded_once_for_each_coding() {
    let (origin, told) = texts(TEXT).await;
    let edge = edge_before(&origin).await;
    let miss = edge.get("/a", &[BROWSER]).await;
    assert_eq!((miss.field("content-encoding"), miss.field("vary")), ("", "Accept-Encoding"));
    assert_eq!(miss.field("etag"), "\"v1\"");
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip;q=1.0, br;q=0.1", "gzip"),
        ("zstd", "zstd"),
        ("br;q=0, *", "zstd"),
        ("identity", ""),
        ("gzip;q=0", ""),
        (";;,q=1,{x}", ""),
    ] {
        for _ in 0..2 {
            let reply = edge.get("/a", &[("accept-encoding", accept)]).await;
            assert_eq!(
                (reply.field("content-encoding"), reply.field("x-cache-status")),
                (coding, "HIT"),
                "{accept}"
            );
            assert_eq!(decoded(&reply), prose(1, 20_000), "{accept}");
            assert_eq!(reply.field("vary"), "Accept-Encoding");
            assert_eq!(reply.field("etag"), if coding.is_empty() { "\"v1\"" } else { "W/\"v1\"" });
            assert_eq!(reply.field("accept-ranges"), if coding.is_empty() { "bytes" } else { "" });
            let length = reply.field("content-length").parse::<usize>().unwrap();
            assert_eq!(length, reply.body.as_ref().unwrap().len());
            assert!(coding.is_empty() || length < 10_000);
        }
    }
    assert_eq!(edge.get("/a", &[]).await.field("content-encoding"), "", "a client that says nothing");
    assert_eq!((origin.requests(), &*told.lock()), (1, &vec!["br, zstd, gzip".to_owned()]));
    // Twice for each coding: quickly, then well.
    edge.until("the better level is stored", |edge| {
        edge.metric("nearside_edge_transforms_total", &["end=\"made\""]) == 6
    })
    .await;
    let before = edge.metric("nearside_edge_transform_work_us_total", &[]);
    assert_eq!(decoded(&edge.get("/a", &[BROWSER]).await), prose(1, 20_000));
    assert_eq!(edge.metric("nearside_edge_transform_work_us_total", &[]), before, "nothing is made again");
    assert_eq!(edge.metric("nearside_edge_transforms_served_total", &["kind=\"br\""]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_ranges_and_head() {
    let (origin, _) = texts(TEXT).await;
    let edge = edge_before(&origin).await;
    edge.get("/a", &[BROWSER]).await;
    for tag in ["\"v1\"", "W/\"v1\"", "\"x\", W/\"v1\"", "*"] {
        let reply = edge.get("/a", &[BROWSER, ("if-none-match", tag)]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (304, ""), "{tag}");
        assert_eq!((reply.field("etag"), reply.field("vary")), ("W/\"v1\"", "Accept-Encoding"));
        assert_eq!(reply.field("content-encoding"), "");
        let plain = edge.get("/a", &[("if-none-match", tag)]).await;
        assert_eq!((plain.status.as_u16(), plain.field("etag")), (304, "\"v1\""), "{tag}");
    }
    let changed = edge.get("/a", &[BROWSER, ("if-none-match", "\"v0\"")]).await;
    assert_eq!((changed.status.as_u16(), changed.field("content-encoding")), (200, "br"));
    // Ranges are of the uncoded content, under its strong tag.
    let part = edge.get("/a", &[BROWSER, ("range", "bytes=0-9"), ("if-range", "\"v1\"")]).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, &prose(1, 20_000)[..10]));
    assert_eq!((part.field("content-encoding"), part.field("etag")), ("", "\"v1\""));
    assert_eq!(part.field("content-range"), "bytes 0-9/20000");
    let weak = edge.get("/a", &[BROWSER, ("range", "bytes=0-9"), ("if-range", "W/\"v1\"")]).await;
    assert_eq!((weak.status.as_u16(), decoded(&weak)), (200, prose(1, 20_000)));
    // The better level may come between the two.
    edge.until("the better level is stored", |edge| {
        edge.metric("nearside_edge_transforms_total", &["kind=\"br\"", "end=\"made\""]) == 2
    })
    .await;
    let whole = edge.get("/a", &[BROWSER]).await;
    let head = edge.send(Method::HEAD, "/a", &[BROWSER], "").await;
    for name in ["content-length", "content-encoding", "etag", "vary", "content-type"] {
        assert_eq!(head.field(name), whole.field(name), "{name}");
    }
    assert_eq!(head.text(), "");
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_alone() {
    type Case = (&'static str, &'static [(&'static str, &'static str)], usize);
    const CASES: &[Case] = &[
        ("compressed media", &[("content-type", "image/png")], 20_000),
        ("a type that is not listed", &[("content-type", "application/x-thing")], 20_000),
        ("no type", &[], 20_000),
        ("short", &[("content-type", "text/plain")], 1000),
        ("long", &[("content-type", "text/plain")], 70_000),
        (
            "no-transform",
            &[("content-type", "text/plain"), ("cache-control", "max-age=60, no-transform")],
            20_000,
        ),
        (
            "a digest of the bytes",
            &[("content-type", "text/plain"), ("repr-digest", "sha-256=:AA==:")],
            20_000,
        ),
        ("coded by its origin", &[("content-type", "text/plain"), ("content-encoding", "x-own")], 20_000),
    ];
    let origin = Origin::start(|_, asked| async move {
        let (_, fields, bytes) = CASES[asked.uri().path()[1..].parse::<usize>().unwrap()];
        let fields: Vec<_> = fields.iter().copied().chain([("cache-control", "max-age=60")]).collect();
        said(200, &fields, prose(1, bytes))
    })
    .await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(origin.address, &dir, None);
    let compress = Compress { bytes_max: 60_000, codings: vec![Coding::Gzip], ..Compress::default() };
    config.sites.get_mut("www").unwrap().transform.compress = Some(compress);
    let edge = Edge::with(config, dir).await;
    for (number, (what, fields, bytes)) in CASES.iter().enumerate() {
        let path = format!("/{number}");
        for _ in 0..2 {
            let reply = edge.get(&path, &[BROWSER]).await;
            let coded =
                fields.iter().find(|(name, _)| *name == "content-encoding").map_or("", |(_, value)| value);
            assert_eq!((reply.field("content-encoding"), reply.field("vary")), (coded, ""), "{what}");
            assert_eq!(reply.text(), prose(1, *bytes), "{what}");
        }
    }
    assert_eq!(edge.metric("nearside_edge_transforms_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_shrink_is_tried_once() {
    let mut random = fastrand::Rng::with_seed(3);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20_000).collect();
    let sent = noise.clone();
    let origin = Origin::start(move |_, _| {
        let noise = sent.clone();
        async move { said(200, TEXT, noise) }
    })
    .await;
    let edge = edge_before(&origin).await;
    for _ in 0..4 {
        let reply = edge.get("/a", &[BROWSER]).await;
        assert_eq!((reply.field("content-encoding"), &reply.body.as_ref().unwrap()[..]), ("", &noise[..]));
        assert_eq!(reply.headers["vary"], "Accept-Encoding");
    }
    assert_eq!(edge.metric("nearside_edge_transforms_total", &["end=\"useless\""]), 1);
    assert_eq!(edge.metric("nearside_edge_transforms_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_ends_with_its_source() {
    let (origin, _) =
        texts(&[("content-type", "text/css"), ("cache-control", "max-age=60"), ("surrogate-key", "style")])
            .await;
    let edge = edge_before(&origin).await;
    let mut generation = 0;
    for end in [
        r#"{ "tag": { "tag": "style" } }"#,
        r#"{ "url": "http://www.cdn.test/a" }"#,
        r#"{ "prefix": "http://www.cdn.test/" }"#,
        r#""all""#,
        "an unsafe method",
    ] {
        generation += 1;
        assert_eq!(decoded(&edge.get("/a", &[BROWSER]).await), prose(generation, 20_000), "{end}: fetched");
        let hit = edge.get("/a", &[BROWSER]).await;
        assert_eq!(
            (hit.field("content-encoding"), decoded(&hit)),
            ("br", prose(generation, 20_000)),
            "{end}"
        );
        if end == "an unsafe method" {
            // RFC 9111 section 4.4.
            edge.send(Method::POST, "/a", &[], "").await;
            generation += 1;
        } else {
            let body = format!(r#"{{"purges": [{{"scope": {end}}}]}}"#);
            assert_eq!(edge.control(Method::POST, "/v1/purges", &[], body).await.status, 200, "{end}");
        }
    }
    let next = edge.get("/a", &[BROWSER]).await;
    assert_eq!((next.field("content-encoding"), decoded(&next)), ("", prose(generation + 1, 20_000)));
    let hit = edge.get("/a", &[BROWSER]).await;
    assert_eq!((hit.field("content-encoding"), decoded(&hit)), ("br", prose(generation + 1, 20_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revalidation_keeps_what_was_made_and_expiry_does_not() {
    let origin = Origin::start(|number, asked| async move {
        let fields = [
            ("content-type", "text/css"),
            ("cache-control", "max-age=0, must-revalidate"),
            ("etag", "\"v1\""),
        ];
        let is_same = asked.headers().get("if-none-match").is_some_and(|tag| tag == "\"v1\"") && number < 5;
        if is_same { said(304, &fields, "") } else { said(200, &fields, prose(number, 20_000)) }
    })
    .await;
    let edge = edge_before(&origin).await;
    edge.get("/a", &[BROWSER]).await;
    let hit = edge.get("/a", &[BROWSER]).await;
    assert_eq!((hit.field("content-encoding"), hit.field("x-cache-status")), ("br", "REVALIDATED"));
    edge.until("both levels are made", |edge| {
        edge.metric("nearside_edge_transforms_total", &["end=\"made\""]) == 2
    })
    .await;
    for _ in 0..2 {
        assert_eq!(decoded(&edge.get("/a", &[BROWSER]).await), prose(1, 20_000));
    }
    assert_eq!(edge.metric("nearside_edge_transforms_total", &["end=\"made\""]), 2, "made once");
    // The fifth answer is another one.
    assert_eq!(decoded(&edge.get("/a", &[BROWSER]).await), prose(5, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_origin_coded_is_kept_as_it_came_in_few_copies() {
    let origin = Origin::start(|_, asked| async move {
        let takes = asked.headers()["accept-encoding"].to_str().unwrap().to_owned();
        let mut fields =
            vec![("content-type", "text/html"), ("cache-control", "max-age=60"), ("vary", "accept-encoding")];
        if takes.contains("gzip") {
            fields.push(("content-encoding", "gzip"));
            let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            std::io::Write::write_all(&mut coder, prose(9, 20_000).as_bytes()).unwrap();
            return said(200, &fields, coder.finish().unwrap());
        }
        said(200, &fields, prose(9, 20_000))
    })
    .await;
    let edge = edge_before(&origin).await;
    for (accept, coding) in [
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.9, deflate, sdch", "gzip"),
        ("identity", ""),
        ("deflate", ""),
        ("x-gzip, *;q=0", "gzip"),
    ] {
        let reply = edge.get("/a", &[("accept-encoding", accept)]).await;
        assert_eq!(
            (reply.field("content-encoding"), decoded(&reply)),
            (coding, prose(9, 20_000)),
            "{accept}"
        );
    }
    assert_eq!(origin.requests(), 2, "once coded and once as it is");
    // The uncoded copy is ours to code, for clients that the origin has nothing for.
    edge.get("/b", &[("accept-encoding", "br")]).await;
    assert_eq!(edge.get("/b", &[("accept-encoding", "br")]).await.field("content-encoding"), "br");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_content_is_coded_behind_the_client_and_survives_a_restart() {
    let modified = date(10_000);
    let origin = Origin::start(move |_, _| {
        let modified = modified.clone();
        async move {
            let fields = [
                ("content-type", "text/csv"),
                ("cache-control", "max-age=600"),
                ("last-modified", &modified),
            ];
            said(200, &fields, prose(5, 1_500_000))
        }
    })
    .await;
    let edge = edge_before(&origin).await;
    edge.get("/a", &[BROWSER]).await;
    assert_eq!(edge.get("/a", &[BROWSER]).await.field("content-encoding"), "", "not waited for");
    edge.until("it is made", |edge| edge.metric("nearside_edge_transforms_total", &["end=\"made\""]) == 1)
        .await;
    let coded = edge.get("/a", &[BROWSER]).await;
    assert_eq!((coded.field("content-encoding"), decoded(&coded)), ("br", prose(5, 1_500_000)));
    edge.get("/a", &[BROWSER]).await;
    edge.daemon.cache().unwrap().close();
    let config = edge.config.clone();
    let edge = Edge::with(config, edge.into_dir().await).await;
    let coded = edge.get("/a", &[BROWSER]).await;
    assert_eq!((coded.field("content-encoding"), coded.field("x-cache-status")), ("br", "HIT"));
    assert_eq!(decoded(&coded), prose(5, 1_500_000));
    assert_eq!((origin.requests(), edge.metric("nearside_edge_transforms_total", &[])), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_has_one_thing_made() {
    let (origin, _) = texts(TEXT).await;
    let edge = Arc::new(edge_before(&origin).await);
    edge.get("/a", &[BROWSER]).await;
    let crowd: Vec<_> = (0..20)
        .map(|_| {
            let edge = edge.clone();
            tokio::spawn(async move { decoded(&edge.get("/a", &[BROWSER]).await) })
        })
        .collect();
    for one in crowd {
        assert_eq!(one.await.unwrap(), prose(1, 20_000));
    }
    edge.until("both levels are made", |edge| {
        edge.metric("nearside_edge_transforms_total", &["end=\"made\""]) == 2
    })
    .await;
    assert_eq!(edge.metric("nearside_edge_transforms_total", &[]), 2);
}
