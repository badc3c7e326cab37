"""Transcode with real drivers: what a native client reads of an OpenAI backend, and a view that goes on."""

from __future__ import annotations

import json

import pytest

from backends import openai
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from config.schema import Backend
from gateway.protocols import native, openai_chat, openai_completions
from gateway.protocols.base import About, ClientProtocol, Ending
from gateway.streams.transcript import Segment
from gateway.streams.views import make_view

ABOUT = About("st_a", "m", "b", 0)
CHUNK = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


def test_a_native_client_reads_an_openai_backend() -> None:
    """One frame in, one event out, numbered on; a broken stream ends in `error`."""
    driver = openai.Driver("x", Backend(driver="openai", url="http://x/v1"))
    view = make_view(driver, native.Protocol(), ABOUT)
    assert b"event: start\n" in view.start()
    assert view.render(CHUNK) == b'id: st_a.2\nevent: token\ndata: {"content":"Hi","tokenCount":1}\n\n'
    ending = Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
    assert view.end(ending, False).startswith(b"id: st_a.3\nevent: error\n")
    assert view.frames == 3


@pytest.mark.parametrize("protocol", [openai_chat.Protocol(), openai_completions.Protocol()])
@pytest.mark.parametrize("before", [b": keepalive 0/22\n\n", b'data: {"id":"","model":"","choices":[]}\n\n', b""])
def test_a_view_that_goes_on_keeps_the_ids(protocol: ClientProtocol, before: bytes) -> None:
    """A comment before the first chunk (mlx, OpenRouter) or a chunk that names nothing yet (Azure) would give an SDK
    frames it cannot read, or an answer under two ids."""
    driver = openai.Driver("x", Backend(driver="openai", url="http://x/v1")).speaking(protocol.dialect)
    assert driver is not None
    first = b'data: {"id":"theirs","created":7,"choices":[{"index":0,"delta":{"content":"H"},"text":"H"}]}\n\n'
    segment = Segment(0, driver)
    view = make_view(driver, protocol, ABOUT)
    blocks = [block for block in (before, first) if block]
    for block in blocks:
        view.render(block)
    turned = view.turn(Segment(len(blocks), driver), lambda: [(segment, blocks)])
    said = json.loads(turned.render(CHUNK.replace(b'"index"', b'"text":"Hi","index"')).removeprefix(b"data: "))
    assert (said["id"], said["created"], said["model"]) == ("theirs", 7, "m")
