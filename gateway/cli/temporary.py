"""A demo gateway for the length of a command: its own process, on free loopback ports, gone afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from gateway.cli.http import Unreachable

PATIENCE = 20.0  # seconds it may take to come up
_CONFIG = """\
server: {{host: 127.0.0.1, port: {port}, drain_timeout: 1s}}
admin: {{host: 127.0.0.1, port: {admin}}}
access: {{max_streams: 0}}
backends: {{demo: {{driver: demo}}}}
routes: [{{model: "*", to: demo}}]
"""


class Temporary(Struct, frozen=True):
    """A running gateway and its process."""

    url: str
    pid: int

    def cpu(self) -> float | None:
        """Seconds of processor time so far; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def demo_gateway() -> Iterator[Temporary]:
    """Start one, wait until it answers, stop it in the end. Raises Unreachable when it does not come up."""
    with tempfile.TemporaryDirectory(prefix="headgate-") as folder:
        port, admin = _free_ports()
        path = Path(folder) / "gateway.yaml"
        path.write_text(_CONFIG.format(port=port, admin=admin), "utf-8")
        with (Path(folder) / "log").open("wb") as log:
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - ourselves
        try:
            _wait(process, f"http://127.0.0.1:{port}", Path(folder) / "log")
            yield Temporary(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:  # noqa: S310 - loopback
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise Unreachable("the demo gateway did not come up:\n" + log.read_text("utf-8", "replace")[-2000:])
