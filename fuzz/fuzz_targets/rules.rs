//! Rules over requests: a line each of path, query, host, method and client, then fields, one `name: value` a line; after an
//! empty line, a pattern and a template of its own.
//!
//! What must hold: no panic; the index and conditions tried one by one agree; a redirect never leaves the hosts that its
//! rule names.
#![no_main]

use std::{net::IpAddr, path::Path, sync::{Arc, LazyLock}};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use nearside_edge::{
    place::{self, Places, Seen},
    policy::Target,
    rules::{Facts, Rulebook},
};
use nearside_fleet::{Files, config::{self, QueryKey}, glob::Glob, template::Template};

const RULES: &str = r#"
version = 1
fleet = "x"
[site.s]
hosts = ["a.test", "*.b.test"]
origin = "http://o.test"
[site.s.split.new]
arms = { a = 50, b = 50 }
cookie = "v"
set_cookie = true
[[site.s.rule]]
name = "first"
continue = true
when = { path = ["/a/*/b", "*c*", "/?x*"], header = { x-a = [false, { regex = "^[0-9]+$" }] } }
then = { tags = "t", request_headers = { set = { x-path = "$1", x-country = "{country}" } } }
[[site.s.rule]]
name = "second"
continue = true
when = { path_regex = '^/([a-z]+)/(.*)$', cookie = { sid = true }, not = [{ client = "192.0.2.0/24" }, { query = { q = "1" } }] }
then = { rewrite = { path = "/$2", query = "x=$1&{query}" }, cache = { key = { splits = "new", country = true } } }
[[site.s.rule]]
name = "third"
when = { host = "*.b.test", extension = ["css", "js"], country = "DE" }
then = { redirect = { to = "https://a.test{path}{?query}" } }
"#;

struct Ground {
    places: Arc<Places>,
    rulebook: Arc<Rulebook>,
}

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let file = Path::new("/f/f.toml");
    let loaded = nearside_fleet::spec::parse(file, RULES, &Files::beside(file)).expect("the rules are sound");
    let site = &loaded.config.sites["s"];
    let places = Places::compile(&config::Geoip::default(), place::asked(site)).expect("places");
    let rulebook = Rulebook::build(site, &places, None, 1).expect("rules").expect("there are some");
    Ground { places, rulebook }
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or("");
    let (path, query, host) = (next(), next(), next());
    let Ok(method) = next().parse::<Method>() else { return };
    let client = next().parse::<IpAddr>().unwrap_or(IpAddr::from([91, 64, 3, 9]));
    let mut headers = HeaderMap::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()).take(32) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value.trim())) {
            headers.append(name, value);
        }
    }
    let target = Target::new(host, path, Some(query), &QueryKey::Keep);
    let ground = &*GROUND;
    let seen = Seen::new(&ground.places, client);
    let facts = Facts {
        scheme: "https",
        host: target.host(),
        path: target.path(),
        query: target.query(),
        method: &method,
        headers: &headers,
        seen: &seen,
        now_secs: 1_795_262_400,
        fresh: 7,
    };
    if let Some(effects) = ground.rulebook.decide(&facts) {
        let mut fields = headers.clone();
        effects.change_request(&mut fields);
        effects.dress(&headers, http::StatusCode::OK, &mut fields);
        let _ = effects.orders();
        if let Some(made) = &effects.made {
            let to = made.headers[http::header::LOCATION].to_str().expect("ASCII");
            assert!(to == "https://a.test" || to.starts_with("https://a.test/"), "{to}");
        }
    }
    let (Some(pattern), Some(template)) = (lines.next(), lines.next()) else { return };
    if let Ok(glob) = Glob::new(pattern) {
        let spans = glob.captures(path);
        assert_eq!(spans.is_some(), glob.matches(path));
        for (start, end) in spans.into_iter().flatten() {
            let _ = path.get(start..end);
        }
    }
    let _ = Template::new(template);
});
