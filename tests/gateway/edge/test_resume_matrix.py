"""Every recorded answer, read in every protocol: live, joined, replayed and resumed are the same bytes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.upstream import Upstream, chunk, head

from gateway.edge.wanted import kind_of
from gateway.protocols.catalog import build, families

RECORDED = Path(__file__).parents[2] / "transcripts"
DRIVERS = {"anthropic": "anthropic", "google": "google", "llamacpp": "llamacpp", "ollama": "ollama", "openai": "openai"}
FILES = sorted(path for folder in DRIVERS for path in (RECORDED / folder).iterdir())
PROTOCOLS = {name: kind_of(protocol) for name, protocol in build(sorted(families())).items()}
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
_FRAME = re.compile(rb"(?s).*?(?:(?>\r\n|\n|\r)(?>\r\n|\n|\r))")
_DATA = re.compile(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?data")


def ends(body: bytes, kind: str) -> list[int]:
    """Where each frame ends that a client counts: comments are no events, blank lines no objects."""
    pieces = [line + b"\n" for line in body.split(b"\n")[:-1]] if kind == "ndjson" else _FRAME.findall(body)
    found, at = [], 0
    for piece in pieces:
        at += len(piece)
        if piece.strip() if kind == "ndjson" else _DATA.search(piece):
            found.append(at)
    return found


async def read(session: aiohttp.ClientSession, url: str) -> bytes:
    body = b""
    async with session.get(url) as answer:
        assert answer.status in (200, 204), await answer.text()
        try:
            async for data in answer.content.iter_any():
                body += data
        except aiohttp.ClientPayloadError:
            pass
    return body


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_the_same_bytes_whenever_they_are_read(path: Path) -> None:
    """A client of one protocol on a backend of another would get other text after a break than before it."""
    data = path.read_bytes()
    cuts = range(0, len(data), max(1, len(data) // 6))
    script = [head()]
    for at in cuts:
        script += [0.02, chunk(data[at : at + cuts.step])]
    config_driver = DRIVERS[path.parent.name]
    async with (
        Upstream([*script, b"0\r\n\r\n"]) as up,
        running(config_for(up.url, driver=config_driver)) as gateway,
        client(gateway) as session,
    ):
        started = asyncio.create_task(
            read_post(session, "/api/streaming/chat", {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "continue"})
        )
        while gateway.hub.find("x", "anonymous") is None:
            await asyncio.sleep(0.001)
        urls = {name: f"/api/streaming/x?protocol={name}" for name in PROTOCOLS}
        live = {name: asyncio.create_task(read(session, url)) for name, url in urls.items()}
        await asyncio.sleep(0.05)
        joined = {name: asyncio.create_task(read(session, url)) for name, url in urls.items()}
        await started
        for name, url in urls.items():
            body = await live[name]
            assert body
            assert await joined[name] == body
            assert await read(session, url) == body
            if not PROTOCOLS[name]:
                continue
            marks = ends(body, PROTOCOLS[name])
            for n in {1, len(marks) // 2, len(marks) - 1, len(marks)} - {0}:
                assert await read(session, f"{url}&after={n}") == body[marks[n - 1] :], (name, n)
        assert len(up.requests) == 1


async def read_post(session: aiohttp.ClientSession, path: str, headers: dict[str, str]) -> None:
    async with session.post(path, json=ASK, headers=headers) as answer:
        try:
            await answer.read()
        except aiohttp.ClientPayloadError:
            return
