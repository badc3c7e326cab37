"""Live and replayed, together or one by one, through the short cut or not: the same bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.base import HttpRequest
from backends.catalog import build as build_driver
from backends.exchange import Exchange, Sink
from backends.transport import Transport
from config.schema import Backend, OnDisconnect, Streams
from gateway.protocols.base import About
from gateway.protocols.catalog import build
from gateway.streams.course import Opener
from gateway.streams.pacer import Pacer
from gateway.streams.plan import Plan
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.stream import Identity, Stream
from gateway.streams.views import make_view

NAMES = ("native", "ndjson", "openai", "anthropic", "ollama", "google")
FAMILIES = ("native", "openai", "anthropic", "ollama", "google")


class Page:
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.blocked = False
        self.text = b""

    def write(self, data: bytes) -> None:
        self.text += data

    def close(self, clean: bool) -> None:
        self.text += b"<clean>" if clean else b"<cut>"


class Wire(Opener):
    """The network: the test is the backend."""

    sink: Sink

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        self.sink = sink
        return cast("Exchange", self)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def story(name: str, reads: list[bytes], mode: str) -> tuple[list[bytes], int]:
    """(what a reader from the start, one that joined half-way and one that came at the end saw; tokens counted)"""
    loop, wire = asyncio.get_running_loop(), Wire()
    driver, protocol = build_driver("up", Backend(driver="openai", url="http://127.0.0.1:9/v1")), build(FAMILIES)[name]
    plan = Plan(driver, HttpRequest("POST", "/", (), b""), Streams(), OnDisconnect("continue"), 3)
    identity = Identity("st_a", "o", name, "m", "up", "m", "n", 0)
    producer = Producer(Stream(identity, loop.time()), plan, cast("Transport", wire), lambda _: None)
    pages: list[Page] = []

    def join() -> None:
        page = Page()
        view = make_view(driver, protocol, About("st_a", "m", "up", 0))
        reader = Reader(producer.transcript, view, page, Pacer(loop, mode), polite=True)
        page.write(view.start())
        pages.append(page)
        producer.attach(reader)

    producer.start()
    await asyncio.sleep(0)
    wire.sink.head(200, {})
    join()
    for number, read in enumerate(reads):
        if number == len(reads) // 2:
            join()
        wire.sink.data(read)
    join()
    assert producer.stream.state.terminal
    return [page.text for page in pages], producer.stream.tokens


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12), cut=st.integers(1, 400))
@pytest.mark.parametrize("mode", ["immediate", "balanced"])
@pytest.mark.parametrize("name", NAMES)
def test_every_road_gives_the_same_bytes(name: str, mode: str, texts: list[str], cut: int) -> None:
    """A resumed client would read other frames than the ones it missed, or tokens would be counted twice or never."""
    frames = [chunk(text) for text in ["a", "b", *texts]]
    whole = b"".join(frames) + FINISH
    pieces = [whole[i : i + cut] for i in range(0, len(whole), cut)]
    told, counted = asyncio.run(story(name, [*frames, FINISH], mode))
    cut_up, counted_too = asyncio.run(story(name, pieces, mode))
    assert len({*told, *cut_up}) == 1
    assert counted == counted_too == len(frames)
