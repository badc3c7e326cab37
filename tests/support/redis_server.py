"""A private, real redis-server for tests: free port, no persistence, and hands to hurt it with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType

from support.process import free_port

BINARY = shutil.which("redis-server")


class RedisServer:
    """Context manager; `url` stays the same over `kill` and `restart`."""

    def __init__(
        self,
        *,
        started: bool = True,
        cluster: bool = False,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"redis+cluster://127.0.0.1:{self.port}" if cluster else f"redis://127.0.0.1:{self.port}/0"
        self._started = started
        self._cluster = cluster
        self.options = options
        self._env = {**os.environ, **(env or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="redis-test-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        if self._started:
            self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError when it does not within 5 s."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += self.options
        if self._cluster:
            options += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        self._process = subprocess.Popen(
            [str(BINARY), *options, "--dir", self._folder.name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._env,
        )
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                if self.command("PING").startswith("+PONG"):
                    return self._own_all_slots() if self._cluster else None
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def _own_all_slots(self) -> None:
        """A cluster of one: every slot is here."""
        self.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        while "cluster_state:ok" not in self.command("CLUSTER", "INFO"):
            time.sleep(0.02)

    def command(self, *words: str, patience: float = 2) -> str:
        """Send one command over a connection of its own; the raw answer (its first 64 KiB)."""
        parts = [f"*{len(words)}\r\n", *(f"${len(w.encode())}\r\n{w}\r\n" for w in words)]
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as connection:
            connection.sendall("".join(parts).encode())
            return connection.recv(65536).decode()

    def slow_command(self, *words: str) -> str:
        """`command` for one that takes long; waits up to a minute."""
        return self.command(*words, patience=60)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill and start empty on the same port."""
        self.kill()
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
