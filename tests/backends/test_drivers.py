"""Every driver against wire transcripts: one contract, parametrised."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import catalog
from backends.base import Driver
from backends.contract.errors import ErrorCode
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    OtherChoice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from backends.contract.framing import NdjsonFramer, SseFramer
from config.schema import Backend

ROOT = Path(__file__).parent.parent / "transcripts"
KINDS = ("openai", "vllm", "llamacpp", "tgi", "tgi_generate", "anthropic", "google", "ollama")
ALL = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.glob("*/*") if p.parent.name in KINDS and p.stem != "responses"
)
BAD = ("truncated", "error", "invalid", "finish_without_done", "runner_gone")


def driver_of(name: str) -> Driver:
    kind, _, api = name.partition("_")
    return catalog.build("b", Backend(driver=kind, url="http://h:1", options={"api": api} if api else {}))


def run(driver: Driver, parts: list[bytes]) -> tuple[list[Event], bool, object]:
    """Events, done and the tap of a body that came in these parts and then ended."""
    framer = (NdjsonFramer if driver.framing == "ndjson" else SseFramer)(1 << 20)
    decoder, tap, events = driver.decoder(), driver.tap(), []
    for part in parts:
        block = framer.feed(part)
        if block:
            events += decoder.feed(block)
            tap.feed(block)
    events += decoder.eof()
    tap.eof()
    of_any_choice = [e.event if isinstance(e, OtherChoice) else e for e in events]
    content = [
        e
        for e in of_any_choice
        if isinstance(e, TextDelta | ToolCallDelta) or (isinstance(e, ReasoningDelta) and e.text)
    ]
    finish = [e.reason for e in events if isinstance(e, Finish)]
    usage = [e for e in events if isinstance(e, Usage)]
    failed = [e.error for e in events if isinstance(e, Failed)]
    assert (tap.tokens, tap.done) == (len(content), decoder.done)
    assert tap.finish == (finish[-1] if finish else None)
    assert tap.usage == (usage[-1] if usage else None)
    assert tap.failure == (failed[0] if failed else None)
    return events, decoder.done, framer.frames


@pytest.mark.parametrize("path", ALL)
def test_every_split_offset_reads_the_same(path: str) -> None:
    """A character or a line end cut between two reads would change the answer, and a disagreeing tap the receipts."""
    data, driver = (ROOT / path).read_bytes(), driver_of(path.split("/", maxsplit=1)[0])
    whole = run(driver, [data])
    for at in range(1, len(data)):
        assert run(driver, [data[:at], data[at:]]) == whole
    assert run(driver, [data[i : i + 1] for i in range(len(data))]) == whole


@pytest.mark.parametrize("path", ALL)
def test_done_means_the_dialects_own_end(path: str) -> None:
    """A broken answer would be shown as a complete one, or a complete one as broken."""
    events, done, _ = run(driver_of(path.split("/", maxsplit=1)[0]), [(ROOT / path).read_bytes()])
    broken = path.split("/")[1].startswith(BAD)
    assert done is not broken
    assert any(isinstance(e, Failed) for e in events) == (
        broken and not path.split("/")[1].startswith(("trunc", "finish"))
    )


@pytest.mark.parametrize("path", [p for p in ALL if not p.split("/")[1].startswith(BAD)])
def test_a_body_cut_anywhere_is_never_done(path: str) -> None:
    """A backend that dies would look finished."""
    data, driver = (ROOT / path).read_bytes(), driver_of(path.split("/", maxsplit=1)[0])
    framer = NdjsonFramer(1 << 20) if driver.framing == "ndjson" else SseFramer(1 << 20)
    frames = framer.split(framer.feed(data))
    last = b"".join(frames[:-1])
    assert not run(driver, [last])[1]
    assert not run(driver, [data[: len(data) // 2]])[1]


def test_text_that_imitates_frames_stays_text() -> None:
    """A model could end its own stream, or forge events, by writing them."""
    events, _, _ = run(driver_of("openai"), [(ROOT / "openai/text.sse").read_bytes()])
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert text == 'Héllo ☕ event: done\n\ndata: [DONE]\n\n"content":"x" \\"error\\"'


@pytest.mark.parametrize(("path", "calls"), [
    ("openai/tools.sse", [(0, "call_1", "f", '{"a":1}'), (1, "call_1_1", "g", "{}")]),
    ("tgi/tools.sse", [(0, "0", "f", '{"a":1}')]),
    ("anthropic/tools.sse", [(0, "toolu_1", "f", '{"a":1}'), (1, "toolu_2", "g", "{}")]),
    ("google/tools.sse", [(0, "call_r_0", "f", '{"a":1}')]),
    ("ollama/tools.ndjson", [(0, "call_20260101000000_0", "f", '{"city":"Tokyo"}')]),
])  # fmt: skip
def test_tool_calls_are_whole(path: str, calls: list[tuple[int, str, str, str]]) -> None:
    """A client could not run the tool, or not say which call it answers."""
    events, _, _ = run(driver_of(path.split("/", maxsplit=1)[0]), [(ROOT / path).read_bytes()])
    found: dict[int, list[str]] = {}
    for e in events:
        if isinstance(e, ToolCallDelta):
            slot = found.setdefault(e.index, [e.id, e.name, ""])
            assert slot[0]
            assert slot[1]
            slot[2] += e.arguments
    assert [(i, *v) for i, v in found.items()] == calls
    assert len({v[0] for v in found.values()}) == len(found)
    assert [e.reason for e in events if isinstance(e, Finish)] == ["tool_calls"]


def test_provider_tools_reasoning_and_counts_are_read() -> None:
    """Reasoning, provider tools or the bill would be missing from what clients see."""
    events, _, _ = run(driver_of("anthropic"), [(ROOT / "anthropic/text.sse").read_bytes()])
    assert [e for e in events if isinstance(e, ReasoningDelta)] == [ReasoningDelta("hm"), ReasoningDelta("", "sig==")]
    assert [e for e in events if isinstance(e, Usage)][-1] == Usage(25, 15, 0, 5)
    served, _, _ = run(driver_of("anthropic"), [(ROOT / "anthropic/server_tool.sse").read_bytes()])
    assert ToolResult("srv_1", "web_search", [{"url": "u"}]) in served
    google, _, _ = run(driver_of("google"), [(ROOT / "google/text.sse").read_bytes()])
    assert Usage(3, 7, 2, 0) in google


def test_without_a_done_marker_the_end_after_a_finish_is_done() -> None:
    """transformers serve never sends [DONE]; every answer of it would count as broken."""
    driver = catalog.build("b", Backend(driver="openai", options={"done_marker": False}))
    assert run(driver, [(ROOT / "openai/finish_without_done.sse").read_bytes()])[1]
    assert not run(driver, [(ROOT / "openai/truncated.sse").read_bytes()])[1]


@pytest.mark.parametrize(("status", "headers", "body", "code", "message", "wait"), [
    (401, {}, b'{"error":{"message":"bad key sk-secret-key"}}', ErrorCode.UPSTREAM_REFUSED, None, None),
    (400, {}, b'{"error":{"message":"no\\n sk-secret-key","type":"t"}}', ErrorCode.INVALID_REQUEST, "no  ***", None),
    (404, {}, b'{"error":"model \'x\' not found"}', ErrorCode.UNKNOWN_MODEL, "model 'x' not found", None),
    (404, {}, b"<html>nginx</html>", ErrorCode.UPSTREAM_REFUSED, None, None),
    (422, {}, b'{"detail":[{"msg":"field required"}]}', ErrorCode.INVALID_REQUEST, "field required", None),
    (413, {}, b"", ErrorCode.TOO_LARGE, "the backend answered HTTP 413", None),
    (429, {"retry-after": "7"}, b"", ErrorCode.RATE_LIMITED, None, 7.0),
    (429, {"retry-after": "1000000000"}, b"", ErrorCode.RATE_LIMITED, None, 120.0),
    (429, {"retry-after": "-5"}, b"", ErrorCode.RATE_LIMITED, None, None),
    (429, {"retry-after": "soon"}, b"", ErrorCode.RATE_LIMITED, None, None),
    (429, {"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, b"",
     ErrorCode.RATE_LIMITED, None, 30.0),
    (429, {}, b'[{"error":{"message":"q","details":[{"retryDelay":"3s"}]}}]', ErrorCode.RATE_LIMITED, "q", 3.0),
    (503, {}, b"busy", ErrorCode.OVERLOADED, "busy", None),
    (529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"O"}}', ErrorCode.OVERLOADED, "O", None),
    (500, {}, b"<!doctype html>", ErrorCode.UPSTREAM_FAILED, "the backend answered HTTP 500", None),
    (302, {"location": "http://169.254.169.254/"}, b"", ErrorCode.UPSTREAM_FAILED, None, None),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["openai", "anthropic", "google", "ollama", "tgi"])
def test_failures_become_ours(
    kind: str,
    status: int,
    headers: dict[str, str],
    body: bytes,
    code: ErrorCode,
    message: str | None,
    wait: float | None,
) -> None:
    """Clients would retry what cannot work, or a key would leak into an error."""
    from config.values import Secret

    driver = catalog.build("b", Backend(driver=kind, url="http://h:1", api_key=Secret("sk-secret-key")))
    error = driver.failure(status, headers, body)
    assert (error.code, error.retry_after, error.upstream_status) == (code, wait, status)
    assert message is None or error.message == message
    assert "sk-secret" not in error.message
