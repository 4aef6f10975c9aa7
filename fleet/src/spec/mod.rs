//! The fleet file as a person writes it, turned into a [`Config`].
//!
//! One module per group of sections; each returns what it could read and leaves its mistakes with the
//! document. Only a document without a single mistake becomes a [`Config`].

mod acme;
mod backup;
mod edge;
mod front;
mod gates;
mod geography;
pub mod keys;
mod origin;
mod reader;
mod rollout;
mod rules;
mod steering;
mod storage;
mod tokens;
mod transform;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use toml::de::DeTable;

pub use self::edge::{FLEET_CA_DIR, TICKET_KEYS_FILE};
use self::reader::{Document, Section};
use crate::{
    config::Config,
    files::{Files, NamedFile},
    mistake::Mistake,
};

/// A fleet file that checks out.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What works but is probably not meant.
    pub warnings: Vec<Mistake>,
    /// Every file it names, itself not among them, nor directories.
    pub files: Vec<NamedFile>,
}

impl Loaded {
    /// Named files that are not there, as mistakes at the place that names them. For whoever has all files
    /// (home, `check`): a node holds only those meant for it.
    pub fn absent(&self, fleet_file: &Path) -> Vec<Mistake> {
        let gone = self.files.iter().filter_map(|named| {
            let error = std::fs::metadata(&named.path).err()?;
            let mut mistake = Mistake::whole_file(fleet_file, format!("{}: {error}", named.path.display()));
            (mistake.line, mistake.column) = (named.line, named.column);
            Some(mistake)
        });
        gone.collect()
    }
}

/// Largest fleet file; a hundred PoPs and a thousand sites take about 300 KiB.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// The version of the format this program reads.
const VERSION: i64 = 1;

/// Reads the fleet file at `path`, whose named files are beside it. They are not opened.
///
/// # Errors
/// All mistakes, by place; never an empty list.
pub fn load(path: &Path) -> Result<Loaded, Vec<Mistake>> {
    load_with(path, &Files::beside(path))
}

/// Reads the fleet file at `path`, whose named files are where `files` says.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, files: &Files) -> Result<Loaded, Vec<Mistake>> {
    let whole = |message: String| vec![Mistake::whole_file(path, message)];
    let length = std::fs::metadata(path).map_err(|error| whole(format!("cannot be read: {error}")))?.len();
    if length > FILE_BYTES_MAX {
        return Err(whole(format!("is {length} bytes long, expected at most {FILE_BYTES_MAX}")));
    }
    let bytes = std::fs::read(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let read = error.as_bytes();
        let line = read[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        whole(format!("line {line} is not UTF-8 text"))
    })?;
    parse(path, &text, files)
}

/// As [`load`], of a text at hand. `path` is for messages.
///
/// # Errors
/// All mistakes, by place; never an empty list.
pub fn parse(path: &Path, text: &str, files: &Files) -> Result<Loaded, Vec<Mistake>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What follows a syntax error is guesswork; the rest is checked when the syntax is right.
        let place = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        return Err(errors
            .iter()
            .map(|error| Mistake::at(path, text, place(error), format!("not TOML: {}", error.message())))
            .collect());
    }
    let doc = Document::new(path, text, files);
    let config = read(&doc, root.get_ref());
    let (mistakes, warnings, files) = doc.finish();
    match config {
        Some(config) if mistakes.is_empty() => Ok(Loaded { config, warnings, files }),
        _ if mistakes.is_empty() => Err(vec![Mistake::whole_file(path, "is not a fleet file")]),
        _ => Err(mistakes),
    }
}

fn read<'d>(doc: &'d Document<'d>, table: &'d DeTable<'d>) -> Option<Config> {
    let top = Section::open(doc, "", table, 0..0, keys::TOP);
    if top.required("version", "version = 1, the version of this format").is_some() {
        top.integer("version", VERSION, VERSION);
    }
    top.required("fleet", "a name for the fleet");
    let fleet =
        top.read("fleet", NAME, |value| value.as_str().filter(|name| is_name(name)).map(str::to_owned));
    let geoip = geography::geoip(&top);
    let pops = geography::pops(&top);
    let dns = geography::dns(&top);
    distinct_nodes(doc, &top, pops.keys(), dns.keys());
    let checks = steering::checks(&top);
    let services = steering::services(&top, &pops, &checks);
    let zones = steering::zones(&top, &services);
    let shared_limits = gates::shared(&top);
    let mut sites = edge::sites(&top, &pops);
    let acme = acme::acme(&top, &mut sites);
    edge::promises(&top, &pops, &services, &zones, &sites);
    let controller = edge::controller(&top, &pops, &dns);
    let ticket_keys = edge::ticket_keys(&top);
    Some(Config {
        fleet: fleet?,
        geoip,
        pops,
        dns,
        checks,
        services,
        zones,
        sites,
        controller,
        acme,
        ticket_keys,
        shared_limits,
    })
}

/// What names look like, for messages.
const NAME: &str = "a name of 1 to 63 of a-z, 0-9, `-`, `_` and `.`";

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

/// Tells of section names that are no names.
fn check_name(section: &Section<'_>, name: &str) {
    if !is_name(name) {
        section.doc.mistake(section.span(), format!("[{}]: read {name:?}, expected {NAME}", section.place));
    }
}

/// A PoP's edge and a DNS node each have an identity by name, so no name may stand for both.
fn distinct_nodes<'n>(
    doc: &Document<'_>,
    top: &Section<'_>,
    pops: impl Iterator<Item = &'n String>,
    dns: impl Iterator<Item = &'n String>,
) {
    let pops: BTreeSet<&String> = pops.collect();
    for name in dns.filter(|name| pops.contains(name)) {
        let span =
            top.entries("dns").into_iter().find(|(key, ..)| key == name).map_or(0..0, |(_, span, _)| span);
        doc.mistake(
            span,
            format!("[dns.{name}]: there is a [pop.{name}] too; every node needs a name of its own"),
        );
    }
}

/// Finds the same thing in two sections: `seen` maps it to the place that had it first.
fn once<T: Ord + ToString>(seen: &mut BTreeMap<T, String>, section: &Section<'_>, key: &str, item: T) {
    let place = section.name(key);
    let text = item.to_string();
    if let Some(first) = seen.insert(item, place.clone()) {
        section.doc.mistake(section.place_of(key), format!("{place}: {text} is already in {first}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{AllDown, Match, Probe, QueryKey, SiteTls, Strategy};

    const FULL: &str = include_str!("../../../etc/nearside.full.toml");
    const MINIMAL: &str = include_str!("../../../etc/nearside.minimal.toml");

    fn read(text: &str) -> Result<Loaded, Vec<Mistake>> {
        parse(Path::new("nearside.toml"), text, &Files::beside(Path::new("/fleet/nearside.toml")))
    }

    fn mistakes(text: &str) -> Vec<String> {
        read(text).expect_err("has mistakes").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_minimal_sample_means_what_it_says() {
        let loaded = read(MINIMAL).unwrap();
        assert_eq!(loaded.warnings, []);
        let service = &loaded.config.services["web"];
        assert_eq!(service.pops, ["fra", "nyc"]);
        assert_eq!(service.strategy, Strategy::Nearest);
        assert_eq!(
            loaded.config.zones["cdn.example.org"].file,
            Path::new("/fleet/zones/cdn.example.org.zone")
        );
        assert_eq!(loaded.files.len(), 3);
        let Probe::Https { http, .. } = &loaded.config.checks["alive"].probe else {
            panic!("https by default")
        };
        assert_eq!(http.path, "/.well-known/nearside/health");
    }

    #[test]
    fn the_full_sample_means_what_it_says() {
        let config = read(FULL).unwrap().config;
        assert_eq!(config.dns["ns1"].id.as_deref(), Some("fra1"));
        assert_eq!(config.services["downloads"].strategy, Strategy::Weighted(vec![3, 1]));
        assert_eq!(config.services["video"].all_down, AllDown::Pops(vec!["fra".into()]));
        let Strategy::Rules(rules) = &config.services["video"].strategy else { panic!("rules") };
        let california = Match::Subdivision { country: "US".into(), subdivision: "CA".into() };
        assert_eq!(rules[0].when, [california, Match::Asn(64500)]);
        assert_eq!(config.sites["downloads"].cache.query, QueryKey::Only(vec!["v".into()]));
        assert_eq!(config.sites["downloads"].tls, Some(SiteTls::FleetCa));
        let www = &config.sites["www"].cache;
        assert_eq!(www.stale_if_error, Duration::from_secs(86_400));
        assert_eq!(www.rules[0].ttl, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(
            (&www.rules[0].statuses[..], &www.key_headers[..]),
            (&[200][..], &["accept-language".into()][..])
        );
        assert_eq!(config.checks["page"].interval, Duration::from_secs(10));
    }

    #[test]
    fn keys_that_do_not_fit_their_algorithms_are_mistakes() {
        let site = |inside: &str| {
            format!(
                "version = 1\nfleet = \"x\"\n[site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\n{inside}"
            )
        };
        for (inside, told) in [
            ("[site.s.gates.jwt]\nalgorithms = \"HS256\"\njwks_file = \"a\"\n", "which go with a key set"),
            (
                "[site.s.gates.jwt]\nalgorithms = \"ES256\"\nsecret_file = \"a\"\n",
                "which go with `secret_file`",
            ),
            ("[site.s.gates.jwt]\nalgorithms = \"none\"\njwks_file = \"a\"\n", "which go with a key set"),
            ("[site.s.gates.jwt]\nalgorithms = []\njwks_file = \"a\"\n", "expected one of ES256"),
            ("[site.s.gates.jwt]\njwks_file = \"a\"\n", "algorithms is missing"),
            ("[site.s.gates.jwt]\nalgorithms = \"ES256\"\n", "expected one of `jwks_file`"),
            ("[site.s.gates.jwt]\nalgorithms = \"ES256\"\njwks_url = \"http://a/\"\n", "expected a URL like"),
            (
                "[site.s.gates.jwt]\nalgorithms = \"ES256\"\njwks_file = \"a\"\nclaims = { sub = \"Host\" }\n",
                "`host` is not for claims",
            ),
            ("[site.s.gates.signed]\npaths = \"/x\"\n", "keys is missing"),
            ("[site.s.gates.signed]\nkeys = \"k\"\nunsigned_query = \"ns-sig\"\n", "names of parameters"),
        ] {
            let found = mistakes(&site(inside));
            assert!(found.iter().any(|mistake| mistake.contains(told)), "{inside}: {found:?}");
        }
        let good = read(&site("[site.s.gates.jwt]\nalgorithms = \"HS256\"\nsecret_file = \"a\"\n")).unwrap();
        assert_eq!(good.config.sites["s"].secret_files(), [Path::new("/fleet/a")]);
    }

    #[test]
    fn shedding_without_anybody_to_tell_a_load_is_a_warning() {
        assert_eq!(read(FULL).unwrap().config.services["web"].shed_above, Some(0.8));
        let text = |kind: &str| {
            format!(
                "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\n[check.a]\ntype = \"{kind}\"\n\
                 port = 80\n[service.web]\nchecks = \"a\"\nshed_above = 0.8\n"
            )
        };
        let warned = |kind: &str| {
            let warnings = read(&text(kind)).unwrap().warnings;
            warnings.iter().any(|warning| warning.to_string().contains("no load is known"))
        };
        assert_eq!([warned("tcp"), warned("http"), warned("https")], [true, false, false]);
    }

    #[test]
    fn the_full_sample_uses_every_key() {
        for (section, keys) in keys::SECTIONS {
            for key in *keys {
                let used = [format!("{key} = "), format!(".{key}]"), format!(".{key}.")];
                let used = used.iter().any(|text| FULL.contains(text));
                let heading = FULL.contains(&format!("\n[{key}.")) || FULL.contains(&format!("\n[{key}]"));
                let heading = heading || FULL.contains(&format!("\n[{section}.{key}."));
                assert!(used || heading, "{section}: {key}");
            }
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_place_and_nearest() {
        let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv5 = \"192.0.2.1\"\n\
                    [service.web]\npops = [\"fra\", \"nyk\", \"fre\"]\nchecks = []\nttl = { min = \"10\" }\n";
        assert_eq!(
            mistakes(text),
            [
                "nearside.toml:5:1: unknown key `ipv5` in [pop.fra]; did you mean `ipv4`?",
                "nearside.toml:7:16: [service.web] pops: there is no pop `nyk`; defined are: fra",
                "nearside.toml:7:23: [service.web] pops: there is no pop `fre`; did you mean `fra`?",
                "nearside.toml:9:15: [service.web.ttl] min: read \"10\", expected a duration from 1s to 7d, like \"10s\"",
            ]
        );
    }

    #[test]
    fn mistakes_of_meaning_are_mistakes() {
        let cases = [
            ("[check.a]\ninterval = \"2s\"\ntimeout = \"2s\"", "must be shorter than the interval"),
            ("[check.a]\ntype = \"tcp\"", "port is missing"),
            ("[check.a]\ntype = \"tcp\"\nport = 1\nbody = \"x\"", "goes with type http or https"),
            ("[check.a]\ntype = \"exec\"", "command is missing"),
            ("[check.a]\ntype = \"exec\"\ncommand = [\"check\"]", "expected an absolute path"),
            ("[check.a]\ncommand = \"/x\"", "goes with type exec"),
            (
                "[geoip]\nresolver = [{ network = \"192.0.2.0/24\", place_as = \"DE\" }]",
                "expected an address",
            ),
            ("[dns.a]\nlisten = \"127.0.0.1:53\"\nid = \"ä\"", "printable ASCII"),
            ("[site.a]\nhosts = \"a.test\"\norigin = \"ftp://x\"", "expected a URL"),
            ("[site.a]\nhosts = \"a.test\"\norigin = \"http://x/path\"", "expected a URL"),
            (
                "[site.a]\nhosts = \"a.test\"\norigin = \"http://x\"\n[site.b]\nhosts = \"A.test.\"\norigin = \"http://x\"",
                "a.test is already in [site.a] hosts",
            ),
            (
                "[site.a]\nhosts = \"a.test\"\norigin = \"http://x\"\n[[site.a.cache.rule]]\npath = \"/x\"",
                "expected `ttl`, `client_cache_control` or both",
            ),
            (
                "[site.a]\nhosts = \"a.test\"\norigin = \"http://x\"\ncache = { key_headers = [\"cookie\"] }",
                "expected one of accept, ",
            ),
            ("[dns.fra]\nlisten = \"127.0.0.1:53\"\n[pop.fra]\nlocation = [0, 0]", "a name of its own"),
            ("[pop.a]\nlocation = [91, 0]", "expected [latitude, longitude]"),
            ("[pop.\"A b\"]\nlocation = [0, 0]", "expected a name"),
            ("[geoip]\nnetwork = [{ network = \"192.0.2.1/24\" }]", "host bits zero"),
            ("[zone.\"a..b\"]\nfile = \"z\"", "is not a domain name"),
            ("[service.a]\nchecks = []", "has no PoPs"),
            ("[service.a]\nshed_above = 1.5", "expected a number from 0.05 to 1"),
            ("[controller]\nlisten = \"nowhere\"", "expected an address and port"),
        ];
        for (text, expected) in cases {
            let found = mistakes(&format!("version = 1\nfleet = \"x\"\n{text}\n"));
            assert!(found.iter().any(|mistake| mistake.contains(expected)), "{text}\n{found:?}");
        }
    }

    #[test]
    fn records_announce_http3_where_it_is_spoken() {
        let fleet = |pop: &str, alpn: &str, site: &str| {
            read(&format!(
                "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nhttps = [\"192.0.2.1:443\"]\n{pop}\n\
                 [check.a]\nhost = \"a\"\n[service.web]\nchecks = [\"a\"]\nalpn = {alpn}\n\
                 [zone.\"cdn.test\"]\nfile = \"z\"\nnames = {{ \"*.dl\" = \"web\" }}\n\
                 [site.www]\nhosts = [\"*.dl.cdn.test\"]\norigin = \"http://192.0.2.9\"\ntls = \"fleet\"\n{site}\n"
            ))
        };
        let on = "http3 = true";
        let said = |loaded: Result<Loaded, Vec<Mistake>>| match loaded {
            Ok(loaded) => loaded.warnings.iter().map(Mistake::to_string).collect::<Vec<_>>(),
            Err(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
        };
        for (pop, alpn, site, expected) in [
            (on, "[\"h2\", \"h3\"]", on, None),
            ("", "[\"h2\"]", on, None),
            (on, "[]", on, None),
            (on, "[\"h2\"]", on, Some("does not list \"h3\"")),
            ("", "[\"h3\"]", on, Some("PoP `fra` has no `http3 = true`")),
            (on, "[\"h3\"]", "", Some("site `www` has no `http3 = true`")),
        ] {
            let said = said(fleet(pop, alpn, site));
            let agrees = match expected {
                None => said.is_empty(),
                Some(expected) => said.len() == 1 && said[0].contains(expected),
            };
            assert!(agrees, "{pop:?} {alpn} {site:?}: {said:?}");
        }
    }

    #[test]
    fn a_broken_syntax_is_told_with_its_place() {
        let found = mistakes("version = 1\nfleet = \"x\n");
        assert!(found[0].starts_with("nearside.toml:2:"), "{found:?}");
        assert!(found[0].contains("not TOML"), "{found:?}");
    }

    #[test]
    fn a_missing_file_is_a_mistake_about_the_file() {
        let mistakes = load(Path::new("/nowhere/nearside.toml")).unwrap_err();
        assert!(
            mistakes[0].to_string().starts_with("/nowhere/nearside.toml: cannot be read"),
            "{mistakes:?}"
        );
    }

    proptest::proptest! {
        #[test]
        fn damage_never_panics(at in 0..FULL.len(), byte in 0u8..128, cut in 0usize..40) {
            let mut text = FULL.as_bytes().to_vec();
            text[at] = byte;
            text.drain(at..(at + cut).min(FULL.len()));
            if let Ok(text) = String::from_utf8(text) {
                let _ = read(&text);
            }
        }
    }
}
