"""What the shared transcript costs: two gateways side by side on one core and one Redis, one that shares its streams
and one that does not, under the same load at the same time. CPU of each per token, commands and memory of Redis.

Side by side because a machine is never as idle as it was a minute ago: both see the same disturbance. `--pair
auto,survive` compares streams that are shared with those that also survive their node; `off,survive` with neither.

usage: shared.py [--rounds N] [--streams N,N] [--seconds S] [--pair off,auto]
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
from measure import HERE, OPENAI, OUT, PACED, Bench, build, free_port, tree

ENDING = b"9007199254740991-"  # what an entry that ends a log begins with


def spent_us(pid: int) -> float:
    """CPU microseconds of the tree so far, to the nanosecond: with few streams a clock tick is much."""
    tasks = [task for one in tree(pid) for task in Path(f"/proc/{one}/task").iterdir()]
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1000


class Redis:
    """A private server on the cores the gateway does not use."""

    def __init__(self, bench: Bench) -> None:
        self.port = free_port()
        command = [shutil.which("redis-server") or "redis-server", "--port", str(self.port), "--save", ""]
        bench.spawn([*command, "--bind", "127.0.0.1", "--dir", str(OUT)], bench.other_cores, "redis")
        bench.wait_port(self.port)

    def ask(self, *words: str) -> Any:
        """One command; lists as lists."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as link:
            link.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words))
            return self._read(link.makefile("rb"))

    def _read(self, lines: Any) -> Any:
        kind, rest = (line := lines.readline())[:1], line[1:-2]
        if kind == b"*":
            return [self._read(lines) for _ in range(int(rest))]
        if kind == b"$":
            return lines.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        return int(rest) if kind == b":" else rest

    def info(self, section: str) -> dict[str, str]:
        """INFO as a dictionary."""
        text = self.ask("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def calls(self, command: str) -> int:
        """How often a command was called since the last RESETSTAT."""
        said = self.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
        return int(said.split("calls=")[1].split(",")[0])

    def raw_bytes(self, name: str) -> tuple[int, int, int]:
        """Bytes of all transcripts of one gateway, their entries, and the memory of their keys."""
        total = entries = memory = 0
        for key in (k.decode() for k in self.ask("KEYS", f"{name}:log:*")):
            held = self.ask("LRANGE", key, "-2", "-1")
            total += max([int(entry.partition(b"-")[0]) for entry in held if not entry.startswith(ENDING)], default=0)
            entries += self.ask("LLEN", key)
            memory += self.ask("MEMORY", "USAGE", key, "SAMPLES", "0") or 0
        return total, entries, memory


class SharedBench(Bench):
    """The bench with two gateways that differ in one word."""

    def gateway(self, share: str, redis: Redis) -> tuple[int, str]:
        """Start one; (pid, url)."""
        port, name = free_port(), f"share-{share}"
        fill = {"{port}": str(port), "{admin}": str(free_port()), "{mock}": str(self.mock_port), "{mode}": "balanced"}
        text = (HERE / "conf" / "headgate.yaml").read_text(encoding="utf-8")
        for mark, value in fill.items():
            text = text.replace(mark, value)
        if share == "survive":
            assert "to: mock}" in text
            share, text = "auto", text.replace("to: mock}", "to: mock, survive: node}")
        registry = f'{{url: "redis://127.0.0.1:{redis.port}/0", share: {share}, prefix: {name}, timeout: 1s}}'
        written = OUT / f"{name}.yaml"
        written.write_text(f"{text}\nregistry: {registry}\n", encoding="utf-8")
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(written)]
        pid = self.spawn(command, self.gateway_core, name).pid
        self.wait_port(port)
        return pid, f"http://127.0.0.1:{port}{OPENAI}"

    def pair(self, redis: Redis, streams: int, seconds: float, less: str, more: str) -> dict[str, Any]:
        """Both under load; microseconds per token of each, and what the second one did to Redis."""
        redis.ask("FLUSHALL")
        gateways = {share: self.gateway(share, redis) for share in (less, more)}
        try:
            self.pace({**PACED, "tokens": 16, "interval_us": 0})
            for _, url in gateways.values():
                self.result(self.load(url, "--requests", 100, "--concurrency", 10, "--timeout", 20))
            redis.ask("CONFIG", "RESETSTAT")
            self.pace(PACED)
            begin, end = 4.0, seconds - 1
            args = ("--concurrency", streams, "--ramp-ms", 1500, "--duration", seconds, "--window", f"{begin}:{end}")
            loads = {share: self.load(url, *args, "--timeout", 60) for share, (_, url) in gateways.items()}
            time.sleep(begin)
            before, at = {share: spent_us(pid) for share, (pid, _) in gateways.items()}, time.monotonic()
            time.sleep(end - begin)
            spent = {share: spent_us(pid) - before[share] for share, (pid, _) in gateways.items()}
            span = time.monotonic() - at
            raw, entries, memory = redis.raw_bytes(f"share-{more}")
            told = {share: self.result(load) for share, load in loads.items()}
            scripts = redis.calls("evalsha")
        finally:
            for process in [p for p in self.processes if p.pid in {pid for pid, _ in gateways.values()}]:
                self.stop(process)
        tokens = {share: max(1, said["window_tokens"]) for share, said in told.items()}
        cost = {share: spent[share] / tokens[share] for share in tokens}
        return {
            "streams": streams,
            "without_us": cost[less],
            "with_us": cost[more],
            "more": cost[more] / cost[less] - 1,
            "tokens_per_s": tokens[more] / span,
            "entries_per_token": entries / max(1, told[more]["tokens"]),
            "scripts_per_token": scripts / max(1, sum(one["tokens"] for share, one in told.items() if share != "off")),
            "memory_per_raw_byte": memory / max(1, raw),
            "bytes_per_entry": raw / max(1, entries),
            "faults": sum(said[fault] for said in told.values() for fault in measure.FAULTS),
        }


def main() -> None:
    """Each number of streams, in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="10,50,200")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--pair", default="off,auto", help="two of off, auto, survive")
    args = parser.parse_args()
    build()
    bench = SharedBench(free_port())
    rows: list[dict[str, Any]] = []
    less, more = args.pair.split(",")
    sizes = [int(size) for size in args.streams.split(",")]
    try:
        redis = Redis(bench)
        for _ in range(args.rounds):
            for size in sizes:
                rows.append(bench.pair(redis, size, args.seconds, less, more))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    finally:
        for process in list(bench.processes):
            bench.stop(process)
    for size in sizes:
        mine = [row for row in rows if row["streams"] == size]
        said = {key: statistics.median(row[key] for row in mine) for key in mine[0]}
        print(
            f"{size} streams each: {said['without_us']:.1f} us/token {less}, {said['with_us']:.1f} {more} "
            f"({said['more']:+.1%}); "
            f"{said['entries_per_token']:.2f} entries and {said['scripts_per_token']:.3f} scripts a token; "
            f"{said['memory_per_raw_byte']:.2f} bytes of Redis a byte"
        )


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        raise SystemExit(str(error)) from None
