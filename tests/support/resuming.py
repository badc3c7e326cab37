"""Bodies, frame by frame, as a client that comes back counts them; and two gateways in one loop on one Redis."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from support.inprocess import client, config_for, running
from support.upstream import chunk

from config.schema import Registry
from config.values import Duration
from gateway.app import Gateway
from gateway.edge.wanted import kind_of
from gateway.protocols.catalog import build, families

PROTOCOLS = {name: kind_of(protocol) for name, protocol in build(sorted(families())).items()}
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/api/streaming/chat"
END = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
_FRAME = re.compile(rb"(?s).*?(?:(?>\r\n|\n|\r)(?>\r\n|\n|\r))")
_DATA = re.compile(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?data")


def token(text: str) -> bytes:
    """A frame of OpenAI's chat completions, as a chunk of a body."""
    said = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return chunk(f"data: {json.dumps(said, separators=(',', ':'))}\n\n".encode())


def ends(body: bytes, kind: str) -> list[int]:
    """Where each frame ends that a client counts: comments are no events, blank lines no objects."""
    pieces = [line + b"\n" for line in body.split(b"\n")[:-1]] if kind == "ndjson" else _FRAME.findall(body)
    found, at = [], 0
    for piece in pieces:
        at += len(piece)
        if piece.strip() if kind == "ndjson" else _DATA.search(piece):
            found.append(at)
    return found


async def rest_of(answer: aiohttp.ClientResponse) -> bytes:
    """What still comes, whether the body ends or breaks off."""
    body = b""
    try:
        async for data in answer.content.iter_any():
            body += data
    except aiohttp.ClientError:
        pass
    return body


async def read(session: aiohttp.ClientSession, url: str, *allowed: int) -> bytes:
    """The body of a GET, to its end or break."""
    async with session.get(url, headers={"Accept": "text/event-stream, application/x-ndjson"}) as answer:
        assert answer.status in (allowed or (200, 204)), await answer.text()
        return await rest_of(answer)


async def post(session: aiohttp.ClientSession, name: str, **headers: str) -> bytes:
    """Start a stream of this name, to be read by others too; its native body, whole."""
    said = {"X-Stream-Id": name, "X-Stream-On-Disconnect": "continue", **headers}
    async with session.post(CHAT, json=ASK, headers=said) as answer:
        return await rest_of(answer)


def fleet_config(url: str, redis: str, *, lease: float = 2.0, **rest: Any) -> Any:
    """A node's configuration, in front of a scripted upstream."""
    more = rest.pop("registry", {})
    registry = Registry(url=redis, lease=Duration(lease), **{"timeout": Duration(1.5), **more})
    return config_for(url, registry=registry, **rest)


@asynccontextmanager
async def two(
    *configs: Any,
) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession, Gateway, aiohttp.ClientSession]]:
    """Two gateways (of one configuration, or two), and a client of each."""
    async with (
        running(configs[0]) as a,
        running(configs[-1]) as b,
        client(a) as at_a,
        client(b) as at_b,
    ):
        yield a, at_a, b, at_b
