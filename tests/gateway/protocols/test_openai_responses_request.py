"""OpenAI Responses: what we understand of a request, and what is refused where it cannot be said."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.fit import fit
from backends.contract.request import FilePart, ImagePart, Message, OtherPart, ReasoningPart, TextPart, Tool, ToolCall
from backends.demo import Driver as Demo
from backends.openai_responses_request import responses_body
from gateway.protocols import openai_responses
from gateway.protocols.base import Asked

PROTOCOL = openai_responses.Protocol()


def parsed(**body: Any) -> Asked:
    return PROTOCOL.parse(msgspec.json.encode({"model": "m", **body}), {})


CONVERSATION = [
    {"role": "developer", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,UERG"},
        ],
    },
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "think"}],
        "encrypted_content": "gAA",
    },
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait.", "annotations": []}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a":1}'},
    {"type": "function_call_output", "call_id": "c1", "output": "one"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
]


def test_items_become_turns() -> None:
    """Backends that know only turns would refuse calls that stand apart from their assistant turn."""
    request = parsed(input=CONVERSATION, instructions="Obey.").request
    assert request.messages == (
        Message("system", "Obey."),
        Message("system", "Be brief."),
        Message(
            "user",
            (
                TextPart("What is this?"),
                ImagePart(data="QUJD", media_type="image/png", detail="low"),
                FilePart(data="UERG", media_type="application/pdf", filename="a.pdf"),
            ),
        ),
        Message(
            "assistant",
            (ReasoningPart("think", signature="gAA", dialect="openai_responses", id="rs_1"), TextPart("Wait.")),
            tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "g", '{"a":1}')),
        ),
        Message("tool", "one", tool_call_id="c1"),
        Message("tool", (TextPart("two"),), tool_call_id="c2"),
    )


def test_parameters() -> None:
    """A parameter under another name in this API would be lost in translation."""
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    request = parsed(
        input="hi",
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}, {"type": "x"}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        top_logprobs=2,
        include=["message.output_text.logprobs"],
        metadata={"k": "v"},
        user="u",
        store=False,
        truncation="disabled",
        service_tier="flex",
    ).request
    assert (request.max_tokens, request.temperature, request.top_p) == (7, 0.5, 0.9)
    assert request.tools == (Tool("f", "", {"type": "object"}, True), Tool("x", hosted={"type": "x"}))
    assert (request.tool_choice, request.parallel_tool_calls) == ("name:f", False)
    form = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert request.response_format == {"type": "json_schema", "json_schema": form}
    assert (request.reasoning_effort, request.logprobs, request.top_logprobs) == ("low", True, 2)
    assert (request.metadata, request.user) == ({"k": "v"}, "u")
    assert request.extra == {"text": {"verbosity": "low"}, "service_tier": "flex"}


def test_allowed_tools_leave_only_those() -> None:
    """The model could call a tool the client forbade."""
    tools = [{"type": "function", "name": name} for name in ("f", "g")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    request = parsed(input="hi", tools=tools, tool_choice=choice).request
    assert ([tool.name for tool in request.tools], request.tool_choice) == (["g"], "required")


def test_a_neutral_request_is_written_as_it_was_read() -> None:
    """The two halves would disagree on what a conversation means."""
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "web_search"}]
    form = {"format": {"type": "json_object"}, "verbosity": "low"}
    asked = parsed(input=CONVERSATION, tools=tools, tool_choice="required", text=form, reasoning={"effort": "low"})
    written = responses_body(asked.request)
    assert parsed(**written).request == asked.request


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "tools": [{"name": "f"}]}, "tools[0].type"),
        ({"input": "x", "text": {"format": 1}}, "text.format"),
        ({"input": "x", "model": ""}, "model"),
    ],
)
def test_complaints_name_the_field(body: dict[str, Any], param: str) -> None:
    """A developer would have to guess what is wrong."""
    with pytest.raises(BackendError) as caught:
        parsed(**body)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, param)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "input_text", "summary", "output", "name"]), inner
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "include"]), JSON))
def test_whatever_the_json_it_is_read_or_refused(body: dict[str, Any]) -> None:
    """An odd body would be answered with a 500."""
    with suppress(BackendError):
        assert parsed(**body).request.messages


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt"])
def test_turns_kept_elsewhere_are_refused_where_they_cannot_be_had(field: str) -> None:
    """The model would answer without the conversation it was asked to continue."""
    request = parsed(input="and then?", **{field: "resp_1" if field != "prompt" else {"id": "p"}}).request
    with pytest.raises(BackendError) as caught:
        fit(request, Demo.expresses, "demo", "openai")
    assert caught.value.param == "previous_response_id"


def test_unknown_items_are_refused_by_name_only_where_translated() -> None:
    """The body goes on unchanged to a backend of this API; elsewhere the item would vanish."""
    request = parsed(input=[{"type": "computer_call_output", "output": {}}]).request
    assert request.messages == (
        Message("user", (OtherPart("computer_call_output", {"type": "computer_call_output", "output": {}}),)),
    )
    with pytest.raises(BackendError, match="computer_call_output"):
        fit(request, Demo.expresses, "demo", "openai")
