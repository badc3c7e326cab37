"""Ollama as a client protocol: what is asked, what is answered, and that the driver of the same name reads it."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import catalog
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Event, Finish, ReasoningDelta, Start, TextDelta, ToolCallDelta, Usage
from backends.contract.fit import fit
from backends.contract.framing import NdjsonFramer
from backends.contract.request import ChatRequest, ImagePart, ReasoningPart, TextPart, Tool
from config.schema import Backend
from gateway.protocols import ollama
from gateway.protocols.answer import fold
from gateway.protocols.base import About, Ending
from gateway.protocols.ollama_request import unloads

ABOUT = About("st_a", "m", "b", 1795260699000)
CHAT, GENERATE = ollama.Protocol(), ollama.Generate()
_NAMES = (
    "model", "messages", "prompt", "role", "content", "images", "tool_calls", "function", "name", "arguments",
    "tools", "options", "stop", "think", "format", "thinking", "tool_name", "keep_alive", "suffix", "seed",
)  # fmt: skip
DONE = Ending("stop", Usage(3, 4), False, 2)


def asked(protocol: ollama.Protocol = CHAT, **body: Any) -> ChatRequest:
    return protocol.parse(msgspec.json.encode({"model": "m", **body}), {}).request


def test_a_stream_is_the_default() -> None:
    """A client that does not say would wait for the whole answer."""
    assert CHAT.parse(b'{"model":"m","messages":[]}', {}).stream
    assert not CHAT.parse(b'{"model":"m","messages":[],"stream":false}', {}).stream


def test_a_whole_conversation_is_read() -> None:
    """Thoughts, pictures or the pairing of calls and results would be lost on the way to another backend."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    request = asked(
        messages=[
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "look", "images": ["/9j/4AAQ", "iVBORw0K"]},
            {
                "role": "assistant",
                "content": "so",
                "thinking": "why",
                "tool_calls": [call, call, {"function": {"name": "g"}}],
            },
            {"role": "tool", "content": "G", "tool_name": "g"},
            {"role": "tool", "content": "F", "tool_name": "f"},
            {"role": "tool", "content": "F2"},
        ],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    )
    system, user, assistant, *results = request.messages
    assert (system.role, system.content) == ("system", "be kind")
    assert user.content == (
        TextPart("look"),
        ImagePart(data="/9j/4AAQ", media_type="image/jpeg"),
        ImagePart(data="iVBORw0K", media_type="image/png"),
    )
    assert assistant.content == (ReasoningPart("why", dialect="ollama"), TextPart("so"))
    assert [(c.id, c.name, c.arguments) for c in assistant.tool_calls] == [
        ("call_0", "f", '{"a":1}'),
        ("call_1", "f", '{"a":1}'),
        ("call_2", "g", "{}"),
    ]
    assert [(m.tool_call_id, m.name, m.content) for m in results] == [
        ("call_2", "g", "G"),
        ("call_0", "f", "F"),
        ("call_1", "f", "F2"),
    ]
    assert request.tools == (Tool("f", "", {"type": "object"}),)


def test_options_become_fields_and_the_rest_is_named() -> None:
    """A length or a seed would be lost, or an unknown option drop silently."""
    options = {"num_predict": 5, "temperature": 0, "stop": "X", "seed": 1, "num_ctx": 9}
    request = asked(messages=[], options=options, format={"type": "object"}, think="high", keep_alive="5m", tools=[])
    assert (request.max_tokens, request.temperature, request.stop, request.seed) == (5, 0, ("X",), 1)
    assert request.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert (request.reasoning_effort, request.tools) == ("high", ())
    assert request.extra == {"keep_alive": "5m", "options.num_ctx": 9}
    assert asked(messages=[], options={"num_predict": -1}).max_tokens is None
    assert [asked(messages=[], think=t).reasoning_effort for t in (True, False, None)] == ["medium", "none", None]
    assert asked(messages=[], format="json").response_format == {"type": "json_object"}


@pytest.mark.parametrize("name", ["raw", "template", "suffix", "context"])
def test_what_only_ollama_can_do_is_refused_elsewhere(name: str) -> None:
    """A completion between two texts would come back as a chat about the first."""
    request = asked(GENERATE, prompt="p", **{name: [1]})
    with pytest.raises(BackendError, match=name):
        fit(request, frozenset(), "b", "openai")
    assert asked(GENERATE, prompt="p", system="s", raw=False, context=[]).messages[1].content == "p"


@pytest.mark.parametrize(("body", "field"), [
    ({}, "model"), ({"model": "m", "messages": "x"}, "messages"),
    ({"model": "m", "messages": [{}]}, "messages[0].role"),
    ({"model": "m", "think": "banana"}, "think"), ({"model": "m", "format": "xml"}, "format"),
    ({"model": "m", "options": {"temperature": "hot"}}, "options.temperature"),
    ({"model": "m", "messages": [{"role": "user", "images": [1]}]}, "messages[0].images[0]"),
])  # fmt: skip
def test_complaints_name_the_field(body: dict[str, Any], field: str) -> None:
    """Somebody would search a long body for what is wrong with it."""
    with pytest.raises(BackendError) as caught:
        CHAT.parse(msgspec.json.encode(body), {})
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, field)
    assert msgspec.json.decode(CHAT.failure(caught.value, "r").body) == {"error": caught.value.message}


def test_a_wish_to_unload_is_told_from_a_wish_to_load() -> None:
    """A client that frees memory would be told the model was loaded."""
    assert all(unloads({"keep_alive": v}) for v in (0, 0.0, "0", "0s", "0m"))
    assert not any(unloads({"keep_alive": v}) for v in ("5m", -1, None, False, "10s"))


_texts = st.text(min_size=1, max_size=12)
_arguments = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3)
_calls = st.builds(lambda a: ToolCallDelta(0, "", "f", msgspec.json.encode(a).decode()), _arguments)
_events = st.lists(st.builds(TextDelta, _texts) | st.builds(ReasoningDelta, _texts) | _calls, max_size=6)


@given(_events, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_driver_reads_what_the_protocol_writes_at_every_split(drawn: list[Event], chat: bool) -> None:
    """Two gateways one behind the other would change an answer."""
    events = list(_numbered(drawn))
    protocol = CHAT if chat else GENERATE
    encoder = protocol.encoder(ABOUT)
    body = encoder.start() + encoder.feed(events) + encoder.end(DONE)
    told = [e for e in events if chat or not isinstance(e, ToolCallDelta)]
    assert len(body.decode().splitlines()) == encoder.frames == body.count(b"\n")
    assert body == b"".join(
        [(e := protocol.encoder(ABOUT)).start(), e.feed(events[:1]), e.feed(events[1:]), e.end(DONE)]
    )
    for at in range(0, len(body), 7):
        decoder, framer = catalog.build("b", Backend(driver="ollama")).decoder(), NdjsonFramer(1 << 20)
        read = [e for part in (body[:at], body[at:]) for e in decoder.feed(framer.feed(part))]
        assert decoder.done
        assert read[0] == Start("", "m")
        assert read[-1] == Usage(3, 4)
        assert isinstance(read[-2], Finish)
        assert sorted(map(repr, read[1:-2])) == sorted(map(repr, told))


def _numbered(events: list[Event]) -> list[Event]:
    numbers = itertools.count()

    def numbered(event: Event) -> Event:
        if not isinstance(event, ToolCallDelta):
            return event
        n = next(numbers)
        return ToolCallDelta(n, f"c{n}", "f", event.arguments)

    return [numbered(event) for event in events]


@pytest.mark.parametrize("ending", [
    Ending("cancelled", Usage(), True, 1),
    Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut")),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [CHAT, GENERATE])
def test_a_broken_stream_ends_in_an_error_line(protocol: ollama.Protocol, ending: Ending) -> None:
    """The SDK takes a mere end for success."""
    last = msgspec.json.decode(protocol.encoder(ABOUT).end(ending))
    assert set(last) == {"error"}
    assert protocol.error_frame(ABOUT, ending, 3) == protocol.encoder(ABOUT).end(ending)


def test_a_partial_answer_kept_on_purpose_is_one_cut_short() -> None:
    """It would look like an error, or like a complete answer."""
    kept = Ending("timeout", Usage(3, 4), True, 2)
    assert msgspec.json.decode(CHAT.error_frame(ABOUT, kept, 1))["done_reason"] == "length"


def test_a_whole_answer_has_everything_in_one_object() -> None:
    """A client without streams would miss tools or thoughts."""
    answer = fold([ReasoningDelta("why"), TextDelta("so"), ToolCallDelta(0, "c", "f", '{"a":1}'), Finish("tool_calls")])
    body = msgspec.json.decode(CHAT.whole(ABOUT, answer, DONE))
    call = {"id": "c", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    assert body["message"] == {"role": "assistant", "content": "so", "thinking": "why", "tool_calls": [call]}
    assert (body["created_at"], body["prompt_eval_count"]) == ("2026-11-21T11:31:39.000Z", 3)
    assert msgspec.json.decode(GENERATE.whole(ABOUT, answer, DONE))["response"] == "so"


def test_lines_are_put_together_with_fields_nobody_knows() -> None:
    """A client of the backend's own dialect would lose what only the two of them understand."""
    gatherer = CHAT.gatherer()
    assert gatherer is not None
    gatherer.feed(
        b'\xef\xbb\xbf{"model":"real","message":{"role":"assistant","content":"a","thinking":"t","new":1},"x":1}\n'
        b"not json\n"
    )
    gatherer.feed(b'{"message":{"content":"b","tool_calls":[1]}}\n{"message":{"content":"","tool_calls":[2]},')
    gatherer.feed(b'{"message":{"content":"c"},"done":true,"total_duration":9,"y":2}\n')
    assert msgspec.json.decode(gatherer.body(ABOUT, DONE)) == {
        "model": "m", "x": 1, "y": 2, "done": True, "total_duration": 9,
        "message": {"role": "assistant", "content": "abc", "thinking": "t", "new": 1, "tool_calls": [1]},
    }  # fmt: skip


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(_NAMES), _anything, max_size=6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_request_or_a_complaint(body: dict[str, Any], chat: bool) -> None:
    """A strange body would be a fault of the gateway's instead of the client's."""
    try:
        found = asked(CHAT if chat else GENERATE, **body).dialect
    except BackendError as error:
        found = error.code.wire
    assert found in ("ollama", "invalid_request")
