"""What a thousand rules cost a request, in time and instructions.

    rules <case> <µs> <instructions>     the rules of one site decide one request; no cache, no origin

The example `rule_bench` is timed by itself, then counted by callgrind. A case past BOUND_US fails the run.
"""
import pathlib
import re
import subprocess

from measure import Failure, need

CASES = ["mixed-10", "exact", "prefix", "suffix", "between", "regex", "header", "country", "mixed"]
PEERS: list[str] = []
BOUND_US = 5.0
BUILD = ["-p", "nearside-edge", "--example", "rule_bench"]
REQUESTS = 2000


def run(root: pathlib.Path, args) -> list:
    bench = root / "target" / "release" / "examples" / "rule_bench"
    timed = subprocess.run([bench], capture_output=True, text=True, check=True).stdout
    times = {name: float(us) for name, us in re.findall(r"^rules (\S+) ([\d.]+)$", timed, re.M)}
    results, slow = [], []
    for case in args.case or CASES:
        count = instructions(bench, root / "target" / "bench" / "rules", case)
        print(f"rules {case} {times[case]:.3f} {count:.0f}", flush=True)
        results.append({"case": case, "us": times[case], "instructions": count})
        if times[case] > BOUND_US:
            slow.append(f"{case}: {times[case]:.2f} µs")
    if slow:
        raise Failure(f"above {BOUND_US} µs: " + "; ".join(slow))
    return results


def instructions(bench: pathlib.Path, work: pathlib.Path, case: str) -> float:
    work.mkdir(parents=True, exist_ok=True)
    out = work / "callgrind.out"
    command = [need("valgrind", "valgrind"), "--tool=callgrind", "--toggle-collect=rule_bench::run",
               f"--callgrind-out-file={out}", bench, case, str(REQUESTS)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"callgrind: {done.stderr.strip()[-400:]}")
    return int(re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M).group(1)) / REQUESTS
