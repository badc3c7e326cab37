"""Processes that tests start and end: a free port, waiting with a deadline, stopping by pid."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on at this moment; below those the system hands out by itself, so that no
    other test's server or client gets it before it is used."""
    while True:
        port = random.SystemRandom().randrange(11_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `ready()`; raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes], seconds: float = 10) -> int:
    """SIGTERM, then SIGKILL when it does not end in time. Returns the exit code; idempotent."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def cpu_seconds(group: int) -> float:
    """CPU time the processes of this group have used (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def computes(group: int) -> bool:
    """Whether the processes of this group are at work: watched for half a second."""
    before = cpu_seconds(group)
    time.sleep(0.5)
    return cpu_seconds(group) - before > 0.05
