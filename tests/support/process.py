"""Processes that tests start and end: a free port, waiting with a deadline, stopping by pid."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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
