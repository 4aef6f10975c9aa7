//! The rulebook against a reading of the same rules that is as plain as can be.

use std::{fmt::Write as _, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nearside_fleet::{
    Files,
    config::{
        self, Match,
        rules::{Condition, SiteRule, Test},
    },
};
use proptest::prelude::*;

use super::*;
use crate::place::{self, Seen};

/// A site with these rules, as the fleet file's reader makes it.
fn site(rules: &str) -> config::Site {
    let text = format!(
        "version = 1\nfleet = \"x\"\n[site.s]\nhosts = [\"a.test\", \"*.b.test\"]\n\
         origin = [\"http://o.test\", \"http://p.test\"]\n\
         [site.s.split.new]\narms = {{ a = 50, b = 50 }}\ncookie = \"v\"\n{rules}"
    );
    let file = std::path::Path::new("/fleet/nearside.toml");
    let loaded = nearside_fleet::spec::parse(file, &text, &Files::beside(file));
    loaded.unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:#?}")).config.sites["s"].clone()
}

struct Book {
    site: config::Site,
    places: Arc<Places>,
    rulebook: Arc<Rulebook>,
}

impl Book {
    fn of(site: config::Site) -> Book {
        let places = Places::compile(&config::Geoip::default(), place::asked(&site)).unwrap();
        let rulebook = Rulebook::build(&site, &places, None, 1).unwrap().unwrap();
        Book { site, places, rulebook }
    }

    fn new(rules: &str) -> Book {
        Book::of(site(rules))
    }

    fn with<T>(&self, asked: &Asks, run: impl FnOnce(&Facts<'_>) -> T) -> T {
        let seen = Seen::new(&self.places, asked.client.parse().unwrap());
        run(&Facts {
            scheme: asked.scheme,
            host: &asked.host,
            path: &asked.path,
            query: asked.query.as_deref(),
            method: &asked.method,
            headers: &asked.headers,
            seen: &seen,
            now_secs: 1_795_262_400,
            fresh: 7,
        })
    }

    fn decide(&self, asked: &Asks) -> Effects {
        self.with(asked, |facts| {
            self.rulebook.decide(facts).map_or_else(Effects::default, |effects| *effects)
        })
    }

    fn names(&self, effects: &Effects) -> Vec<String> {
        effects.matched.iter().map(|&rule| self.rulebook.name(rule).to_owned()).collect()
    }
}

#[derive(Clone, Debug)]
struct Asks {
    scheme: &'static str,
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
    client: &'static str,
}

fn get(path: &str) -> Asks {
    let (path, query) =
        path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_owned())));
    Asks {
        scheme: "https",
        host: "a.test".into(),
        path: path.into(),
        query,
        method: Method::GET,
        headers: HeaderMap::new(),
        client: "91.64.3.9",
    }
}

impl Asks {
    fn having(mut self, name: &'static str, value: &str) -> Asks {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    fn from(self, client: &'static str) -> Asks {
        Asks { client, ..self }
    }
}

/// The plainest reading: every condition of every rule, one after the other.
fn naive(site: &config::Site, facts: &Facts<'_>) -> Vec<u16> {
    let mut matched = Vec::new();
    for (number, rule) in site.rules.iter().enumerate() {
        if naive_rule(rule, facts) {
            matched.push(number as u16);
            if !rule.continues {
                break;
            }
        }
    }
    matched
}

fn naive_rule(rule: &SiteRule, facts: &Facts<'_>) -> bool {
    rule.when.iter().all(|condition| naive_condition(condition, facts))
        && rule.not.iter().all(|group| !group.iter().all(|condition| naive_condition(condition, facts)))
}

fn naive_test(tests: &[Test], values: &[String]) -> bool {
    tests.iter().any(|test| match test {
        Test::Present => !values.is_empty(),
        Test::Absent => values.is_empty(),
        Test::Equals(wanted) => values.contains(wanted),
        Test::Regex(pattern) => {
            values.iter().any(|value| regex::Regex::new(pattern).unwrap().is_match(value))
        }
    })
}

fn naive_condition(condition: &Condition, facts: &Facts<'_>) -> bool {
    let lines = |name: &str| -> Vec<String> {
        facts.headers.get_all(name).iter().map(|value| value.to_str().unwrap().trim().to_owned()).collect()
    };
    match condition {
        Condition::Path(globs) => globs.iter().any(|glob| {
            regex::Regex::new(&glob.to_regex().replace("(?s-u)", "")).unwrap().is_match(facts.path)
        }),
        Condition::PathRegex(all) => {
            all.iter().any(|text| regex::Regex::new(text).unwrap().is_match(facts.path))
        }
        Condition::Extension(all) => {
            let name = facts.path.rsplit('/').next().unwrap();
            name.rfind('.').is_some_and(|dot| all.contains(&name[dot + 1..].to_lowercase()))
        }
        Condition::Method(all) => all.contains(&facts.method.to_string()),
        Condition::Host(all) => all.iter().any(|host| match host.strip_prefix("*.") {
            Some(rest) => facts.host.split('.').skip(1).collect::<Vec<_>>().join(".") == rest,
            None => host == facts.host,
        }),
        Condition::Scheme(scheme) => scheme == facts.scheme,
        Condition::Header(name, tests) => naive_test(tests, &lines(name)),
        Condition::Cookie(name, tests) => {
            let all = lines("cookie").join(";");
            let values = all.split(';').filter_map(|pair| pair.trim().split_once('='));
            let values: Vec<String> =
                values.filter(|(key, _)| key == name).map(|(_, v)| v.to_owned()).collect();
            naive_test(tests, &values)
        }
        Condition::Query(name, tests) => {
            let all = facts.query.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
            let pairs = all.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let values: Vec<String> =
                pairs.filter(|(key, _)| key == name).map(|(_, v)| v.to_owned()).collect();
            naive_test(tests, &values)
        }
        Condition::Place(places) => places.iter().any(|place| match place {
            Match::Country(code) => code == country_of(facts.seen.client().to_string().as_str()),
            Match::Network(address, length) => {
                nearside_geoip::prefix::Prefix::new(*address, *length).unwrap().contains(facts.seen.client())
            }
            _ => false,
        }),
        Condition::Split(..) => panic!("not among those that are made"),
        Condition::Time(window) => window.holds(facts.now_secs),
    }
}

/// By the built-in table.
fn country_of(client: &str) -> &'static str {
    match client {
        "91.64.3.9" => "DE",
        "165.21.0.1" => "SG",
        _ => "",
    }
}

fn condition() -> impl Strategy<Value = String> {
    let paths = ["/a", "/a/*", "/a/b*", "*.css", "*b*", "/*/c", "*/c/*.js", "/?/b", "/a/*/c", "/x/*"];
    let regexes = ["^/a", "b$", "[ab]/c", "^/x/\\\\d+$"];
    let tests = ["true", "false", "\"1\"", "[\"2\", { regex = \"^1\" }]", "{ regex = \"[23]\" }"];
    prop_oneof![
        prop::sample::subsequence(paths.to_vec(), 1..3).prop_map(|all| format!("path = {all:?}")),
        prop::sample::select(regexes.to_vec()).prop_map(|text| format!("path_regex = \"{text}\"")),
        prop::sample::select(vec!["css", "js", "CSS"]).prop_map(|text| format!("extension = \"{text}\"")),
        prop::sample::select(vec!["GET", "POST", "HEAD"]).prop_map(|text| format!("method = \"{text}\"")),
        prop::sample::select(vec!["a.test", "*.b.test", "x.b.test"])
            .prop_map(|text| format!("host = \"{text}\"")),
        prop::sample::select(vec!["http", "https"]).prop_map(|text| format!("scheme = \"{text}\"")),
        (prop::sample::select(vec!["x-a", "x-b"]), prop::sample::select(tests.to_vec()))
            .prop_map(|(name, test)| format!("header = {{ {name} = {test} }}")),
        (prop::sample::select(vec!["c", "d"]), prop::sample::select(tests.to_vec()))
            .prop_map(|(name, test)| format!("cookie = {{ {name} = {test} }}")),
        (prop::sample::select(vec!["q", "r"]), prop::sample::select(tests.to_vec()))
            .prop_map(|(name, test)| format!("query = {{ {name} = {test} }}")),
        prop::sample::select(vec!["DE", "SG"]).prop_map(|code| format!("country = \"{code}\"")),
        Just("client = \"91.64.0.0/16\"".to_owned()),
        Just("time = { weekdays = \"sat\" }".to_owned()),
        Just("time = { weekdays = \"sun\" }".to_owned()),
    ]
}

/// Conditions on different things, as one table.
fn conditions(count: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(condition(), count).prop_map(|mut all| {
        let thing = |text: &String| text.split(' ').next().unwrap_or_default().to_owned();
        all.sort_by_key(thing);
        all.dedup_by_key(|text| thing(text));
        all.join(", ")
    })
}

fn rules() -> impl Strategy<Value = String> {
    let rule = (conditions(0..4), prop::option::weighted(0.3, conditions(1..3)), any::<bool>());
    prop::collection::vec(rule, 1..40).prop_map(|rules| {
        let mut text = String::new();
        for (number, (when, not, continues)) in rules.into_iter().enumerate() {
            let not = not.map(|not| format!("not = {{ {not} }}")).unwrap_or_default();
            let comma = if when.is_empty() || not.is_empty() { "" } else { ", " };
            // What ends the list would make most of what follows unreachable: a field that nobody sends keeps it from that.
            let own = format!("header = {{ x-own-{} = false }}", number % 40);
            let own = if when.contains("header") { String::new() } else { own };
            let comma_own = if own.is_empty() || (when.is_empty() && not.is_empty()) { "" } else { ", " };
            let _ = write!(
                text,
                "[[site.s.rule]]\nname = \"r{number}\"\ncontinue = {continues}\nwhen = {{ {when}{comma}{not}{comma_own}{own} }}\n\
                 then = {{ tags = \"t\" }}\n"
            );
        }
        text
    })
}

fn asks() -> impl Strategy<Value = Asks> {
    let paths = vec![
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b.css",
        "/x/c",
        "/a/b/c",
        "/ab/c/d.JS",
        "/x/12",
        "/b/b",
        "/a.css/c",
    ];
    let queries = vec![None, Some("q=1"), Some("q=2&r=3"), Some("r"), Some("r=12&q=")];
    let value = || prop::option::of(prop::sample::select(vec!["1", "2", "3", "12", " 1 "]));
    (
        (prop::sample::select(paths), prop::sample::select(queries)),
        prop::sample::select(vec!["a.test", "x.b.test", "y.b.test"]),
        prop::sample::select(vec![Method::GET, Method::POST, Method::HEAD]),
        prop::sample::select(vec!["http", "https"]),
        (
            value(),
            value(),
            prop::option::of(prop::sample::select(vec!["c=1", "c=2; d=3", "d=12;c=9", "x=1"])),
        ),
        prop::sample::select(vec!["91.64.3.9", "165.21.0.1", "127.0.0.1"]),
    )
        .prop_map(|((path, query), host, method, scheme, (a, b, cookie), client)| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-a", a), ("x-b", b), ("cookie", cookie)] {
                if let Some(value) = value {
                    headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
                }
            }
            let query = query.map(str::to_owned);
            Asks { scheme, host: host.to_owned(), path: path.to_owned(), query, method, headers, client }
        })
}

/// The reader refuses rules that nothing reaches; what is made at random has some, which are left out.
fn site_of_reachable(rules: &str) -> Option<config::Site> {
    let mut kept: Vec<&str> = rules.split_inclusive("then = { tags = \"t\" }\n").collect();
    for _ in 0..=kept.len() {
        let text = format!(
            "version = 1\nfleet = \"x\"\n[site.s]\nhosts = [\"a.test\", \"*.b.test\"]\norigin = \"http://o.test\"\n{}",
            kept.concat()
        );
        let file = std::path::Path::new("/fleet/nearside.toml");
        let mistakes = match nearside_fleet::spec::parse(file, &text, &Files::beside(file)) {
            Ok(loaded) => return loaded.config.sites.get("s").cloned(),
            Err(mistakes) => mistakes,
        };
        let unreachable: Vec<String> = mistakes
            .iter()
            .map(|mistake| {
                let name = mistake.message.split('`').nth(1).unwrap_or_default();
                assert!(mistake.message.contains("no request gets here"), "{text}\n{mistake}");
                format!("name = \"{name}\"\n")
            })
            .collect();
        kept.retain(|rule| !unreachable.iter().any(|name| rule.contains(name)));
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_index_agrees_with_the_plainest_reading(rules in rules(), asked in prop::collection::vec(asks(), 24)) {
        let Some(site) = site_of_reachable(&rules).filter(|site| !site.rules.is_empty()) else { return Ok(()) };
        let book = Book::of(site);
        for asked in &asked {
            book.with(asked, |facts| {
                let found = book.rulebook.matching(facts);
                assert_eq!(found.rules.to_vec(), naive(&book.site, facts), "{rules}\n{asked:?}");
            });
        }
    }
}

#[test]
fn a_thousand_rules_agree_too() {
    let mut text = String::new();
    for number in 0..1000 {
        let when = match number % 5 {
            0 => format!("path = \"/p{number}/*\""),
            1 => format!("path = \"/q/{number}\", method = \"GET\""),
            2 => format!("path = \"*/r{number}.css\""),
            3 => format!("path_regex = \"^/s{number}/[0-9]+$\""),
            _ => format!("header = {{ x-t = \"{number}\" }}"),
        };
        let _ = write!(
            text,
            "[[site.s.rule]]\nname = \"r{number}\"\ncontinue = true\nwhen = {{ {when} }}\nthen = {{ tags = \"t{number}\" }}\n"
        );
    }
    let book = Book::new(&text);
    for asked in [
        get("/p995/x"),
        get("/q/991"),
        get("/deep/er/r2.css"),
        get("/s998/12"),
        get("/s998/x"),
        get("/none").having("x-t", "999"),
        get("/p0/r997.css").having("x-t", "4"),
    ] {
        book.with(&asked, |facts| {
            assert_eq!(book.rulebook.matching(facts).rules.to_vec(), naive(&book.site, facts), "{asked:?}");
        });
    }
}

#[test]
fn the_first_that_says_it_counts_and_the_rest_adds_up() {
    let book = Book::new(
        "[[site.s.rule]]\nname = \"one\"\ncontinue = true\nwhen = { path = \"/a/*\" }\n\
         then = { tags = \"x\", cache = { ttl = \"1m\" }, request_headers = { set = { x-p = \"$1\" } } }\n\
         [[site.s.rule]]\nname = \"two\"\nwhen = { method = \"GET\" }\n\
         then = { tags = [\"x\", \"y\"], cache = { ttl = \"1h\", client_cache_control = \"no-cache\" } }\n\
         [[site.s.rule]]\nname = \"three\"\nthen = { block = 403 }\n",
    );
    let effects = book.decide(&get("/a/b"));
    assert_eq!(book.names(&effects), ["one", "two"]);
    assert_eq!(
        (effects.ttl.unwrap().as_secs(), &effects.tags[..]),
        (60, &["x".to_owned(), "y".to_owned()][..])
    );
    let mut fields = HeaderMap::new();
    effects.change_request(&mut fields);
    assert_eq!(fields["x-p"], "b");
    assert!(effects.made.is_none() && effects.variant.is_some());
    let blocked = book.decide(&Asks { method: Method::PUT, ..get("/x") });
    assert_eq!(blocked.made.unwrap().status.as_u16(), 403);
}

#[test]
fn encoded_separators_open_no_door_and_shut_none() {
    let book = Book::new(
        "[[site.s.rule]]\nname = \"shut\"\nwhen = { path = \"/admin/*\" }\nthen = { block = 403 }\n\
         [[site.s.rule]]\nname = \"static\"\nwhen = { path = \"/static/*\" }\nthen = { cache = { ttl = \"1h\" } }\n",
    );
    assert!(book.decide(&get("/x%2Fadmin/y")).made.is_none(), "/x/admin/y is not below /admin/");
    assert!(book.decide(&get("/x/..%2Fadmin/y")).made.is_some());
    assert!(book.decide(&get("/x%2F..%2Fadmin%2Fy")).made.is_some());
    assert!(book.decide(&get("/static/a%2Fb")).ttl.is_some());
    assert!(book.decide(&get("/static/..%2Faccount")).ttl.is_none());
    assert!(book.decide(&get("/static/..%5Cadmin%5Cx")).made.is_some());
}

#[test]
fn redirects_are_filled_in_and_never_lead_here() {
    let book = Book::new(
        "[[site.s.rule]]\nname = \"a\"\nwhen = { path = \"/old/*\" }\nthen = { redirect = { to = \"/$1{?query}\" } }\n\
         [[site.s.rule]]\nname = \"b\"\nwhen = { path_regex = '^/id/(\\d+)/(.*)$' }\n\
         then = { redirect = { to = \"https://{host}/$2?id=$1\", status = 308 } }\n\
         [[site.s.rule]]\nname = \"c\"\nwhen = { header = { x-c = true } }\n\
         then = { redirect = { to = \"https://a.test/c{?query}\", status = 301 } }\n",
    );
    let location = |asked: &Asks| {
        let made = book.decide(asked).made?;
        Some((made.headers["location"].to_str().unwrap().to_owned(), made.headers["cache-control"].clone()))
    };
    let found = |to: &str, keep: &'static str| Some((to.to_owned(), HeaderValue::from_static(keep)));
    assert_eq!(location(&get("/old/x/y?q=1")), found("/x/y?q=1", "no-cache"));
    assert_eq!(location(&get("/old//evil.test/x")), found("/evil.test/x", "no-cache"), "no other host");
    assert_eq!(location(&get("/id/7/x")), found("https://a.test/x?id=7", "max-age=3600"));
    assert_eq!(location(&get("/z").having("x-c", "1")), found("https://a.test/c", "private, no-cache"));
    assert_eq!(location(&get("/c").having("x-c", "1")), None, "it is there already");
    assert_eq!(location(&get("/c?q").having("x-c", "1")), None);
}

#[test]
fn what_was_looked_at_is_told_and_no_more() {
    let book = Book::new(
        "[[site.s.rule]]\nname = \"bots\"\nwhen = { header = { user-agent = { regex = \"bot\" } } }\nthen = { block = 403 }\n\
         [[site.s.rule]]\nname = \"static\"\nwhen = { path = \"/static/*\" }\nthen = { tags = \"s\" }\n\
         [[site.s.rule]]\nname = \"beta\"\nwhen = { path = \"/app/*\", cookie = { beta = true } }\nthen = { origin = \"p.test:80\" }\n\
         [[site.s.rule]]\nname = \"lang\"\nwhen = { path = \"/\", not = { header = { accept-language = \"de\" } } }\n\
         then = { redirect = { to = \"/en/\" } }\n",
    );
    let vary = |path: &str| -> Vec<String> {
        book.decide(&get(path)).vary.iter().map(ToString::to_string).collect()
    };
    assert_eq!(vary("/static/x"), Vec::<String>::new());
    assert_eq!(vary("/app/x"), ["cookie"]);
    assert_eq!(vary("/"), ["accept-language"]);
    assert_eq!(vary("/other"), Vec::<String>::new());
}

#[test]
fn clients_of_other_places_have_other_variants_only_where_it_was_asked_for() {
    let book = Book::new(
        "[[site.s.rule]]\nname = \"key\"\nwhen = { path = \"/k/*\" }\nthen = { cache = { key = { country = true, splits = \"new\" } } }\n\
         [[site.s.rule]]\nname = \"geo\"\nwhen = { path = \"/g/*\", country = \"DE\" }\nthen = { origin = \"p.test:80\" }\n\
         [[site.s.rule]]\nname = \"mirror\"\nwhen = { path = \"/m/*\", country = \"DE\" }\nthen = { origin = \"p.test:80\", same_content = true }\n",
    );
    let variant = |path: &str, client: &'static str| {
        book.decide(&get(path).from(client).having("cookie", "v=1")).variant
    };
    let (de, sg) = ("91.64.3.9", "165.21.0.1");
    assert!(variant("/k/x", de).is_some() && variant("/k/x", de) != variant("/k/x", sg));
    assert_eq!(variant("/k/x", de), variant("/k/x", "91.64.77.1"));
    assert!(variant("/g/x", de).is_some() && variant("/g/x", sg).is_none());
    assert_eq!((variant("/m/x", de), variant("/m/x", sg)), (None, None));
    assert_eq!(book.decide(&get("/m/x").from(de)).origins.as_deref(), Some(&[1][..]));
    let arms: std::collections::BTreeSet<Vec<u8>> = (0..50)
        .filter_map(|n| book.decide(&get("/k/x").having("cookie", &format!("v={n}"))).variant)
        .map(|variant| variant.as_bytes().to_vec())
        .collect();
    assert_eq!(arms.len(), 2, "two arms");
}

#[test]
fn countries_of_the_fleet_file_are_those_of_the_databases() {
    let known: Vec<String> =
        nearside_geoip::place::Country::all().map(|country| country.to_string()).collect();
    let mut written: Vec<&str> = nearside_fleet::countries::all().collect();
    written.sort_unstable();
    let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
    known.sort_unstable();
    assert_eq!(written, known);
}
