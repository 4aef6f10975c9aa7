"""Starts a pinned server, reads what CPU time it used, pairs runs into ratios.

CPU time is the kernel's own account (utime + stime, clock ticks) of every process in the server's
session, so worker processes count and load generators don't.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")
SERVER_CORE = "0"
LOAD_CORE = "1"


class Failure(Exception):
    """Something the person running the benchmark has to know or mend."""


def need(program: str, package: str, module: str | None = None) -> str:
    """Path of `program`, installing Debian's `package` where that is allowed.

    `module` is a file pattern below / that must exist as well (a plugin in a package of its own).
    """
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"

    def present() -> str | None:
        complete = module is None or any(pathlib.Path("/").glob(module))
        return shutil.which(program, path=search) if complete else None

    found = present()
    if found:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        with services_held():
            subprocess.run(["apt-get", "update", "-qq"], stdout=subprocess.DEVNULL)
            subprocess.run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *package.split()],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
            )
        found = present()
    if not found:
        raise Failure(f"{program} (or a module of it) is missing; install it with: sudo apt-get install {package}")
    return found


@contextlib.contextmanager
def services_held():
    """Keeps Debian's packages from starting their daemons while they are installed."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink()


class Server:
    """A server process in a session of its own, pinned, stopped by its process group."""

    def __init__(self, name: str, command: list, workdir: pathlib.Path, env: dict | None = None):
        self.name = name
        self.workdir = workdir
        self.log = open(workdir / f"{name}.log", "ab")
        self.process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *map(str, command)],
            cwd=workdir, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, **(env or {})},
        )

    def cpu_seconds(self) -> float:
        ticks = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == self.process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def resident_bytes(self) -> int:
        total = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == self.process.pid:
                    total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return total

    def peak_bytes(self) -> int:
        """Most that was ever resident, of each process of the session."""
        total = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, StopIteration):
                if int(stat.read_text().rsplit(")", 1)[1].split()[3]) == self.process.pid:
                    lines = (stat.parent / "status").read_text().splitlines()
                    total += int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
        return total

    def wait_ready(self, probe, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended at once (status {self.process.returncode}); see {self.log.name}")
            if probe():
                return
            time.sleep(0.05)
        raise Failure(f"{self.name} did not answer within {seconds:g} s; see {self.log.name}")

    def stop(self) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def tcp_open(address: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), 0.2).close()
        return True
    return False


def alternate(case: str, peer: str, rounds: int, ours, theirs) -> dict:
    """Runs the two measurements in turn and prints the ratio line; each returns work per CPU-second."""
    ratios, pairs = [], []
    for turn in range(rounds):
        # The order changes from pair to pair, so that a drifting clock favours nobody.
        if turn % 2 == 0:
            a, b = ours(), theirs()
        else:
            b, a = theirs(), ours()
        pairs.append((a, b))
        ratios.append(a / b)
        print(f"  {case} {peer} {turn + 1}/{rounds}: {a:,.0f} against {b:,.0f} = {a / b:.2f}",
              file=sys.stderr, flush=True)
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(f"ratio {case} {peer} {middle:.2f} {low:.2f} {high:.2f}", flush=True)
    return {"case": case, "peer": peer, "median": middle, "min": low, "max": high, "pairs": pairs}
