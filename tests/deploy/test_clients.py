"""The published clients, run as their readers would run them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.cutter import Cutter
from support.inprocess import config_for, running
from support.upstream import RESET, Upstream, chunk, head

FILE = Path(__file__).resolve().parents[2] / "deploy" / "clients" / "python_example.py"
WORDS = [f"wört{n} ☕ " for n in range(30)]


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("headgate_python_example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = _example()


def script(gap: float = 0.003, *, end: bool = True) -> list[Any]:
    def data(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return chunk(b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n")

    steps: list[Any] = [head()]
    for word in WORDS:
        steps += [data({"content": word}), gap]
    return [*steps, data({}, "stop"), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"] if end else [*steps, RESET]


async def test_the_python_example_as_a_program() -> None:
    """The first thing a Python developer copies would lose or repeat words when the line breaks."""
    async with Upstream(script()) as up, running(config_for(up.url)) as gateway:
        async with Cutter(gateway.public_port, [0, 1500, 300, 900]) as line:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(FILE), line.url, "hi", stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, out.decode()) == (0, "".join(WORDS) + "\n")
        assert line.cut == 4
        assert len(up.requests) == 1


@pytest.mark.parametrize("path", ["/api/streaming/chat", "/v1/messages", "/v1/chat/completions"])
async def test_its_frames_are_counted_and_its_errors_said(path: str) -> None:
    """A failed answer would pass for a whole one, in one of the protocols."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    async with Upstream(script()) as up, running(config_for(up.url)) as gateway:
        up.scripts = [script(), script(end=False)]
        async with Cutter(gateway.public_port, [-1, 2000]) as line, aiohttp.ClientSession() as session:
            numbers = [n async for n, _, _ in example.stream(session, line.url, path, body)]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= 30
            with pytest.raises(example.StreamError):
                async for _ in example.stream(session, line.url, path, body):
                    pass
            with pytest.raises(example.StreamError) as refused:
                async for _ in example.stream(session, line.url, path, {}):
                    pass
            assert refused.value.status == 400
            with pytest.raises(example.StreamError) as refused:
                async for _ in example.stream(session, line.url, "/nowhere", body):
                    pass
            assert refused.value.status == 404
        assert len(up.requests) == 2


async def test_its_cancel() -> None:
    """A stop button would not reach the model."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with Upstream(script(0.1)) as up, running(config_for(up.url)) as gateway, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{gateway.public_port}"
        last = ""
        async for number, event, _ in example.stream(session, url, "/api/streaming/chat", body, stream_id="mine"):
            if number == 3:
                assert (await example.cancel(session, url, "mine"))["state"] == "cancelled"
            last = event
        assert last == "done"


def test_the_kotlin_example_says_what_it_is() -> None:
    """Somebody would take a file nobody has compiled for one that was."""
    docs = (FILE.parents[2] / "docs" / "frontends.md").read_text("utf-8")
    assert "not compiled" in docs
    assert (FILE.parent / "HeadgateClient.kt").exists()
