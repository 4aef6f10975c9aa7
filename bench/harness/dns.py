"""The DNS suite: the same six PoPs and the same city database for everyone.

Cases: `geo` asks a tailored name with random client subnets; `static` asks a plain A record. NSD knows no
geography and the echo no DNS at all: in case `geo` they answer their one thing, and the ratio says how far
steering is from a static server and from the socket's own limit. `latency`, `reload` and `memory` are figures,
not ratios: see dns_figures.
"""
import contextlib
import json
import pathlib
import socket
import subprocess
import sys

from measure import LOAD_CORE, Failure, Server, alternate, need

CASES = ["geo", "static", "latency", "reload", "memory"]
BUILD = ["-p", "nearside-dns", "-p", "nearside-bench"]
PEERS = ["gdnsd", "knot", "pdns", "nsd", "echo"]
POPS = {
    # name: (latitude, longitude, address)
    "fra": (50.11, 8.68, "192.0.2.1"),
    "lon": (51.51, -0.13, "192.0.2.2"),
    "nyc": (40.71, -74.01, "192.0.2.3"),
    "sfo": (37.77, -122.42, "192.0.2.4"),
    "sin": (1.35, 103.82, "192.0.2.5"),
    "syd": (-33.87, 151.21, "192.0.2.6"),
}
ADDRESSES = {name: (f"127.0.61.{n}", 5300 + n) for n, name in enumerate(["ours", *PEERS], 1)}
ZONE = """\
$ORIGIN bench.test.
@ 3600 SOA ns1 hostmaster 1 7200 1800 259200 900
@ 3600 NS ns1
@ 3600 NS ns2
ns1 3600 A 192.0.2.53
ns2 3600 A 192.0.2.54
static 60 A 192.0.2.80
"""
PEER_PACKAGES = {
    "gdnsd": ("gdnsd", "gdnsd"),
    "knot": ("knotd", "knot knot-module-geoip", "usr/lib/*/knot/modules-*/geoip.so"),
    "pdns": ("pdns_server", "pdns-server pdns-backend-geoip", "usr/lib/*/pdns/libgeoipbackend.so"),
    "nsd": ("nsd", "nsd"),
}


def run(root: pathlib.Path, args) -> list:
    import dns_figures  # it starts the servers described here

    work = root / "target" / "bench" / "dns"
    work.mkdir(parents=True, exist_ok=True)
    database = city_database(work)
    tools = root / "target" / "release"
    results = []
    for case in args.case or CASES:
        if case in dns_figures.CASES:
            results += dns_figures.CASES[case](work, tools, database, args)
            continue
        for peer in args.peer or PEERS:
            if case == "static" and peer == "echo":
                continue
            seconds = args.seconds
            results.append(alternate(
                case, peer, args.rounds,
                lambda: measure("ours", case, work, tools, database, seconds),
                lambda: measure(peer, case, work, tools, database, seconds),
            ))
    return results


def measure(name: str, case: str, work: pathlib.Path, tools: pathlib.Path, database, seconds: float) -> float:
    """Starts the server, loads it, returns queries answered per second of its CPU."""
    home = work / name
    home.mkdir(exist_ok=True)
    address, port = ADDRESSES[name]
    question = "www.bench.test" if case == "geo" and name != "nsd" else "static.bench.test"
    with Server(name, COMMANDS[name](home, tools, database), home) as server:
        server.wait_ready(lambda: answers(address, port), 60)
        load(tools, address, port, question, case, 0.5)
        before = server.cpu_seconds()
        report = load(tools, address, port, question, case, seconds)
        used = server.cpu_seconds() - before
    if report["answered"] == 0 or (name != "echo" and report["noerror"] < 0.99 * report["answered"]):
        raise Failure(f"{name} does not answer {question}: {report}; see {home}")
    return report["answered"] / used


def load(tools: pathlib.Path, address: str, port: int, question: str, case: str, seconds: float,
         more: list | None = None) -> dict:
    command = ["taskset", "-c", LOAD_CORE, tools / "dnsload", f"{address}:{port}", question,
               "--seconds", seconds, "--subnets", "random" if case == "geo" else "none", "--json", *(more or [])]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"dnsload: {done.stderr.strip()}")
    return json.loads(done.stdout)


def answers(address: str, port: int) -> bool:
    """One SOA query, by hand: readiness must not depend on anybody's client."""
    query = bytes.fromhex("123400000001000000000000") + b"\x05bench\x04test\x00\x00\x06\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.settimeout(0.2)
        sock.connect((address, port))
        sock.send(query)
        return sock.recv(2048)[:2] == query[:2]
    return False


def city_database(work: pathlib.Path) -> pathlib.Path:
    """A freely installable city database in MaxMind's schema (an old one: good enough for speed)."""
    found = next(work.glob("**/GeoLite2-City.mmdb"), None)
    if found:
        return found
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:",
                           "-d", work, "maxminddb-geolite2"], capture_output=True, text=True)
    archive = next(work.glob("maxminddb-geolite2-*.tar.gz"), None)
    if not archive:
        raise Failure(f"no city database; put a GeoLite2-City.mmdb into {work} ({done.stderr.strip()[-200:]})")
    subprocess.run(["tar", "xzf", archive, "-C", work], check=True)
    return next(work.glob("**/GeoLite2-City.mmdb"))


def ours(home, tools, database):
    address, port = ADDRESSES["ours"]
    (home / "bench.test.zone").write_text(ZONE)
    pops = "".join(
        f'[pop.{name}]\nlocation = [{lat}, {lon}]\nipv4 = ["{ip}"]\n' for name, (lat, lon, ip) in POPS.items()
    )
    (home / "nearside.toml").write_text(
        f'version = 1\nfleet = "bench"\n[geoip]\ndatabases = ["{database}"]\n{pops}'
        f'[dns.ns1]\nlisten = ["{address}:{port}"]\nworkers = 1\n'
        f'[service.web]\npops = {json.dumps(list(POPS))}\nchecks = []\nttl = {{ min = "60s", max = "60s" }}\n'
        f'[zone."bench.test"]\nfile = "bench.test.zone"\nnames = {{ www = "web" }}\n'
    )
    return [tools / "nearside-dns", "serve", "--fleet", home / "nearside.toml", "--node", "ns1",
            "--state-dir", home / "state"]


def gdnsd(home, _tools, database):
    address, port = ADDRESSES["gdnsd"]
    etc = home / "etc"
    (etc / "zones").mkdir(parents=True, exist_ok=True)
    (etc / "zones" / "bench.test").write_text(ZONE + "www 60 DYNA geoip!web\n")
    coords = ", ".join(f"{name} => [{lat}, {lon}]" for name, (lat, lon, _) in POPS.items())
    dcmap = ", ".join(f"{name} => {ip}" for name, (_, _, ip) in POPS.items())
    (etc / "config").write_text(
        f'options => {{ listen => "{address}:{port}", udp_threads => 1, tcp_threads => 1,\n'
        f'  run_dir => "{home}/run", state_dir => "{home}/state" }}\n'
        f'plugins => {{ geoip => {{ maps => {{ m => {{ geoip2_db => "{database}",\n'
        f'  datacenters => [{", ".join(POPS)}], auto_dc_limit => 3, auto_dc_coords => {{ {coords} }} }} }},\n'
        f'  resources => {{ web => {{ map => m, dcmap => {{ {dcmap} }} }} }} }} }}\n'
    )
    return [need(*PEER_PACKAGES["gdnsd"]), "-c", etc, "start"]


def knot(home, _tools, database):
    """mod-geoip knows attributes, not distances: continents stand for the nearest PoP."""
    address, port = ADDRESSES["knot"]
    (home / "bench.test.zone").write_text(ZONE + "www 60 A 192.0.2.1\n")
    places = {"EU;*": "fra", "EU;GB": "lon", "AF;*": "fra", "NA;*": "nyc", "SA;*": "nyc", "AS;*": "sin", "OC;*": "syd"}
    (home / "geo.yaml").write_text("www.bench.test:\n" + "".join(
        f'  - geo: "{place}"\n    A: [ {POPS[pop][2]} ]\n' for place, pop in places.items()
    ))
    (home / "knot.conf").write_text(
        f"server:\n  listen: {address}@{port}\n  rundir: {home}\n  udp-workers: 1\n  tcp-workers: 1\n"
        f"  edns-client-subnet: on\ndatabase:\n  storage: {home}\nmod-geoip:\n  - id: geo\n"
        f"    config-file: {home}/geo.yaml\n    ttl: 60\n    mode: geodb\n    geodb-file: {database}\n"
        f"    geodb-key: [ continent/code, country/iso_code ]\nzone:\n  - domain: bench.test\n"
        f"    file: {home}/bench.test.zone\n    module: mod-geoip/geo\n    zonefile-load: whole\n"
        f"    journal-content: none\n"
    )
    return [need(*PEER_PACKAGES["knot"]), "-c", home / "knot.conf"]


def pdns(home, _tools, database):
    address, port = ADDRESSES["pdns"]
    places = {"eu": "fra", "af": "fra", "na": "nyc", "sa": "nyc", "as": "sin", "oc": "syd", "unknown": "fra"}
    records = "".join(f"    {c}.pop.bench.test:\n      - a: {POPS[p][2]}\n" for c, p in places.items())
    (home / "zones.yaml").write_text(
        "domains:\n- domain: bench.test\n  ttl: 60\n  records:\n    bench.test:\n"
        "      - soa: ns1.bench.test hostmaster.bench.test 1 7200 1800 259200 900\n"
        "      - ns: ns1.bench.test\n    static.bench.test:\n      - a: 192.0.2.80\n" + records +
        "  services:\n    www.bench.test: [ '%cn.pop.bench.test', 'unknown.pop.bench.test' ]\n"
    )
    (home / "pdns.conf").write_text(
        f"local-address={address}\nlocal-port={port}\nlaunch=geoip\ngeoip-database-files=mmdb:{database}\n"
        f"geoip-zones-file={home}/zones.yaml\nedns-subnet-processing=yes\nsocket-dir={home}\n"
        f"receiver-threads=1\ndistributor-threads=1\ndaemon=no\nguardian=no\ndisable-syslog=yes\nloglevel=3\n"
    )
    return [need(*PEER_PACKAGES["pdns"]), f"--config-dir={home}"]


def nsd(home, _tools, _database):
    address, port = ADDRESSES["nsd"]
    (home / "bench.test.zone").write_text(ZONE)
    (home / "nsd.conf").write_text(
        f'server:\n  ip-address: {address}@{port}\n  server-count: 1\n  username: ""\n  chroot: ""\n'
        f'  zonesdir: "{home}"\n  database: ""\n  pidfile: "{home}/nsd.pid"\n  xfrdfile: "{home}/xfrd.state"\n'
        f'  xfrdir: "{home}"\n  zonelistfile: "{home}/zone.list"\n  minimal-responses: yes\n  rrl-ratelimit: 0\n'
        f'remote-control:\n  control-enable: no\nzone:\n  name: bench.test\n  zonefile: bench.test.zone\n'
    )
    return [need(*PEER_PACKAGES["nsd"]), "-d", "-c", home / "nsd.conf"]


def echo(_home, tools, _database):
    address, port = ADDRESSES["echo"]
    return [tools / "udpecho", f"{address}:{port}"]


COMMANDS = {"ours": ours, "gdnsd": gdnsd, "knot": knot, "pdns": pdns, "nsd": nsd, "echo": echo}
