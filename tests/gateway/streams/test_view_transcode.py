"""Transcode with real drivers: what `make_view` chooses, and what a native client reads of an OpenAI backend."""

from __future__ import annotations

from backends import openai
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from config.schema import Backend
from gateway.protocols import native, openai_chat
from gateway.protocols.base import About, Ending
from gateway.streams.view import Passthrough, Transcode, make_view

ABOUT = About("st_a", "m", "b", 0)
CHUNK = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


def test_the_view_follows_from_the_dialects() -> None:
    """Decoding what could pass untouched costs fields nobody knows yet."""
    driver = openai.Driver("x", Backend(driver="openai", url="http://x/v1"))
    assert isinstance(make_view(driver, openai_chat.Protocol(), ABOUT), Passthrough)
    assert isinstance(make_view(driver, native.Protocol(), ABOUT), Transcode)


def test_a_native_client_reads_an_openai_backend() -> None:
    """One frame in, one event out, numbered on; a broken stream ends in `error`."""
    driver = openai.Driver("x", Backend(driver="openai", url="http://x/v1"))
    view = make_view(driver, native.Protocol(), ABOUT)
    assert b"event: start\n" in view.start()
    assert view.render(CHUNK) == b'id: st_a.2\nevent: token\ndata: {"content":"Hi","tokenCount":1}\n\n'
    ending = Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
    assert view.end(ending, False).startswith(b"id: st_a.3\nevent: error\n")
    assert view.frames == 3
