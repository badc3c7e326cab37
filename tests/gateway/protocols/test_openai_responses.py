"""OpenAI Responses: what we say of an answer, and that our halves and the SDK's types agree."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.base import HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Citation,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.framing import SseFramer
from backends.contract.request import ReasoningPart
from backends.openai_responses import Responses
from backends.openai_responses_stream import ResponsesDecoder
from config.schema import Backend
from gateway.protocols import openai_responses
from gateway.protocols.answer import fold
from gateway.protocols.base import About, Asked, Ending
from gateway.protocols.openai_responses_object import response_id, stream_ids

PROTOCOL = openai_responses.Protocol()
ABOUT = About("st_a", "m", "b", 1795260699000)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = Usage(9, 4, 1, 2)


def parsed(**body: Any) -> Asked:
    return PROTOCOL.parse(msgspec.json.encode({"model": "m", **body}), {})


def frames(data: bytes) -> list[dict[str, Any]]:
    """The events of a view; each frame's name must be its type."""
    found = []
    for frame in data.decode().split("\n\n")[:-1]:
        name, said = frame.split("\n")
        event = json.loads(said.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def encoded(events: list[Event], ending: Ending) -> bytes:
    encoder = PROTOCOL.encoder(ABOUT)
    data = encoder.start() + b"".join(encoder.feed([event]) for event in events) + encoder.end(ending)
    assert encoder.frames == data.count(b"\n\n")
    return data


def well(finish: FinishReason = "stop") -> Ending:
    return Ending(finish, USAGE, False, 1)


ANSWER: list[Event] = [
    Start("x", "y"),
    ReasoningDelta("hm"),
    ReasoningDelta("", signature="sig"),
    TextDelta("He"),
    TextDelta("y"),
    Citation(url="https://e.org", title="E", end=2, start=0),
    ToolCallDelta(0, "c1", "f", '{"a"'),
    ToolCallDelta(0, arguments=":1}"),
    ToolCallDelta(1, "c2", "g", "{}"),
]


def test_the_choreography_is_the_sdks() -> None:
    """Strict clients refuse events with a missing field, an unknown place or a gap in their numbers."""
    events = frames(encoded(ANSWER, well("tool_calls")))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event, strict=False)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.annotation.added", "output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    whole = events[-1]["response"]
    Response.model_validate(whole)
    assert whole["output"] == [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert whole["usage"]["total_tokens"] == 13


def test_a_whole_answer_says_what_the_stream_says() -> None:
    """Clients that do not stream would get another answer."""
    ending = well("tool_calls")
    streamed = frames(encoded(ANSWER, ending))[-1]["response"]
    whole = json.loads(PROTOCOL.whole(ABOUT, fold([*ANSWER, Finish("tool_calls")]), ending))
    Response.model_validate(whole)
    for item in streamed["output"] + whole["output"]:
        item.pop("status", None)
    assert whole == streamed


@pytest.mark.parametrize(
    ("finish", "kind", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("timeout", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_how_an_answer_ends(finish: FinishReason, kind: str, reason: str | None) -> None:
    """A cut answer would look whole."""
    last = frames(encoded([TextDelta("He")], well(finish)))[-1]
    assert (last["type"], last["response"]["status"]) == (f"response.{kind}", kind)
    assert (last["response"]["incomplete_details"] or {}).get("reason") == reason
    assert last["response"]["output"][0]["status"] == kind


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (Ending("cancelled", USAGE, True, 1), "cancelled"),
        (Ending("error", USAGE, True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut")), "failed"),
        (Ending("timeout", USAGE, True, 1, BackendError(ErrorCode.TIMED_OUT, "late")), "failed"),
    ],
)
def test_what_did_not_complete_fails(ending: Ending, status: str) -> None:
    """SDKs would take it for success: they raise at the `error` event alone, others read `response.failed`."""
    events = frames(encoded([TextDelta("He")], ending))
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    assert (events[-2]["response"]["status"], events[-2]["response"]["output"][0]["content"][0]["text"]) == (
        status,
        "He",
    )
    assert events[-1]["error"]["message"] == events[-1]["message"] == events[-2]["response"]["error"]["message"]
    for event in events:
        EVENT.validate_python(event, strict=False)


def test_an_error_frame_is_numbered_on_from_the_backends() -> None:
    """A resuming client would get two events of one number."""
    ending = Ending("error", USAGE, True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut"))
    assert [e["sequence_number"] for e in frames(PROTOCOL.error_frame(ABOUT, ending, 8))] == [7, 8]


def test_going_on_after_the_backends_own_frames() -> None:
    """After a failover the client would be told of an item it never saw, or two events of one number."""
    encoder = PROTOCOL.encoder(ABOUT)
    encoder.start()
    encoder.adopt(b'data: {"type":"response.created","response":{"id":"resp_theirs","created_at":7}}\n\n')
    encoder.feed([TextDelta("Hel")])
    encoder.frames = 9
    events = frames(encoder.feed([TextDelta("lo")]) + encoder.end(well()))
    assert [event["sequence_number"] for event in events] == list(range(9, 9 + len(events)))
    assert events[0]["type"] == "response.output_item.added"
    whole = events[-1]["response"]
    assert (whole["id"], whole["created_at"], whole["model"]) == ("resp_theirs", 7, "m")
    assert [item["content"][0]["text"] for item in whole["output"]] == ["Hel", "lo"]


def test_anothers_signatures_come_back_to_it() -> None:
    """A model that must see its own signed reasoning again would stop thinking after its first tool call."""
    encoder = PROTOCOL.encoder(replace(ABOUT, dialect="anthropic"))
    events: list[Event] = [ReasoningDelta("hm"), ReasoningDelta("", "sig.1"), ReasoningDelta("", redacted="blob")]
    events += [ReasoningDelta("so", "sig2"), ToolCallDelta(0, "c", "f", "{}")]
    whole = frames(encoder.start() + encoder.feed(events) + encoder.end(well("tool_calls")))[-1]["response"]
    (message,) = parsed(input=whole["output"]).request.messages
    assert [(p.text, p.signature, p.redacted, p.dialect) for p in message.content if isinstance(p, ReasoningPart)] == [
        ("hm", "sig.1", "", "anthropic"),
        ("", "", "blob", "anthropic"),
        ("so", "sig2", "", "anthropic"),
    ]
    sibling = Responses("b", Backend(driver="openai"), _post, _fail, {})
    sent = json.loads(sibling.forward({"input": whole["output"]}, "m").body)["input"]
    assert [item["type"] for item in sent] == ["function_call"]  # another provider would refuse the reasoning


def _post(path: str, body: dict[str, Any]) -> HttpRequest:
    return HttpRequest("POST", path, (), msgspec.json.encode(body))


def _fail(status: int, headers: Any, body: bytes) -> BackendError:
    return BackendError(ErrorCode.UPSTREAM_FAILED, "no")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
DELTAS = st.builds(TextDelta, TEXT) | st.builds(ReasoningDelta, TEXT)
CALLS = st.lists(st.lists(TEXT, max_size=3), max_size=3)


@settings(deadline=None)
@given(st.lists(DELTAS, max_size=8), CALLS, st.builds(Usage, *[st.integers(0, 9)] * 5), st.integers(1, 40))
def test_what_we_encode_we_decode(deltas: list[Event], calls: list[list[str]], usage: Usage, step: int) -> None:
    """If the halves disagree, one of them is wrong about the format."""
    sent: list[Event] = list(deltas)
    for index, pieces in enumerate(calls):
        sent.append(ToolCallDelta(index, f"c{index}", "f"))
        sent += [ToolCallDelta(index, arguments=piece) for piece in pieces]
    finish: FinishReason = "tool_calls" if calls else "stop"
    body = encoded(sent, Ending(finish, usage, False, 1))
    decoder, framer = ResponsesDecoder(), SseFramer(1 << 20)
    blocks = (framer.feed(body[at : at + step]) for at in range(0, len(body), step))
    got = [event for block in blocks if block for event in decoder.feed(block)]
    assert got == [Start("resp_a", "m"), *sent, Finish(finish), usage]
    assert decoder.done


@settings(deadline=None)
@given(st.permutations([0] * 3 + [1] * 3 + [2] * 2))
def test_interleaved_calls_keep_their_arguments(order: list[int]) -> None:
    """Deltas of parallel calls may come in any order; one call's arguments must not end in another's."""
    pieces = {0: ['{"a"', ":", "1}"], 1: ["", '{"b":', "2}"], 2: ["{", "}"]}
    began: set[int] = set()
    sent: list[Event] = []
    for index in order:
        name = "" if index in began else f"f{index}"
        sent.append(ToolCallDelta(index, f"c{index}" if name else "", name, pieces[index].pop(0)))
        began.add(index)
    events = frames(encoded(sent, well("tool_calls")))
    output = events[-1]["response"]["output"]
    assert {item["name"]: item["arguments"] for item in output} == {"f0": '{"a":1}', "f1": '{"b":2}', "f2": "{}"}
    assert sum(event["type"] == "response.output_item.done" for event in events) == 3


@given(st.text(st.characters(categories=["L", "N", "S", "Zs"]), min_size=1).filter(str.isprintable))
def test_the_short_way_of_text_says_the_same(text: str) -> None:
    """A frame's bytes would depend on the road a token took, and resuming would double or lose some."""
    if '"' in text or "\\" in text:
        return
    one, other = PROTOCOL.encoder(ABOUT), PROTOCOL.encoder(ABOUT)
    for _ in range(2):
        assert one.plain(text) == other.feed([TextDelta(text)])
    assert one.end(well()) == other.end(well())


def test_ids_lead_back_to_the_stream() -> None:
    """A client could not find its stream again by the id it was given."""
    assert "st_abc" in stream_ids(response_id("st_abc"))
    assert "mine" in stream_ids(response_id("mine"))
    assert stream_ids("chatcmpl-1") == ()


def test_pending_and_refusals() -> None:
    """Background clients read the id there; SDKs retry what cannot succeed unless told."""
    pending = Response.model_validate(json.loads(PROTOCOL.pending(ABOUT)))
    assert (pending.id, pending.status, pending.background) == ("resp_a", "queued", True)
    refusal = PROTOCOL.failure(BackendError(ErrorCode.INVALID_REQUEST, "no", param="input"), "r")
    assert (refusal.status, dict(refusal.headers)["x-should-retry"]) == (400, "false")
    assert json.loads(refusal.body)["error"]["param"] == "input"
