"""Our Anthropic encoder and our Anthropic decoder are mirror halves, and the gatherer agrees with both."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from anthropic import Anthropic
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from backends import anthropic as driver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Citation,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.framing import SseFramer
from backends.contract.payload import sse_events
from config.schema import Backend
from gateway.protocols import anthropic
from gateway.protocols.answer import fold
from gateway.protocols.base import About, Answer, Ending

ABOUT = About("st_abc", "m", "b", 1795260699000)
PROTOCOL = anthropic.Protocol()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SOURCE = {"type": "web_search_result_location", "url": "u", "title": "t", "cited_text": "c"}
DELTA: st.SearchStrategy[Event] = st.one_of(
    st.builds(TextDelta, TEXT),
    st.builds(ReasoningDelta, TEXT),
    st.builds(ReasoningDelta, st.just(""), TEXT),
    st.builds(ReasoningDelta, st.just(""), st.just(""), TEXT),
    st.just(Citation("u", "t", "c", source=SOURCE, dialect="anthropic")),
)
OBJECT = st.dictionaries(TEXT, TEXT | st.integers(0, 9), max_size=2)


@st.composite
def calls(draw: st.DrawFn) -> list[Event]:
    """Up to three calls, their arguments in pieces, their deltas mixed as some backends mix them."""
    queues: list[list[Event]] = []
    for index in range(draw(st.integers(0, 3))):
        text = json.dumps(draw(OBJECT))
        cut = draw(st.integers(0, len(text)))
        first = ToolCallDelta(index, f"c{index}", "f", "")
        queues.append([first, *(ToolCallDelta(index, arguments=p) for p in (text[:cut], text[cut:]) if p)])
    mixed: list[Event] = []
    while any(queues):
        waiting = [queue for queue in queues if queue]
        mixed.append(draw(st.sampled_from(waiting)).pop(0))
    return mixed


def rendered(events: list[Event], ending: Ending) -> tuple[bytes, int]:
    encoder = PROTOCOL.encoder(ABOUT)
    parts = [encoder.start(), *(encoder.feed([event]) for event in events), encoder.end(ending)]
    return b"".join(parts), encoder.frames


def numbered(answer: Answer) -> Answer:
    """Calls are numbered by the order they began in."""
    answer.tool_calls = [replace(call, index=i) for i, call in enumerate(answer.tool_calls)]
    return answer


def events_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(payload) for _, payload in sse_events(data)]


@settings(deadline=None)
@given(
    st.lists(DELTA, max_size=6),
    calls(),
    st.integers(1, 9),
    st.builds(Usage, st.integers(20, 99), st.integers(1, 9), st.just(0), st.integers(0, 9), st.integers(0, 9)),
)
def test_what_we_encode_we_decode(deltas: list[Event], called: list[Event], step: int, usage: Usage) -> None:
    """If the halves disagree, one of them is wrong about Anthropic's format; if the cuts matter, a read loses words."""
    sent = [*deltas, *called]
    finish: FinishReason = "tool_calls" if called else "stop"
    data, frames = rendered(sent, Ending(finish, usage, False, 1))
    framer = SseFramer(1 << 20)
    decoder = driver.Driver("x", Backend(driver="anthropic")).decoder()
    got = [e for at in range(0, len(data), step) for e in decoder.feed(framer.feed(data[at : at + step]))]
    assert (decoder.done, framer.frames) == (True, frames)
    assert numbered(fold(got)) == numbered(fold([*sent, Finish(finish)]))
    assert [e for e in got if isinstance(e, Usage)][-1] == usage


@settings(deadline=None)
@given(st.lists(DELTA, max_size=6), calls())
def test_blocks_are_numbered_and_closed(deltas: list[Event], called: list[Event]) -> None:
    """Clients keep blocks by their number: one opened twice, or never closed, hides what is in it."""
    told = events_of(rendered([*called, *deltas], Ending("stop", Usage(), False, 1))[0])
    opened = [event["index"] for event in told if event["type"] == "content_block_start"]
    closed = [event["index"] for event in told if event["type"] == "content_block_stop"]
    assert opened == list(range(len(opened)))
    assert sorted(closed) == opened
    for event in told:
        if event["type"] == "content_block_delta":
            start = next(e for e in told if e["type"] == "content_block_start" and e["index"] == event["index"])
            kind = {"input_json_delta": "tool_use", "thinking_delta": "thinking", "signature_delta": "thinking"}
            assert start["content_block"]["type"] == kind.get(event["delta"]["type"], "text")


@settings(deadline=None)
@given(st.lists(DELTA, max_size=6), calls(), st.integers(0, 9))
def test_a_gathered_answer_is_the_streamed_one(deltas: list[Event], called: list[Event], tokens: int) -> None:
    """Clients that do not stream would get another answer from a backend of the same kind."""
    usage = Usage(20, tokens, 0, 3, 4)
    data, _ = rendered([*deltas, *called], Ending("stop", usage, False, 1))
    gatherer = PROTOCOL.gatherer()
    gatherer.feed(data)
    whole = json.loads(gatherer.body(About("st_x", "named", "b", 0), Ending("stop", usage, False, 1)))
    answer = fold([*deltas, *called])
    blocks = whole["content"]
    assert "".join(b["text"] for b in blocks if b["type"] == "text") == answer.text
    assert "".join(b["thinking"] for b in blocks if b["type"] == "thinking") == answer.reasoning
    assert [b["data"] for b in blocks if b["type"] == "redacted_thinking"] == answer.redacted
    assert [b["input"] for b in blocks if b["type"] == "tool_use"] == [
        json.loads(c.arguments) for c in answer.tool_calls
    ]
    assert whole["model"] == "named"
    assert whole["usage"] == {
        "input_tokens": 13, "output_tokens": tokens, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 3,
    }  # fmt: skip
    assert whole["stop_reason"] == ("tool_use" if called else "end_turn")


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='"\\'), min_size=1))
def test_plain_text_is_the_same_bytes(text: str) -> None:
    """The token path's short cut would be another stream than a replay renders."""
    slow, fast = PROTOCOL.encoder(ABOUT), PROTOCOL.encoder(ABOUT)
    for _ in range(2):
        assert slow.feed([TextDelta(text)]) == fast.plain(text)
    assert slow.frames == fast.frames


def test_stop_sequence_and_cut_answers_are_said() -> None:
    """A client could not tell which of its stop sequences was met, or that an answer was cut short."""
    told = events_of(rendered([TextDelta("a"), Finish("stop", "END")], Ending("stop", Usage(), False, 1))[0])
    assert told[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    for finish, reason in (("length", "max_tokens"), ("content_filter", "refusal"), ("timeout", "max_tokens")):
        told = events_of(rendered([TextDelta("a")], Ending(finish, Usage(), True, 1))[0])  # type: ignore[arg-type]
        assert told[-2]["delta"]["stop_reason"] == reason
        assert told[-1] == {"type": "message_stop"}
    answer = fold([TextDelta("a"), Finish("stop", "END")])
    whole = json.loads(PROTOCOL.whole(ABOUT, answer, Ending("stop", Usage(), False, 1)))
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "END")


def test_a_failed_answer_has_no_completion() -> None:
    """A broken answer would look whole."""
    error = BackendError(ErrorCode.OVERLOADED, "full")
    for ending in (Ending("error", Usage(), True, 1, error), Ending("cancelled", Usage(), True, 1)):
        told = events_of(rendered([TextDelta("a")], ending)[0])
        assert told[-1]["type"] == "error"
        assert "message_stop" not in [event["type"] for event in told]
        assert events_of(PROTOCOL.error_frame(ABOUT, ending, 4)) == told[-1:]


def test_the_gatherer_keeps_what_it_does_not_know() -> None:
    """A field Anthropic adds tomorrow would be lost, or a bad event would lose the answer."""
    gatherer = PROTOCOL.gatherer()
    for event in (
        {"type": "message_start", "message": {"id": "msg_9", "new": 1, "usage": {"input_tokens": 3, "tier": "x"}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "novel", "body": "a", "k": 2}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "novel_delta", "body": "b", "n": [1]}},
        {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "nowhere"}},
        {"type": "message_delta", "delta": {"stop_reason": "pause_turn", "container": {"id": "c"}}, "context": {"a": 1},
         "usage": {"output_tokens": 4, "input_tokens": None}},
    ):  # fmt: skip
        gatherer.feed(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n")
    gatherer.feed(b"event: x\ndata: {broken\n\n")
    whole = json.loads(gatherer.body(ABOUT, Ending("stop", Usage(), False, 1)))
    assert whole["content"] == [{"type": "novel", "body": "ab", "k": 2, "n": [1]}]
    assert whole["usage"] == {"input_tokens": 3, "tier": "x", "output_tokens": 4}
    assert (whole["new"], whole["container"], whole["context"]) == (1, {"id": "c"}, {"a": 1})
    assert (whole["stop_reason"], whole["model"]) == ("pause_turn", "m")


def test_the_sdk_reads_over_keepalives() -> None:
    """A keepalive that is a frame of its own would shift every cursor, or end the SDK's event too early."""
    sent: list[Event] = [ReasoningDelta("hm"), TextDelta("He"), TextDelta("y"), ToolCallDelta(0, "c", "f", '{"a":1}')]
    data, frames = rendered(sent, Ending("stop", Usage(3, 4), False, 4))
    parts = SseFramer(1 << 20).split(data)
    body = PROTOCOL.keepalive.join([b"", *parts, b""])
    assert len(SseFramer(1 << 20).split(body)) == frames
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, content=body, headers={"content-type": PROTOCOL.content_type})
    )
    sdk = Anthropic(api_key="k", base_url="http://x", http_client=httpx2.Client(transport=transport))
    with sdk.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("tool_use", 3, 4)
