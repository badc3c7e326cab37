"""Real Redis topologies for tests: a primary with a replica under a Sentinel, and a cluster of primaries."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from support.process import free_port, wait_until
from support.redis_server import BINARY, RedisServer


class Sentinelled:
    """One primary, one replica, one Sentinel that fails over after 600 ms. `url` is the gateway's."""

    def __init__(self) -> None:
        self.primary, self.replica = RedisServer(), RedisServer()
        self._port = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{self._port}/main"
        self._folder = tempfile.TemporaryDirectory(prefix="sentinel-test-")
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.primary)
        self._stack.enter_context(self.replica)
        self.replica.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        self.primary.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        self.replica.command("REPLICAOF", "127.0.0.1", str(self.primary.port))
        wait_until(
            lambda: "master_link_status:up" in self.replica.command("INFO", "replication"), 8, "the replica follows"
        )
        path = Path(self._folder.name) / "sentinel.conf"
        path.write_text(
            f"port {self._port}\nbind 127.0.0.1\ndir {self._folder.name}\n"
            f"sentinel monitor main 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds main 600\nsentinel failover-timeout main 3000\n"
        )
        self._process = subprocess.Popen(
            [str(BINARY), str(path), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(
            lambda: b"num-slaves\r\n$1\r\n1" in self.ask("SENTINEL MASTER main"), 15, "Sentinel knows the replica"
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._stack.close()
        self._folder.cleanup()

    def ask(self, line: str) -> bytes:
        """One command to the Sentinel; b"" while it does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=2) as connection:
                connection.sendall(line.encode() + b"\r\n")
                time.sleep(0.05)
                return connection.recv(65536)
        except OSError:
            return b""


class Cluster:
    """Three primaries without replicas, a third of the slots each. `url` names only the first."""

    def __init__(self) -> None:
        self.nodes = [RedisServer(options=self._options()) for _ in range(3)]
        self.url = f"redis+cluster://127.0.0.1:{self.nodes[0].port}"
        self._stack = ExitStack()

    @staticmethod
    def _options() -> tuple[str, ...]:
        return (
            "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1000",
            "--cluster-require-full-coverage", "no",
        )  # fmt: skip

    def __enter__(self) -> Self:
        for node in self.nodes:
            self._stack.enter_context(node)
        thirds = ((0, 5461), (5462, 10922), (10923, 16383))
        for i, (node, (first, last)) in enumerate(zip(self.nodes, thirds, strict=True)):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
            node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for other in self.nodes[1:]:
            self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", str(other.port), other.options[3])
        wait_until(self._whole, 20, "the cluster is whole")
        return self

    def _whole(self) -> bool:
        told = [node.command("CLUSTER", "INFO") for node in self.nodes]
        return all("cluster_state:ok" in t and "cluster_slots_ok:16384" in t for t in told)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
