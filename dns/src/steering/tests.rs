//! Steering as a whole: against brute force, behind a caching resolver, and under failing health.
//!
//! Long, because every test asks the same small fleet of the functions at the top.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use mmdb_writer::{Value, Writer, ipnet::IpNet};
use nearside_fleet::config::{
    AllDown, Config, Geoip, Location, Match, NetworkPlace, Pop, ResolverPlace, Rule, Service, Strategy,
};
use nearside_geoip::{
    geo::Geo,
    place::{Coordinates, Country},
    prefix::Prefix,
};

use super::*;

/// (name, north, east); each has one address of each family, in this order.
const CITIES: [(&str, f64, f64); 5] = [
    ("fra", 50.11, 8.68),
    ("gru", -23.55, -46.63),
    ("nyc", 40.71, -74.01),
    ("sin", 1.35, 103.82),
    ("syd", -33.87, 151.21),
];

fn pop(name: &str, at: (f64, f64), number: u8) -> Pop {
    Pop {
        name: name.to_owned(),
        location: Location { latitude: at.0, longitude: at.1 },
        ipv4: vec![Ipv4Addr::new(192, 0, 2, number)],
        ipv6: vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())],
        http: vec![],
        https: vec![],
        http3: false,
        shield: None,
        control: None,
        metrics: None,
        bias_km: 0.0,
        memory_bytes_max: 0,
        cache_dir: None,
        disk_bytes_max: 0,
        workers: None,
        front: Default::default(),
    }
}

fn service(name: &str, strategy: Strategy) -> Service {
    Service {
        name: name.to_owned(),
        pops: CITIES.iter().map(|city| city.0.to_owned()).collect(),
        strategy,
        checks: vec!["alive".to_owned()],
        answers: 1,
        candidates: 3,
        ttl_min: Duration::from_secs(5),
        ttl_max: Duration::from_secs(300),
        all_down: AllDown::All,
        alpn: vec![],
        shed_above: None,
    }
}

/// Every strategy, without and with shedding.
fn every_strategy_twice() -> Vec<Service> {
    let shedding = every_strategy().into_iter().map(|service| Service {
        name: format!("x-{}", service.name),
        shed_above: Some(0.8),
        ..service
    });
    every_strategy().into_iter().chain(shedding).collect()
}

/// Health in which everything passes, and a few PoPs are busy for every service.
fn busy(config: &Config, shares: &[(&str, f64)]) -> HealthView {
    let mut view = health(&[]);
    for service in config.services.keys() {
        for &(pop, share) in shares {
            let offer = Offer { share, load: Some(0.93), above: 0.8 };
            view.offers.insert((service.clone(), pop.to_owned()), offer);
        }
    }
    view
}

fn config(services: impl IntoIterator<Item = Service>) -> Config {
    let pops = CITIES
        .iter()
        .zip(1..)
        .map(|(&(name, north, east), number)| (name.to_owned(), pop(name, (north, east), number)));
    Config {
        fleet: "test".to_owned(),
        geoip: Geoip::default(),
        pops: pops.collect(),
        dns: BTreeMap::new(),
        checks: BTreeMap::new(),
        services: services.into_iter().map(|s| (s.name.clone(), s)).collect(),
        zones: BTreeMap::new(),
        sites: BTreeMap::new(),
        controller: None,
        acme: Default::default(),
        ticket_keys: None,
        shared_limits: None,
    }
}

fn compile(config: &Config) -> Steering {
    Steering::compile(config, &open_geo(&config.geoip).unwrap()).unwrap()
}

fn ids(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn client(addr: &str) -> Client {
    let addr: IpAddr = addr.parse().unwrap();
    // What resolvers send; an embedded IPv4 address stands behind the 56th bit.
    let bits = match addr {
        IpAddr::V4(_) => 24,
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => 128,
        IpAddr::V6(_) => 56,
    };
    let subnet = Prefix::containing(addr, bits);
    Client { subnet: Some((subnet.addr(), bits)), source: "127.0.0.1".parse().unwrap() }
}

/// Names of a client's list.
fn list_of(steering: &Steering, service: &str, client: Client) -> Vec<String> {
    let service = steering.service(service).unwrap();
    let list = steering.list(service, steering.lookup(service, client).list);
    list.iter().map(|&pop| steering.pop_name(pop).to_owned()).collect()
}

/// Health in which everything passes for a minute, but the addresses given.
fn health(down: &[&str]) -> HealthView {
    let mut view = HealthView::default();
    for number in 1..=CITIES.len() as u8 {
        let pop = pop("x", (0.0, 0.0), number);
        let v4 = pop.ipv4.iter().map(|&addr| IpAddr::V4(addr));
        for addr in v4.chain(pop.ipv6.iter().map(|&addr| IpAddr::V6(addr))) {
            let up = !down.contains(&addr.to_string().as_str());
            let unchanged_for = Duration::from_secs(if up { 60 } else { 20 });
            let health = CheckHealth { up, unchanged_for, reason: "test".into() };
            view.checks.insert(("alive".to_owned(), addr), health);
        }
    }
    view
}

/// A database of random networks in a few countries.
fn database(dir: &tempfile::TempDir, name: &str, seed: u64, count: usize) -> PathBuf {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut writer = Writer::new("Test-City");
    let countries: Vec<Country> = Country::all().collect();
    for _ in 0..count {
        let net: IpNet = if rng.bool() {
            let addr = Ipv4Addr::from_bits(rng.u32(..) & 0x0f3f_ffff | 0x0c00_0000);
            IpNet::new(addr.into(), rng.u8(8..=26)).unwrap()
        } else {
            let addr = u128::from(rng.u64(..) & 0x00f0_ff3f_ffff_ffff) << 64 | 0x26 << 120;
            IpNet::new(Ipv6Addr::from_bits(addr).into(), rng.u8(14..=52)).unwrap()
        };
        let country = countries[rng.usize(..countries.len())];
        let point = country.centroid();
        let record: BTreeMap<String, Value> = [
            ("country_code".to_owned(), Value::from(country.code())),
            ("latitude".to_owned(), Value::from(point.latitude)),
            ("longitude".to_owned(), Value::from(point.longitude)),
        ]
        .into();
        writer.insert_value(net, Value::Map(record)).unwrap();
    }
    let path = dir.path().join(name);
    std::fs::write(&path, writer.to_bytes().unwrap()).unwrap();
    path
}

fn random_client(rng: &mut fastrand::Rng) -> IpAddr {
    match rng.u8(0..19) {
        // Neighbours of networks that carry IPv4, and the embedded ones themselves.
        16 => Ipv6Addr::from_bits(rng.u128(..) >> rng.u8(48..=127)).into(),
        17 => Ipv6Addr::from_bits(0x64_ff9b << 96 | rng.u128(..) >> rng.u8(48..=127)).into(),
        18 => Ipv6Addr::from_bits(0x2001 << 112 | rng.u128(..) >> rng.u8(16..=127)).into(),
        0 => Ipv4Addr::from_bits(rng.u32(..)).into(),
        1 => Ipv4Addr::from_bits(rng.u32(..) & 0x00ff_ffff | 0x0a00_0000).into(),
        2 => Ipv4Addr::from_bits(rng.u32(..) & 0x0000_ffff | 0xc0a8_0000).into(),
        3 => Ipv4Addr::from_bits(rng.u32(..) & 0x01ff_ffff | 0x0a00_0000).into(),
        4..9 => Ipv4Addr::from_bits(rng.u32(..) & 0x0f3f_ffff | 0x0c00_0000).into(),
        9 => Ipv6Addr::from_bits(rng.u128(..)).into(),
        10 => Ipv6Addr::from_bits(0x2002 << 112 | rng.u128(..) & (mask_v4() << 80)).into(),
        _ => {
            let high = u128::from(rng.u64(..) & 0x00f0_ff3f_ffff_ffff) << 64 | 0x26 << 120;
            Ipv6Addr::from_bits(high | u128::from(rng.u64(..))).into()
        }
    }
}

/// IPv4 bits that hit the random databases.
fn mask_v4() -> u128 {
    0x0f3f_ffff
}

#[test]
fn nearest_by_the_builtin_table() {
    let steering = compile(&config([service("web", Strategy::Nearest)]));
    let first = |addr: &str| list_of(&steering, "web", client(addr))[0].clone();
    assert_eq!(first("87.128.0.1"), "fra");
    assert_eq!(first("73.0.0.1"), "nyc");
    assert_eq!(first("165.21.0.1"), "sin");
    assert_eq!(first("2003::1"), "fra");
    assert_eq!(first("::ffff:73.0.0.1"), "nyc");
}

#[test]
fn bias_moves_the_border() {
    let mut biased = config([service("web", Strategy::Nearest)]);
    biased.pops.get_mut("fra").unwrap().bias_km = -6500.0;
    let steering = compile(&biased);
    assert_eq!(list_of(&steering, "web", client("87.128.0.1"))[0], "nyc");
}

#[test]
fn agrees_with_brute_force_inside_every_scope() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config([service("web", Strategy::Nearest)]);
    config.geoip.databases = vec![database(&dir, "a.mmdb", 1, 4000)];
    let geo = open_geo(&config.geoip).unwrap();
    let steering = Steering::compile(&config, &geo).unwrap();
    let brute = |addr: IpAddr| -> Vec<String> {
        let mut pops: Vec<(f64, &str)> = match geo.locate(addr).unwrap().place.point() {
            None => CITIES.iter().map(|city| (0.0, city.0)).collect(),
            Some(point) => CITIES
                .iter()
                .map(|city| (point.distance_km(Coordinates::new(city.1, city.2).unwrap()), city.0))
                .collect(),
        };
        pops.sort_by(|a, b| a.0.total_cmp(&b.0));
        pops.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
    };
    let web = steering.service("web").unwrap();
    let mut rng = fastrand::Rng::with_seed(2);
    let source: IpAddr = "127.0.0.1".parse().unwrap();
    for _ in 0..20_000 {
        let addr = random_client(&mut rng);
        let ask = |addr: IpAddr| {
            let bits = if addr.is_ipv4() { 32 } else { 128 };
            let steered = steering.lookup(web, Client { subnet: Some((addr, bits)), source });
            (list_of(&steering, "web", Client { subnet: Some((addr, bits)), source }), steered.scope)
        };
        let (list, scope) = ask(addr);
        assert_eq!(list, brute(addr), "{addr}");
        let inside = inside(Prefix::containing(addr, scope), &mut rng);
        assert_eq!(ask(inside), (list, scope), "{addr} and {inside} share /{scope}");
    }
}

/// A random address of a network.
fn inside(net: Prefix, rng: &mut fastrand::Rng) -> IpAddr {
    match (net.addr(), net.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Addr::from_bits(rng.u32(first.to_bits()..=last.to_bits())).into()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Addr::from_bits(rng.u128(first.to_bits()..=last.to_bits())).into()
        }
        _ => unreachable!("one prefix, one family"),
    }
}

/// A resolver that caches by RFC 7871 section 7.3: an answer is kept for the shorter of its scope and
/// the source prefix that was sent, and given to whoever is inside.
#[derive(Default)]
struct Resolver {
    cache: HashMap<Prefix, ListId>,
}

impl Resolver {
    fn ask(
        &mut self,
        steering: &Steering,
        service: ServiceId,
        source: IpAddr,
        addr: IpAddr,
        bits: u8,
    ) -> ListId {
        let sent = Prefix::containing(addr, bits);
        // Any entry around what would be sent will do; where scopes overlap, that is a wrong answer.
        for len in 0..=bits {
            if let Some(&list) = self.cache.get(&Prefix::containing(sent.addr(), len)) {
                return list;
            }
        }
        let steered = steering.lookup(service, Client { subnet: Some((sent.addr(), bits)), source });
        let kept = Prefix::containing(sent.addr(), steered.scope.min(bits));
        self.cache.insert(kept, steered.list);
        steered.list
    }
}

fn every_strategy() -> Vec<Service> {
    let rules = vec![
        Rule { when: vec![Match::Network("13.0.0.0".parse().unwrap(), 12)], pops: ids(&["syd"]) },
        Rule {
            when: vec![Match::Continent("AF".to_owned()), Match::Country("IN".to_owned())],
            pops: ids(&["sin", "fra"]),
        },
        Rule { when: vec![Match::Network("13.0.0.0".parse().unwrap(), 8)], pops: ids(&["gru"]) },
    ];
    vec![
        service("nearest", Strategy::Nearest),
        service("rules", Strategy::Rules(rules)),
        service("ordered", Strategy::Ordered),
        service("weighted", Strategy::Weighted(vec![1, 2, 3, 4, 0])),
        service("hash", Strategy::Hash),
    ]
}

#[test]
fn a_caching_resolver_never_hands_out_another_networks_pop() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(every_strategy_twice());
    config.geoip.databases = vec![database(&dir, "a.mmdb", 3, 4000)];
    let steering = compile(&config);
    for seed in 0..2 {
        let mut rng = fastrand::Rng::with_seed(seed);
        for service in (0..config.services.len() as u32).map(ServiceId) {
            let mut resolver = Resolver::default();
            // A resolver truncates everybody alike; the second one not at all.
            let (v4_bits, v6_bits) = if seed % 2 == 0 { (24, 56) } else { (32, 128) };
            let source = random_client(&mut rng);
            for _ in 0..8_000 {
                let addr = random_client(&mut rng);
                let bits = if addr.is_ipv4() { v4_bits } else { v6_bits };
                let given = resolver.ask(&steering, service, source, addr, bits);
                let subnet = Some((Prefix::containing(addr, bits).addr(), bits));
                let right = steering.lookup(service, Client { subnet, source }).list;
                assert_eq!(given, right, "{service:?} {addr} (seed {seed})");
            }
        }
    }
}

#[test]
fn rules_match_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(every_strategy());
    config.geoip.databases = vec![database(&dir, "a.mmdb", 3, 10)];
    let place = |network: &str, country: &str| NetworkPlace {
        network: network.parse().unwrap(),
        length: 16,
        country: Some(country.to_owned()),
        continent: None,
        subdivision: None,
        location: None,
    };
    config.geoip.networks = vec![place("13.1.0.0", "KE"), place("13.99.0.0", "KE"), place("10.1.0.0", "KE")];
    let steering = compile(&config);
    let list = |addr: &str| list_of(&steering, "rules", client(addr));
    // The network of rule 1 stands before the continent of rule 2, that of rule 3 behind it.
    assert_eq!(list("13.1.2.3"), ["syd"]);
    assert_eq!(list("13.99.2.3"), ["sin", "fra"]);
    assert_eq!(list("13.100.2.3"), ["gru"]);
    // The operator's own private network has a place; its neighbours go by the resolver.
    assert_eq!(list("10.1.2.3"), ["sin", "fra"]);
    assert_eq!(list("10.2.2.3"), ids(&["fra", "gru", "nyc"]));
}

#[test]
fn private_clients_go_by_the_resolver_and_keep_to_themselves() {
    let steering = compile(&config([service("web", Strategy::Nearest), service("h", Strategy::Hash)]));
    let from = |subnet: &str, source: &str| Client { source: source.parse().unwrap(), ..client(subnet) };
    for (subnet, scope) in [("10.1.2.3", 8), ("192.168.7.7", 16), ("fd00::1", 7), ("::ffff:10.0.0.1", 104)] {
        for name in ["web", "h"] {
            let service = steering.service(name).unwrap();
            let steered = steering.lookup(service, from(subnet, "73.0.0.1"));
            assert_eq!(steered.scope, scope, "{name} {subnet}");
            let alone = Client { subnet: None, source: "73.0.0.1".parse().unwrap() };
            assert_eq!(steered.list, steering.lookup(service, alone).list, "{name} {subnet}");
        }
        assert_eq!(list_of(&steering, "web", from(subnet, "73.0.0.1"))[0], "nyc");
        assert_eq!(list_of(&steering, "web", from(subnet, "87.128.0.1"))[0], "fra");
    }
    // Source length 0: the client's address is not to be used.
    let hidden =
        Client { subnet: Some(("87.128.0.0".parse().unwrap(), 0)), source: "73.0.0.1".parse().unwrap() };
    let web = steering.service("web").unwrap();
    assert_eq!(steering.lookup(web, hidden).scope, 0);
    assert_eq!(list_of(&steering, "web", hidden)[0], "nyc");
}

#[test]
fn one_list_for_everyone_has_scope_zero() {
    let mut single = service("single", Strategy::Nearest);
    single.pops = ids(&["fra"]);
    let steering = compile(&config([single, service("ordered", Strategy::Ordered)]));
    for name in ["single", "ordered"] {
        let service = steering.service(name).unwrap();
        for addr in ["10.0.0.1", "73.0.0.1", "2003::1"] {
            assert_eq!(steering.lookup(service, client(addr)).scope, 0);
        }
    }
    assert_eq!(list_of(&steering, "ordered", client("73.0.0.1")), ids(&["fra", "gru", "nyc", "sin", "syd"]));
}

#[test]
fn hashing_is_consistent_and_weights_are_met() {
    let mut fewer = service("fewer", Strategy::Hash);
    fewer.pops = ids(&["fra", "gru", "sin", "syd"]);
    let weighted = service("weighted", Strategy::Weighted(vec![1, 2, 3, 4, 0]));
    let steering = compile(&config([service("all", Strategy::Hash), fewer, weighted]));
    let mut rng = fastrand::Rng::with_seed(9);
    let mut shares: HashMap<String, u32> = HashMap::new();
    const CLIENTS: u32 = 20_000;
    for _ in 0..CLIENTS {
        let addr = Ipv4Addr::from_bits(rng.u32(..) & 0x3fff_ffff | 0x4000_0000).to_string();
        let before = list_of(&steering, "all", client(&addr));
        let after = list_of(&steering, "fewer", client(&addr));
        // Without nyc, only its clients move, and they move to what was their second.
        let expected = before.iter().find(|name| *name != "nyc").unwrap();
        assert_eq!(&after[0], expected);
        *shares.entry(list_of(&steering, "weighted", client(&addr))[0].clone()).or_default() += 1;
    }
    for (name, weight) in [("fra", 1), ("gru", 2), ("nyc", 3), ("sin", 4)] {
        let (got, wanted) = (shares[name], CLIENTS * weight / 10);
        assert!(got.abs_diff(wanted) < CLIENTS / 50, "{name}: {got} of {wanted}");
    }
    assert!(!shares.contains_key("syd"));
}

#[test]
fn services_alike_share_a_map() {
    let one = compile(&config([service("a", Strategy::Nearest)])).bytes();
    let mut other = service("b", Strategy::Nearest);
    other.answers = 2;
    let two = compile(&config([service("a", Strategy::Nearest), other])).bytes();
    assert_eq!(one, two);
    assert!(one < 16 << 20);
}

fn table_of(service: Service, health: &HealthView) -> (Steering, Table) {
    let steering = compile(&config([service]));
    let table = Table::build(&steering, health);
    (steering, table)
}

/// Answers for a German client: (IPv4, IPv6).
fn german(steering: &Steering, table: &Table) -> (Chosen<Ipv4Addr>, Chosen<Ipv6Addr>) {
    let service = ServiceId(0);
    let list = steering.lookup(service, client("87.128.0.1")).list;
    (table.ipv4(service, list).clone(), table.ipv6(service, list).clone())
}

#[test]
fn each_family_fails_over_by_itself() {
    // For Germany the order is fra, nyc, gru.
    let (steering, table) = table_of(service("web", Strategy::Nearest), &health(&["2001:db8::1"]));
    let (v4, v6) = german(&steering, &table);
    assert_eq!(&*v4.addresses, [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!((v4.basis, v4.ttl), (Basis::Healthy, 60));
    assert_eq!(v6.addresses[0].to_string(), "2001:db8::3");
    // fra may be back in 20 s, so no longer than that.
    assert_eq!((v6.basis, v6.ttl), (Basis::Healthy, 20));
    assert_eq!(table.all_down().count(), 0);
}

#[test]
fn several_answers_come_from_several_pops() {
    let mut two = service("web", Strategy::Nearest);
    two.answers = 2;
    let (steering, table) = table_of(two, &health(&[]));
    let (v4, _) = german(&steering, &table);
    let names: Vec<_> = v4.pops.iter().map(|&pop| steering.pop_name(pop)).collect();
    assert_eq!(names, ["fra", "nyc"]);
}

const V6_DOWN: [&str; 5] = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5"];

#[test]
fn a_whole_family_down_is_served_anyway_and_said_aloud() {
    let (steering, table) = table_of(service("web", Strategy::Nearest), &health(&V6_DOWN));
    let (v4, v6) = german(&steering, &table);
    assert_eq!(v4.basis, Basis::Healthy);
    assert_eq!((v6.basis, v6.addresses.len()), (Basis::AllDown, 3));
    let loud: Vec<_> = table.all_down().collect();
    assert_eq!(loud.len(), 1);
    assert_eq!((loud[0].family, loud[0].lists), (Family::V6, loud[0].of));
}

#[test]
fn all_down_policies() {
    let mut silent = service("web", Strategy::Nearest);
    silent.all_down = AllDown::NoData;
    let (steering, table) = table_of(silent, &health(&V6_DOWN));
    let (_, v6) = german(&steering, &table);
    assert_eq!((v6.basis, v6.addresses.len()), (Basis::AllDown, 0));

    let mut resort = service("web", Strategy::Nearest);
    resort.all_down = AllDown::Pops(ids(&["syd"]));
    let (steering, table) = table_of(resort.clone(), &health(&V6_DOWN));
    let (_, v6) = german(&steering, &table);
    assert_eq!((v6.basis, v6.addresses[0].to_string().as_str()), (Basis::AllDown, "2001:db8::5"));

    // A last resort without IPv6 leaves the list.
    let mut config = config([resort]);
    config.pops.get_mut("syd").unwrap().ipv6.clear();
    let steering = compile(&config);
    let table = Table::build(&steering, &health(&V6_DOWN));
    let (_, v6) = german(&steering, &table);
    assert_eq!((v6.basis, v6.addresses.len()), (Basis::AllDown, 3));
}

#[test]
fn drained_pops_stay_out_while_anything_is_left() {
    let drain = Drain { remaining: Some(Duration::from_secs(12)), reason: "maintenance".into() };
    let mut view = health(&["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"]);
    view.drains.insert("fra".to_owned(), drain);
    let (steering, table) = table_of(service("web", Strategy::Nearest), &view);
    let (v4, v6) = german(&steering, &table);
    assert_eq!(v4.basis, Basis::AllDown);
    assert!(v4.addresses.iter().all(|addr| addr.octets()[3] != 1), "{v4:?}");
    // The end of the drain bounds the TTL of what is served instead.
    assert_eq!((v6.basis, v6.ttl), (Basis::Healthy, 12));
}

#[test]
fn aaaa_reaches_past_pops_without_ipv6() {
    let mut config = config([service("web", Strategy::Nearest)]);
    for name in ["fra", "nyc", "gru"] {
        config.pops.get_mut(name).unwrap().ipv6.clear();
    }
    let steering = compile(&config);
    let table = Table::build(&steering, &health(&[]));
    let (v4, v6) = german(&steering, &table);
    assert_eq!(v4.addresses[0].to_string(), "192.0.2.1");
    assert_eq!((v6.basis, v6.addresses[0].to_string().as_str()), (Basis::Healthy, "2001:db8::4"));
    config.pops.values_mut().for_each(|pop| pop.ipv6.clear());
    let steering = compile(&config);
    let (_, v6) = german(&steering, &Table::build(&steering, &health(&[])));
    assert_eq!((v6.basis, v6.addresses.len(), v6.ttl), (Basis::NoFamily, 0, 300));
}

#[test]
fn ttl_stays_within_the_services_bounds() {
    let mut view = health(&[]);
    for check in view.checks.values_mut() {
        check.unchanged_for = Duration::from_millis(900);
    }
    let (steering, table) = table_of(service("web", Strategy::Nearest), &view);
    assert_eq!(german(&steering, &table).0.ttl, 5);
    let mut unchecked = service("web", Strategy::Nearest);
    unchecked.checks.clear();
    let (steering, table) = table_of(unchecked, &view);
    assert_eq!(german(&steering, &table).0.ttl, 300);
    // Not yet probed: up, and not for long.
    let (steering, table) = table_of(service("web", Strategy::Nearest), &HealthView::default());
    assert_eq!((german(&steering, &table).0.basis, german(&steering, &table).0.ttl), (Basis::Healthy, 5));
}

#[test]
fn explains_what_the_query_path_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(every_strategy_twice());
    config.geoip.databases = vec![database(&dir, "a.mmdb", 3, 4000)];
    let geo = open_geo(&config.geoip).unwrap();
    let steering = Steering::compile(&config, &geo).unwrap();
    let mut view = busy(&config, &[("fra", 0.3), ("nyc", 0.6)]);
    view.checks.extend(health(&["192.0.2.1"]).checks);
    let table = Table::build(&steering, &view);
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..500 {
        let addr = random_client(&mut rng).to_string();
        for service in (0..config.services.len() as u32).map(ServiceId) {
            let told = steering.explain(&geo, &view, service, client(&addr)).unwrap();
            let steered = steering.lookup(service, client(&addr));
            assert_eq!(told.scope, steered.scope, "{addr}");
            let v4 = table.ipv4(service, steered.list);
            assert_eq!((told.ipv4.ttl, told.ipv4.basis), (v4.ttl, v4.basis));
            assert_eq!(told.ipv4.addresses, v4.addresses.iter().map(|&a| IpAddr::V4(a)).collect::<Vec<_>>());
            let [died, _] = told.if_first_died.as_ref().unwrap();
            assert!(died.basis == Basis::AllDown || died.pops[0] != told.ipv4.pops[0]);
            for candidate in &told.candidates {
                let busy = told.service.starts_with("x-") && ["fra", "nyc"].contains(&&*candidate.pop);
                assert_eq!(candidate.offer.is_some(), busy, "{}", told.service);
            }
            if told.service == "rules" {
                let rule = told.rule.as_ref().map(|rule| rule.number);
                let network: Prefix = "13.0.0.0/12".parse().unwrap();
                let inside = network.contains(addr.parse().unwrap());
                assert_eq!(inside, rule == Some(1), "{addr}");
                if inside {
                    assert_eq!(told.rule.as_ref().unwrap().when, "network 13.0.0.0/12");
                }
            }
        }
    }
    let told = steering.explain(&geo, &view, ServiceId(1), client("10.0.0.1")).unwrap();
    assert_eq!(told.special.as_deref(), Some("10.0.0.0/8"));
    assert_eq!(told.decided_by.to_string(), "127.0.0.1");
    serde_json::to_string(&told).unwrap();
}

#[test]
fn a_resolver_may_stand_for_clients_elsewhere() {
    let mut config = config([service("web", Strategy::Nearest), service("hash", Strategy::Hash)]);
    let place = |network: &str, length, place_as: &str| ResolverPlace {
        network: network.parse().unwrap(),
        length,
        place_as: place_as.parse().unwrap(),
    };
    // Germans behind an American resolver, but for one address.
    config.geoip.resolvers = vec![
        place("73.0.0.0", 16, "87.128.0.1"),
        place("73.0.0.9", 32, "73.0.0.9"),
        place("2600::", 16, "87.128.0.1"),
    ];
    let steering = compile(&config);
    let asks = |source: &str, subnet: Option<(&str, u8)>| {
        let subnet = subnet.map(|(addr, len)| (addr.parse().unwrap(), len));
        let client = Client { source: source.parse().unwrap(), subnet };
        (list_of(&steering, "web", client)[0].clone(), steering.lookup(ServiceId(1), client).scope)
    };
    let (german, american) = ("fra", "nyc");
    assert_eq!(asks("73.0.0.1", None).0, german);
    assert_eq!(asks("::ffff:73.0.0.1", None).0, german);
    assert_eq!(asks("2600::1", None).0, german);
    assert_eq!(asks("73.0.0.9", None).0, american, "the more specific one wins");
    assert_eq!(asks("73.1.0.1", None).0, american);
    // A client subnet says more than the resolver; none of it, or a private one, says nothing.
    assert_eq!(asks("73.0.0.1", Some(("73.0.0.0", 24))).0, american);
    assert_eq!(asks("73.0.0.1", Some(("0.0.0.0", 0))).0, german);
    assert_eq!(asks("73.0.0.1", Some(("10.0.0.0", 24))).0, german);

    let service = steering.service("web").unwrap();
    let resolver = Client { source: "73.0.0.1".parse().unwrap(), subnet: None };
    let geo = open_geo(&config.geoip).unwrap();
    let told = steering.explain(&geo, &health(&[]), service, resolver).unwrap();
    assert_eq!(told.decided_by.to_string(), "87.128.0.1");
    assert_eq!(told.stands_for, Some(resolver.source));
    assert_eq!(told.ipv4.pops[0], german);
}

#[test]
fn tells_who_would_move() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(every_strategy());
    let open = |file: PathBuf| Geo::open(&[file], vec![]).unwrap();
    let old = open(database(&dir, "old.mmdb", 5, 300));
    let new = open(database(&dir, "new.mmdb", 6, 300));
    let none = diff_geo(&config, &old, &old).unwrap();
    assert!(none.services.iter().all(|service| service.networks == 0));
    let diff = diff_geo(&config, &old, &new).unwrap();
    let names: Vec<_> = diff.services.iter().map(|service| service.service.as_str()).collect();
    assert_eq!(names, ["nearest", "rules"]);
    // Counted exactly, by asking both about a random sample.
    let before = Steering::compile(&config, &old).unwrap();
    let after = Steering::compile(&config, &new).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let moved = (0..40_000).filter(|_| {
        let addr = Ipv4Addr::from_bits(rng.u32(..)).to_string();
        list_of(&before, "nearest", client(&addr)) != list_of(&after, "nearest", client(&addr))
    });
    let (share, told) = (moved.count() as f64 / 40_000.0, diff.services[0].ipv4_addresses / 2f64.powi(32));
    assert!((share - told).abs() < 0.01, "{share} {told}");
    assert!(diff.services[0].ipv4_first <= diff.services[0].ipv4_addresses);
    assert!(!diff.services[0].moves.is_empty() && diff.services[0].ipv6_sites > 0.0);
}

#[test]
fn whoever_shares_a_scope_is_shed_alike() {
    let dir = tempfile::tempdir().unwrap();
    let mut config =
        config(every_strategy_twice().into_iter().filter(|service| service.shed_above.is_some()));
    config.geoip.databases = vec![database(&dir, "a.mmdb", 1, 4000)];
    let steering = compile(&config);
    let table = Table::build(&steering, &busy(&config, &[("fra", 0.3), ("nyc", 0.6), ("sin", 0.1)]));
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let (addr, source) = (random_client(&mut rng), random_client(&mut rng));
        for service in (0..config.services.len() as u32).map(ServiceId) {
            let ask = |addr: IpAddr| {
                let bits = if addr.is_ipv4() { 32 } else { 128 };
                let steered = steering.lookup(service, Client { subnet: Some((addr, bits)), source });
                let answer = table.ipv4(service, steered.list).pops.clone();
                (steered, answer, table.ipv6(service, steered.list).pops.clone())
            };
            let here = ask(addr);
            let other = inside(Prefix::containing(addr, here.0.scope), &mut rng);
            assert_eq!(ask(other), here, "{service:?}: {addr} and {other}, seed {seed}");
        }
    }
}

#[test]
fn a_busy_pop_is_passed_over_for_the_part_it_is_not_offered_to() {
    let shedding = Service { shed_above: Some(0.8), ..service("web", Strategy::Nearest) };
    let config = config([shedding]);
    let steering = compile(&config);
    // Networks all over the places where fra is nearest.
    let near_fra: Vec<IpAddr> = (0..65_536u32)
        .map(|number| Ipv4Addr::from_bits(number << 16 | 1).into())
        .filter(|addr| list_of(&steering, "web", client(&IpAddr::to_string(addr)))[0] == "fra")
        .collect();
    assert!(near_fra.len() > 10_000, "{}", near_fra.len());
    let answered = |shares: &[(&str, f64)], view: Option<HealthView>| -> Vec<String> {
        let table = Table::build(&steering, &view.unwrap_or_else(|| busy(&config, shares)));
        let first = |addr: &IpAddr| {
            let list = steering.lookup(ServiceId(0), client(&addr.to_string())).list;
            steering.pop_name(table.ipv4(ServiceId(0), list).pops[0]).to_owned()
        };
        near_fra.iter().map(first).collect()
    };
    let share =
        |pops: &[String]| pops.iter().filter(|pop| *pop == "fra").count() as f64 / near_fra.len() as f64;
    let all = answered(&[], None);
    assert_eq!(share(&all), 1.0);
    let half = answered(&[("fra", 0.5)], None);
    let third = answered(&[("fra", 0.3)], None);
    assert!((share(&half) - 0.5).abs() < 0.03, "{}", share(&half));
    assert!((share(&third) - 0.3).abs() < 0.03, "{}", share(&third));
    // Who is sent away stays away, and nobody else moves.
    assert!(half.iter().zip(&third).all(|(half, third)| half == "fra" || half == third));
    // Where the next one is busy too, the one after; where all are, the nearest.
    let both = answered(&[("fra", 0.3), ("nyc", 0.3), ("sin", 0.3), ("gru", 0.3), ("syd", 0.3)], None);
    assert!(share(&both) > 0.3 + 0.7f64.powi(3) - 0.05, "{}", share(&both));

    // Busy is better than dead: with all the others down, nobody is sent away, and no alarm is raised.
    let others = ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
    let mut view = busy(&config, &[("fra", 0.1)]);
    view.checks.extend(health(&others).checks);
    assert_eq!(share(&answered(&[], Some(view.clone()))), 1.0);
    let table = Table::build(&steering, &view);
    let basis = |addr: &IpAddr| {
        table.ipv4(ServiceId(0), steering.lookup(ServiceId(0), client(&addr.to_string())).list).basis
    };
    assert!(near_fra.iter().all(|addr| basis(addr) == Basis::Healthy));
    // A busy PoP that is passed over does not shorten the answer: nothing rests on it.
    let mut view = busy(&config, &[("fra", 0.0)]);
    for (_, health) in view.checks.iter_mut().filter(|((_, addr), _)| addr.to_string() == "192.0.2.1") {
        health.unchanged_for = Duration::from_secs(7);
    }
    let table = Table::build(&steering, &view);
    let ttls: Vec<u32> = near_fra
        .iter()
        .map(|addr| {
            table.ipv4(ServiceId(0), steering.lookup(ServiceId(0), client(&addr.to_string())).list).ttl
        })
        .collect();
    assert!(ttls.contains(&60) && ttls.contains(&7), "both parts are there");
}

/// With a database of one's own (`NEARSIDE_CITY` holds its path): every strategy, without and with shedding, against
/// brute force and behind a caching resolver, for addresses all over the Internet. Minutes, so not by itself.
#[test]
fn a_city_database_of_ones_own_holds_every_scope() {
    let Some(path) = std::env::var_os("NEARSIDE_CITY") else { return };
    let mut config = config(every_strategy_twice());
    config.geoip.databases = vec![path.into()];
    let geo = open_geo(&config.geoip).unwrap();
    let steering = Steering::compile(&config, &geo).unwrap();
    let table = Table::build(&steering, &busy(&config, &[("fra", 0.3), ("nyc", 0.6), ("sin", 0.1)]));
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}, maps {} KiB", steering.bytes() >> 10);
    let mut rng = fastrand::Rng::with_seed(seed);
    let anywhere = |rng: &mut fastrand::Rng| -> IpAddr {
        match rng.u8(0..4) {
            0 => random_client(rng),
            1 => Ipv6Addr::from_bits(rng.u128(..) >> 3 | 1 << 125).into(),
            _ => Ipv4Addr::from_bits(rng.u32(..)).into(),
        }
    };
    let places: HashMap<&str, Coordinates> =
        CITIES.iter().map(|city| (city.0, Coordinates::new(city.1, city.2).unwrap())).collect();
    let nearest = steering.service("nearest").unwrap();
    let mut resolvers: Vec<Resolver> = config.services.iter().map(|_| Resolver::default()).collect();
    for _ in 0..60_000 {
        let (addr, source) = (anywhere(&mut rng), IpAddr::from([127, 0, 0, 1]));
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let ask = |service, addr| steering.lookup(service, Client { subnet: Some((addr, bits)), source });
        for service in (0..config.services.len() as u32).map(ServiceId) {
            let here = ask(service, addr);
            let other = inside(Prefix::containing(addr, here.scope), &mut rng);
            assert_eq!(ask(service, other), here, "{service:?}: {addr} and {other}, seed {seed}");
            let answer = |list| (&table.ipv4(service, list).addresses, &table.ipv6(service, list).addresses);
            let sent = Prefix::containing(addr, if addr.is_ipv4() { 24 } else { 56 });
            let given = resolvers[service.0 as usize].ask(&steering, service, source, addr, sent.len());
            let subnet = Some((sent.addr(), sent.len()));
            let right = steering.lookup(service, Client { subnet, source }).list;
            assert_eq!(answer(given), answer(right), "{service:?} {addr}, seed {seed}");
        }
        // Kilometres of the first against all, from the database itself.
        if let Some(point) = geo.locate(addr).unwrap().place.point() {
            let list = list_of(&steering, "nearest", Client { subnet: Some((addr, bits)), source });
            let first = point.distance_km(places[list[0].as_str()]);
            let least = places.values().map(|&city| point.distance_km(city)).fold(f64::MAX, f64::min);
            assert!(first - least < 1.0, "{addr}: {} is {first} km away, another {least}", list[0]);
        }
        // Maximal: the other half of its parent is no leaf with the same list, or the two would be one.
        let here = ask(nearest, addr);
        if let (IpAddr::V4(v4), 1..) = (addr, here.scope) {
            let twin = IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() ^ 1 << (32 - here.scope)));
            let alike = ask(nearest, twin) == here && special(addr).is_none() && special(twin).is_none();
            assert!(!alike, "{addr} and {twin} could share /{}", here.scope - 1);
        }
    }
}
