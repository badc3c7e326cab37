"""A reader whose view fails: a fault of ours in one client's reading."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.upstream import Upstream, chunk, head

from gateway.protocols.base import Encoder
from gateway.protocols.ndjson import Protocol

LINES = "/api/v1/conversations/c1/stream"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def frame(text: str) -> bytes:
    return chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode())


FINISH = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
TELLING = [head(), frame("a"), 0.05, frame("b"), 0.05, frame("c"), 0.2, FINISH, b"0\r\n\r\n"]


class Failing(Encoder):
    """Writes what another one writes, up to the piece it cannot write."""

    def __init__(self, inner: Encoder, at: str) -> None:
        self.inner, self.at = inner, at

    @property
    def frames(self) -> int:  # type: ignore[override]
        return self.inner.frames

    def start(self) -> bytes:
        return self.inner.start()

    def feed(self, events: Any) -> bytes:
        if any(getattr(event, "text", "") == self.at for event in events):
            raise ValueError("cannot be said")
        return self.inner.feed(events)

    def plain(self, text: str) -> bytes:
        if text == self.at:
            raise ValueError("cannot be said")
        return self.inner.plain(text)

    def end(self, ending: Any) -> bytes:
        if self.at == "end":
            raise ValueError("cannot be said")
        return self.inner.end(ending)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, at: str) -> str:
    """NDJSON readers fail at this piece."""
    inner = Protocol.encoder
    monkeypatch.setattr(Protocol, "encoder", lambda self, about: Failing(inner(self, about), at))
    return at


@pytest.mark.parametrize("at", ["a", "c", "end"])
async def test_one_client_is_broken_off_and_nobody_else_notices(failing: str) -> None:
    """Its client would wait for ever, or read on behind a hole; and whoever reads beside it would be cut off too."""
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    async with Upstream(TELLING) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        headers = {"X-Stream-Id": "mine", "X-Stream-On-Disconnect": "continue"}
        async with asyncio.timeout(10):
            beside = asyncio.create_task(_native(session))
            async with session.post(LINES, json=ASKED, headers=headers) as answer:
                text = await _all(answer)
            assert '"complete_state"' not in text
            assert '"c"' not in text or failing == "end"
            assert (await beside).count("event: done") == 1
            while gateway.hub.find("mine", None):
                await asyncio.sleep(0.01)
            async with session.get("/api/streaming/mine", headers={"Accept": "text/event-stream"}) as again:
                assert (await again.text()).count("event: done") == 1
        assert [str(context["exception"]) for context in faults] == ["cannot be said"]


async def _all(answer: Any) -> str:
    data = b""
    try:
        async for piece in answer.content.iter_any():
            data += piece
    except aiohttp.ClientError:
        return data.decode()
    raise AssertionError(f"a clean end: {data!r}")


async def _native(session: Any) -> str:
    """Joins as soon as the stream is there."""
    while True:
        async with session.get("/api/streaming/mine", headers={"Accept": "text/event-stream"}) as answer:
            if answer.status == 200:
                return str(await answer.text())
        await asyncio.sleep(0.01)


async def test_a_whole_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer would be given as a whole one."""
    from gateway.streams.collector import Collecting

    def render(self: Collecting, block: bytes) -> bytes:
        raise ValueError("cannot be read")

    monkeypatch.setattr(Collecting, "render", render)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with (
        Upstream(TELLING) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
        session.post(LINES, json={**ASKED, "stream": False}) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["code"]) == (500, "internal_error")
