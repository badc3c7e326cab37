"""A real llama.cpp server with a scripted model, as a process of its own on a free port.

Tests use `start(kind)`; run as a program, `llama.py MODEL PORT`, this file is that server.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from support.process import free_port, stop, wait_until

SLOTS = 4


class Llama:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    def busy_slots(self) -> int:
        """How many of its slots are generating now, as the server itself says."""
        with urllib.request.urlopen(f"{self.url}/slots", timeout=5) as answer:
            slots: list[dict[str, Any]] = json.load(answer)
        return sum(slot["is_processing"] for slot in slots)

    def wait_busy(self, busy: bool, seconds: float) -> float:
        """Wait until some slot (or none) generates; returns the seconds it took, raises TimeoutError."""
        began = time.monotonic()
        wait_until(lambda: (self.busy_slots() > 0) is busy, seconds, f"slots busy: {busy}")
        return time.monotonic() - began

    def stop(self) -> None:
        stop(self._process)

    def kill(self) -> None:
        """At once, as a crash would."""
        self._process.kill()
        self._process.wait()


def model(kind: str) -> Path:
    """The scripted model's file, made once per version of the code that makes it."""
    from support import mk_gguf

    here = Path(__file__).parent
    sources = b"".join((here / name).read_bytes() for name in ("mk_gguf.py", "script_text.py", "chatml.jinja"))
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headgate-tests"
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{kind}-{hashlib.sha256(sources).hexdigest()[:12]}.gguf"
    if not path.exists():
        mk_gguf.write(kind, path)
    return path


def start(kind: str, log: Path) -> Llama:
    """Start a server that plays this kind of model (see mk_gguf); ready when it returns."""
    port = free_port()
    command = [sys.executable, __file__, str(model(kind)), str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Llama(process, port)

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"llama.cpp ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(ready, 40, "llama.cpp is ready")
    except BaseException:
        stop(process)
        raise
    return server


def serve(path: str, port: int) -> None:
    """Serve a model until a signal comes."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.n_gpu_layers = SLOTS, 32768, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.ui = False, False
    params.use_jinja = params.endpoint_slots = True
    server = xllamacpp.Server(params)
    print(f"serving at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
