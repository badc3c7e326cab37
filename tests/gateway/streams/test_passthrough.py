"""Views: the same bytes where dialects agree, and never success for what failed."""

from __future__ import annotations

import pytest

from backends.base import Driver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from backends.contract.framing import NdjsonFramer, SseFramer
from gateway.protocols import native, ndjson, openai_chat
from gateway.protocols.base import About, Ending
from gateway.protocols.repair_chat import FirstRole, SplitFinish
from gateway.protocols.repairs import Mender
from gateway.streams.passthrough import Passthrough
from gateway.streams.view import View

ABOUT = About("st_a", "m", "b", 0)
STOP = Ending("stop", Usage(), False, 1)
CUT = Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
TOKEN = b'data: {"choices":[{"delta":{"content":"event: error data: [DONE]"}}],"usage":null}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


def never(_driver: Driver) -> View:
    """These streams have one backend each."""
    raise AssertionError


def passthrough(hide_usage: bool = False) -> Passthrough:
    return Passthrough(openai_chat.Protocol(), ABOUT, hide_usage, SseFramer(0).split, never)


def test_blocks_pass_untouched() -> None:
    """Passthrough promises the backend's own bytes, without a copy."""
    view = passthrough()
    block = b'data: {"choices":[],"x":1}\n\n' * 3
    assert view.start() == b""
    assert view.render(block) is block
    assert view.render(USAGE) == USAGE
    assert view.frames == 4


def test_the_completion_mark_waits_for_completion() -> None:
    """[DONE] delivered before the ending is known could not be taken back."""
    view = passthrough()
    assert view.render(TOKEN + DONE) == TOKEN
    assert view.end(STOP, True) == DONE
    assert view.frames == 2


@pytest.mark.parametrize("mark", [b": ping\ndata: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n"])
def test_every_spelling_of_the_mark_is_held(mark: bytes) -> None:
    """A comment before it, no space, CRLF: servers write it in all these ways."""
    view = passthrough()
    assert view.render(mark) == b""
    assert view.end(STOP, True) == mark


def test_a_failed_stream_ends_in_an_error_and_without_the_mark() -> None:
    """A watchdog may stop a stream whose [DONE] was already in the block: the client must not see success."""
    view = passthrough()
    out = view.render(TOKEN + DONE) + view.end(CUT, False)
    assert out.startswith(TOKEN + b'data: {"error":{"message":"cut"')
    assert out.count(b"[DONE]") == 1  # the one the model wrote


@pytest.mark.parametrize(
    "frame",
    [b'data: {"error":{"message":"x"}}\n\n', b"event: error\ndata: {}\n\n", b'data: {"error": "x"}\n\n'],
)
def test_the_backends_own_error_is_the_only_one(frame: bytes) -> None:
    """Two error frames, or an error followed by [DONE], confuse every SDK."""
    view = passthrough()
    assert view.render(TOKEN + frame + DONE) == TOKEN + frame
    assert view.end(CUT, False) == b""


def test_text_about_errors_is_no_error() -> None:
    """A model explaining SSE would otherwise lose its real error frame."""
    view = passthrough()
    view.render(TOKEN)
    view.render(b'data: {"error":null,"choices":[]}\n\n')
    assert b'"code":"upstream_truncated"' in view.end(CUT, False)


def test_usage_nobody_asked_for_is_hidden() -> None:
    """The gateway asks every backend for usage; a client that did not would trip over a chunk without choices."""
    view = passthrough(hide_usage=True)
    assert view.render(TOKEN + USAGE + TOKEN) == TOKEN + TOKEN
    continuous = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1}}\n\n'
    assert view.render(continuous) == continuous
    assert view.frames == 3


def test_a_native_error_frame_carries_the_next_number() -> None:
    """Resume counts frames: the error is one of them."""
    view = Passthrough(native.Protocol(), ABOUT, False, SseFramer(0).split, never)
    view.render(TOKEN * 2)
    assert view.end(CUT, False).startswith(b"id: st_a.3\nevent: error\n")
    assert view.frames == 3


def test_lines_pass_and_are_counted() -> None:
    """NDJSON backends end in a line of their own kind: nothing is held, an error line is the last."""
    view = Passthrough(ndjson.Protocol(), ABOUT, False, NdjsonFramer(0).split, never)
    assert view.render(b'{"a":1}\n{"error":"x"}\n') == b'{"a":1}\n{"error":"x"}\n'
    assert (view.frames, view.end(CUT, False)) == (2, b"")


def test_a_cancelled_passthrough_says_so() -> None:
    """EOF alone is success to the SDKs."""
    assert b'"code":"cancelled"' in passthrough().end(Ending("cancelled", Usage(), True, 0), False)


def mended(*names: str) -> Passthrough:
    split = SseFramer(0).split
    rules = {"first_role": FirstRole, "split_finish": SplitFinish}
    mender = Mender(frozenset(names), [rules[name]() for name in names if name in rules], split)
    return Passthrough(openai_chat.Protocol(), ABOUT, True, split, never, mender)


def test_frames_that_go_out_are_counted_not_those_that_came() -> None:
    """Resume skips frames of the view: a repair that adds one must be counted by every reader alike."""
    view = mended("split_finish", "done_marker")
    last = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    out = view.render(TOKEN + last) + view.end(STOP, True)
    assert out.startswith(TOKEN)
    assert out.endswith(DONE)
    assert view.frames == out.count(b"\n\n") == 4


def test_a_token_like_the_last_one_is_not_looked_at() -> None:
    """The token path must stay free of repairs; until the first role is settled it may not be taken."""
    view = mended("first_role")
    assert b'"role":"assistant"' in view.plain(TOKEN, "x")
    assert view.plain(TOKEN, "x") is TOKEN
    assert view.frames == 2


def test_done_after_an_error_passes_where_the_repair_is_off() -> None:
    """Who switched a repair off wants what the backend said."""
    broken = b'data: {"error":{"message":"x"}}\n\n'
    for names, last in ((("error_then_done",), b""), ((), DONE)):
        view = mended(*names)
        assert view.render(TOKEN + broken + DONE) == TOKEN + broken
        assert view.end(CUT, False) == last
