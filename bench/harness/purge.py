"""How fast a purge is in force at fifty edges, with real processes: home, three DNS nodes, the edges.

Fifty edges share what fifty machines have each, two cores and a disk: their files lie in memory (/dev/shm) unless
`--case disk` asks for the disk, on which every edge's journal waits for all others'.
"""
import os
import pathlib
import subprocess

from measure import Failure

CASES = ["memory", "disk"]
PEERS: list[str] = []
BUILD = ["-p", "nearside-dns", "-p", "nearside-edge", "-p", "nearside-controller", "-p", "nearside-tests", "--bins"]


def run(root: pathlib.Path, args) -> list:
    results = []
    for case in args.case or ["memory"]:
        where = "/dev/shm" if case == "memory" else os.environ.get("TMPDIR", "/tmp")
        done = subprocess.run([root / "target" / "release" / "purgebench"], env={**os.environ, "TMPDIR": where},
                              stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failure("purgebench failed: see above")
        for line in done.stdout.splitlines():
            print(line if case == "memory" else f"{line} [{case}]", flush=True)
            results.append({"case": case, "line": line})
    return results
