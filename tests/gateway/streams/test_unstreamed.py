"""Bodies that are no stream: what is kept of them, and what they come to."""

from __future__ import annotations

import json

import pytest

from backends.catalog import build
from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend
from gateway.streams.unstreamed import Unstreamed, unstreamed

OPENAI = build("up", Backend(driver="openai", url="http://x"))
OLLAMA = build("up", Backend(driver="ollama", url="http://x"))
JSON = {"content-type": "application/json; charset=utf-8"}
ANSWER = {"id": "a", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}


def collecting(status: int, headers: dict[str, str], limit: int = 1000) -> Unstreamed:
    found = unstreamed(OPENAI, status, headers, limit)
    assert found is not None
    return found


def test_the_head_says_what_is_no_stream() -> None:
    """Breaks when a stream is collected as a whole, or a refusal is read as frames."""
    assert unstreamed(OPENAI, 200, {"content-type": "text/event-stream"}, 9) is None
    assert unstreamed(OPENAI, 200, {}, 9) is None
    assert unstreamed(OLLAMA, 200, JSON, 9) is None  # lines of JSON are a stream there
    assert unstreamed(OPENAI, 200, {"content-type": " Application/JSON"}, 9) is not None
    assert unstreamed(OPENAI, 503, {"content-type": "text/event-stream"}, 9) is not None


def test_a_whole_answer_becomes_the_stream_it_should_have_been() -> None:
    """Breaks when the answer of a server that does not stream is lost, or comes without its end."""
    body = collecting(200, JSON)
    for piece in (json.dumps(ANSWER).encode()[:20], json.dumps(ANSWER).encode()[20:]):
        assert body.feed(piece) is None
    frames = body.judge()
    assert isinstance(frames, list)
    assert b'"content":"hi"' in frames[0]
    assert frames[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("status", "size", "code"),
    [(200, 1000, None), (200, 1001, ErrorCode.EVENT_TOO_LARGE), (503, 65536, None), (503, 65537, "refused")],
)
def test_no_more_is_kept_than_can_matter(status: int, size: int, code: ErrorCode | str | None) -> None:
    """Breaks when a backend can fill our memory with an answer that is no stream."""
    error = collecting(status, JSON).feed(b"x" * size)
    if code is None:
        assert error is None
    else:
        assert error is not None
        assert (error.code is code) == isinstance(code, ErrorCode)


def test_what_is_no_answer_is_an_error() -> None:
    """Breaks when a proxy's page, an error in a 200, or an answer without a head passes for an answer."""
    page = collecting(200, {"content-type": "text/html"})
    page.feed(b"<html>log in</html>")
    told = page.judge()
    assert isinstance(told, BackendError)
    assert "text/html" in told.message
    wrong = collecting(200, JSON)
    wrong.feed(b'{"error": {"message": "no such model"}}')
    told = wrong.judge()
    assert isinstance(told, BackendError)
    assert "no such model" in told.message
    assert isinstance(Unstreamed(OPENAI, 0, {}, 9).judge(), BackendError)
