//! Images on a real edge: sizes and formats on request, the original whenever something is in the way.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{io::Cursor, time::Duration};

use http::Method;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use nearside_edge::transform::image::look;
use nearside_fleet::config::transform::Images;
use support::{Edge, Origin, Reply, fleet, said};
use tempfile::TempDir;

fn picture(seed: u32, width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let pixels = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 3 + seed) as u8, (y * 5) as u8, ((x * y) >> 4) as u8])
    });
    let mut content = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(pixels).write_to(&mut content, format).unwrap();
    content.into_inner()
}

/// A JPEG of 240 by 160, another one for each request; `/bad.jpg` is none, and `/anim.png` is a bomb.
async fn pictures() -> Origin {
    Origin::start(|number, asked| async move {
        assert!(asked.headers().get("accept").is_none(), "one source for everybody");
        let fields = [("cache-control", "max-age=60"), ("etag", "\"src\""), ("surrogate-key", "pics")];
        let (kind, content) = match asked.uri().path() {
            "/bad.jpg" => ("image/jpeg", b"\xff\xd8\xff\xe0 no picture".to_vec()),
            "/bomb.png" => {
                let mut bomb = picture(1, 16, 16, ImageFormat::Png);
                bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
                let crc = crc32fast::hash(&bomb[12..29]).to_be_bytes();
                bomb[29..33].copy_from_slice(&crc);
                ("image/png", bomb)
            }
            "/page.jpg" => ("text/html", b"<p>not found, but 200".to_vec()),
            _ => ("image/jpeg", picture(number as u32 * 40, 240, 160, ImageFormat::Jpeg)),
        };
        let path = asked.uri().path_and_query().unwrap().as_str().to_owned();
        let fields: Vec<_> = fields.into_iter().chain([("content-type", kind), ("x-asked", &path)]).collect();
        said(200, &fields, content)
    })
    .await
}

async fn edge_before(origin: &Origin, change: impl FnOnce(&mut Images)) -> Edge {
    let dir = TempDir::new().unwrap();
    let mut config = fleet(origin.address, &dir, None);
    let mut images =
        Images { widths: vec![60, 120], heights: vec![60], qualities: vec![30], ..Images::default() };
    images.wait = Duration::from_secs(9);
    change(&mut images);
    config.sites.get_mut("www").unwrap().transform.images = Some(images);
    Edge::with(config, dir).await
}

fn size(reply: &Reply) -> (u32, u32) {
    let header = look(reply.body.as_ref().unwrap()).unwrap();
    (header.width, header.height)
}

const MODERN: (&str, &str) = ("accept", "image/avif,image/webp,image/*,*/*;q=0.8");
const WEBP: (&str, &str) = ("accept", "image/webp,*/*");

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_formats_of_one_source() {
    let origin = pictures().await;
    let edge = edge_before(&origin, |_| {}).await;
    for (query, fields, kind, expected) in [
        ("w=60", &[][..], "image/jpeg", Some((60, 40))),
        ("w=60&h=60&fit=cover&q=30", &[], "image/jpeg", Some((60, 60))),
        ("h=60&v=1", &[WEBP], "image/webp", Some((90, 60))),
        ("w=120", &[MODERN], "image/avif", None),
        ("", &[WEBP], "image/webp", Some((240, 160))),
    ] {
        for _ in 0..2 {
            let reply = edge.get(&format!("/a.jpg?{query}"), fields).await;
            assert_eq!(
                (reply.status.as_u16(), reply.field("content-type")),
                (200, kind),
                "{query} {:?}",
                reply.headers
            );
            if let Some(expected) = expected {
                assert_eq!(size(&reply), expected, "{query}");
            } else {
                assert_eq!(&reply.body.as_ref().unwrap()[4..12], b"ftypavif");
            }
            assert_eq!(reply.field("vary"), "Accept");
            assert!(reply.field("etag").len() == 34 && !reply.field("etag").contains("src"), "{query}");
            assert_eq!(reply.field("content-length"), reply.body.as_ref().unwrap().len().to_string());
        }
    }
    // `/a.jpg`, `/a.jpg?v=1`: what is not the edge's belongs to the key.
    assert_eq!(origin.requests(), 2);
    assert_eq!(edge.metric("nearside_edge_transforms_total", &["end=\"made\""]), 5);
    assert_eq!(edge.metric("nearside_edge_transforms_served_total", &["kind=\"webp\""]), 4);
    assert_eq!(edge.get("/a.jpg?w=60", &[]).await.field("x-asked"), "/a.jpg");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_ranges_are_of_the_image() {
    let origin = pictures().await;
    let edge = edge_before(&origin, |_| {}).await;
    let first = edge.get("/a.jpg?w=60", &[("range", "bytes=0-9")]).await;
    assert_eq!(
        (first.status.as_u16(), size(&first)),
        (200, (60, 40)),
        "the range of a request that finds none"
    );
    let tag = first.field("etag").to_owned();
    let same = edge.get("/a.jpg?w=60", &[("if-none-match", &tag)]).await;
    assert_eq!((same.status.as_u16(), same.field("etag"), same.field("vary")), (304, &*tag, "Accept"));
    let other = edge.get("/a.jpg?w=60", &[("if-none-match", "\"src\"")]).await;
    assert_eq!(other.status, 200, "the source's tag is not the image's");
    let head = edge.send(Method::HEAD, "/a.jpg?w=60", &[], "").await;
    assert_eq!((head.field("content-length"), head.field("etag")), (first.field("content-length"), &*tag));
    let original = edge.get("/a.jpg", &[]).await;
    assert_eq!((original.field("etag"), size(&original)), ("\"src\"", (240, 160)));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_listed_may_be_asked_for() {
    let origin = pictures().await;
    let edge = edge_before(&origin, |_| {}).await;
    for query in ["w=61", "w=60&w=120", "w=-1", "h=", "q=31", "fit=stretch", "w=99999999999999"] {
        let reply = edge.get(&format!("/a.jpg?{query}"), &[]).await;
        assert_eq!(reply.status, 400, "{query}");
        assert!(reply.field("cache-status").contains("bad-image-query"), "{:?}", reply.headers);
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(
        edge.get("/a.jpg/page?w=61", &[]).await.field("x-asked"),
        "/a.jpg/page?w=61",
        "no image's path"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_is_served_where_nothing_can_be_made() {
    let origin = pictures().await;
    let edge = edge_before(&origin, |images| images.bytes_max = 50_000).await;
    for path in ["/bad.jpg", "/bomb.png"] {
        for _ in 0..2 {
            let reply = edge.get(&format!("{path}?w=60"), &[WEBP]).await;
            assert_eq!((reply.status.as_u16(), reply.field("etag")), (200, "\"src\""), "{path}");
            assert!(reply.field("cache-status").contains("detail=image-original"), "{:?}", reply.headers);
        }
    }
    assert_eq!(edge.metric("nearside_edge_transforms_total", &["end=\"failed\""]), 2, "tried once each");
    let page = edge.get("/page.jpg?w=60", &[WEBP]).await;
    assert_eq!((page.text(), page.field("vary")), ("<p>not found, but 200", ""));
    let late = edge_before(&origin, |images| images.wait = Duration::ZERO).await;
    let reply = late.get("/a.jpg?w=60", &[WEBP]).await;
    assert_eq!((reply.status.as_u16(), size(&reply)), (200, (240, 160)));
    assert!(reply.field("cache-status").contains("detail=image-late"), "{:?}", reply.headers);
    late.until("it is made all the same", |edge| {
        edge.metric("nearside_edge_transforms_total", &["end=\"made\""]) == 1
    })
    .await;
    assert_eq!(size(&late.get("/a.jpg?w=60", &[WEBP]).await), (60, 40), "and found by the next one");
    let small = edge_before(&origin, |images| images.bytes_max = 100).await;
    assert_eq!(size(&small.get("/a.jpg?w=60", &[WEBP]).await), (240, 160), "too large a source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_the_source_takes_every_image_of_it() {
    let origin = pictures().await;
    let edge = edge_before(&origin, |_| {}).await;
    for scope in [r#"{ "url": "http://www.cdn.test/a.jpg" }"#, r#"{ "tag": { "tag": "pics" } }"#] {
        let before = edge.get("/a.jpg?w=60", &[WEBP]).await;
        let again = edge.get("/a.jpg?w=60", &[WEBP]).await;
        assert_eq!(
            (again.body.as_ref(), again.field("x-cache-status")),
            (before.body.as_ref(), "HIT"),
            "{scope}"
        );
        let body = format!(r#"{{"purges": [{{"scope": {scope}}}]}}"#);
        assert_eq!(edge.control(Method::POST, "/v1/purges", &[], body).await.status, 200);
        let after = edge.get("/a.jpg?w=60", &[WEBP]).await;
        assert_eq!((size(&after), after.field("x-cache-status")), ((60, 40), "MISS"), "{scope}");
        assert_ne!(after.field("etag"), before.field("etag"), "{scope}: made of the new source");
    }
    assert_eq!(origin.requests(), 3);
}
