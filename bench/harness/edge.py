"""The edge suite: a cache in front of the same origin, for everyone.

Work is requests finished; all bodies of a case have one size, so a ratio of requests is a ratio of bytes.
Hits are warmed before the clock starts. HAProxy's cache keeps whole objects in memory only and Varnish
speaks no TLS here: cases a peer cannot do are skipped and said.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

import idle
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
}
CASES = [*HITS, "miss-1k", "idle"]
BUILD = ["-p", "nearside-edge", "-p", "nearside-bench"]
PEERS = ["nginx", "varnish", "haproxy"]
ADDRESSES = {name: f"127.0.62.{n}" for n, name in enumerate(["ours", *PEERS], 1)}
ORIGIN = ("127.0.62.30", 9000)
HTTP, HTTPS = 8080, 8443
TLS = ("wrk-tls", "h2load", "tlsload")
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
    work.mkdir(parents=True, exist_ok=True)
    tools = root / "target" / "release"
    certificate(work)
    for program, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        need(program, package)
    results = []
    with Origin(work, tools):
        for case in args.case or CASES:
            if case == "idle":
                results += [figure for name in ["ours", *(args.peer or PEERS)] for figure in idle_memory(name, work, tools)]
                continue
            for peer in args.peer or PEERS:
                if reason := cannot(peer, case):
                    print(f"skipped {case} {peer}: {reason}", flush=True)
                    continue
                results.append(alternate(
                    case, peer, args.rounds,
                    lambda: measure("ours", case, work, tools, args.seconds),
                    lambda: measure(peer, case, work, tools, args.seconds),
                ))
    return results


def idle_memory(name: str, work: pathlib.Path, tools: pathlib.Path) -> list:
    """Prints and returns what idle connections cost, plain and over TLS."""
    idle.raise_file_limit()
    figures = []
    for case, port in (("idle-plain", HTTP), ("idle-tls", HTTPS)):
        if name == "varnish" and port == HTTPS:
            continue
        home = work / name
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        with Server(name, COMMANDS[name](home, tools, work), home) as server:
            server.wait_ready(lambda: tcp_open(ADDRESSES[name], port))
            each = idle.bytes_per_connection(server, (ADDRESSES[name], port), HOST, "/1024/hit", port == HTTPS)
        print(f"figure {case} {name} {each:.0f} B", flush=True)
        figures.append({"case": case, "who": name, "bytes": each})
    return figures


def cannot(peer: str, case: str) -> str | None:
    load = HITS.get(case, ("wrk", 0, 0))[0]
    if peer == "varnish" and load in TLS:
        return "Varnish does not terminate TLS"
    if peer == "haproxy" and case == "h1-100m-disk":
        return "HAProxy caches in memory only"
    return None


def measure(name: str, case: str, work: pathlib.Path, tools: pathlib.Path, seconds: float) -> float:
    """Starts the server with an empty cache, warms it, returns requests per second of its CPU."""
    home = work / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    address = ADDRESSES[name]
    with Server(name, COMMANDS[name](home, tools, work), home) as server:
        server.wait_ready(lambda: tcp_open(address, HTTP) and (name == "varnish" or tcp_open(address, HTTPS)))
        if case in HITS:
            path = f"/{HITS[case][1]}/hit"
            for _ in range(3):
                fetch(address, path)
        load(case, address, tools, work, min(0.5, seconds))
        before = server.cpu_seconds()
        done = load(case, address, tools, work, seconds)
        used = server.cpu_seconds() - before
    if done == 0 or used == 0:
        raise Failure(f"{name} finished nothing in case {case}; see {home}")
    return done / used


def load(case: str, address: str, tools: pathlib.Path, work: pathlib.Path, seconds: float) -> int:
    """Requests finished well; a single failed one is a Failure."""
    kind, size, connections = HITS.get(case, ("wrk-miss", 1024, 64))
    path = f"/{size}/hit"
    pin = ["taskset", "-c", LOAD_CORE]
    if kind.startswith("wrk"):
        scheme, port = ("https", HTTPS) if kind == "wrk-tls" else ("http", HTTP)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-H", f"Host: {HOST}"]
        if kind == "wrk-miss":
            (work / "miss.lua").write_text(MISS_SCRIPT)
            command += ["-s", str(work / "miss.lua")]
        out = client([*pin, *command, f"{scheme}://{address}:{port}{path}"])
        if bad := re.search(r"Non-2xx.*?(\d+)|Socket errors: connect ([1-9]\d*)", out):
            raise Failure(f"{case}: {bad.group(0)}")
        return int(re.search(r"(\d+) requests in", out).group(1))
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

    def __init__(self, work: pathlib.Path, tools: pathlib.Path):
        address, port = ORIGIN
        self.log = open(work / "origin.log", "ab")
        self.process = subprocess.Popen(
            ["taskset", "-c", LOAD_CORE, tools / "benchorigin", f"{address}:{port}"],
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


def ours(home, tools, work):
    address = ADDRESSES["ours"]
    (home / "nearside.toml").write_text(
        f'version = 1\nfleet = "bench"\n[pop.bench]\nlocation = [50.11, 8.68]\nipv4 = ["{address}"]\n'
        f'http = ["{address}:{HTTP}"]\nhttps = ["{address}:{HTTPS}"]\nworkers = 1\n'
        f'memory = "1GiB"\ncache_dir = "{home}/cache"\ndisk = "8GiB"\n'
        f'[site.www]\nhosts = ["{HOST}"]\norigin = "http://{ORIGIN[0]}:{ORIGIN[1]}"\n'
        f'tls = {{ certificate = "{work}/cert.pem", key = "{work}/key.pem" }}\n'
    )
    return [tools / "nearside-edge", "serve", "--fleet", home / "nearside.toml", "--node", "bench",
            "--state-dir", home / "state"]


def nginx(home, _tools, work):
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
  proxy_cache_path {home}/cache levels=1:2 keys_zone=c:64m max_size=8g inactive=1h use_temp_path=off;
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
      proxy_cache c; proxy_cache_lock on; proxy_cache_background_update on;
      proxy_cache_use_stale updating error timeout; add_header X-Cache-Status $upstream_cache_status;
    }}
  }}
}}
""")
    return [need("nginx", "nginx-light"), "-p", home, "-c", home / "nginx.conf"]


def varnish(home, _tools, _work):
    (home / "default.vcl").write_text(
        'vcl 4.1;\nbackend default { .host = "%s"; .port = "%d"; .max_connections = 256; }\n' % ORIGIN
    )
    return [need("varnishd", "varnish"), "-F", "-n", home / "n", "-a", f"{ADDRESSES['varnish']}:{HTTP}",
            "-f", home / "default.vcl", "-s", "malloc,2G", "-p", "default_ttl=0", "-p", "thread_pools=1",
            "-p", "thread_pool_min=100"]


def haproxy(home, _tools, work):
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
  total-max-size 1024
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


COMMANDS = {"ours": ours, "nginx": nginx, "varnish": varnish, "haproxy": haproxy}
