"""Command line of scripts/bench: picks the suite, builds the binaries once, runs and prints."""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys

import answer
import dns
import edge
import gates
import purge
import rules
from measure import Failure

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUITES = {"answer": answer, "dns": dns, "edge": edge, "gates": gates, "purge": purge, "rules": rules}


def main(doc: str) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    parser.add_argument("--peer", action="append", help="only this peer (may be repeated)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs per case and peer (default 7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write every single run to FILE")
    parser.add_argument("--no-build", action="store_true", help="use the release binaries as they are")
    args = parser.parse_args()
    suite = SUITES[args.suite]
    # Ended from outside, it still stops the servers it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for wanted, known, what in ((args.case, suite.CASES, "case"), (args.peer, suite.PEERS, "peer")):
        for name in wanted or []:
            if name not in known:
                parser.error(f"unknown {what} {name!r}; {args.suite} has: {' '.join(known)}")
    if (os.cpu_count() or 1) < 2:
        print("scripts/bench: needs two cores, one for the server and one for the load", file=sys.stderr)
        return 1
    try:
        if not args.no_build:
            build(suite.BUILD)
        runs = suite.run(ROOT, args)
    except Failure as failure:
        print(f"scripts/bench: {failure}", file=sys.stderr)
        return 1
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(runs, indent=1))
    return 0


def build(what: list[str]) -> None:
    command = ["cargo", "build", "--release", *what]
    print(f"$ {' '.join(command)}", file=sys.stderr, flush=True)
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise Failure("the release build failed")
