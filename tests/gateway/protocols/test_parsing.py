"""Requests: what clients may say, and that every complaint names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ImagePart, Message, OtherPart, TextPart, Tool, ToolCall
from gateway.protocols import native, ndjson, openai_chat
from gateway.protocols.base import Asked

NATIVE = native.Protocol()
OPENAI = openai_chat.Protocol()


def ask(**body: Any) -> Asked:
    return NATIVE.parse(json.dumps(body).encode(), {})


def test_native_reads_every_documented_field() -> None:
    """A field read under a wrong name would be dropped without a word."""
    asked = ask(
        prompt="hi", model="m", backend="b", temperature=0.5, maxTokens=7, topP=0.9, stop="x", seed=3,
        system="be brief", userId="u", workspaceId="w", conversationId="c", stream=False,
        responseFormat={"type": "json_object"}, parallelToolCalls=False, reasoningBudget=9,
        tools=[{"name": "f", "description": "d", "parameters": {"type": "object"}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
    )  # fmt: skip
    request = asked.request
    assert request.messages == (Message("system", "be brief"), Message("user", "hi"))
    assert (request.model, request.max_tokens, request.temperature, request.top_p) == ("m", 7, 0.5, 0.9)
    assert (request.stop, request.seed, request.response_format) == (("x",), 3, {"type": "json_object"})
    assert (request.tools, request.tool_choice) == ((Tool("f", "d", {"type": "object"}),), "name:f")
    assert (request.parallel_tool_calls, request.reasoning_budget, request.dialect) == (False, 9, "native")
    assert (asked.backend, asked.user_id, asked.workspace_id, asked.conversation_id) == ("b", "u", "w", "c")
    assert asked.stream is False


def test_native_model_may_be_missing_and_streaming_is_the_default() -> None:
    """The shortest request must work: the router chooses."""
    asked = ask(message="hi")
    assert (asked.request.model, asked.stream) == ("", True)


def test_event_source_parameters_make_a_request_without_a_body() -> None:
    """Browsers' EventSource can only GET: its parameters are all there is."""
    params = {"message": "hi", "conversation_id": "c", "model": "m", "temperature": "0.5", "max_tokens": "9"}
    asked = ndjson.Protocol().parse(b"", params)
    assert asked.request.messages == (Message("user", "hi"),)
    assert (asked.request.model, asked.request.temperature, asked.request.max_tokens) == ("m", 0.5, 9)
    assert asked.conversation_id == "c"


def test_openai_turns_with_parts_images_and_tool_calls() -> None:
    """Agents send whole histories; a lost tool call or image changes the answer."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, image, {"type": "input_audio"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 5,
        "logprobs": True,
        "service_tier": "flex",
        "user": "u",
    }
    asked = OPENAI.parse(json.dumps(body).encode(), {})
    unknown = OtherPart("input_audio", {"type": "input_audio"})  # without its sound: the backend's to judge
    assert asked.request.messages == (
        Message("system", "s"),
        Message("user", (TextPart("look"), ImagePart(data="AAAA", media_type="image/png"), unknown)),
        Message("assistant", "", (ToolCall("c1", "f", "{}"),)),
        Message("tool", "r", tool_call_id="c1"),
    )
    assert (asked.stream, asked.include_usage, asked.body, asked.user_id) == (True, True, body, "u")
    assert (asked.request.max_tokens, asked.request.logprobs) == (5, True)
    assert asked.request.extra == {"service_tier": "flex"}


def test_openai_does_not_stream_unless_asked() -> None:
    """The SDKs' default is a whole answer."""
    asked = OPENAI.parse(b'{"model":"m","messages":[{"role":"user","content":"x"}]}', {})
    assert (asked.stream, asked.include_usage) == (False, False)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
        ({"prompt": "x", "maxTokens": 0}, "maxTokens"),
        ({"prompt": "x", "maxTokens": True}, "maxTokens"),
        ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "stream": "yes"}, "stream"),
        ({"prompt": "x", "stop": [1]}, "stop[0]"),
        ({"prompt": "x", "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"prompt": "x", "tools": [{"type": "magic"}]}, "tools[0].type"),
        ({"prompt": "x", "tool_choice": "maybe"}, "tool_choice"),
        ({"prompt": "x", "model": 5}, "model"),
        ({"prompt": "x", "seed": 2**80}, "seed"),
    ],
)
def test_complaints_name_the_field(body: dict[str, Any], path: str) -> None:
    """`400 bad request` alone costs its reader an hour."""
    with pytest.raises(BackendError) as caught:
        ask(**body)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.message.startswith(f"{path}: expected ")
    assert caught.value.param == path


DEEP = b'{"a":' * 200 + b"1" + b"}" * 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b'{"prompt":"\\ud800"}', b"[" * 100_000, DEEP, b'{"a":NaN}'],
)  # fmt: skip
def test_hostile_bodies_are_refused_in_words(body: bytes) -> None:
    """Anything but a BackendError here would be a 500, or a crash of the worker."""
    for protocol in (NATIVE, OPENAI):
        with pytest.raises(BackendError) as caught:
            protocol.parse(body, {})
        assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_a_lone_surrogate_in_a_parameter_is_refused() -> None:
    """It could not be sent on as UTF-8 and would fail later, without a field's name."""
    with pytest.raises(BackendError, match="message: expected text"):
        NATIVE.parse(b"", {"message": "\udcff"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["role", "content", "type", "text", "function", "name", "arguments", "tool_calls", "image_url", "url"]), inner),
    max_leaves=12,
)  # fmt: skip
NAMES = ["messages", "prompt", "model", "stream", "tools", "tool_choice", "stop", "n", "stream_options", "system"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no failure
@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_is_a_request_or_a_complaint(body: dict[str, Any]) -> None:
    """A TypeError or KeyError from odd JSON would be a 500."""
    for protocol in (NATIVE, OPENAI):
        try:
            answered = bool(protocol.parse(json.dumps(body).encode(), {}).request.messages)
        except BackendError as error:
            answered = error.code is ErrorCode.INVALID_REQUEST
        assert answered
