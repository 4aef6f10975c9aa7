"""What gates cost: each by itself in time and instructions, and all of them as a share of a hit.

    gate <name> <µs>               one request through one gate, by the example `gate_bench`: the median of rounds
    instructions <name> <count>    the same under callgrind, which nothing else on the machine disturbs
    ratio gates none <…>           hits of 1 KiB per second of server CPU, all gates but tokens over none; clients show the
                                   secret and ask for an ordinary URL with a query
    figure network-list …          what a million networks cost to read and compile

A count of instructions is that of thousands of requests less the making of four of them: below a thousandth.
"""
import pathlib
import re
import subprocess

import edge
from edge import ADDRESSES, HOST, HTTP, Origin, certificate, client, ours_fleet
from measure import LOAD_CORE, Failure, Server, alternate, need, tcp_open

GATES = ["secret", "network", "place", "rate-limit", "waf", "waf-hostile", "signed-url", "jwt"]
CASES = [*GATES, "throughput", "list"]
PEERS: list[str] = []
BUILD = ["-p", "nearside-edge", "-p", "nearside-bench", "--bins", "--examples"]
# Under callgrind, fifty times slower.
RUNS, SLOW_RUNS = 20_000, {"waf-hostile": 64, "jwt": 1_000}
SECRET = "0123456789abcdef0123456789abcdef"
PATH = "/1024/hit?color=blue&size=XL&utm_source=newsletter&q=O%27Brien+%26+Sons"
SITE = f"""
[site.www.gates.secret]
name = "X-Front"
values = ["{SECRET}", "fedcba9876543210fedcba9876543210"]
[site.www.gates.network]
deny_files = "networks.txt"
[site.www.gates.place]
deny = ["EU-IS", "AN"]
[[site.www.gates.rate]]
rate = "100000000/s"
[site.www.gates.concurrency]
requests = 10000
[site.www.gates.waf]
"""


def run(root: pathlib.Path, args) -> list:
    tools = root / "target" / "release"
    bench = tools / "examples" / "gate_bench"
    work = root / "target" / "bench" / "gates"
    work.mkdir(parents=True, exist_ok=True)
    wanted = args.case or CASES
    results = []
    if any(case in GATES for case in wanted):
        for line in client(["taskset", "-c", LOAD_CORE, str(bench)]).splitlines():
            _, name, each = line.split()
            # Gates that the example knows and this list does not are shown too.
            if not args.case or name in wanted:
                count = instructions(bench, name, work)
                print(f"{line}\ninstructions {name} {count:.0f}", flush=True)
                results.append({"gate": name, "microseconds": float(each), "instructions": count})
    if "list" in wanted:
        line = client([str(bench), "compile"]).strip()
        print(line, flush=True)
        results.append({"figure": line})
    if "throughput" in wanted:
        results.append(throughput(args, work, tools))
    return results


def instructions(bench: pathlib.Path, name: str, work: pathlib.Path) -> float:
    out, runs = work / f"callgrind.{name}", SLOW_RUNS.get(name, RUNS)
    command = [need("valgrind", "valgrind"), "--tool=callgrind", "--toggle-collect=*gate_bench::run*",
               f"--callgrind-out-file={out}", bench, name, runs]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"callgrind: {done.stderr.strip()[-400:]}")
    return int(re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M).group(1)) / runs


def throughput(args, work: pathlib.Path, tools: pathlib.Path) -> dict:
    certificate(work)
    need("wrk", "wrk")
    (work / "networks.txt").write_text(client([str(tools / "examples" / "gate_bench"), "networks"]))
    with Origin(work, tools, 0):
        return alternate(
            "gates", "none", args.rounds,
            lambda: hits(SITE, args.seconds, work, tools),
            lambda: hits("", args.seconds, work, tools),
        )


def hits(gates: str, seconds: float, work: pathlib.Path, tools: pathlib.Path) -> float:
    """Hits per second of the server's CPU."""
    home = work / f"{next(edge.RUNS)}.run"
    home.mkdir(exist_ok=True)
    (home / "networks.txt").unlink(missing_ok=True)
    (home / "networks.txt").symlink_to(work / "networks.txt")
    (home / "nearside.toml").write_text(ours_fleet(home, work, 256) + gates)
    command = [tools / "nearside-edge", "serve", "--fleet", home / "nearside.toml", "--node", "bench",
               "--state-dir", home / "state"]
    address = ADDRESSES["ours"]
    with Server("ours", command, home) as server:
        server.wait_ready(lambda: tcp_open(address, HTTP))
        load(address, 1)
        before = server.cpu_seconds()
        done = load(address, seconds)
        return done / (server.cpu_seconds() - before)


def load(address: str, seconds: float) -> int:
    out = client(["taskset", "-c", LOAD_CORE, "wrk", "-t1", "-c64", f"-d{max(1, round(seconds))}s", "-H", f"Host: {HOST}",
                  "-H", f"X-Front: {SECRET}", "-H", "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0)",
                  "-H", "Referer: https://www.example.org/shop", f"http://{address}:{HTTP}{PATH}"])
    if bad := re.search(r"Non-2xx.*?(\d+)|Socket errors: connect ([1-9]\d*)", out):
        raise Failure(f"gates: {bad.group(0)}")
    return int(re.search(r"(\d+) requests in", out).group(1))
