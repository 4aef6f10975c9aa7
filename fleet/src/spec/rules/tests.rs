//! What the reader of rules, splits and error pages takes and refuses, with the words it uses.

use std::{path::Path, time::Duration};

use crate::{
    config::{
        Match, Site,
        rules::{Condition, RuleAnswer, Test},
    },
    files::Files,
    spec,
};

const SITE: &str = "version = 1\nfleet = \"x\"\n[site.s]\nhosts = [\"a.test\", \"*.b.test\"]\n\
    origin = [\"http://o.test\", \"http://p.test\"]\n[site.s.split.new]\narms = { a = 90, b = 10 }\n";

fn site(text: &str) -> Result<Site, Vec<String>> {
    let text = format!("{SITE}{text}\n");
    let files = Files::beside(Path::new("/fleet/nearside.toml"));
    let loaded = spec::parse(Path::new("nearside.toml"), &text, &files);
    loaded
        .map(|loaded| loaded.config.sites["s"].clone())
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// One rule with these conditions and effects, inline.
fn one(when: &str, then: &str) -> Result<Site, Vec<String>> {
    site(&format!("[[site.s.rule]]\nname = \"r\"\nwhen = {{ {when} }}\nthen = {{ {then} }}"))
}

#[test]
fn a_rule_means_what_it_says() {
    let site = site(
        "[[site.s.rule]]\nname = \"api\"\ncontinue = true\n\
         [site.s.rule.when]\npath = [\"/api/*\", \"/v1\"]\nmethod = \"GET\"\ncountry = [\"DE\", \"FR\"]\n\
         header = { X-Beta = true, accept = [\"a\", { regex = \"^b\" }] }\nsplit = { new = \"b\" }\n\
         not = [{ client = \"192.0.2.0/24\" }, { cookie = { sid = false } }]\n\
         time = { weekdays = \"mon\", hours = \"22:00-06:00\", offset = \"+01:00\" }\n\
         [site.s.rule.then]\ntags = \"api\"\norigin = [\"p.test:80\", \"o.test:80\"]\nthrottle = \"1MiB\"\n\
         cache = { ttl = \"1h\", key = { country = true, splits = \"new\", headers = \"X-Beta\" } }\n\
         request_headers = { set = { X-Api = \"$1\" }, remove = \"cookie\" }",
    );
    // `$1` is taken by one of the two paths only.
    let found = site.expect_err("captures");
    assert!(found[0].contains("$1: not every pattern takes so many"), "{found:?}");
    let site = self::site(
        "[[site.s.rule]]\nname = \"api\"\ncontinue = true\n\
         [site.s.rule.when]\npath = \"/api/*\"\ncountry = [\"DE\", \"FR\"]\n\
         header = { X-Beta = true, accept = [\"a\", { regex = \"^b\" }] }\n\
         not = [{ client = \"192.0.2.0/24\" }, { cookie = { sid = false } }]\n\
         [site.s.rule.then]\ntags = \"api\"\norigin = [\"p.test:80\", \"o.test:80\"]\n\
         cache = { ttl = \"1h\", key = { country = true, splits = \"new\" } }\n\
         request_headers = { set = { X-Api = \"$1\" }, remove = \"cookie\" }\n\
         [[site.s.rule]]\nname = \"old\"\nwhen = { path = \"/old/*\" }\nthen = { redirect = { to = \"/new/$1{?query}\", status = 301 } }",
    )
    .unwrap();
    let [api, old] = &site.rules[..] else { panic!("{:?}", site.rules) };
    assert!(api.continues && !old.continues);
    assert_eq!(api.then.origins, [1, 0]);
    assert_eq!(api.then.ttl, Some(Duration::from_secs(3600)));
    assert_eq!(api.then.request_headers.remove, ["cookie"]);
    assert!(
        api.when.contains(&Condition::Place(vec![Match::Country("DE".into()), Match::Country("FR".into())]))
    );
    assert!(api.when.contains(&Condition::Header("x-beta".into(), vec![Test::Present])));
    assert_eq!(api.not.len(), 2);
    assert!(matches!(old.then.answer, Some(RuleAnswer::Redirect { status: 301, .. })));
    assert_eq!(site.splits[0].arms, [("a".to_owned(), 9000), ("b".to_owned(), 1000)]);
}

#[test]
fn mistakes_in_rules_are_told_with_the_nearest_word() {
    for (when, then, expected) in [
        (
            "contry = \"DE\"",
            "block = 403",
            "unknown key `contry` in [site.s.rule.when]; did you mean `country`?",
        ),
        ("not = { not = {} }", "block = 403", "unknown key `not` in [site.s.rule.when.not]"),
        ("not = {}", "block = 403", "the rule would never match"),
        ("path = \"a\"", "block = 403", "a path begins with `/` or `*`"),
        ("path = \"/ä\"", "block = 403", "percent-encoded"),
        ("path = \"/%7euser\"", "block = 403", "normal spelling"),
        ("path = \"/a/**\"", "block = 403", "already matches slashes"),
        ("path = []", "block = 403", "an empty list never holds"),
        ("path_regex = \"(\"", "block = 403", "unclosed group"),
        ("path_regex = \"(a{1000}){1000}\"", "block = 403", "takes more than 1024 KiB"),
        ("header = { a = { regex = \"[\" } }", "block = 403", "regular expression"),
        ("header = { \"a b\" = true }", "block = 403", "is no name"),
        ("method = \"get\"", "block = 403", "expected methods"),
        ("host = \"c.test\"", "block = 403", "the site does not serve c.test"),
        ("host = \"b.test\"", "block = 403", "the site does not serve b.test"),
        ("country = \"UK\"", "block = 403", "there is no country \"UK\""),
        ("country = \"de\"", "block = 403", "did you mean `DE`?"),
        ("continent = \"XX\"", "block = 403", "expected some of AF"),
        ("subdivision = \"California\"", "block = 403", "expected a country and its subdivision"),
        ("asn = 0", "block = 403", "autonomous systems"),
        ("client = \"192.0.2.1/24\"", "block = 403", "host bits zero"),
        ("split = { nwe = \"a\" }", "block = 403", "the site has no split `nwe`; did you mean `new`?"),
        ("split = { new = \"c\" }", "block = 403", "there is no arm `c`"),
        ("time = {}", "block = 403", "says no time"),
        ("time = { hours = \"8-18\" }", "block = 403", "expected hours"),
        ("time = { from = \"2026-02-02\", until = \"2026-02-01\" }", "block = 403", "is not after `from`"),
        ("path = \"/a\"", "origin = \"q.test\"", "there is no origin `q.test`"),
        ("path = \"/a\"", "same_content = true", "goes with `origin`"),
        ("path = \"/a\"", "block = 200", "expected a status from 400 to 599"),
        ("path = \"/a\"", "block = 403, respond = {}", "one of respond, block only"),
        ("path = \"/a\"", "block = 403, cache = { ttl = \"1h\" }", "has no effect"),
        ("path = \"/a\"", "redirect = { to = \"//evil.test\" }", "could choose where it leads"),
        ("path = \"/a/*\"", "redirect = { to = \"https://$1/\" }", "could choose where it leads"),
        ("path = \"/a\"", "redirect = { to = \"/$1\" }", "not every pattern takes so many"),
        ("method = \"GET\"", "redirect = { to = \"/$1\" }", "there is no `path` to take it from"),
        ("path = \"/a/*\"", "redirect = { to = \"/a/b\" }", "leads to itself"),
        (
            "path = \"/*\", scheme = \"http\"",
            "redirect = { to = \"http://{host}{path}\" }",
            "leads to itself",
        ),
        ("path = \"/a\"", "redirect = { to = \"/b\", status = 304 }", "expected one of 301"),
        (
            "path = \"/a\"",
            "request_headers = { set = { Host = \"x\" } }",
            "`host` may not be changed: an origin",
        ),
        ("path = \"/a\"", "request_headers = { remove = \"content-length\" }", "belongs to the connection"),
        ("path = \"/a\"", "response_headers = { set = { ETag = \"x\" } }", "the edge itself answers for it"),
        ("path = \"/a\"", "response_headers = { set = { Cache-Control = \"x\" } }", "client_cache_control"),
        ("path = \"/a\"", "response_headers = { set = { x = \"{cuntry}\" } }", "means nothing; there are"),
        (
            "path = \"/a\"",
            "response_headers = { set = { x = \"{split.old}\" } }",
            "the site has no split `old`",
        ),
        ("path = \"/a\"", "cache = { key = { headers = \"cookie\" } }", "tells visitors apart"),
        ("path = \"/a\"", "cache = { bypass = true, ttl = \"1h\" }", "what passes the cache has no `ttl`"),
        ("path = \"/a\"", "cors = { origins = \"*\", credentials = true }", "any page in the world"),
        ("path = \"/a\"", "cors = {}", "origins is missing"),
        ("path = \"/a\", method = \"GET\"", "cors = { origins = \"*\" }", "leaves OPTIONS out"),
        ("path = \"/a\"", "rewrite = { path = \"b\" }", "a path begins with `/`"),
        ("path = \"/a\"", "rewrite = { path = \"/b?c\" }", "is said by `query`"),
        ("path = \"/a\"", "rewrite = {}", "expected `path`, `query` or both"),
        ("path = \"/a\"", "respond = { status = 204, body = \"x\" }", "has no content"),
        ("path = \"/a\"", "throttle = 10", "at least 1024 bytes per second"),
        ("path = \"/a\"", "tags = \"a,b\"", "expected tags"),
    ] {
        let found = one(when, then).expect_err(&format!("{when} {then}"));
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{when} {then}\n{found:#?}");
        assert!(found.iter().all(|mistake| mistake.starts_with("nearside.toml:")), "{found:?}");
    }
}

#[test]
fn what_is_sound_is_taken() {
    for (when, then) in [
        ("", "block = 403"),
        (
            "path = \"/*\", scheme = \"http\"",
            "redirect = { to = \"https://{host}{path}{?query}\", status = 308 }",
        ),
        ("host = \"*.b.test\"", "redirect = { to = \"https://a.test{path}\" }"),
        ("path = \"/a/*\"", "redirect = { to = \"/b/$1\" }"),
        ("path = \"/a/*\"", "redirect = { to = \"https://elsewhere.test/a/$1\" }"),
        ("path_regex = '^/(\\d+)/(.*)$'", "rewrite = { path = \"/$2\", query = \"id=$1\" }"),
        ("path = \"/a\", client = [\"192.0.2.1\", \"2001:db8::/32\"]", "respond = { status = 204 }"),
        ("extension = [\".CSS\"]", "cors = { origins = [\"*\"], headers = \"*\" }"),
        ("asn = [64500], subdivision = \"US-CA\", continent = \"EU\"", "throttle = 4096"),
        ("path = \"/%C3%A9/*\"", "tags = [\"a\", \"b\"]"),
        ("path = \"/\"", ""),
    ] {
        assert!(one(when, then).is_ok(), "{when} {then}: {:?}", one(when, then));
    }
}

#[test]
fn rules_that_nothing_reaches_are_mistakes() {
    let two = |first: &str, second: &str| {
        let rule = |name: &str, text: &str| format!("[[site.s.rule]]\nname = \"{name}\"\n{text}\n");
        let tail = "then = { block = 403 }";
        site(&(rule("one", &format!("{first}\n{tail}")) + &rule("two", &format!("{second}\n{tail}"))))
    };
    for (first, second) in [
        ("", "when = { path = \"/a\" }"),
        ("when = { path = \"/a\" }", "when = { path = \"/a\" }"),
        ("when = { path = \"/a/*\" }", "when = { path = \"/a/b/*\", method = \"GET\" }"),
        ("when = { method = [\"GET\", \"HEAD\"] }", "when = { method = \"GET\" }"),
        ("when = { header = { x = true } }", "when = { header = { x = \"1\" } }"),
    ] {
        let found = two(first, second).expect_err(&format!("{first} {second}"));
        assert!(
            found.iter().any(|mistake| mistake.contains("rule `two`: no request gets here: rule `one`")),
            "{found:?}"
        );
        assert!(
            found[0].contains(":12:") || found[0].contains(":13:") || found[0].contains(":11:"),
            "{found:?}"
        );
    }
    for (first, second) in [
        ("when = { path = \"/a/b/*\" }", "when = { path = \"/a/*\" }"),
        ("when = { path = \"/a/*\", not = { method = \"GET\" } }", "when = { path = \"/a/b\" }"),
        ("when = { method = \"GET\" }", "when = { method = [\"GET\", \"HEAD\"] }"),
        ("when = { header = { x = true } }", "when = { header = { x = false } }"),
    ] {
        assert!(two(first, second).is_ok(), "{first} {second}");
    }
    let named_alike = "[[site.s.rule]]\nname = \"r\"\nwhen = { path = \"/a\" }\n[[site.s.rule]]\nname = \"r\"\nwhen = { path = \"/b\" }";
    assert!(site(named_alike).expect_err("names").iter().any(|mistake| mistake.contains("r is already in")));
}

#[test]
fn splits_and_pages_are_checked() {
    for (text, expected) in [
        ("[site.s.split.x]\narms = { a = 90, b = 5 }", "add up to 100"),
        ("[site.s.split.x]\narms = { a = 100 }", "expected 2 to 16 arms"),
        ("[site.s.split.x]\narms = { a = 50, b = 50 }\nset_cookie = true", "goes with `cookie`"),
        ("[site.s.split.x]\narms = { a = 50, b = 50 }\nrequest_header = \"Host\"", "may not be changed"),
        ("[site.s.error_pages]\npages = { \"6xx\" = \"a\" }", "expected a status from 400 to 599"),
        ("[site.s.error_pages]\nreplace_origin = true", "pages is missing"),
    ] {
        let found = site(text).expect_err(text);
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{text}\n{found:?}");
    }
    let site =
        site("[site.s.error_pages]\npages = { \"5xx\" = \"5xx.html\", \"404\" = \"404.html\" }").unwrap();
    assert_eq!(site.error_pages.of_class, [(5, "/fleet/5xx.html".into())]);
    assert_eq!(site.error_pages.of_status, [(404, "/fleet/404.html".into())]);
}

#[test]
fn sets_that_grow_too_large_are_told() {
    let header = |n: usize| {
        format!(
            "[[site.s.rule]]\nname = \"r{n}\"\nwhen = {{ header = {{ x-{n} = true }} }}\nthen = {{ tags = \"t\" }}\n"
        )
    };
    let many: String = (0..65).map(header).collect();
    let found = site(&many).expect_err("too many fields");
    assert!(found.iter().any(|mistake| mistake.contains("65 different fields")), "{found:?}");
    let rule = |n: usize| format!("[[site.s.rule]]\nname = \"r{n}\"\nwhen = {{ path = \"/{n}\" }}\n");
    let many: String = (0..1025).map(rule).collect();
    assert!(
        site(&many)
            .expect_err("too many rules")
            .iter()
            .any(|mistake| mistake.contains("1025 rules, at most 1024"))
    );
}
