"""What one answer costs, in instructions: the same on every machine of one kind, whatever else runs there.

The example `answer_bench` runs once under callgrind, which counts inside its `measure` and writes one part per
case. docs/benchmarks.md holds what each case should cost; a case past TOLERANCE of that fails the run, above as a
regression, below because the table then wants mending.
"""
import pathlib
import re
import subprocess
import sys

from measure import Failure, need

CASES = ["geo-a", "geo-aaaa", "geo-https", "geo-plain", "static-soa", "static-ns", "nxdomain", "cookie"]
PEERS: list[str] = []
TOLERANCE = 0.05
BUILD = ["-p", "nearside-dns", "--example", "answer_bench"]


def run(root: pathlib.Path, args) -> list:
    bench = root / "target" / "release" / "examples" / "answer_bench"
    expected = table(root / "docs" / "benchmarks.md")
    counts = instructions(bench, root / "target" / "bench" / "answer")
    wrong, results = [], []
    for case in args.case or CASES:
        count, known = counts[case], expected.get(case)
        print(f"instructions {case} {count:.0f}", flush=True)
        results.append({"case": case, "instructions": count, "expected": known})
        if known is None or abs(count - known) > TOLERANCE * known:
            wrong.append(f"{case}: {count:.0f}, docs/benchmarks.md says {known}")
    times = subprocess.run([bench], capture_output=True, text=True, check=True).stdout
    print(times, end="", file=sys.stderr)
    if wrong:
        raise Failure(f"not within {TOLERANCE:.0%} of what it should cost: " + "; ".join(wrong))
    return results


def table(document: pathlib.Path) -> dict[str, int]:
    """Rows `| case | instructions | ...` of the document."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", document.read_text(), re.M)
    return {case: int(count) for case, count in rows}


def instructions(bench: pathlib.Path, work: pathlib.Path) -> dict[str, float]:
    work.mkdir(parents=True, exist_ok=True)
    for old in work.glob("callgrind.*"):
        old.unlink()
    command = [need("valgrind", "valgrind"), "--tool=callgrind", "--toggle-collect=answer_bench::measure",
               "--dump-after=answer_bench::measure", f"--callgrind-out-file={work}/callgrind.out", bench, "--rounds", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"callgrind: {done.stderr.strip()[-400:]}")
    cases = [line.split()[0] for line in done.stdout.splitlines() if "ns/answer" in line]
    queries = int(re.search(r"^queries (\d+)", done.stdout, re.M).group(1))
    counts = {}
    for number, case in enumerate(cases, 1):
        part = (work / f"callgrind.out.{number}").read_text()
        counts[case] = int(re.search(r"^(?:totals|summary): (\d+)", part, re.M).group(1)) / queries
    return counts
