"""A Messages body means the same whatever backend is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import (
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    OtherPart,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCall,
)
from gateway.protocols import anthropic

PROTOCOL = anthropic.Protocol()
CACHE = {"type": "ephemeral"}


def parse(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    said = {"model": "m", "max_tokens": 9, "messages": list(messages) or [{"role": "user", "content": "x"}], **fields}
    return PROTOCOL.parse(json.dumps(said).encode(), {}).request


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def test_turns_become_ours() -> None:
    """A tool's result, an image or a thought of an earlier turn would be lost on another backend."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    request = parse(
        user({"type": "text", "text": "look", "cache_control": CACHE}, image),
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "r"},
            {"type": "text", "text": "ok"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        ]},
        user(
            {"type": "tool_result", "tool_use_id": "t1", "is_error": True,
             "content": [{"type": "text", "text": "no"}, image]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "plain"},
            {"type": "text", "text": "go on"},
        ),
        {"role": "assistant", "content": "Sure:"},
        system=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
    )  # fmt: skip
    png = ImagePart(data="aGk=", media_type="image/png")
    thoughts = (ReasoningPart("hm", "s", dialect="anthropic"), ReasoningPart(redacted="r", dialect="anthropic"))
    assert list(request.messages) == [
        Message("system", "one\n\ntwo"),
        Message("user", (TextPart("look", CACHE), png)),
        Message("assistant", (*thoughts, TextPart("ok")), (ToolCall("t1", "f", '{"a":1}'),)),
        Message("tool", (TextPart("no"), png), tool_call_id="t1", failed=True),
        Message("tool", "plain", tool_call_id="t2"),
        Message("user", "go on"),
        Message("assistant", "Sure:"),
    ]


def test_documents_and_what_only_anthropic_has() -> None:
    """A file would be taken for text, or a block nobody knows would be left out without a word."""

    def document(**source: Any) -> dict[str, Any]:
        return {"type": "document", "title": "d", "source": source}

    search = {"type": "search_result", "source": "s", "title": "t", "content": []}
    (message,) = parse(user(
        document(type="base64", media_type="application/pdf", data="aGk="),
        document(type="text", media_type="text/plain", data="hé"),
        document(type="url", url="http://x/a.pdf"),
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        search,
    )).messages  # fmt: skip
    assert message.content == (
        FilePart(data="aGk=", media_type="application/pdf", filename="d"),
        FilePart(data="aMOp", media_type="text/plain", filename="d"),
        FilePart(url="http://x/a.pdf", filename="d"),
        FilePart(file_id="file_1", media_type="image/*"),
        OtherPart("search_result", search),
    )


def test_tools_and_knobs() -> None:
    """A forced tool would become a free choice, or a knob would be left where it was."""
    hosted = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    schema = {"type": "object"}
    request = parse(
        tools=[{"name": "f", "input_schema": schema, "strict": True, "cache_control": CACHE}, hosted],
        tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        metadata={"user_id": "u1"},
        output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "max"},
        service_tier="auto",
        context_management={"edits": []},
    )
    assert request.tools == (Tool("f", parameters=schema, strict=True, cache=CACHE), Tool("web_search", hosted=hosted))
    assert (request.tool_choice, request.parallel_tool_calls) == ("name:f", False)
    assert (request.stop, request.temperature, request.top_p, request.top_k) == (("END",), 0.5, 0.9, 4)
    assert (request.user, request.max_tokens, request.reasoning_effort) == ("u1", 9, "xhigh")
    assert (request.response_format or {})["json_schema"]["schema"] == schema
    assert request.extra == {"service_tier": "auto", "context_management": {"edits": []}}
    assert parse(tool_choice={"type": "any"}).tool_choice == "required"
    assert parse(tool_choice={"type": "none"}).tool_choice == "none"
    assert parse(tool_choice={"type": "auto"}).parallel_tool_calls is None


@pytest.mark.parametrize(("thinking", "effort", "budget"), [
    ({"type": "enabled", "budget_tokens": 1024}, None, 1024),
    ({"type": "adaptive"}, None, None),
    ({"type": "disabled"}, "none", None),
    (None, None, None),
])  # fmt: skip
def test_how_much_is_thought(thinking: Any, effort: str | None, budget: int | None) -> None:
    """Another backend would not reason, or would reason though it was told not to."""
    request = parse(thinking=thinking)
    assert (request.reasoning_effort, request.reasoning_budget) == (effort, budget)


@pytest.mark.parametrize(("change", "field"), [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"model": ""}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id"),
    ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"stop_sequences": [1]}, "stop_sequences[0]"),
    ({"metadata": {"user_id": 7}}, "metadata.user_id"),
    ({"thinking": "yes"}, "thinking"),
])  # fmt: skip
def test_complaints_name_the_field(change: dict[str, Any], field: str) -> None:
    """A caller could not find what is wrong."""
    with pytest.raises(BackendError) as caught:
        parse(**change)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, field)


def complaint(*messages: dict[str, Any], **fields: Any) -> ErrorCode | None:
    try:
        parse(*messages, **fields)
    except BackendError as error:
        return error.code
    return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "user", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "content", "role", "text", "source", "input", "name", "data"]), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(["messages", "system", "tools", "tool_choice", "thinking", "output_config", "metadata"]), JSON)
def test_whatever_comes_is_a_value_or_a_complaint(field: str, value: Any) -> None:
    """A strange body would be a fault of ours, and a 500."""
    assert complaint(**{field: value}) in (None, ErrorCode.INVALID_REQUEST)


@settings(deadline=None)
@given(st.sampled_from(["text", "image", "document", "thinking", "tool_use", "tool_result", "novel"]), JSON)
def test_whatever_block_comes_is_a_value_or_a_complaint(kind: str, value: Any) -> None:
    """The same, where blocks have fields of their own."""
    block = {**(value if isinstance(value, dict) else {"content": value, "source": value}), "type": kind}
    assert complaint({"role": "assistant", "content": [block]}) in (None, ErrorCode.INVALID_REQUEST)
