"""Native Responses streams of OpenAI and of the servers that copy it: decoder, tap and sibling driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import catalog
from backends.base import Driver
from backends.contract.errors import ErrorCode
from backends.contract.events import (
    Citation,
    Event,
    Failed,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from backends.contract.framing import SseFramer
from backends.openai_responses_stream import DIALECT
from backends.openai_responses_tap import ResponsesTap
from config.schema import Backend
from config.values import Secret

ROOT = Path(__file__).parent.parent / "transcripts" / "openai_responses"
ALL = sorted(path.name for path in ROOT.glob("*.sse"))
BROKEN = ("failed", "error", "invalid", "truncated")


def sibling(kind: str = "openai", **options: Any) -> Driver:
    driver = catalog.build("b", Backend(driver=kind, url="http://h:1", api_key=Secret("sk-secret-1"), options=options))
    found = driver.speaking(DIALECT)
    assert found is not None
    return found


def run(parts: list[bytes]) -> tuple[list[Event], bool, int]:
    """Events, done and the number of frames of a body that came in these parts; the tap must agree."""
    driver, framer = sibling(), SseFramer(1 << 20)
    decoder, tap, events = driver.decoder(), driver.tap(), []
    for part in parts:
        block = framer.feed(part)
        if not block:
            continue
        events += decoder.feed(block)
        text = tap.likeness.text(block)
        tap.plain() if text is not None else tap.feed(block)
    events += decoder.eof()
    content = [
        e for e in events if isinstance(e, TextDelta | ToolCallDelta) or (isinstance(e, ReasoningDelta) and e.text)
    ]
    assert (tap.tokens, tap.done) == (len(content), decoder.done)
    assert tap.finish == next((e.reason for e in events if isinstance(e, Finish)), None)
    assert tap.usage == next((e for e in events if isinstance(e, Usage)), None)
    assert tap.failure == next((e.error for e in events if isinstance(e, Failed)), None)
    assert isinstance(tap, ResponsesTap)
    assert tap.answer_id == next((e.id for e in events if isinstance(e, Start)), "")
    return events, decoder.done, framer.frames


def told(name: str) -> list[Event]:
    return run([(ROOT / f"{name}.sse").read_bytes()])[0]


def text_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta))


def thought_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, ReasoningDelta))


@pytest.mark.parametrize("name", ALL)
def test_every_split_offset_reads_the_same(name: str) -> None:
    """A character or line end cut between two reads would change the answer, a disagreeing tap the receipts."""
    data = (ROOT / name).read_bytes()
    whole = run([data])
    for at in range(1, len(data), 7):
        assert run([data[:at], data[at:]]) == whole
    assert run([data[i : i + 1] for i in range(len(data))]) == whole
    framer = SseFramer(1 << 20)
    assert run(framer.split(framer.feed(data))) == whole


@pytest.mark.parametrize("name", ALL)
def test_done_means_the_dialects_own_end(name: str) -> None:
    """A broken answer would be shown as a complete one, or a complete one as broken."""
    data = (ROOT / name).read_bytes()
    events, done, _ = run([data])
    broken = name.startswith(BROKEN)
    assert done is not broken
    assert any(isinstance(e, Failed) for e in events) == (broken and not name.startswith("truncated"))
    if not broken:
        assert not run([data[: len(data) // 2]])[1]


def test_text_usage_and_finish() -> None:
    """The plainest answer would be miscounted or unfinished."""
    events = told("text")
    assert events[0] == Start("resp_68a1", "gpt-5-2026")
    assert text_of(events).endswith(' w37 "q" ☕\n')
    assert events[-2:] == [Finish("stop"), Usage(36, 87, 64, 5)]


def test_reasoning_and_parallel_calls() -> None:
    """Summaries would run together, the encrypted form be lost, or one call's arguments end in another's."""
    events = told("reasoning_tools")
    assert thought_of(events) == "I **look**\n\nthen act"
    assert ReasoningDelta("", signature="gAAAAAB") in events
    assert [e for e in events if isinstance(e, ToolCallDelta)] == [
        ToolCallDelta(0, "call_1", "get_weather"),
        ToolCallDelta(0, arguments='{"city":'),
        ToolCallDelta(0, arguments='"Oslo"}'),
        ToolCallDelta(1, "call_2", "now"),
        ToolCallDelta(1, arguments="{}"),
    ]
    assert Finish("tool_calls") in events


def test_hosted_tools_and_citations() -> None:
    """What ran at the provider, and its sources, would vanish for clients of other protocols."""
    events = told("web_search")
    assert next(e.name for e in events if isinstance(e, ToolResult)) == "web_search"
    cited = next(e for e in events if isinstance(e, Citation))
    assert (cited.url, cited.title, cited.start, cited.end) == ("https://example.org/f", "Fjords", 0, 6)


@pytest.mark.parametrize(("name", "reason"), [("incomplete", "length"), ("vllm", "length"), ("transformers", "stop")])
def test_why_it_ended(name: str, reason: str) -> None:
    """vLLM says `completed` of an answer that was cut: it would look whole."""
    assert next(e.reason for e in told(name) if isinstance(e, Finish)) == reason


def test_llama_cpp_is_read_without_indices() -> None:
    """Its events name no output_index, and it closes the reasoning after the call began: both would be told twice."""
    events = told("llamacpp_tool")
    assert thought_of(events).startswith(" rbaba rbabe")
    assert thought_of(events).count("rbaba") == 1
    calls = [e for e in events if isinstance(e, ToolCallDelta)]
    assert (calls[0].name, "".join(c.arguments for c in calls)) == ("get_weather", '{"city": "Paris"}')
    assert text_of(told("llamacpp_text")).startswith("Hello babe babi")


def test_a_tap_stops_searching_blocks_like_the_last() -> None:
    """Frames without numbers are alike but for their text: the token path's short cut would never be taken."""
    framer, tap, plain = SseFramer(1 << 20), sibling().tap(), 0
    for frame in framer.split(framer.feed((ROOT / "llamacpp_text.sse").read_bytes())):
        text = tap.likeness.text(frame)
        plain += text is not None
        tap.plain() if text is not None else tap.feed(frame)
    assert plain > 20
    assert tap.done


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("failed", ErrorCode.RATE_LIMITED),
        ("error", ErrorCode.UPSTREAM_FAILED),
        ("error_flat", ErrorCode.UPSTREAM_FAILED),
        ("invalid", ErrorCode.UPSTREAM_FAILED),
    ],
)
def test_errors_inside_a_stream(name: str, code: ErrorCode) -> None:
    """A failed answer would pass for a short one."""
    assert next(e.error.code for e in told(name) if isinstance(e, Failed)) is code


KINDS = [
    *("response.created", "response.output_text.delta", "response.reasoning_text.delta", "response.output_item.added"),
    *("response.output_item.done", "response.function_call_arguments.delta", "response.function_call_arguments.done"),
    *("response.output_text.annotation.added", "response.completed", "response.incomplete", "response.failed", "error"),
]
FIELDS = ["type", "id", "call_id", "name", "arguments", "text", "usage", "error", "status", "summary", "message"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["a", "reasoning", "function_call", "x_call"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=6,
)
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional=dict.fromkeys(("item", "delta", "response", "item_id", "output_index", "error", "annotation"), JSON),
)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=6))
def test_whatever_an_event_holds_it_is_read_or_a_failure(said: list[dict[str, Any]]) -> None:
    """One odd field of one backend would break the socket's callback, and with it the stream's ending."""
    run([b"data: " + json.dumps(event).encode() + b"\n\n" for event in said])


def test_servers_that_tell_calls_only_when_done() -> None:
    """Their arguments would be lost."""
    item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
    said = [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
        {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": '{"a":1}'},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 1, "item": {**item, "id": "fc_2", "call_id": "c2"}},
    ]
    block = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in said)
    assert sibling().decoder().feed(block) == [
        ToolCallDelta(0, "c1", "f"),
        ToolCallDelta(0, arguments='{"a":1}'),
        ToolCallDelta(1, "c2", "f", '{"a":1}'),
    ]


@pytest.mark.parametrize("kind", ["openai", "vllm", "llamacpp"])
def test_the_client_s_body_goes_on_as_it_is(kind: str) -> None:
    """Fields we do not know would be lost; `background` would keep the provider generating after a cancel."""
    body = {"model": "x", "input": "hi", "background": True, "store": False, "novel": {"a": 1}}
    request = sibling(kind).forward(body, "real")
    assert request.path == ("/responses" if kind == "openai" else "/v1/responses")
    assert json.loads(request.body) == {
        "model": "real",
        "input": "hi",
        "store": False,
        "novel": {"a": 1},
        "stream": True,
    }
    assert ("authorization", "Bearer sk-secret-1") in request.headers


def test_backends_without_the_api_have_no_sibling() -> None:
    """Clients would get a 404 instead of a translated answer."""
    for kind, options in (("tgi", {}), ("demo", {}), ("openai", {"responses": False})):
        driver = catalog.build("b", Backend(driver=kind, url="http://h:1", options=options))
        assert driver.speaking(DIALECT) is None
