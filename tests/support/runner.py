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
    for source in _HERE.glob("*.mjs"):  # beside the packages: that is where Node looks for them
        (HOME / "node" / source.name).write_bytes(source.read_bytes())
    script = HOME / "node" / "node.mjs"
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
        said = await self._answer({"client": client, "base": base, "tools": tools})
        calls = [(name, arguments) for name, arguments in said["calls"]]
        usage = tuple(said["usage"] or (None,) * 4)
        return Heard(said["text"], said["reasoning"], calls, [], said["finish"] or "", usage, error=said["error"])

    async def begin(self, client: str, base: str, *, until: str) -> tuple[str, str]:
        """This client has read an answer up to this text: the stream's id, "" where its SDK does not show it, and what
        it raised instead of coming so far. Then `end` must follow, unless it raised."""
        said = await self._answer({"client": client, "base": base, "until": until})
        return said.get("id", ""), said["error"]

    async def end(self, how: str) -> str:
        """It does so: `leave` in its SDK's way, or `read` on to the end. What it raised."""
        return str((await self._answer(how))["error"])

    async def _answer(self, question: Any) -> Any:
        return json.loads(await asyncio.to_thread(self._asked, json.dumps(question).encode() + b"\n"))

    def _asked(self, question: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        return self._process.stdout.readline()
