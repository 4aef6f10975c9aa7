"""The edge suite: a cache in front of the same origin, for everyone.

Work is requests finished; all bodies of a case have one size (but for `longtail` and `zipf`, where sizes and order are the
same for everyone), so a ratio of requests is a ratio of bytes. Hits are warmed before the clock starts. HAProxy's cache
keeps whole objects in memory only and Varnish and ATS speak no TLS here: cases a peer cannot do are skipped and said.

Cases that are no ratio of work print `figure <case> <who> <name> <median> <unit>`, ours and each peer's:

    herd               1,000 clients (or NEARSIDE_HERD_CLIENTS) at once on one cold object of 100 MiB, origin's head after 100 ms
    slow-clients       300 clients on files of 50 MB at 900 Mbit/s together
    longtail, zipf     also the share of requests that did not reach the origin
    memory-per-object  what a stored object of 1 KiB adds to the resident memory
    tail               p50 and p99 at 70 % of capacity, ours also while everything is swapped once a second

Every run has a directory of its own, and all are removed at the end: ext4 searches long for inodes when many were just
freed, and charges that to whichever server creates files next.
"""
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request

import idle
import tail
from measure import LOAD_CORE, Failure, Server, alternate, need, tcp_open

HOST = "www.bench.test"
MIB = 1 << 20
# case: (load, path, connections)
HITS = {
    "h1-1k": ("wrk", 1024, 64),
    "h1-32k": ("wrk", 32768, 64),
    "h1-1m": ("wrk", MIB, 32),
    "h1-100m-disk": ("wrk", 100 * MIB, 8),
    "tls-h1-1k": ("wrk-tls", 1024, 64),
    "tls-h1-32k": ("wrk-tls", 32768, 64),
    "tls-h1-1m": ("wrk-tls", MIB, 32),
    "h2-1k": ("h2load", 1024, 8),
    "h2-32k": ("h2load", 32768, 8),
    "h2-1m": ("h2load", MIB, 4),
    "tls-handshake": ("tlsload", 1024, 32),
    "tls-resumed": ("tlsload", 1024, 32),
    "h3-1k": ("h3load", 1024, 8),
    "h3-32k": ("h3load", 32768, 8),
    "h3-1m": ("h3load", MIB, 4),
}
# No peer here speaks HTTP/3: these stand beside our own HTTP/2.
OWN_H2 = {"h3-1k": "h2-1k", "h3-32k": "h2-32k", "h3-1m": "h2-1m"}
# Ratios of work, and figures: see below.
MIXES = ["miss-1k", "longtail", "zipf"]
FIGURES = ["herd", "slow-clients", "memory-per-object", "tail"]
CASES = [*HITS, *MIXES, *FIGURES, "idle"]
PEERS = ["nginx", "varnish", "haproxy", "ats"]
BUILD = ["-p", "nearside-edge", "-p", "nearside-bench"]
ADDRESSES = {name: f"127.0.62.{n}" for n, name in enumerate(["ours", *PEERS], 1)}
ORIGIN = ("127.0.62.30", 9000)
HTTP, HTTPS = 8080, 8443
TLS = ("wrk-tls", "h2load", "h3load", "tlsload")
# The memory tier of everyone; `zipf` asks for six times as much as it holds there.
MEMORY_MIB = {"zipf": 64}
HERD_CLIENTS = int(os.environ.get("NEARSIDE_HERD_CLIENTS", "1000"))
HERD_BYTES, HERD_FIRST_BYTE_MS = 100 * MIB, 100
SLOW_CLIENTS, SLOW_BYTES, SLOW_MBIT, SLOW_SECONDS = 300, 50_000_000, 900, 10
LONGTAIL_SCRIPT = """\
math.randomseed(7)
request = function()
  local item = math.random(5)
  if math.random(100) > 96 then item = 5 + math.random(200) end
  return wrk.format("GET", "/" .. (2048 + item * 512) .. "/item-" .. item)
end
"""
ZIPF_SCRIPT = """\
math.randomseed(7)
local items = 24000
request = function()
  local item = math.floor(items ^ math.random())
  return wrk.format("GET", "/" .. (8192 + item % 17 * 1024) .. "/item-" .. item)
end
"""
MISS_SCRIPT = """\
local n = 0
local base = os.time() .. "-" .. math.random(1000000)
math.randomseed(os.time())
request = function()
  n = n + 1
  return wrk.format("GET", "/1024/" .. base .. "-" .. n)
end
"""


def run(root: pathlib.Path, args) -> list:
    work = root / "target" / "bench" / "edge"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tools = root / "target" / "release"
    certificate(work)
    for program, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        need(program, package)
    results = []
    try:
        for case in args.case or CASES:
            with Origin(work, tools, HERD_FIRST_BYTE_MS if case == "herd" else 0):
                results += run_case(case, args, work, tools)
    finally:
        for home in work.glob("*.run"):
            shutil.rmtree(home, ignore_errors=True)
    return results


def run_case(case: str, args, work: pathlib.Path, tools: pathlib.Path) -> list:
    if case in OWN_H2:
        return beside_own_h2(case, args, work, tools)
    results = []
    peers = []
    for peer in args.peer or PEERS:
        if reason := cannot(peer, case):
            print(f"skipped {case} {peer}: {reason}", flush=True)
        else:
            peers.append(peer)
    if case == "idle":
        return [figure for name in ["ours", *peers] for figure in idle_memory(name, work, tools)]
    if case in FIGURES:
        return figures(case, ["ours", *peers], args.rounds, lambda who: FIGURE_OF[case](who, work, tools))
    for peer in peers:
        results.append(alternate(
            case, peer, args.rounds,
            lambda: measure("ours", case, work, tools, args.seconds),
            lambda: measure(peer, case, work, tools, args.seconds),
        ))
    return results


def beside_own_h2(case: str, args, work: pathlib.Path, tools: pathlib.Path) -> list:
    """Our HTTP/3 against our HTTP/2, and the work itself: requests per second of the server's CPU."""
    result = alternate(
        case, "own-h2", args.rounds,
        lambda: measure("ours", case, work, tools, args.seconds),
        lambda: measure("ours", OWN_H2[case], work, tools, args.seconds),
    )
    each = statistics.median(ours for ours, _ in result["pairs"])
    print(f"figure {case} ours requests {each:.0f} per CPU-second", flush=True)
    return [result]


def idle_memory(name: str, work: pathlib.Path, tools: pathlib.Path) -> list:
    """Prints and returns what idle connections cost, plain and over TLS."""
    idle.raise_file_limit()
    found = []
    for case, port in (("idle-plain", HTTP), ("idle-tls", HTTPS)):
        if name in ("varnish", "ats") and port == HTTPS:
            continue
        with start(name, case, work, tools) as server:
            each = idle.bytes_per_connection(server, (ADDRESSES[name], port), HOST, "/1024/hit", port == HTTPS)
        print(f"figure {case} {name} {each:.0f} B", flush=True)
        found.append({"case": case, "who": name, "bytes": each})
    return found


def figures(case: str, everyone: list, rounds: int, measured) -> list:
    """Measures everyone in turn, `rounds` times, and prints the medians."""
    seen: dict = {}
    for turn in range(rounds):
        for who in everyone if turn % 2 == 0 else reversed(everyone):
            for name, (value, unit) in measured(who).items():
                seen.setdefault((who, name, unit), []).append(value)
                print(f"  {case} {who} {turn + 1}/{rounds}: {name} {value:,.1f} {unit}", file=sys.stderr, flush=True)
    for (who, name, unit), values in seen.items():
        print(f"figure {case} {who} {name} {statistics.median(values):.1f} {unit}", flush=True)
    return [{"case": case, "who": who, "figure": name, "unit": unit, "values": values}
            for (who, name, unit), values in seen.items()]


def cannot(peer: str, case: str) -> str | None:
    load = HITS.get(case, ("wrk", 0, 0))[0]
    if peer in ("varnish", "ats") and (load in TLS or case == "tail"):
        return f"{peer} does not terminate TLS here"
    if peer == "haproxy" and case in ("h1-100m-disk", "herd", "slow-clients"):
        return "HAProxy caches in memory only, and nothing of that size"
    return None


RUNS = itertools.count(1)


def start(name: str, case: str, work: pathlib.Path, tools: pathlib.Path) -> Server:
    """The server with an empty cache, in a directory of its own."""
    home = work / f"{name}-{next(RUNS)}.run"
    home.mkdir(parents=True)
    if tcp_open(ADDRESSES[name], HTTP):
        raise Failure(f"something else listens on {ADDRESSES[name]}:{HTTP}: does another benchmark run?")
    server = Server(name, COMMANDS[name](home, tools, work, MEMORY_MIB.get(case, 1024)), home, ENVIRONMENT.get(name, lambda _: {})(home))
    address = ADDRESSES[name]
    try:
        server.wait_ready(lambda: tcp_open(address, HTTP) and (name in ("varnish", "ats") or tcp_open(address, HTTPS)))
        if name == "ats":
            wait_for_answer(address)
    except BaseException:
        server.stop()
        raise
    return server


def wait_for_answer(address: str) -> None:
    """ATS opens its port before its cache."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return fetch(address, "/16/ready")
        except OSError:
            if time.monotonic() > deadline:
                raise Failure(f"no answer from {address}") from None
            time.sleep(0.1)


def measure(name: str, case: str, work: pathlib.Path, tools: pathlib.Path, seconds: float) -> float:
    """Starts the server with an empty cache, warms it, returns requests per second of its CPU."""
    address = ADDRESSES[name]
    with start(name, case, work, tools) as server:
        if case in HITS:
            path = f"/{HITS[case][1]}/hit"
            for _ in range(3):
                fetch(address, path)
        # A mix has to find its balance first.
        load(case, address, tools, work, seconds if case in ("longtail", "zipf") else min(0.5, seconds))
        before, asked = server.cpu_seconds(), asked_of_origin()
        done = load(case, address, tools, work, seconds)
        used, asked = server.cpu_seconds() - before, asked_of_origin() - asked
    if done == 0 or used == 0:
        raise Failure(f"{name} finished nothing in case {case}; see {server.log.name}")
    if case == "miss-1k" and asked < 0.95 * done:
        raise Failure(f"{name} answered {done} misses with {asked} fetches: it does not miss")
    if case in ("longtail", "zipf"):
        print(f"figure {case} {name} hits {100 * (1 - asked / done):.2f} %", flush=True)
    return done / used


def herd(name: str, work: pathlib.Path, tools: pathlib.Path) -> dict:
    with start(name, "herd", work, tools) as server:
        fetch(ADDRESSES[name], "/1024/warm-up")
        before, asked = server.cpu_seconds(), asked_of_origin()
        report = bodies(name, tools, f"/{HERD_BYTES}/herd", "--clients", HERD_CLIENTS)
        used, asked = server.cpu_seconds() - before, asked_of_origin() - asked
        peak = server.resident_bytes()
    return {
        "origin-fetches": (asked, "fetches"),
        "failed": (report["failed"], "clients"),
        "first-byte-median": (report["first_byte_ms"]["median"], "ms"),
        "first-byte-max": (report["first_byte_ms"]["max"], "ms"),
        "total-median": (report["total_ms"]["median"], "ms"),
        "total-max": (report["total_ms"]["max"], "ms"),
        "cpu": (used, "s"),
        "resident": (peak / MIB, "MiB"),
    }


def slow_clients(name: str, work: pathlib.Path, tools: pathlib.Path) -> dict:
    """Ten files among the clients would be the same to the server: one keeps the load simple."""
    with start(name, "slow-clients", work, tools) as server:
        for _ in range(2):
            fetch(ADDRESSES[name], f"/{SLOW_BYTES}/slow")
        before, began = server.cpu_seconds(), time.monotonic()
        report = bodies(name, tools, f"/{SLOW_BYTES}/slow", "--clients", SLOW_CLIENTS, "--total-mbit", SLOW_MBIT,
                        "--seconds", SLOW_SECONDS)
        used, took = server.cpu_seconds() - before, time.monotonic() - began
        resident = server.resident_bytes()
    return {
        "rate": (report["bytes"] * 8 / 1e6 / took, "Mbit/s"),
        "failed": (report["failed"], "clients"),
        "cpu": (100 * used / took, "% of a core"),
        "resident": (resident / MIB, "MiB"),
    }


def bodies(name: str, tools: pathlib.Path, path: str, *options) -> dict:
    return json.loads(client(["taskset", "-c", LOAD_CORE, str(tools / "bodyload"), f"{ADDRESSES[name]}:{HTTP}", HOST,
                              path, *map(str, options)]))


def memory_per_object(name: str, work: pathlib.Path, tools: pathlib.Path) -> dict:
    with start(name, "memory-per-object", work, tools) as server:
        # Buffers and pools are there already when the first object is counted.
        load("miss-1k", ADDRESSES[name], tools, work, 1)
        before, asked = server.resident_bytes(), asked_of_origin()
        load("miss-1k", ADDRESSES[name], tools, work, 4)
        after, asked = server.resident_bytes(), asked_of_origin() - asked
    return {"resident": ((after - before) / max(1, asked), "bytes"), "objects": (asked, "objects")}


def tail_latency(name: str, work: pathlib.Path, tools: pathlib.Path) -> dict:
    url = [f"--connect-to={ADDRESSES[name]}:{HTTPS}", f"https://{HOST}:{HTTPS}/1024/hit"]
    seconds, log = 5, work / "tail.log"
    with start(name, "tail", work, tools) as server:
        for _ in range(3):
            fetch(ADDRESSES[name], "/1024/hit")
        rate = tail.SHARE * tail.capacity(client, url, 2)
        found = tail.latencies(client, url, rate, seconds, log)
        if name == "ours":
            with tail.Swaps(lambda turn: swap_ours(server.workdir, work, turn)) as swaps:
                swapping = tail.latencies(client, url, rate, seconds, log)
            found |= {f"swapping-{figure}": value for figure, value in swapping.items() if figure != "rate"}
            found["swaps"] = (swaps.count, "swaps")
    return found


def swap_ours(home: pathlib.Path, work: pathlib.Path, turn: int) -> None:
    """Another certificate, another limit, another origin timeout, one site more or less."""
    number = turn % 2
    for kind in ("cert", "key"):
        fresh = home / f"{kind}.new"
        fresh.write_bytes((work / f"{kind}{number or ''}.pem").read_bytes())
        fresh.replace(work / f"live-{kind}.pem")
    fleet = home / "nearside.toml"
    text = ours_fleet(home, work, 1024).replace(
        f'origin = "http://{ORIGIN[0]}:{ORIGIN[1]}"',
        f'origin = {{ url = "http://{ORIGIN[0]}:{ORIGIN[1]}", first_byte_timeout = "{20 + number}s" }}\n'
        f"limits = {{ requests_max = {50_000 + number} }}",
    )
    if number:
        text += f'[site.more]\nhosts = ["more.bench.test"]\norigin = "http://{ORIGIN[0]}:{ORIGIN[1]}"\n'
    fresh = home / "nearside.new"
    fresh.write_text(text)
    fresh.replace(fleet)


FIGURE_OF = {
    "tail": tail_latency,
    "herd": herd,
    "slow-clients": slow_clients,
    "memory-per-object": memory_per_object,
}


def asked_of_origin() -> int:
    with urllib.request.urlopen(f"http://{ORIGIN[0]}:{ORIGIN[1]}/count", timeout=10) as answer:
        return int(answer.read())


def load(case: str, address: str, tools: pathlib.Path, work: pathlib.Path, seconds: float) -> int:
    """Requests finished well; a single failed one is a Failure."""
    kind, size, connections = HITS.get(case, ("wrk-script", 1024, 64))
    path = f"/{size}/hit"
    pin = ["taskset", "-c", LOAD_CORE]
    if kind.startswith("wrk"):
        scheme, port = ("https", HTTPS) if kind == "wrk-tls" else ("http", HTTP)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-H", f"Host: {HOST}"]
        if kind == "wrk-script":
            script = work / f"{case}.lua"
            script.write_text({"longtail": LONGTAIL_SCRIPT, "zipf": ZIPF_SCRIPT}.get(case, MISS_SCRIPT))
            command += ["-s", str(script)]
        out = client([*pin, *command, f"{scheme}://{address}:{port}{path}"])
        if bad := re.search(r"Non-2xx.*?(\d+)|Socket errors: connect ([1-9]\d*)", out):
            raise Failure(f"{case}: {bad.group(0)}")
        return int(re.search(r"(\d+) requests in", out).group(1))
    if kind == "h3load":
        report = json.loads(client([*pin, str(tools / "h3load"), f"{address}:{HTTPS}", HOST, path, "-c",
                                    str(connections), "-m", "16", "--seconds", str(seconds), "--json"]))
        if report["failed"]:
            raise Failure(f"{case}: {report}")
        return report["done"]
    if kind == "h2load":
        out = client([*pin, "h2load", "-t1", f"-c{connections}", "-m16", "-D", str(max(1, round(seconds))),
                      "--warm-up-time=0", f"--connect-to={address}:{HTTPS}", f"https://{HOST}:{HTTPS}{path}"])
        done, failed = (int(re.search(rf"(\d+) {word}", out).group(1)) for word in ("succeeded", "failed"))
        if failed:
            raise Failure(f"{case}: {failed} requests failed\n{out}")
        return done
    command = [*pin, str(tools / "tlsload"), f"{address}:{HTTPS}", HOST, path, "--seconds", str(seconds), "--json"]
    report = json.loads(client(command + (["--resume"] if case == "tls-resumed" else [])))
    wanted = report["done"] if case == "tls-resumed" else 0
    if report["failed"] or report["resumed"] < 0.7 * wanted:
        raise Failure(f"{case}: {report}")
    return report["done"]


def client(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def fetch(address: str, path: str) -> None:
    """One whole GET over plain HTTP."""
    request = urllib.request.Request(f"http://{address}:{HTTP}{path}", headers={"Host": HOST})
    with urllib.request.urlopen(request, timeout=60) as answer:
        while answer.read(MIB):
            pass


class Origin:
    """The origin shared by everybody; it runs on the load's core, away from the measured one."""

    def __init__(self, work: pathlib.Path, tools: pathlib.Path, first_byte_ms: int):
        address, port = ORIGIN
        self.log = open(work / "origin.log", "ab")
        self.process = subprocess.Popen(
            ["taskset", "-c", LOAD_CORE, tools / "benchorigin", f"{address}:{port}",
             "--first-byte-ms", str(first_byte_ms)],
            stdout=self.log, stderr=self.log,
        )
        deadline = time.monotonic() + 10
        while not tcp_open(address, port):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Failure(f"the origin did not start; see {self.log.name}")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def certificate(work: pathlib.Path) -> None:
    """An ECDSA P-256 certificate, the same for everybody."""
    if (work / "both.pem").exists():
        return
    client([
        need("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "30", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
        "-keyout", str(work / "key.pem"), "-out", str(work / "cert.pem"),
    ])
    (work / "both.pem").write_text((work / "cert.pem").read_text() + (work / "key.pem").read_text())
    # A second one, for swaps; nearside is shown copies.
    client([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
        "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
        "-keyout", str(work / "key1.pem"), "-out", str(work / "cert1.pem"),
    ])
    for kind in ("cert", "key"):
        shutil.copy(work / f"{kind}.pem", work / f"live-{kind}.pem")


def ours_fleet(home, work, memory_mib):
    address = ADDRESSES["ours"]
    return (
        f'version = 1\nfleet = "bench"\n[pop.bench]\nlocation = [50.11, 8.68]\nipv4 = ["{address}"]\n'
        f'http = ["{address}:{HTTP}"]\nhttps = ["{address}:{HTTPS}"]\nhttp3 = true\nworkers = 1\n'
        f'memory = "{memory_mib}MiB"\ncache_dir = "{home}/cache"\ndisk = "8GiB"\n'
        f'[site.www]\nhosts = ["{HOST}"]\norigin = "http://{ORIGIN[0]}:{ORIGIN[1]}"\n'
        f'tls = {{ certificate = "{work}/live-cert.pem", key = "{work}/live-key.pem" }}\nhttp3 = true\n'
    )


def ours(home, tools, work, memory_mib):
    (home / "nearside.toml").write_text(ours_fleet(home, work, memory_mib))
    return [tools / "nearside-edge", "serve", "--fleet", home / "nearside.toml", "--node", "bench",
            "--state-dir", home / "state"]


def nginx(home, _tools, work, _memory_mib):
    """Its memory is the page cache, which no bound holds: in case `zipf` all of it fits there."""
    address = ADDRESSES["nginx"]
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(f"""\
{user}
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 100000000;
  keepalive_timeout 300s; default_type application/octet-stream;
  open_file_cache max=10000 inactive=300s; open_file_cache_valid 300s;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  proxy_cache_path {home}/cache levels=1:2 keys_zone=c:256m max_size=8g inactive=1h use_temp_path=off;
  proxy_max_temp_file_size 0;
  upstream origin {{ server {ORIGIN[0]}:{ORIGIN[1]}; keepalive 128; }}
  server {{
    listen {address}:{HTTP} reuseport; listen {address}:{HTTPS} ssl http2 reuseport;
    http2_max_concurrent_streams 256;
    ssl_certificate {work}/cert.pem; ssl_certificate_key {work}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:16m; ssl_session_tickets on;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_cache c; proxy_cache_lock on; proxy_cache_lock_timeout 120s; proxy_cache_lock_age 120s; proxy_cache_background_update on;
      proxy_cache_use_stale updating error timeout; add_header X-Cache-Status $upstream_cache_status;
    }}
  }}
}}
""")
    return [need("nginx", "nginx-light"), "-p", home, "-c", home / "nginx.conf"]


def varnish(home, _tools, _work, memory_mib):
    (home / "default.vcl").write_text(
        'vcl 4.1;\nbackend default { .host = "%s"; .port = "%d"; .max_connections = 256; }\n' % ORIGIN
    )
    return [need("varnishd", "varnish"), "-F", "-n", home / "n", "-a", f"{ADDRESSES['varnish']}:{HTTP}",
            "-f", home / "default.vcl", "-s", f"malloc,{memory_mib}M", "-p", "default_ttl=0", "-p", "thread_pools=1",
            "-p", "thread_pool_min=100"]


def haproxy(home, _tools, work, memory_mib):
    """maxconn stays below 9000 (open files are limited); the object limit fits one MiB and its head."""
    address = ADDRESSES["haproxy"]
    (home / "haproxy.cfg").write_text(f"""\
global
  nbthread 1
  maxconn 8000
  tune.ssl.default-dh-param 2048
  tune.h2.max-concurrent-streams 256
defaults
  mode http
  timeout client 300s
  timeout server 60s
  timeout connect 5s
  http-reuse always
cache c
  total-max-size {memory_mib}
  max-object-size 4000000
  max-age 3600
  process-vary on
frontend f
  bind {address}:{HTTP}
  bind {address}:{HTTPS} ssl crt {work}/both.pem alpn h2,http/1.1
  http-request cache-use c
  http-response cache-store c
  default_backend b
backend b
  server origin {ORIGIN[0]}:{ORIGIN[1]} pool-max-conn 256
""")
    return [need("haproxy", "haproxy"), "-f", home / "haproxy.cfg"]


def ats(home, _tools, _work, memory_mib):
    """One event thread; the directories of an installation are named by a runroot file."""
    for name in ("etc", "run", "log", "cache"):
        (home / name).mkdir()
    (home / "runroot.yaml").write_text("".join(f"{name}: {path}\n" for name, path in {
        "prefix": home, "exec_prefix": "/usr", "bindir": "/usr/bin", "sbindir": "/usr/bin", "sysconfdir": home / "etc",
        "datadir": home / "cache", "includedir": "/usr/include", "libdir": "/usr/lib",
        "libexecdir": "/usr/lib/trafficserver/modules", "localstatedir": home, "runtimedir": home / "run",
        "logdir": home / "log", "cachedir": home / "cache",
    }.items()))
    (home / "etc" / "records.config").write_text("".join(f"CONFIG proxy.config.{line}\n" for line in (
        f"http.server_ports STRING {HTTP}:ip-in={ADDRESSES['ats']}",
        "exec_thread.autoconfig INT 0", "exec_thread.limit INT 1", "accept_threads INT 0", "task_threads INT 1",
        "admin.user_id STRING #-1", f"cache.ram_cache.size INT {memory_mib * MIB}", "log.logging_enabled INT 0",
        "url_remap.pristine_host_hdr INT 1", "http.wait_for_cache INT 1", "http.cache.required_headers INT 2",
        "http.keep_alive_no_activity_timeout_in INT 300", "cache.enable_read_while_writer INT 1",
        "http.background_fill_completed_threshold FLOAT 0.0", "http.background_fill_active_timeout INT 0",
        "cache.max_doc_size INT 0", "cache.min_average_object_size INT 2000",
        "http.cache.open_read_retry_time INT 10", "http.cache.max_open_read_retries INT 10000",
    )))
    (home / "etc" / "remap.config").write_text(f"map / http://{ORIGIN[0]}:{ORIGIN[1]}/\n")
    (home / "etc" / "storage.config").write_text(f"{home}/cache 4G\n")
    (home / "etc" / "ip_allow.yaml").write_text(
        "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.0/8\n    action: allow\n    methods: ALL\n"
        "  - apply: out\n    ip_addrs: 127.0.0.0/8\n    action: allow\n    methods: ALL\n"
    )
    return [need("traffic_server", "trafficserver")]


# What a server is told by its environment.
ENVIRONMENT = {"ats": lambda home: {"TS_RUNROOT": str(home / "runroot.yaml")}}
COMMANDS = {"ours": ours, "nginx": nginx, "varnish": varnish, "haproxy": haproxy, "ats": ats}
