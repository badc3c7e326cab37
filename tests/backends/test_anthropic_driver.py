"""What Anthropic's API would refuse is not sent; what it streams is not lost."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import catalog
from backends.anthropic import Driver
from backends.contract.events import Citation, Event, Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from backends.contract.fit import Feature
from backends.contract.request import (
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCall,
)
from config.schema import Backend
from config.values import Secret

CACHE = {"type": "ephemeral"}
USER = Message("user", "hi")
CALL = Message("assistant", tool_calls=(ToolCall("t", "f", '{"a":1}'),))
RESULT = Message("tool", "42", tool_call_id="t")
OURS = ReasoningPart("hm", "sig", dialect="anthropic")


def build(**options: Any) -> Driver:
    found = catalog.build("b", Backend(driver="anthropic", options=options))
    assert isinstance(found, Driver)
    return found


def body(*messages: Message, driver: Driver | None = None, **fields: Any) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads((driver or build()).prepare(ChatRequest("m", messages or (USER,), **fields)).body)
    return sent


def test_history_goes_back_as_it_was() -> None:
    """Anthropic refuses a tool loop whose thoughts were changed, and must not see those of others."""
    foreign = ReasoningPart("theirs", "x", dialect="google")
    redacted = ReasoningPart(redacted="r", dialect="anthropic")
    turn = Message(
        "assistant", (OURS, redacted, foreign, ReasoningPart("unsigned", dialect="anthropic"), TextPart("a"))
    )
    assert body(USER, turn, USER)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "r"},
        {"type": "text", "text": "a"},
    ]


def test_files_images_and_results() -> None:
    """A file would be left out, a tool's picture lost, or a failed tool taken for one that worked."""
    text = base64.b64encode("hé".encode()).decode()
    parts = (
        FilePart(data="cGRm", media_type="application/pdf", filename="a.pdf", cache=CACHE),
        FilePart(data=text, media_type="text/plain"),
        FilePart(url="http://x/a.pdf"),
        FilePart(file_id="f1", media_type="image/*"),
    )
    result = Message("tool", (TextPart("see"), ImagePart(url="http://x/i")), tool_call_id="t", failed=True)
    turns = body(Message("user", parts), CALL, result)["messages"]
    assert turns[0]["content"] == [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "cGRm"},
         "title": "a.pdf", "cache_control": CACHE},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hé"}},
        {"type": "document", "source": {"type": "url", "url": "http://x/a.pdf"}},
        {"type": "image", "source": {"type": "file", "file_id": "f1"}},
    ]  # fmt: skip
    (said,) = turns[2]["content"]
    assert (said["tool_use_id"], said["is_error"], [b["type"] for b in said["content"]]) == (
        "t",
        True,
        ["text", "image"],
    )


def test_cache_marks_schema_strictness_and_user() -> None:
    """Prompts would be paid for in full, or the answer would have another shape than was asked for."""
    system = Message("system", (TextPart("a", CACHE), TextPart("b")))
    schema = {"type": "object"}
    said = body(
        system,
        USER,
        user="u",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        tools=(Tool("f", strict=True, cache=CACHE),),
    )
    blocks = [{"type": "text", "text": "a", "cache_control": CACHE}, {"type": "text", "text": "b"}]
    assert (said["system"], said["metadata"]) == (blocks, {"user_id": "u"})
    assert said["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert said["tools"] == [{"name": "f", "strict": True, "cache_control": CACHE, "input_schema": {"type": "object"}}]
    assert {Feature.SCHEMA, Feature.CACHE_CONTROL, Feature.FILES} <= build().expresses


@pytest.mark.parametrize(("messages", "fields", "budget"), [
    ((USER,), {"reasoning_effort": "low"}, 1024),
    ((USER,), {"reasoning_effort": "high", "reasoning_budget": 5000}, 5000),
    ((USER,), {"reasoning_budget": 10}, 1024),
    ((USER,), {"reasoning_effort": "none"}, None),
    ((USER,), {"reasoning_effort": "low", "tools": (Tool("f"),), "tool_choice": "required"}, None),
    ((USER, Message("assistant", "Sure")), {"reasoning_effort": "low"}, None),
    ((USER, CALL, RESULT), {"reasoning_effort": "low"}, None),
    ((USER, Message("assistant", (OURS,), CALL.tool_calls), RESULT), {"reasoning_effort": "low"}, 1024),
])  # fmt: skip
def test_thinking_only_where_it_may_be(messages: Any, fields: dict[str, Any], budget: int | None) -> None:
    """The API answers 400 to thinking beside a forced tool, a prefill, or a tool's result it did not think before."""
    said = body(*messages, temperature=0.5, max_tokens=9000, **fields)
    assert said.get("thinking", {}).get("budget_tokens") == budget
    assert said["max_tokens"] == 9000
    assert ("temperature" in said) is (budget is None)


@pytest.mark.parametrize(("fields", "limit", "budget"), [
    ({"reasoning_effort": "high"}, 4096 + 16384, 16384),
    ({"reasoning_effort": "high", "max_tokens": 6000}, 6000, 3000),
    ({"reasoning_effort": "high", "max_tokens": 30000}, 30000, 16384),
    ({"reasoning_effort": "low", "max_tokens": 1025}, 1025, 1024),
    ({"reasoning_effort": "low", "max_tokens": 1024}, 1024, None),
    ({"reasoning_budget": 5000, "max_tokens": 5001}, 5001, 5000),
    ({"reasoning_budget": 5000, "max_tokens": 5000}, 5000, 2500),
    ({"reasoning_effort": "high", "most": 5000}, 5000, 2500),
    ({"reasoning_effort": "none", "most": 900}, 900, None),
    ({"most": 900}, 900, None),
    ({"most": 9000}, 4096, None),
])  # fmt: skip
def test_thinking_fits_below_the_limits(fields: dict[str, Any], limit: int, budget: int | None) -> None:
    """A client would be billed for more than its own limit, or than operators let anybody ask for."""
    said = body(**fields)
    assert (said["max_tokens"], said.get("thinking", {}).get("budget_tokens")) == (limit, budget)


SAMPLING = {"temperature": 0.5, "top_p": 0.5, "top_k": 3}


@pytest.mark.parametrize(("messages", "fields", "names"), [
    ((USER,), {"reasoning_effort": "low", **SAMPLING}, ("temperature", "top_p", "top_k")),
    ((USER,), {"reasoning_effort": "none", **SAMPLING}, ()),
    ((USER,), {"temperature": 1.5}, ("temperature above 1",)),
    ((USER,), {"temperature": 1.5, "reasoning_effort": "low"}, ("temperature",)),
    ((USER, CALL, RESULT), {"reasoning_effort": "low", **SAMPLING}, ("reasoning effort",)),
    ((USER, CALL, RESULT), {"reasoning_budget": 5000}, ("reasoning budget",)),
    ((USER,), {"reasoning_effort": "low", "max_tokens": 100}, ("reasoning effort",)),
    ((USER,), {"reasoning_budget": 5000, "max_tokens": 3000}, ("reasoning budget above max_tokens",)),
    ((USER,), {"reasoning_budget": 5000, "max_tokens": 9000}, ()),
])  # fmt: skip
def test_what_cannot_go_together_is_named(messages: Any, fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """A client would not learn that its temperature or its reasoning effort did nothing."""
    request = ChatRequest("m", messages, **fields)
    assert build().drops(request) == names


def test_sampling_is_left_out_where_the_version_refuses_it() -> None:
    """Under 2026-10-21 every request with a temperature is answered 400; the client is told that it was dropped."""
    newer = build(version="2026-10-21")
    fields = {"temperature": 1.5, "top_p": 0.5, "top_k": 3}
    assert not {"temperature", "top_p", "top_k"} & set(body(driver=newer, **fields))
    assert Feature.TEMPERATURE not in newer.expresses
    assert {name: body(**fields)[name] for name in fields} == {"temperature": 1.0, "top_p": 0.5, "top_k": 3}
    assert Feature.TEMPERATURE in build().expresses


def test_counting() -> None:
    """The count's API refuses fields of the answer, such as max_tokens."""
    call = build().count(ChatRequest("m", (Message("system", "s"), USER), max_tokens=5, temperature=0.1, user="u"))
    assert call is not None
    assert call.path == "/v1/messages/count_tokens"
    assert json.loads(call.body) == {
        "model": "m", "system": "s", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }  # fmt: skip
    assert build().read_count(b'{"input_tokens":7}') == 7
    for bad in (b"[]", b"{}", b"x", b'{"input_tokens":"7"}', b'{"input_tokens":true}'):
        with pytest.raises(ValueError, match="no count"):
            build().read_count(bad)


def decoded(*events: dict[str, Any]) -> list[Event]:
    decoder = build().decoder()
    return [e for event in events for e in decoder.feed(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n")]


def test_everything_in_the_stream_is_told() -> None:
    """Citations, sealed thoughts, the stop sequence met and cache writes would be lost to every other client."""
    source = {"type": "char_location", "cited_text": "c", "document_index": 0, "document_title": "d"}
    got = decoded(
        {"type": "message_start", "message": {"usage": {"input_tokens": 2, "cache_creation_input_tokens": 5,
         "cache_read_input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "r"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "", "citations": []}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "t"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": source}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "tomorrows_delta", "x": 1}},
        {"type": "tomorrows_event"},
        {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"},
         "usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}},
    )[1:]  # fmt: skip
    assert got == [
        Usage(10, 1, 0, 3, 5),
        ReasoningDelta("", redacted="r"),
        TextDelta("t"),
        Citation("", "d", "c", source=source, dialect="anthropic"),
        Finish("stop", "END"),
        Usage(10, 9, 4, 3, 5),
    ]


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "text_delta", "thinking", "tool_use", "text"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "index",
                    "delta",
                    "text",
                    "content_block",
                    "usage",
                    "input_tokens",
                    "citations",
                    "thinking",
                    "id",
                    "name",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(
    st.sampled_from(["message_start", "message_delta", "content_block_start", "content_block_delta", "error"]),
    st.dictionaries(st.sampled_from(["index", "delta", "content_block", "message", "usage", "error"]), JSON),
)
def test_whatever_comes_is_events_or_a_failure(kind: str, event: dict[str, Any]) -> None:
    """A strange event would be an exception in the middle of a stream, and the stream would never end."""
    tap = build().tap()
    tap.feed(b"event: x\ndata: " + json.dumps({**event, "type": kind}).encode() + b"\n\n")


def test_a_tool_block_may_lack_its_input() -> None:
    """llama.cpp's does."""
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f"}}
    stop = {"type": "content_block_stop", "index": 0}
    assert decoded(start, stop) == [ToolCallDelta(0, "t", "f", ""), ToolCallDelta(0, arguments="{}")]


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_servers_with_both_apis_have_a_sibling(kind: str) -> None:
    """Their own Messages API would not be used, or llama.cpp could not be cancelled through it."""
    headers = {"X-Conversation-Id": Secret("c1")}
    options = {"body": {"cache_prompt": True, "max_tokens": 8}}
    driver = catalog.build("b", Backend(driver=kind, url="http://h:1/v1", headers=headers, options=options))
    sibling = driver.speaking("anthropic")
    assert sibling is not None
    assert (sibling.dialect, sibling.url, sibling is driver.speaking("anthropic")) == ("anthropic", "http://h:1", True)
    assert driver.speaking("openai") is driver
    assert driver.speaking("google") is None
    call = sibling.forward({"messages": [], "max_tokens": 3}, "m")
    assert json.loads(call.body) == {
        "cache_prompt": True, "max_tokens": 3, "messages": [], "model": "m", "stream": True,
    }  # fmt: skip
    assert ("x-conversation-id" in dict(call.headers)) is (kind == "vllm")
    assert sibling.keepalive is (kind == "vllm")
