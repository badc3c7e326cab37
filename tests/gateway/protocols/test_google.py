"""Google as a client protocol: what is asked, what is answered, and that the driver of the same name reads it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import catalog
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Citation,
    Event,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.fit import fit
from backends.contract.framing import SseFramer
from backends.contract.request import (
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    OtherPart,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from config.schema import Backend
from gateway.protocols import google
from gateway.protocols.answer import fold
from gateway.protocols.base import About, Ending

ABOUT = About("st_a", "m", "b", 1795260699000)
SSE, ARRAY = google.Protocol(), google.Array()
_NAMES = (
    "contents", "role", "parts", "text", "thought", "functionCall",
    "functionResponse", "name", "args", "response",
    "inlineData", "mimeType", "data", "tools", "functionDeclarations", "parameters", "type", "properties", "items",
    "generationConfig", "thinkingConfig", "responseSchema", "systemInstruction", "toolConfig", "functionCallingConfig",
    "mode", "allowedFunctionNames", "stopSequences", "id", "anyOf", "nullable",
)  # fmt: skip
DONE = Ending("stop", Usage(3, 9, 4, 1), False, 2)
HI = [{"role": "user", "parts": [{"text": "hi"}]}]


def asked(**body: Any) -> ChatRequest:
    return SSE.parse(msgspec.json.encode({"contents": HI, **body}), {"model": "models/m"}).request


def turns(*contents: dict[str, Any]) -> tuple[Message, ...]:
    return asked(contents=list(contents)).messages


def test_the_path_says_model_and_kind() -> None:
    """The answer would come from another model, or whole instead of streamed."""
    body = msgspec.json.encode({"contents": HI})
    streamed = SSE.parse(body, {"model": "gemini-x", "call": "streamGenerateContent"})
    assert (streamed.request.model, streamed.stream, asked().model) == ("gemini-x", True, "m")
    assert not SSE.parse(body, {"model": "gemini-x", "call": "generateContent"}).stream


def test_a_whole_conversation_is_read() -> None:
    """Signatures, media or the pairing of calls and results would be lost on the way to another backend."""
    user, model, first, second = turns(
        {"parts": [
            {"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": "QQ=="}},
            {"file_data": {"mime_type": "application/pdf", "file_uri": "https://x.example/a.pdf"}},
            {"inline_data": {"mime_type": "audio/mpeg", "data": "QQ=="}},
        ]},
        {"role": "model", "parts": [
            {"text": "plan", "thought": True, "thoughtSignature": "s1"}, {"text": "so", "thought_signature": "s2"},
            {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s3"},
            {"function_call": {"name": "f"}}, {"executableCode": {"code": "1"}},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": "f", "response": {"result": "42"}}},
            {"functionResponse": {"name": "f", "response": {"error": "no"}}},
        ]},
    )  # fmt: skip
    assert user.content == (
        TextPart("see"),
        ImagePart(data="QQ==", media_type="image/png"),
        FilePart(url="https://x.example/a.pdf", media_type="application/pdf"),
        AudioPart("QQ==", "mp3"),
    )
    assert (model.role, model.content) == ("assistant", (
        ReasoningPart("plan", "s1", dialect="google"), ReasoningPart("", "s2", dialect="google"), TextPart("so"),
        OtherPart("executableCode", {"code": "1"}),
    ))  # fmt: skip
    assert model.tool_calls == (ToolCall("call_0", "f", '{"a":1}', "s3"), ToolCall("call_1", "f", "{}"))
    assert first == Message("tool", "42", tool_call_id="call_0", name="f")
    assert second == Message("tool", "no", tool_call_id="call_1", name="f", failed=True)


@pytest.mark.parametrize("spelling", ["camel", "snake"])
def test_both_spellings_mean_the_same(spelling: str) -> None:
    """Half of Google's clients would be heard in part only."""
    camel = {
        "systemInstruction": {"parts": [{"text": "be kind"}, {"text": "be brief"}]},
        "generationConfig": {
            "maxOutputTokens": 5, "topP": 0.5, "topK": 3, "stopSequences": ["X"], "seed": 1, "candidateCount": 1,
            "responseMimeType": "application/json", "thinkingConfig": {"thinkingBudget": 9}, "responseLogprobs": True,
            "speechConfig": 1,
        },
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}, "other": 2},
        "tools": [{"functionDeclarations": [{"name": "f"}], "googleSearch": {}}], "safetySettings": [],
    }  # fmt: skip
    request = asked(**(camel if spelling == "camel" else _snaked(camel)))
    assert request.messages[0] == Message("system", "be kind\nbe brief")
    assert (request.max_tokens, request.top_p, request.top_k, request.stop, request.seed) == (5, 0.5, 3, ("X",), 1)
    assert (request.reasoning_budget, request.logprobs, request.tool_choice) == (9, True, "name:f")
    assert request.response_format == {"type": "json_object"}
    assert [(t.name, t.hosted) for t in request.tools] == [("f", {}), ("googleSearch", {"googleSearch": {}})]
    assert request.extra == {"safetySettings": [], "generationConfig.speechConfig": 1, "toolConfig.other": 2}


def _snaked(value: Any) -> Any:
    if isinstance(value, dict):
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in k): _snaked(v) for k, v in value.items()}
    return [_snaked(v) for v in value] if isinstance(value, list) else value


def test_schemas_become_json_schema() -> None:
    """Other providers refuse OBJECT for object, and know no `nullable`."""
    schema = {
        "type": "OBJECT",
        "properties": {
            "a": {"type": "STRING", "nullable": True},
            "type": {"type": "ARRAY", "items": {"type": "NUMBER"}},
        },
        "propertyOrdering": ["a"],
    }
    expected = {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"]}, "type": {"type": "array", "items": {"type": "number"}}},
    }
    request = asked(
        generationConfig={"responseSchema": schema},
        tools=[{"functionDeclarations": [{"name": "f", "parameters": schema}]}],
    )
    assert request.response_format == {"type": "json_schema", "json_schema": {"name": "answer", "schema": expected}}
    assert request.tools[0].parameters == expected


@pytest.mark.parametrize(("thinking", "effort"), [
    ({"thinkingLevel": "HIGH"}, "high"), ({"thinkingBudget": 0}, "none"), ({"thinkingBudget": -1}, None), ({}, None),
])  # fmt: skip
def test_thinking_levels_are_efforts(thinking: dict[str, Any], effort: str | None) -> None:
    """A client that wants no thoughts would pay for them, one that leaves it to the model would see none."""
    request = asked(generationConfig={"thinkingConfig": thinking})
    left = {"generationConfig.thinkingConfig": thinking} if thinking and effort is None else {}
    assert (request.reasoning_effort, request.extra) == (effort, left)


def test_a_cached_prompt_is_refused_elsewhere() -> None:
    """Another backend would answer without the part of the prompt it never saw."""
    with pytest.raises(BackendError, match="cachedContent"):
        fit(asked(cachedContent="cachedContents/1"), frozenset(), "b", "openai")


@pytest.mark.parametrize(("body", "field"), [
    ({"contents": []}, "contents"), ({"contents": [{"role": "x", "parts": []}]}, "contents[0].role"),
    ({"contents": [{"parts": [{"inlineData": {}}]}]}, "contents[0].parts[0].inlineData"),
    ({"generationConfig": {"topP": 7}}, "generationConfig.topP"), ({"tools": [1]}, "tools[0]"),
    ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
])  # fmt: skip
def test_complaints_name_the_field(body: dict[str, Any], field: str) -> None:
    """Somebody would search a long body for what is wrong with it."""
    with pytest.raises(BackendError) as caught:
        asked(**body)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, field)
    said = msgspec.json.decode(SSE.failure(caught.value, "r").body)["error"]
    assert (said["code"], said["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(("code", "status"), [
    (ErrorCode.UNAUTHENTICATED, "UNAUTHENTICATED"), (ErrorCode.FORBIDDEN, "PERMISSION_DENIED"),
    (ErrorCode.UNKNOWN_MODEL, "NOT_FOUND"), (ErrorCode.RATE_LIMITED, "RESOURCE_EXHAUSTED"),
    (ErrorCode.OVERLOADED, "UNAVAILABLE"), (ErrorCode.TIMED_OUT, "DEADLINE_EXCEEDED"), (ErrorCode.INTERNAL, "INTERNAL"),
])  # fmt: skip
def test_errors_have_googles_words(code: ErrorCode, status: str) -> None:
    """Its SDKs decide by these whether to try again, and when."""
    refusal = SSE.failure(BackendError(code, "x", retry_after=1.2), "r")
    said = msgspec.json.decode(refusal.body)["error"]
    assert (refusal.status, said["status"], said["details"][0]["retryDelay"]) == (code.status, status, "2s")
    assert isinstance(msgspec.json.decode(ARRAY.failure(BackendError(code, "x"), "r").body), list)


_texts = st.text(min_size=1, max_size=12)
_arguments = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3)
_calls = st.builds(lambda a: ToolCallDelta(0, "", "f", msgspec.json.encode(a).decode()), _arguments)
_events = st.lists(st.builds(TextDelta, _texts) | st.builds(ReasoningDelta, _texts) | _calls, max_size=6)


@given(_events)
@settings(max_examples=60, deadline=None)
def test_the_driver_reads_what_the_protocol_writes_at_every_split(drawn: list[Event]) -> None:
    """Two gateways one behind the other would change an answer."""
    numbers = itertools.count()
    events = [
        ToolCallDelta(n := next(numbers), f"c{n}", "f", e.arguments) if isinstance(e, ToolCallDelta) else e
        for e in drawn
    ]
    encoder, again = SSE.encoder(ABOUT), SSE.encoder(ABOUT)
    body = encoder.start() + encoder.feed(events) + encoder.end(DONE)
    assert body == b"".join([again.start(), *(again.feed([e]) for e in events), again.end(DONE)])
    assert len(body.decode().splitlines()) == 2 * encoder.frames == body.count(b"\n")
    for at in range(0, len(body), 7):
        decoder, framer = catalog.build("b", Backend(driver="google")).decoder(), SseFramer(1 << 20)
        read = [e for part in (body[:at], body[at:]) for e in decoder.feed(framer.feed(part))]
        decoder.eof()
        assert decoder.done
        assert (read[0], read[-1]) == (Start("a", "m"), DONE.usage)
        assert isinstance(read[-2], Finish)
        assert sorted(map(repr, read[1:-2])) == sorted(map(repr, events))


@given(_events)
@settings(max_examples=30, deadline=None)
def test_an_array_holds_the_same_objects(drawn: list[Event]) -> None:
    """A client without alt=sse could not parse its answer."""
    array, sse = ARRAY.encoder(ABOUT), SSE.encoder(ABOUT)
    body = array.start() + array.feed(drawn) + array.end(DONE)
    frames = (sse.feed(drawn) + sse.end(DONE)).split(b"\r\n\r\n")[:-1]
    assert msgspec.json.decode(body) == [msgspec.json.decode(frame.removeprefix(b"data: ")) for frame in frames]


def test_a_signature_goes_on_with_an_array() -> None:
    """Gemini 3 would refuse the next turn of a client that does not use alt=sse."""
    events: list[Event] = [ReasoningDelta("t", "s1"), ToolCallDelta(0, "c", "f", "{}", "s2")]
    encoder = ARRAY.encoder(msgspec.structs.replace(ABOUT, dialect="google"))
    first, last = msgspec.json.decode(encoder.feed(events) + encoder.end(DONE))
    assert first["candidates"][0]["content"]["parts"] == [{"text": "t", "thought": True, "thoughtSignature": "s1"}]
    assert last["candidates"][0]["content"]["parts"][0]["thoughtSignature"] == "s2"
    foreign = SSE.encoder(msgspec.structs.replace(ABOUT, dialect="anthropic"))
    assert b"Signature" not in foreign.feed(events) + foreign.end(DONE)


def test_an_answer_that_goes_on_elsewhere_keeps_its_name() -> None:
    """Half of an answer would seem to be of another one."""
    encoder = SSE.encoder(ABOUT)
    encoder.adopt(b'data: {"responseId":"theirs"}\r\n\r\n')
    chunk = json.loads(encoder.feed([TextDelta("x")]).removeprefix(b"data: "))
    assert (chunk["responseId"], chunk["modelVersion"]) == ("theirs", "m")


def test_usage_and_sources_come_last() -> None:
    """The bill or the links would be missing."""
    encoder = SSE.encoder(ABOUT)
    frames = encoder.feed([TextDelta("a"), Citation("https://a.example", "A", "", 0, 1)]) + encoder.end(DONE)
    last = msgspec.json.decode(frames.split(b"\r\n\r\n")[-2].removeprefix(b"data: "))
    assert last["usageMetadata"] == {
        "promptTokenCount": 3, "candidatesTokenCount": 5, "thoughtsTokenCount": 4, "cachedContentTokenCount": 1,
        "totalTokenCount": 12,
    }  # fmt: skip
    source = {"startIndex": 0, "endIndex": 1, "uri": "https://a.example", "title": "A"}
    assert last["candidates"][0]["citationMetadata"] == {"citationSources": [source]}


@pytest.mark.parametrize("ending", [
    Ending("cancelled", Usage(), True, 1),
    Ending("error", Usage(), True, 1, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "cut")),
])  # fmt: skip
def test_a_broken_stream_ends_in_an_error(ending: Ending) -> None:
    """The SDK takes a mere end for success."""
    assert SSE.encoder(ABOUT).end(ending).startswith(b'data: {"error":{"code":')
    assert SSE.error_frame(ABOUT, ending, 3) == SSE.encoder(ABOUT).end(ending)
    assert "error" in msgspec.json.decode(ARRAY.encoder(ABOUT).end(ending))[0]


def test_a_whole_answer_has_everything_in_one_object() -> None:
    """A client without streams would miss tools or thoughts."""
    answer = fold([ReasoningDelta("why"), TextDelta("so"), ToolCallDelta(0, "c", "f", '{"a":1}'), Finish("tool_calls")])
    candidate = msgspec.json.decode(SSE.whole(ABOUT, answer, DONE))["candidates"][0]
    assert candidate["content"]["parts"] == [
        {"text": "why", "thought": True},
        {"text": "so"},
        {"functionCall": {"id": "c", "name": "f", "args": {"a": 1}}},
    ]
    assert candidate["finishReason"] == "STOP"


def test_chunks_are_put_together_with_fields_nobody_knows() -> None:
    """A client of the backend's own dialect would lose what only the two of them understand."""
    gatherer = SSE.gatherer()
    assert gatherer is not None
    parts: list[list[dict[str, Any]]] = [
        [{"text": "t", "thought": True}], [{"text": "a", "new": 1}], [{"text": "b", "new": 1}],
        [{"text": "c", "thoughtSignature": "s"}], [{"text": "d"}, {"functionCall": {"name": "f"}}],
    ]  # fmt: skip
    for number, some in enumerate(parts):
        chunk = {"candidates": [{"index": 0, "content": {"role": "model", "parts": some}, "x": number}], "y": number}
        gatherer.feed(b"data: " + msgspec.json.encode(chunk) + b"\r\n\r\n")
    gatherer.feed(
        b'data: {"candidates":[{"index":1,"content":{"parts":[{"text":"2"}]},"finishReason":"STOP"}]}\n\ndata: x\n\n'
    )
    assert msgspec.json.decode(gatherer.body(ABOUT, DONE)) == {
        "candidates": [
            {"index": 0, "x": 4, "content": {"role": "model", "parts": [
                {"text": "t", "thought": True}, {"text": "ab", "new": 1}, {"text": "c", "thoughtSignature": "s"},
                {"text": "d"}, {"functionCall": {"name": "f"}},
            ]}},
            {"index": 1, "content": {"parts": [{"text": "2"}]}, "finishReason": "STOP"},
        ],
        "y": 4,
    }  # fmt: skip


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3) | st.sampled_from(("user", "model", "OBJECT")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(_NAMES), _anything, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_request_or_a_complaint(body: dict[str, Any]) -> None:
    """A strange body would be a fault of the gateway's instead of the client's."""
    try:
        found = asked(**body).dialect
    except BackendError as error:
        found = error.code.wire
    assert found in ("google", "invalid_request")
