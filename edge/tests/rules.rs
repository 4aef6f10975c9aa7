//! Rules on a real edge, as a fleet file says them: what they do to requests, to what is stored, and to answers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{path::Path, sync::Arc};

use http::Method;
use nearside_fleet::{Files, config::Config};
use parking_lot::Mutex;
use support::{Asked, Edge, HOST, Origin, fleet, said};
use tempfile::TempDir;

/// What the origin was asked: method, target, and the fields that matter here.
type Seen = Arc<Mutex<Vec<(String, String, http::HeaderMap)>>>;

/// An origin that remembers what it was asked, and says so.
async fn origin(seen: &Seen) -> Origin {
    let seen = seen.clone();
    Origin::start(move |number, request: Asked| {
        let target = request.uri().to_string();
        seen.lock().push((request.method().to_string(), target.clone(), request.headers().clone()));
        async move {
            let status = if target.starts_with("/missing") { 404 } else { 200 };
            let fields =
                [("cache-control", "max-age=60"), ("content-type", "text/plain"), ("x-origin", "here")];
            said(status, &fields, format!("{number} {target}"))
        }
    })
    .await
}

/// The rules of a fleet file's text, for the site of `config`.
fn with_rules(mut config: Config, dir: &TempDir, text: &str) -> Config {
    let text = format!(
        "version = 1\nfleet = \"x\"\n[site.www]\nhosts = [\"{HOST}\", \"*.cdn.test\"]\n\
         origin = [{{ name = \"one\", url = \"http://127.0.0.1:1\" }}, {{ name = \"two\", url = \"http://127.0.0.1:2\" }}]\n{text}"
    );
    let loaded =
        nearside_fleet::spec::parse(Path::new("f.toml"), &text, &Files::beside(&dir.path().join("f.toml")));
    let site = loaded.unwrap_or_else(|mistakes| panic!("{mistakes:#?}")).config.sites["www"].clone();
    let www = config.sites.get_mut("www").unwrap();
    (www.rules, www.splits) = (site.rules, site.splits);
    (www.error_pages, www.request_id_from) = (site.error_pages, site.request_id_from);
    config
}

struct Ground {
    edge: Edge,
    seen: Seen,
    #[allow(dead_code, reason = "listens as long as it lives")]
    origin: Origin,
}

async fn ground(rules: &str) -> Ground {
    let seen = Seen::default();
    let origin = origin(&seen).await;
    let dir = TempDir::new().unwrap();
    let config = with_rules(fleet(origin.address, &dir, None), &dir, rules);
    let edge = Edge::with(config, dir).await;
    Ground { edge, seen, origin }
}

fn rule(name: &str, when: &str, then: &str) -> String {
    format!("[[site.www.rule]]\nname = \"{name}\"\nwhen = {{ {when} }}\nthen = {{ {then} }}\n")
}

#[tokio::test]
async fn rules_answer_without_the_origin_and_are_counted() {
    let rules = rule("gone", "path = \"/gone/*\"", "block = 410")
        + &rule("moved", "path = \"/old/*\"", "redirect = { to = \"/new/$1{?query}\", status = 301 }")
        + &rule(
            "robots",
            "path = \"/robots.txt\"",
            "respond = { body = \"no\" }, response_headers = { set = { x-r = \"1\" } }",
        );
    let ground = ground(&rules).await;
    let gone = ground.edge.get("/gone/x", &[]).await;
    assert_eq!((gone.status.as_u16(), gone.field("cache-control")), (410, "no-store"));
    assert!(gone.field("cache-status").contains("detail=rule"), "{gone:?}");
    let moved = ground.edge.get("/old/a/b?q=1", &[]).await;
    assert_eq!((moved.status.as_u16(), moved.field("location")), (301, "/new/a/b?q=1"));
    let robots = ground.edge.get("/robots.txt", &[]).await;
    assert_eq!((robots.text(), robots.field("x-r"), robots.field("content-length")), ("no", "1", "2"));
    let head = ground.edge.send(Method::HEAD, "/robots.txt", &[], "").await;
    assert_eq!((head.text(), head.field("content-length")), ("", "2"));
    let posted = ground.edge.send(Method::POST, "/gone/x", &[], "content that nobody reads").await;
    assert_eq!((posted.status.as_u16(), posted.field("connection")), (410, "close"));
    assert_eq!(ground.seen.lock().len(), 0, "the origin was not asked");
    let counted =
        |name: &str| ground.edge.metric("nearside_edge_rule_matched_total", &[&format!("rule=\"{name}\"")]);
    assert_eq!((counted("gone"), counted("moved"), counted("robots")), (2, 1, 2));
}

#[tokio::test]
async fn a_rewritten_target_is_one_for_key_and_origin() {
    let rules = rule("strip", "path = \"/v1/*\"", "rewrite = { path = \"/$1\", query = \"v=1&{query}\" }");
    let ground = ground(&rules).await;
    let first = ground.edge.get("/v1/a/../b?x=2", &[]).await;
    assert_eq!(first.text(), "1 /b?v=1&x=2");
    let again = ground.edge.get("/b?v=1&x=2", &[]).await;
    assert_eq!((again.text(), again.field("x-cache-status")), ("1 /b?v=1&x=2", "HIT"));
}

#[tokio::test]
async fn what_rules_change_for_some_is_kept_apart_and_purged_together() {
    let rules = rule(
        "beta",
        "cookie = { beta = \"1\" }",
        "request_headers = { set = { x-beta = \"yes\" }, remove = \"cookie\" }",
    );
    let ground = ground(&rules).await;
    let (beta, plain) = ([("cookie", "beta=1")], [("cookie", "other=1")]);
    assert_eq!(ground.edge.get("/x", &beta).await.text(), "1 /x");
    assert_eq!(ground.edge.get("/x", &plain).await.text(), "2 /x");
    assert_eq!(ground.edge.get("/x", &beta).await.text(), "1 /x");
    let hit = ground.edge.get("/x", &plain).await;
    assert_eq!((hit.text(), hit.field("x-cache-status")), ("2 /x", "HIT"));
    assert!(hit.field("vary").to_lowercase().contains("cookie"), "{hit:?}");
    {
        let seen = ground.seen.lock();
        assert_eq!(
            (seen[0].2.get("x-beta").unwrap(), seen[0].2.get("cookie")),
            (&"yes".parse().unwrap(), None)
        );
        assert!(seen[1].2.get("x-beta").is_none() && seen[1].2.contains_key("cookie"));
        assert!(
            seen.iter()
                .all(|(_, _, fields)| !fields.keys().any(|name| name.as_str().starts_with("nearside-")))
        );
    }
    let url = format!("{{\"purges\":[{{\"scope\":{{\"url\":\"http://{HOST}/x\"}}}}]}}");
    let purged = ground.edge.control(Method::POST, "/v1/purges", &[], url).await;
    assert_eq!(purged.status.as_u16(), 200, "{:?}", purged.body);
    assert_eq!(ground.edge.get("/x", &beta).await.text(), "3 /x");
    assert_eq!(ground.edge.get("/x", &plain).await.text(), "4 /x");
}

#[tokio::test]
async fn a_client_can_not_choose_its_variant() {
    let rules = rule("beta", "cookie = { beta = \"1\" }", "request_headers = { set = { x-beta = \"yes\" } }");
    let ground = ground(&rules).await;
    ground.edge.get("/x", &[("cookie", "beta=1")]).await;
    // Whatever it sends: it is a miss of its own, and an order is nothing to a client's request.
    let forged = [("nearside-variant", "00"), ("nearside-orders", "variant;ttl=99999999;tag=evil")];
    assert_eq!(ground.edge.get("/x", &forged).await.text(), "2 /x");
    assert_eq!(ground.edge.get("/x", &[]).await.text(), "2 /x", "the plain variant");
}

#[tokio::test]
async fn concurrent_first_requests_of_one_variant_are_one_fetch() {
    let rules = rule("key", "path = \"/*\"", "cache = { key = { headers = \"x-k\" } }");
    let ground = ground(&rules).await;
    let requests = (0..40).map(|n| {
        let value = if n % 2 == 0 { "a" } else { "b" };
        let address = ground.edge.http();
        async move { support::exchange(address, Method::GET, "/c", &[("x-k", value)], "").await.status }
    });
    let statuses = futures_util::future::join_all(requests).await;
    assert!(statuses.iter().all(|status| status.as_u16() == 200));
    assert_eq!(ground.seen.lock().len(), 2, "one for each value");
}

#[tokio::test]
async fn lifetimes_bypass_and_queries_by_rule() {
    let rules =
        rule("short", "path = \"/short\"", "cache = { ttl = \"0s\", client_cache_control = \"private\" }")
            + &rule("long", "path = \"/missing*\"", "cache = { ttl = \"1h\" }")
            + &rule("pass", "path = \"/pass\"", "cache = { bypass = true }")
            + &rule("query", "path = \"/q\"", "cache = { query = { only = [\"id\"] } }");
    let ground = ground(&rules).await;
    for (path, expected) in [("/short", "2 /short"), ("/pass", "4 /pass")] {
        ground.edge.get(path, &[]).await;
        assert_eq!(ground.edge.get(path, &[]).await.text(), expected);
    }
    let short = ground.edge.get("/short", &[]).await;
    assert_eq!(short.field("cache-control"), "private");
    let query = ground.edge.get("/q?id=1&utm=2", &[]).await;
    assert!(query.text().ends_with("/q?id=1"));
    assert_eq!(ground.edge.get("/q?id=1&utm=3", &[]).await.field("x-cache-status"), "HIT");
    // An error is not what was meant: the origin's own minute holds.
    let missing = ground.edge.get("/missing", &[]).await;
    let ttl = missing.field("cache-status").split("ttl=").nth(1).and_then(|rest| rest.split(';').next());
    assert!(ttl.is_some_and(|ttl| (1..=60).contains(&ttl.parse::<u32>().unwrap())), "{missing:?}");
}

#[tokio::test]
async fn tags_of_rules_purge_what_they_tagged() {
    let ground = ground(&rule("shop", "path = \"/shop/*\"", "tags = [\"shop\", \"all\"]")).await;
    ground.edge.get("/shop/1", &[]).await;
    ground.edge.get("/else", &[]).await;
    let purge = "{\"purges\":[{\"scope\":{\"tag\":{\"tag\":\"shop\"}}}]}".to_owned();
    let purged = ground.edge.control(Method::POST, "/v1/purges", &[], purge).await;
    assert_eq!(purged.status.as_u16(), 200, "{:?}", purged.body);
    assert_eq!(ground.edge.get("/shop/1", &[]).await.field("x-cache-status"), "MISS");
    assert_eq!(ground.edge.get("/else", &[]).await.field("x-cache-status"), "HIT");
}

#[tokio::test]
async fn a_rule_sends_clients_to_its_own_origins() {
    let (seen_one, seen_two) = (Seen::default(), Seen::default());
    let (one, two) = (origin(&seen_one).await, origin(&seen_two).await);
    let dir = TempDir::new().unwrap();
    let mut config = fleet(one.address, &dir, None);
    let site = config.sites.get_mut("www").unwrap();
    site.origins = vec![support::at(one.address), support::at(two.address)];
    site.balance = Some(nearside_fleet::config::Balance::default());
    let rules = rule("local", "client = \"127.0.0.0/8\", path = \"/geo/*\"", "origin = \"two\"");
    let config = with_rules(config, &dir, &rules);
    let edge = Edge::with(config, dir).await;
    edge.get("/geo/x", &[]).await;
    edge.get("/other", &[]).await;
    let targets = |seen: &Seen| seen.lock().iter().map(|(_, target, _)| target.clone()).collect::<Vec<_>>();
    assert_eq!(
        (targets(&seen_one), targets(&seen_two)),
        (vec!["/other".to_owned()], vec!["/geo/x".to_owned()])
    );
}

#[tokio::test]
async fn preflights_are_answered_and_responses_say_whom_they_are_for() {
    let then = "cors = { origins = [\"https://app.test\"], methods = [\"GET\", \"PUT\"], headers = \"*\", max_age = \"1h\" }";
    let ground = ground(&rule("cors", "path = \"/api/*\"", then)).await;
    let ask = [
        ("origin", "https://app.test"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-token"),
    ];
    let told = ground.edge.send(Method::OPTIONS, "/api/x", &ask, "").await;
    assert_eq!((told.status.as_u16(), told.field("access-control-allow-origin")), (204, "https://app.test"));
    assert_eq!(told.field("access-control-allow-methods"), "GET, PUT");
    assert_eq!(
        (told.field("access-control-allow-headers"), told.field("access-control-max-age")),
        ("x-token", "3600")
    );
    assert_eq!(ground.seen.lock().len(), 0);
    let got = ground.edge.get("/api/x", &[("origin", "https://app.test")]).await;
    assert_eq!(got.field("access-control-allow-origin"), "https://app.test");
    let hit = ground.edge.get("/api/x", &[("origin", "https://evil.test")]).await;
    assert_eq!((hit.field("x-cache-status"), hit.field("access-control-allow-origin")), ("HIT", ""));
    assert!(hit.field("vary").contains("Origin"), "{hit:?}");
}

#[tokio::test]
async fn arms_are_stable_told_and_keyed_only_where_asked() {
    let split = "[site.www.split.new]\narms = { a = 50, b = 50 }\ncookie = \"v\"\nset_cookie = true\n\
                 request_header = \"x-arm\"\nresponse_header = \"x-arm\"\n";
    let rules = rule("keyed", "path = \"/keyed/*\"", "cache = { key = { splits = \"new\" } }")
        + &rule("arm", "path = \"/only-b\", split = { new = \"a\" }", "block = 404")
        + &rule("pass", "path = \"/pass\"", "cache = { bypass = true }")
        + split;
    let ground = ground(&rules).await;
    let first = ground.edge.get("/shared/x", &[]).await;
    let cookie = first.field("set-cookie").split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("v=") && first.field("cache-control") == "max-age=60", "{first:?}");
    let arm = first.field("x-arm").to_owned();
    assert!(arm == "a" || arm == "b");
    let next = ground.edge.get("/shared/x", &[("cookie", &cookie)]).await;
    assert_eq!((next.field("x-arm"), next.field("set-cookie")), (arm.as_str(), ""));
    let of = |wanted: &'static str| {
        let ground = &ground;
        async move {
            for number in 0..200 {
                let cookie = format!("v=visitor{number}");
                if ground.edge.get("/shared/x", &[("cookie", &cookie)]).await.field("x-arm") == wanted {
                    return cookie;
                }
            }
            panic!("nobody is in arm {wanted}")
        }
    };
    let (a, b) = (of("a").await, of("b").await);
    assert_eq!(ground.seen.lock().len(), 1, "one copy for both arms");
    assert!(!ground.seen.lock()[0].2.contains_key("x-arm"), "what is shared is not asked for by arm");
    for cookie in [&a, &b, &a] {
        ground.edge.get("/keyed/x", &[("cookie", cookie)]).await;
    }
    ground.edge.get("/pass", &[("cookie", &b)]).await;
    let arms: Vec<String> = ground.seen.lock()[1..]
        .iter()
        .map(|(_, _, fields)| fields["x-arm"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(arms, ["a", "b", "b"], "keyed by arm, and told where the cache has no part");
    assert_eq!(ground.edge.get("/only-b", &[("cookie", &a)]).await.status.as_u16(), 404);
    assert_eq!(ground.edge.get("/only-b", &[("cookie", &b)]).await.status.as_u16(), 200);
}

#[tokio::test]
async fn every_response_has_a_name_and_so_has_the_origins_request() {
    let ground = ground("request_id_from = []\n").await;
    let plain = ground.edge.get("/a", &[("x-request-id", "forged")]).await;
    let name = plain.field("x-request-id").to_owned();
    assert!(name.len() == 32 && name != "forged", "{plain:?}");
    assert_eq!(ground.seen.lock()[0].2["x-request-id"], name.as_str());
    let hit = ground.edge.get("/a", &[]).await;
    assert!(hit.field("x-cache-status") == "HIT" && hit.field("x-request-id") != name);
    let unknown = ground.edge.get("/a", &[("host", "nobody.test")]).await;
    assert_eq!((unknown.status.as_u16(), unknown.field("x-request-id").len()), (421, 32));
    let dir = TempDir::new().unwrap();
    let listed = with_rules(ground.edge.config.clone(), &dir, "request_id_from = [\"127.0.0.1\"]\n");
    ground.edge.reload(listed).unwrap();
    assert_eq!(
        ground.edge.get("/a", &[("x-request-id", "from-proxy-1")]).await.field("x-request-id"),
        "from-proxy-1"
    );
    assert_eq!(ground.edge.get("/a", &[("x-request-id", "<b>")]).await.field("x-request-id").len(), 32);
}

#[tokio::test]
async fn errors_have_the_sites_pages_for_those_who_read_html() {
    let seen = Seen::default();
    let origin = origin(&seen).await;
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("404.html"), "<p>{status} {reason} at {host}: {request_id}</p>").unwrap();
    std::fs::write(dir.path().join("5xx.html"), "<p>sorry {status}</p>").unwrap();
    let pages = "[site.www.error_pages]\npages = { \"404\" = \"404.html\", \"5xx\" = \"5xx.html\" }\n";
    let rules = rule("hidden", "path = \"/hidden\"", "block = 404") + pages;
    let config = with_rules(fleet(origin.address, &dir, None), &dir, &rules);
    let edge = Edge::with(config.clone(), dir).await;
    let html = [("accept", "text/html,*/*;q=0.8")];
    let page = edge.get("/hidden", &html).await;
    let name = page.field("x-request-id").to_owned();
    assert_eq!(page.text(), format!("<p>404 Not Found at {HOST}: {name}</p>"));
    assert_eq!((page.status.as_u16(), page.field("content-type")), (404, "text/html; charset=utf-8"));
    let text = edge.get("/hidden", &[]).await;
    assert!(text.text().starts_with("404 Not Found") && text.field("vary").contains("Accept"), "{text:?}");
    let own = edge.get("/missing", &html).await;
    assert_eq!((own.status.as_u16(), own.text()), (404, "1 /missing"), "the origin's own");
    let mut replaced = config.clone();
    replaced.sites.get_mut("www").unwrap().error_pages.replace_origin = true;
    edge.reload(replaced).unwrap();
    let own = edge.get("/missing", &html).await;
    assert!(own.text().starts_with("<p>404 Not Found at"), "{own:?}");
    assert_eq!(edge.get("/missing", &[]).await.text(), "1 /missing", "for programs, what the origin said");
    let mut dead = config;
    dead.sites.get_mut("www").unwrap().origins[0].port = 1;
    edge.reload(dead).unwrap();
    let failed = edge.get("/new", &html).await;
    assert_eq!((failed.status.as_u16(), failed.text()), (502, "<p>sorry 502</p>"));
    // Pages are read again with the configuration; one that is gone is a refusal, and the last one stays.
    std::fs::remove_file(edge.dir.path().join("5xx.html")).unwrap();
    assert!(edge.reload(edge.config.clone()).unwrap_err().to_string().contains("5xx.html"));
    assert_eq!(edge.get("/new2", &html).await.text(), "<p>sorry 502</p>");
}

#[tokio::test]
async fn rules_change_under_load_without_a_request_between_two_of_them() {
    let ground = ground(&rule(
        "r",
        "path = \"/*\"",
        "respond = { body = \"one\" }, response_headers = { set = { x-n = \"one\" } }",
    ))
    .await;
    let dir = TempDir::new().unwrap();
    let other = rule(
        "r",
        "path = \"/*\"",
        "respond = { body = \"two\" }, response_headers = { set = { x-n = \"two\" } }",
    );
    let other = with_rules(ground.edge.config.clone(), &dir, &other);
    let address = ground.edge.http();
    let asking = tokio::spawn(async move {
        for _ in 0..200 {
            let reply = support::exchange(address, Method::GET, "/x", &[], "").await;
            assert_eq!(reply.text(), reply.field("x-n"));
        }
    });
    for turn in 0..20 {
        let config = if turn % 2 == 0 { other.clone() } else { ground.edge.config.clone() };
        ground.edge.reload(config).unwrap();
        tokio::task::yield_now().await;
    }
    asking.await.unwrap();
    assert_eq!(ground.edge.metric("nearside_edge_rule_matched_total", &["rule=\"r\""]), 200, "counts go on");
}

#[tokio::test]
async fn a_throttled_answer_takes_its_time_and_comes_whole() {
    let dir = TempDir::new().unwrap();
    let seen = Seen::default();
    let origin = origin(&seen).await;
    std::fs::write(dir.path().join("big"), vec![b'x'; 40_000]).unwrap();
    let rules = rule("slow", "path = \"/slow\"", "throttle = \"32KiB\", respond = { file = \"big\" }");
    let config = with_rules(fleet(origin.address, &dir, None), &dir, &rules);
    let edge = Edge::with(config, dir).await;
    let started = std::time::Instant::now();
    let slow = edge.get("/slow", &[]).await;
    assert_eq!(slow.text().len(), 40_000);
    // All but the last piece of an eighth of a second has to be waited for: 40,000 at 32,768 a second.
    assert!(started.elapsed() > std::time::Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_explanation_is_what_happens_and_changes_nothing() {
    let rules = rule("shut", "path = \"/shut\"", "block = 451")
        + &rule("moved", "path = \"/old/*\"", "redirect = { to = \"/new/$1\" }")
        + &rule(
            "beta",
            "cookie = { beta = true }",
            "request_headers = { set = { x-beta = \"1\" } }, rewrite = { path = \"/b{path}\" }",
        )
        + &rule("pass", "path = \"/pass\"", "cache = { bypass = true }");
    let ground = ground(&rules).await;
    let explain = |url: &str, headers: serde_json::Value| {
        let body = serde_json::json!({ "url": url, "client": "91.64.3.9", "headers": headers }).to_string();
        let edge = &ground.edge;
        async move {
            let answer = edge.control(Method::POST, "/v1/explain-http", &[], body).await;
            let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            (answer.status.as_u16(), told)
        }
    };
    let url = |path: &str| format!("http://{HOST}{path}");
    for (path, outcome, status) in [("/shut", "refused", 451), ("/old/x", "answered", 302)] {
        let (_, told) = explain(&url(path), serde_json::json!([])).await;
        assert_eq!((&told["outcome"], &told["status"]), (&outcome.into(), &status.into()), "{told}");
    }
    let beta = serde_json::json!([["cookie", "beta=1"]]);
    let (_, told) = explain(&url("/x"), beta.clone()).await;
    assert_eq!((&told["outcome"], &told["target"]), (&"miss".into(), &"/b/x".into()), "{told}");
    assert!(told["variant"].is_string() && told["key"].as_str().unwrap().ends_with("/b/x"), "{told}");
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("rule   beta") && text.contains("rewrites the target"), "{text}");
    assert_eq!(ground.seen.lock().len(), 0, "nothing was sent");
    assert_eq!(ground.edge.metric("nearside_edge_rule_matched_total", &["rule=\"beta\""]), 0, "nor counted");
    ground.edge.get("/x", &[("cookie", "beta=1")]).await;
    assert_eq!(explain(&url("/x"), beta).await.1["outcome"], "hit");
    assert_eq!(explain(&url("/b/x"), serde_json::json!([])).await.1["outcome"], "miss", "the other variant");
    assert_eq!(explain(&url("/pass"), serde_json::json!([])).await.1["outcome"], "pass");
    assert_eq!(explain("http://nobody.test/", serde_json::json!([])).await.1["status"], 421);
    assert_eq!(explain("nonsense", serde_json::json!([])).await.0, 400);
    assert_eq!(explain(&url("/"), serde_json::json!([["a b", "c"]])).await.0, 400);
}
