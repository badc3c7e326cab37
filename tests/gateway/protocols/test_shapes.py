"""Exact bytes of what clients read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
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
from gateway.protocols import answer, catalog, errors, native, ndjson, openai_chat
from gateway.protocols.base import About, ClientProtocol, Ending

ABOUT = About("st_a", "m", "b", 1795260699000, "c1")
STOP = Ending("stop", Usage(9, 2, 1, 4), False, 2)
TEXT: list[Event] = [Start(), TextDelta("Hé\n"), TextDelta('"!"'), Finish("stop"), Usage(9, 2)]
TOOLS: list[Event] = [
    ToolCallDelta(0, "c1", "f", ""),
    ToolCallDelta(0, arguments='{"q":'),
    ToolCallDelta(0, arguments="1}"),
    ToolCallDelta(1, "c2", "g", '{"half'),
    Finish("tool_calls"),
]
ALL: list[ClientProtocol] = [native.Protocol(), ndjson.Protocol(), openai_chat.Protocol()]


def view(protocol: ClientProtocol, events: list[Event], ending: Ending = STOP, about: About = ABOUT) -> bytes:
    encoder = protocol.encoder(about)
    return encoder.start() + encoder.feed(events) + encoder.end(ending)


def test_native_text() -> None:
    """Clients read these very names; ids are what they resume with."""
    usage = '{"promptTokens":9,"completionTokens":2,"reasoningTokens":1,"cachedTokens":4,"estimated":false}'
    assert view(native.Protocol(), TEXT).decode() == (
        'retry: 1000\nid: st_a.1\nevent: start\ndata: {"streamId":"st_a","model":"m","backend":"b",'
        '"conversationId":"c1","timestamp":1795260699000}\n\n'
        'id: st_a.2\nevent: token\ndata: {"content":"Hé\\n","tokenCount":1}\n\n'
        'id: st_a.3\nevent: token\ndata: {"content":"\\"!\\"","tokenCount":2}\n\n'
        f"id: st_a.4\nevent: usage\ndata: {usage}\n\n"
        'id: st_a.5\nevent: done\ndata: {"fullText":"Hé\\n\\"!\\"","tokenCount":2,"finishReason":"stop",'
        f'"usage":{usage}}}\n\n'
    )


def test_ndjson_text() -> None:
    """The same for clients that read lines."""
    usage = '{"prompt_tokens":9,"completion_tokens":2,"reasoning_tokens":1,"cached_tokens":4,"estimated":false}'
    assert view(ndjson.Protocol(), TEXT).decode() == (
        '{"type":"start","stream_id":"st_a","model":"m","backend":"b","conversation_id":"c1",'
        '"timestamp":1795260699000}\n'
        '{"type":"message_chunk","content":"Hé\\n","tokens":1}\n'
        '{"type":"message_chunk","content":"\\"!\\"","tokens":2}\n'
        '{"type":"complete_state","message":"Hé\\n\\"!\\"","total_tokens":2,"finish_reason":"stop",'
        f'"stream_id":"st_a","usage":{usage}}}\n'
    )


def test_openai_text() -> None:
    """The official SDKs build their objects from these fields, and stop at [DONE]."""
    head = 'data: {"id":"chatcmpl-a","object":"chat.completion.chunk","created":1795260699,"model":"m","choices":['
    before, after = head + '{"index":0,"delta":', ',"finish_reason":null}],"usage":null}\n\n'
    assert view(openai_chat.Protocol(), TEXT).decode() == (
        before + '{"role":"assistant","content":""}' + after
        + before + '{"content":"Hé\\n"}' + after
        + before + '{"content":"\\"!\\""}' + after
        + before + '{},"finish_reason":"stop"}],"usage":null}\n\n'
        + head + '],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,'
        '"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip


def test_openai_says_nothing_of_usage_unless_asked() -> None:
    """A chunk without choices breaks clients that did not ask for it."""
    about = About("st_a", "m", "b", 0, include_usage=False)
    assert b"usage" not in view(openai_chat.Protocol(), TEXT, about=about)


def test_native_tool_calls_are_told_piece_by_piece_and_whole() -> None:
    """A client that runs tools needs each call once, complete, with its arguments as an object."""
    out = view(native.Protocol(), TOOLS, Ending("tool_calls", Usage(), True, 4)).decode()
    kinds = [line[7:] for line in out.splitlines() if line.startswith("event: ")]
    assert kinds == ["start", *["tool_call_delta"] * 3, "tool_call", "tool_call_delta", "tool_call", "usage", "done"]
    assert 'data: {"index":0,"id":"c1","name":"f","arguments":{"q":1}}\n' in out
    assert 'data: {"index":1,"id":"c2","name":"g","arguments":"{\\"half"}\n' in out


@pytest.mark.parametrize("protocol", [native.Protocol(), ndjson.Protocol()], ids=lambda p: p.name)
def test_a_call_cut_by_a_failure_is_never_told_as_whole(protocol: ClientProtocol) -> None:
    """Somebody might run half a command."""
    ending = Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
    out = view(protocol, [ToolCallDelta(0, "c", "f", '{"path": "/')], ending)
    assert b"tool_call\n" not in out
    assert b'"type":"tool_call"' not in out


def test_interleaved_calls_are_assembled_apart() -> None:
    """Providers may stream parallel calls in turns; a call must not be told at the first change of index."""
    calls = answer.Calls()
    deltas = [ToolCallDelta(0, "a", "f", '{"x"'), ToolCallDelta(1, "b", "g", "{"), ToolCallDelta(0, arguments=":1}")]
    told = [call for delta in deltas for call in calls.feed(delta)] + calls.rest()
    assert [(c.id, c.arguments) for c in told] == [("a", '{"x":1}'), ("b", "{")]


def test_parallel_calls_keep_their_order() -> None:
    """A client that reads a stream would have them in another order than one that reads the whole answer."""
    calls = answer.Calls()
    deltas = [
        ToolCallDelta(0, "a", "f", '{"x"'),
        ToolCallDelta(1, "b", "g", "{}"),
        ToolCallDelta(0, arguments=":"),
        ToolCallDelta(2, "c", "h", "{}"),
        ToolCallDelta(0, arguments="1}"),
    ]
    told = [call for delta in deltas for call in calls.feed(delta)] + calls.rest()
    assert [(c.id, c.arguments) for c in told] == [("a", '{"x":1}'), ("b", "{}"), ("c", "{}")]


def test_ndjson_tool_events() -> None:
    """Names of this shape differ from the SSE ones: tool_name, args."""
    events: list[Event] = [ReasoningDelta("hm"), *TOOLS[:3], ToolResult("r", "web", {"n": 1}), Finish("tool_calls")]
    lines = view(ndjson.Protocol(), events).decode().splitlines()
    assert lines[1:4] == [
        '{"type":"reasoning_chunk","content":"hm","tokens":0}',
        '{"type":"tool_result","tool_name":"web","id":"r","result":{"n":1}}',
        '{"type":"tool_call","tool_name":"f","id":"c1","args":{"q":1}}',
    ]


def test_errors_in_a_stream() -> None:
    """The last frame of a broken stream, in each protocol; without it SDKs report success."""
    ending = Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
    tails = [view(p, [TextDelta("x")], ending) for p in ALL]
    assert tails[0].endswith(
        b'id: st_a.3\nevent: error\ndata: {"code":"upstream_truncated","message":"cut","retryable":true,'
        b'"streamId":"st_a","tokenCount":1}\n\n'
    )
    assert tails[1].endswith(
        b'\n{"type":"error","code":"upstream_truncated","message":"cut","stream_id":"st_a","retryable":true,"tokens":1}\n'
    )
    assert tails[2].endswith(
        b'\n\ndata: {"error":{"message":"cut","type":"server_error","param":null,"code":"upstream_truncated"}}\n\n'
    )
    assert b"[DONE]" not in tails[2]


def test_cancelled_is_done_natively_and_an_error_for_openai() -> None:
    """Native clients cancel on purpose and want what there was; an SDK must notice that the answer is not whole."""
    ending = Ending("cancelled", Usage(), True, 1)
    out = view(native.Protocol(), [TextDelta("x")], ending)
    assert b'{"fullText":"x","tokenCount":1,"finishReason":"cancelled",' in out
    out = view(openai_chat.Protocol(), [TextDelta("x")], ending)
    assert b'"code":"cancelled"' in out
    assert b"[DONE]" not in out


def test_whole_answers() -> None:
    """The non-streaming forms hold the same answer."""
    folded = answer.fold([ReasoningDelta("hm"), *TEXT[:3], *TOOLS[:3], Finish("tool_calls")])
    bodies = [json.loads(p.whole(ABOUT, folded, STOP)) for p in ALL]
    assert bodies[0]["fullText"] == bodies[0]["content"] == bodies[1]["message"] == 'Hé\n"!"'
    assert bodies[0]["toolCalls"] == [{"index": 0, "id": "c1", "name": "f", "arguments": {"q": 1}}]
    assert bodies[1]["tool_calls"][0]["args"] == {"q": 1}
    message = bodies[2]["choices"][0]["message"]
    assert message["content"] == 'Hé\n"!"'
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q":1}'}}
    ]
    assert bodies[2]["usage"]["total_tokens"] == 11


@pytest.mark.parametrize("code", list(ErrorCode))
def test_refusals(code: ErrorCode) -> None:
    """Every code has a row; statuses and retry hints are what SDKs act on."""
    error = BackendError(code, "why", param="model")
    ours, openai = native.Protocol().failure(error, "r1"), openai_chat.Protocol().failure(error, "r1")
    assert json.loads(ours.body) == {"error": {"code": code.wire, "message": "why", "requestId": "r1"}}
    assert ours.status == openai.status == code.status
    assert json.loads(openai.body)["error"]["param"] == "model"
    assert (("x-should-retry", "false") in openai.headers) is not code.retryable
    assert (("Retry-After", "1") in ours.headers) is (code.status in (429, 503))


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    """Half a second as `0` would make clients hammer."""
    late = BackendError(ErrorCode.RATE_LIMITED, "x", retry_after=2.1)
    soon = BackendError(ErrorCode.UPSTREAM_FAILED, "x", retry_after=0.2)
    assert errors.retry_after_header(late) == (("Retry-After", "3"),)
    assert errors.retry_after_header(soon) == (("Retry-After", "1"),)


EVENTS = st.lists(
    st.builds(TextDelta, st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
    | st.builds(ReasoningDelta, st.text(st.characters(exclude_categories=["Cs"])))
    | st.builds(
        ToolCallDelta, st.integers(0, 3), st.just("i"), st.just("n"), st.sampled_from(["", "{}", '{"a"', ":1}"])
    )
    | st.builds(Failed, st.just(BackendError(ErrorCode.OVERLOADED, "x"))),
    max_size=12,
)


@settings(deadline=None)
@given(EVENTS, st.integers(0, 12))
def test_a_view_does_not_depend_on_how_events_come(events: list[Event], cut: int) -> None:
    """Resume skips n frames: they must be the same bytes and as many, whatever the blocks were."""
    for protocol in ALL:
        at_once, parted = protocol.encoder(ABOUT), protocol.encoder(ABOUT)
        first = at_once.start() + at_once.feed(events) + at_once.end(STOP)
        second = parted.start() + parted.feed(events[:cut]) + parted.feed(events[cut:]) + parted.end(STOP)
        assert first == second
        assert first.count(b"\n\n" if protocol.framing == "sse" else b"\n") == at_once.frames == parted.frames


def test_catalog_builds_what_is_asked_for() -> None:
    """A protocol missing from the folder's list would answer 404 in silence."""
    assert {"native", "openai"} <= catalog.families()
    assert {"native", "ndjson"} == set(catalog.build(["native"]))
    assert catalog.build(["openai"])["openai"].keepalive == b": ping\n"
