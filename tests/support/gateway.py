"""The gateway as its users run it: `python -m gateway serve`, its own process, ready when `start_gateway` returns."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from support.process import free_port, stop, wait_until

ROOT = Path(__file__).resolve().parents[2]


class Gateway:
    """A running gateway: `url` is the public listener, `admin_url` the operators'; `file` its configuration, `log` all
    it has said."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin_port: int, log: Path) -> None:
        self.process = process
        self.file = log.with_name("gateway.yaml")
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def healthy(self) -> bool:
        """Does it answer /health? Raises RuntimeError with its log when the process has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the gateway ended with {self.process.returncode}:\n{self.log[-3000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> int:
        """Ask it to end and wait; returns the exit code."""
        return stop(self.process)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()


def start_gateway(config: str, *, env: dict[str, str] | None = None, ports: tuple[int, int] | None = None) -> Gateway:
    """Start with this YAML. `{port}` and `{admin_port}` in it are filled in with `ports`, or free ones; without a
    `server:` or `admin:` section one is added. Raises RuntimeError (with the log) when it ends early, TimeoutError when
    not up."""
    port, admin_port = ports or (free_port(), free_port())
    text = config.replace("{port}", str(port)).replace("{admin_port}", str(admin_port))
    if not any(line.startswith("server:") for line in text.splitlines()):
        text += f"\nserver: {{port: {port}, drain_timeout: 2s}}\n"
    if not any(line.startswith("admin:") for line in text.splitlines()):
        text += f"\nadmin: {{port: {admin_port}}}\n"
    folder = Path(tempfile.mkdtemp(prefix="headgate-test-"))
    path, log = folder / "gateway.yaml", folder / "gateway.log"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    gateway = Gateway(process, port, admin_port, log)
    try:
        wait_until(gateway.healthy, 20, "the gateway is healthy")
    except BaseException:
        stop(process)
        raise
    return gateway
