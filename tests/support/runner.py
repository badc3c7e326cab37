"""Clients in another process, one for all questions: a line of JSON in, a line of JSON out (`tests/clients/`)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from support.heard import Heard

HOME = Path(os.environ.get("HEADGATE_CLIENTS", Path(__file__).parents[2] / ".clients"))
_HERE = Path(__file__).parents[1] / "clients"


def node_command() -> list[str]:
    """The Node clients; empty where they are not set up (`make test-clients`)."""
    node, modules = HOME / "venv" / "bin" / "node", HOME / "node" / "node_modules"
    if not modules.is_dir():
        return []
    script = HOME / "node" / "run.mjs"  # beside its packages: that is where Node looks for them
    script.write_bytes((_HERE / "node.mjs").read_bytes())
    found = str(node) if node.exists() else shutil.which("node")
    return [found, str(script)] if found else []


def python_command() -> list[str]:
    """The Python clients with an environment of their own; empty where that is missing."""
    python = HOME / "venv" / "bin" / "python"
    return [str(python), str(_HERE / "python_clients.py")] if python.exists() else []


class Runner:
    """`with Runner(command) as run`: `await run.ask(client, base)`. One question at a time."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    async def ask(self, client: str, base: str, *, tools: bool) -> Heard:
        """What this client understood of one answer. `tools`: it may offer some, as clients that read calls do."""
        question = json.dumps({"client": client, "base": base, "tools": tools})
        said: Any = json.loads(await asyncio.to_thread(self._asked, question.encode() + b"\n"))
        calls = [(name, arguments) for name, arguments in said["calls"]]
        usage = tuple(said["usage"] or (None,) * 4)
        return Heard(said["text"], said["reasoning"], calls, [], said["finish"] or "", usage, 0, said["error"])

    def _asked(self, question: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        return self._process.stdout.readline()
