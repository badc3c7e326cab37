"""`make bench`: nginx, a plain aiohttp proxy and Headgate between the same mock and the same client; one table.

The gateway has one core, mock and client the others. CPU is user + system time of the gateway's process tree over a
window inside the load, divided by the tokens the client received in that window; of short requests (16 tokens at once,
kept connections) over all of them, divided by their number. Added latency is against a direct run
without a gateway. A row whose tokens/s is below 99 % of nominal is marked `!`:
the machine was disturbed, its CPU figure is too good.

usage: measure.py [--only NAME,NAME] [--rounds N] [--quick] [--mock-port P]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
OPENAI, NATIVE = "/v1/chat/completions", "/api/streaming/chat"
NATIVE_BODY = '{"model":"mock","messages":[{"role":"user","content":"hi"}]}'
# name -> (program, path, mode)
GATEWAYS = {
    "nginx": ("nginx", OPENAI, ""),
    "bare aiohttp": ("bare", OPENAI, ""),
    "passthrough immediate": ("headgate", OPENAI, "immediate"),
    "passthrough balanced": ("headgate", OPENAI, "balanced"),
    "native immediate": ("headgate", NATIVE, "immediate"),
    "native balanced": ("headgate", NATIVE, "balanced"),
}
PACED = {"tokens": 100_000, "interval_us": 20_000, "ttft_us": 0, "burst": 1}  # 50 tokens a second
SHORT = {"tokens": 16, "interval_us": 0, "ttft_us": 0, "burst": 1}
ABORT = {"tokens": 1_000, "interval_us": 20_000, "ttft_us": 0, "burst": 1}
IDLE = {"tokens": 1_000, "interval_us": 2_000_000, "ttft_us": 0, "burst": 1}
FAULTS = ("failed", "lost", "dup", "reordered", "socket_errors", "timeouts", "bad_status", "wrong_tokens")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    parent: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = {pid}
    while grown := {child for child, of in parent.items() if of in found} - found:
        found |= grown
    return sorted(found)


def usage(pid: int) -> tuple[float, int]:
    """(CPU microseconds, resident bytes) of the tree; (0, 0) for pid 0, the direct run."""
    cpu, resident = 0.0, 0
    for one in tree(pid) if pid else []:
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        cpu += (int(fields[11]) + int(fields[12])) * TICK_US
        resident += int(fields[21]) * PAGE
    return cpu, resident


class Bench:
    """The mock, the client and one gateway at a time."""

    def __init__(self, mock_port: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.gateway_core, self.other_cores = (
            ({cores[-1]}, set(cores[:-1])) if len(cores) > 1 else (set(cores), set(cores))
        )
        self.mock_port = mock_port
        self.processes: list[subprocess.Popen[bytes]] = []
        self.spawn([str(OUT / "mockllm"), "--port", str(mock_port)], self.other_cores, "mock")
        self.wait_port(mock_port)

    def spawn(self, command: list[str], cores: set[int], log: str) -> subprocess.Popen[bytes]:
        with (OUT / f"{log}.log").open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=HERE.parent)
        os.sched_setaffinity(process.pid, cores)
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        pids = tree(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            process.wait()
        self.processes.remove(process)

    def mock(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.mock_port}{path}", timeout=20) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def wait_port(self, port: int) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"nothing listens on {port}; see {OUT}")

    def start(self, name: str) -> tuple[int, str]:
        """Start a gateway; (pid, url). `direct` is no gateway: pid 0."""
        if name == "direct":
            return 0, f"http://127.0.0.1:{self.mock_port}{OPENAI}"
        program, path, mode = GATEWAYS[name]
        port = free_port()
        fill = {"{port}": str(port), "{admin}": str(free_port()), "{mock}": str(self.mock_port), "{mode}": mode}
        source = {"nginx": "nginx.conf", "headgate": "headgate.yaml"}.get(program)
        written = OUT / (source or "none")
        if source:
            text = (HERE / "conf" / source).read_text(encoding="utf-8")
            for mark, value in fill.items():
                text = text.replace(mark, value)
            written.write_text(text, encoding="utf-8")
        command = {
            "nginx": [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(OUT), "-c", str(written)],
            "bare": [sys.executable, str(HERE / "bare.py"), str(port), str(self.mock_port)],
            "headgate": [sys.executable, "-m", "gateway", "serve", "--config", str(written)],
        }[program]
        pid = self.spawn(command, self.gateway_core, name.replace(" ", "-")).pid
        self.wait_port(port)
        return pid, f"http://127.0.0.1:{port}{path}"

    def load(self, url: str, *args: object) -> subprocess.Popen[bytes]:
        command = [str(OUT / "loadllm"), "--url", url, *map(str, args)]
        if NATIVE in url:
            command += ["--body", str(OUT / "native.json")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.sched_setaffinity(process.pid, self.other_cores)
        return process

    def pace(self, pace: dict[str, int]) -> None:
        self.mock("/config?" + "&".join(f"{key}={value}" for key, value in pace.items()))

    def settle(self) -> None:
        deadline = time.monotonic() + 20
        while self.mock("/stats")["active"] and time.monotonic() < deadline:
            time.sleep(0.2)

    def throughput(self, pid: int, url: str, streams: int, seconds: float) -> dict[str, Any]:
        """Paced streams: CPU per token, token latency, faults."""
        self.pace(PACED)
        begin, end = 4.0, seconds - 1
        client = self.load(
            url,
            "--concurrency",
            streams,
            "--ramp-ms",
            1500,
            "--duration",
            seconds,
            "--window",
            f"{begin}:{end}",
            "--timeout",
            60,
        )
        time.sleep(begin)
        before, at = usage(pid)[0], time.monotonic()
        time.sleep(end - begin)
        spent, span = usage(pid)[0] - before, time.monotonic() - at
        told = self.result(client)
        tokens = max(1, told["window_tokens"])
        return {
            "cpu_us_per_token": spent / tokens,
            "tokens_per_s": tokens / span,
            "nominal": tokens / span >= 0.99 * streams * 50,
            "token_us": {key: told["token_us"][key] for key in ("p50", "p99")},
            "faults": sum(told[fault] for fault in FAULTS),
        }

    def requests(self, pid: int, url: str, count: int = 4000) -> dict[str, float]:
        """Short streams on kept connections, as many at once as a core can take: CPU per request."""
        self.pace(SHORT)
        before, at = usage(pid)[0], time.monotonic()
        told = self.result(
            self.load(url, "--requests", count, "--concurrency", 20, "--expect-tokens", 16, "--timeout", 20)
        )
        spent, span = usage(pid)[0] - before, time.monotonic() - at
        return {
            "cpu_us_per_request": spent / count,
            "requests_per_s": count / span,
            "request_faults": sum(told[fault] for fault in ("bad_status", "socket_errors", "timeouts")),
        }

    def aborts(self, url: str, count: int = 100) -> dict[str, float]:
        """Clients leave in mid-stream: milliseconds until the upstream's connection is closed."""
        self.pace(ABORT)
        before = self.mock("/stats")["aborted"]
        told = self.result(
            self.load(
                url,
                "--concurrency",
                count,
                "--requests",
                count,
                "--ramp-ms",
                500,
                "--abort-after-tokens",
                20,
                "--timeout",
                30,
            )
        )
        time.sleep(1.5)
        after = self.mock("/stats")
        seen = after["aborted"] - before
        left = sorted(told["abort_ns"])
        saw = sorted(entry[0] for entry in after["aborts"][-seen:]) if seen else []
        delays = sorted((b - a) / 1e6 for a, b in zip(left, saw, strict=False))
        p99 = delays[max(0, int(len(delays) * 0.99) - 1)] if delays else float("nan")
        return {"abort_p99_ms": p99, "aborts_seen": seen, "aborts_sent": len(left)}

    def memory(self, pid: int, url: str, streams: int) -> float:
        """KiB of resident memory per idle stream."""
        self.pace(IDLE)
        before = usage(pid)[1]
        client = self.load(url, "--concurrency", streams, "--ramp-ms", 3000, "--duration", 8, "--timeout", 60)
        time.sleep(6.5)
        grown = usage(pid)[1] - before
        self.result(client)
        return grown / 1024 / streams

    def result(self, client: subprocess.Popen[bytes]) -> dict[str, Any]:
        output, complaint = client.communicate(timeout=120)
        if client.returncode not in (0, 1) or not output:
            raise SystemExit(f"the client failed: {complaint.decode(errors='replace')[-500:]}")
        self.settle()
        told: dict[str, Any] = json.loads(output)
        return told

    def row(self, name: str, quick: bool) -> dict[str, Any]:
        """All measures of one gateway, started for them alone."""
        pid, url = self.start(name)
        try:
            self.pace(SHORT)
            self.result(
                self.load(url, "--requests", 200, "--concurrency", 20, "--expect-tokens", 16, "--timeout", 20)
            )  # warm up
            row = self.requests(pid, url) if pid else {}
            row |= self.throughput(pid, url, 500, 8 if quick else 15)
            if pid and not quick:
                row |= self.aborts(url) | {"kib_per_stream": self.memory(pid, url, 1000)}
            return {"gateway": name, **row}
        finally:
            for process in [one for one in self.processes if one.pid == pid]:
                self.stop(process)


def build() -> None:
    """Compile the mock and the client when their source is newer."""
    OUT.mkdir(exist_ok=True)
    (OUT / "native.json").write_text(NATIVE_BODY, encoding="utf-8")
    for tool in ("mockllm", "loadllm"):
        source, binary = HERE / f"{tool}.c", OUT / tool
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-o", str(binary), str(source)], check=True)


def table(rows: list[dict[str, Any]]) -> str:
    """One line a gateway; medians over the rounds."""
    names = list(dict.fromkeys(row["gateway"] for row in rows))
    by = {name: [row for row in rows if row["gateway"] == name] for name in names}

    def median(name: str, key: str, part: str = "") -> float:
        values = [row[key][part] if part else row[key] for row in by.get(name, []) if key in row]
        return statistics.median(values) if values else float("nan")

    head = f"{'500 streams x 50 tokens/s':<24}{'us/token':>9}{'x nginx':>9}{'tokens/s':>10}{'faults':>8}"
    head += f"{'added p50':>11}{'added p99':>11}{'abort p99':>11}{'KiB/stream':>12}{'us/request':>12}"
    lines = [head]
    for name in names:
        base = {part: median("direct", "token_us", part) for part in ("p50", "p99")}
        added = [(median(name, "token_us", part) - base[part]) / 1000 for part in ("p50", "p99")]
        faults = sum(row["faults"] + row.get("request_faults", 0) for row in by[name])
        flag = " " if all(row["nominal"] for row in by[name]) else "!"
        lines.append(
            f"{name:<24}{median(name, 'cpu_us_per_token'):>9.1f}"
            f"{median(name, 'cpu_us_per_token') / median('nginx', 'cpu_us_per_token'):>9.2f}"
            f"{median(name, 'tokens_per_s'):>9.0f}{flag}{faults:>8}"
            f"{added[0]:>8.2f} ms{added[1]:>8.2f} ms"
            f"{median(name, 'abort_p99_ms'):>8.1f} ms{median(name, 'kib_per_stream'):>12.1f}"
            f"{median(name, 'cpu_us_per_request'):>12.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="names, with commas; nginx and direct are always measured")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="throughput only, shorter")
    parser.add_argument("--mock-port", type=int, default=0, help="default: a free one")
    args = parser.parse_args()
    build()
    wanted = [name.strip() for name in args.only.split(",") if name.strip()] or list(GATEWAYS)
    names = ["direct", "nginx", *(name for name in GATEWAYS if name in wanted and name != "nginx")]
    bench = Bench(args.mock_port or free_port())
    rows = []
    try:
        for _ in range(args.rounds):
            for name in names:
                rows.append(bench.row(name, args.quick))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    finally:
        for process in list(bench.processes):
            bench.stop(process)
    (OUT / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
