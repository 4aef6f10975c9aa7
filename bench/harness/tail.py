"""Latency at 70 % of capacity: requests sent at a steady rate, whatever the server does, over TLS and HTTP/2.

Capacity is what the same client gets in a closed loop from the same server just before. Latency is h2load's, from the
request's turn to its last byte. `swapping` is the same while site, origin settings, limits and certificate are
replaced once a second.
"""
import pathlib
import re
import threading

from measure import LOAD_CORE

SHARE = 0.7
CLIENTS, STREAMS = 8, 16
# A quarter of a second at the beginning is the connections' own.
SETTLING = 0.25


def capacity(run, url: list, seconds: float) -> float:
    """Requests per second in a closed loop."""
    out = run(["taskset", "-c", LOAD_CORE, "h2load", "-t1", f"-c{CLIENTS}", f"-m{STREAMS}", "-D",
               str(max(1, round(seconds))), "--warm-up-time=0", *url])
    return float(re.search(r"finished in [\d.]+s, ([\d.]+) req/s", out).group(1))


def latencies(run, url: list, rate: float, seconds: float, log: pathlib.Path) -> dict:
    """p50 and p99 in microseconds at `rate` requests per second, and how many failed."""
    log.unlink(missing_ok=True)
    out = run(["taskset", "-c", LOAD_CORE, "h2load", "-t1", f"-c{CLIENTS}", f"-m{STREAMS}", "-D",
               str(max(2, round(seconds))), "--warm-up-time=0", f"--rps={rate / CLIENTS:.0f}",
               f"--log-file={log}", *url])
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    begin = min(int(line[0]) for line in lines) + SETTLING * 1e6
    took = sorted(int(line[2]) for line in lines if int(line[0]) >= begin)
    failed = int(re.search(r"(\d+) failed", out).group(1))
    return {
        "rate": (rate, "requests/s"),
        "p50": (took[len(took) // 2], "us"),
        "p99": (took[len(took) * 99 // 100], "us"),
        "failed": (failed, "requests"),
    }


class Swaps:
    """Calls `swap` once a second until left."""

    def __init__(self, swap):
        self.done = threading.Event()
        self.count = 0
        self.swap = swap
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        while not self.done.wait(1):
            self.count += 1
            self.swap(self.count)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
