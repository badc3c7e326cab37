"""What OpenAI's clients ask for, as the neutral request says it: nothing lost, nothing refused too early."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import catalog
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.fit import fit
from backends.contract.request import (
    AudioPart,
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
from config.schema import Backend
from gateway.protocols import native, openai_chat, openai_completions
from gateway.protocols.base import Asked

USER = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}}


def chat(**body: Any) -> Asked:
    return openai_chat.Protocol().parse(json.dumps({"model": "m", "messages": USER, **body}).encode(), {})


def texts(**body: Any) -> Asked:
    return openai_completions.Protocol().parse(json.dumps({"model": "m", **body}).encode(), {})


def content(*parts: dict[str, Any]) -> Any:
    return chat(messages=[{"role": "user", "content": list(parts)}]).request.messages[0].content


def refused(request: ChatRequest, driver: str = "demo") -> str:
    """Why this driver refuses it."""
    target = catalog.build("b", Backend(driver=driver, url="http://h:1"))
    with pytest.raises(BackendError) as caught:
        fit(request, target.expresses, "b", target.dialect)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value.message


def test_parts_of_every_kind() -> None:
    """A model would answer without having seen the file, the sound or the detail of the image."""
    assert content({"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}}) == (
        ImagePart(url="https://h/i.png", detail="low"),
    )
    assert content(
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "https://h/a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "mp3"}},
    ) == (
        FilePart(data="QQ==", media_type="application/pdf", filename="a.pdf"),
        FilePart(file_id="file-1"),
        FilePart(url="https://h/a.pdf"),
        AudioPart("QQ==", "mp3"),
    )


def test_native_clients_send_files_and_sound_too() -> None:
    """The native protocol would be poorer than those it stands beside."""
    parts = [
        {"type": "file", "file": {"file_data": "data:text/plain;charset=utf-8;base64,QQ=="}},
        {"type": "input_audio", "input_audio": {"data": "QQ=="}},
    ]
    body = json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()
    request = native.Protocol().parse(body, {}).request
    assert request.messages[0].content == (FilePart(data="QQ==", media_type="text/plain"), AudioPart("QQ=="))
    assert request.dialect == "native"


def test_unknown_parts_pass_where_they_are_known_and_are_refused_elsewhere() -> None:
    """A part left out without a word is an answer to another question."""
    asked = chat(messages=[{"role": "user", "content": [{"type": "hologram", "x": 1}]}])
    assert asked.request.messages[0].content == (OtherPart("hologram", {"type": "hologram", "x": 1}),)
    assert "hologram" in refused(asked.request)


@pytest.mark.parametrize(
    ("turn", "parts"),
    [
        ({"reasoning_content": "hm"}, (ReasoningPart("hm", dialect="openai"),)),
        ({"reasoning": "hm"}, (ReasoningPart("hm", dialect="openai"),)),
        (
            {"reasoning": "hm", "reasoning_details": [{"text": "hm", "signature": "s"}, {"data": "x", "id": "r"}, 5]},
            (
                ReasoningPart("hm", "s", dialect="openai"),
                ReasoningPart(redacted="x", dialect="openai", id="r"),
            ),
        ),
    ],
)
def test_reasoning_of_earlier_turns(turn: dict[str, Any], parts: tuple[ReasoningPart, ...]) -> None:
    """A reasoning model that calls tools in several turns would lose its thread."""
    message = chat(messages=[{"role": "assistant", "content": "so", **turn}]).request.messages[0]
    assert message == Message("assistant", (*parts, TextPart("so")))


def test_tools_of_every_kind() -> None:
    """A tool that runs at OpenAI would silently be missing at another provider."""
    request = chat(tools=[WEATHER, {"type": "web_search"}, {"type": "custom", "custom": {"name": "c"}}]).request
    assert request.tools == (
        Tool("weather", "", {"type": "object"}, strict=True),
        Tool("web_search", hosted={"type": "web_search"}),
        Tool("custom", hosted={"type": "custom", "custom": {"name": "c"}}),
    )
    assert "(custom, web_search)" in refused(request, "vllm")


def test_functions_of_the_first_clients_are_tools() -> None:
    """Clients that still say `functions` could talk to OpenAI's own servers only."""
    schema = {"type": "object"}
    asked = chat(functions=[{"name": "f", "description": "d", "parameters": schema}], function_call={"name": "f"})
    assert asked.request.tools == (Tool("f", "d", schema),)
    assert (asked.request.tool_choice, asked.request.extra) == ("name:f", {})
    assert asked.body["functions"][0]["name"] == "f"  # as it was, for a server that knows them


def test_calls_of_the_first_clients_find_their_results() -> None:
    """Anthropic answers 400 to a result whose call has another id, and to two calls with the same one."""
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "7"}
    _, first, one, second, two = chat(messages=[*USER, call, result, call, result]).request.messages
    assert first.tool_calls == (ToolCall("function_1", "f", "{}"),)
    assert (one.role, one.tool_call_id, one.content) == ("tool", "function_1", "7")
    assert second.tool_calls[0].id == two.tool_call_id == "function_3"
    assert "function messages" in refused(chat(messages=[*USER, result]).request)
    strange = {"role": "assistant", "content": None, "function_call": "f"}
    assert "function_call" in refused(chat(messages=[*USER, strange]).request)


def test_allowed_tools_leave_the_others_out() -> None:
    """The model might call a tool the client excluded."""
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    request = chat(tools=[WEATHER, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}).request
    assert ([tool.name for tool in request.tools], request.tool_choice) == (["weather"], "required")


def test_fields_of_the_request() -> None:
    """A knob read under a wrong name does nothing."""
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    request = chat(
        logprobs=True, top_logprobs=3, metadata={"user_id": "u1", "conversation_id": "c1"}, seed=1, stop=["x"],
        reasoning_effort="high", response_format=schema, verbosity="low", store=None,
    ).request  # fmt: skip
    assert (request.logprobs, request.top_logprobs, request.seed, request.stop) == (True, 3, 1, ("x",))
    assert (request.reasoning_effort, request.response_format) == ("high", schema)
    assert (request.extra, request.dialect) == ({"verbosity": "low"}, "openai")


def test_attributes_come_from_where_openai_clients_put_them() -> None:
    """Usage could not be told apart by user or conversation."""
    asked = chat(metadata={"user_id": "u1", "conversation_id": "c1", "workspace_id": "w1"})
    assert (asked.user_id, asked.conversation_id, asked.workspace_id) == ("u1", "c1", "w1")
    assert chat(safety_identifier="s").user_id == "s"
    assert chat(user="u", safety_identifier="s").user_id == "u"


def test_a_tool_choice_nobody_knows_is_reported() -> None:
    """It would be gone without a trace."""
    request = chat(tools=[WEATHER], tool_choice={"type": "mood"}).request
    assert (request.tool_choice, request.extra) == (None, {"tool_choice": {"type": "mood"}})


def test_a_prompt_becomes_one_turn() -> None:
    """A chat backend could not answer a client of the older API."""
    for prompt in ("once", ["once"]):
        asked = texts(prompt=prompt, max_tokens=5, temperature=0, min_p=0.1, stream=True)
        assert asked.request.messages == (Message("user", "once"),)
        assert (asked.request.max_tokens, asked.request.temperature, asked.stream) == (5, 0, True)
        assert asked.request.extra == {"min_p": 0.1}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"prompt": ["a", "b"]}, "several prompts"),
        ({"prompt": [1, 2]}, "a prompt of tokens"),
        ({"prompt": [[1, 2], [3]]}, "a prompt of tokens"),
        ({}, "an empty prompt"),
        ({"prompt": ""}, "an empty prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
    ],
)
def test_what_a_chat_cannot_do_for_the_older_api_is_refused_by_name(body: dict[str, Any], name: str) -> None:
    """The answer would be to something the client did not ask."""
    assert name in refused(texts(**body).request)


def test_what_a_chat_can_ignore_is_not_refused() -> None:
    """Clients that spell out the defaults would be turned away."""
    request = texts(prompt="a", echo=False, suffix=None, best_of=1, logprobs=None, n=1).request
    demo = catalog.build("b", Backend(driver="demo"))
    assert fit(request, demo.expresses, "b", demo.dialect) == (request, ())


@pytest.mark.parametrize("body", [{"prompt": 5}, {"prompt": {"a": 1}}, {"prompt": "a", "echo": "yes"}])
def test_complaints_of_the_older_api_name_the_field(body: dict[str, Any]) -> None:
    """`400` alone costs its reader an hour."""
    with pytest.raises(BackendError) as caught:
        texts(**body)
    assert caught.value.param in body


def test_custom_calls_of_earlier_turns() -> None:
    """The model would not know what it had asked for."""
    call = {"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    message = chat(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}]).request.messages[0]
    assert message.tool_calls == (ToolCall("c1", "sql", '{"input":"select 1"}'),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["role", "content", "type", "text", "function", "name", "arguments", "tool_calls", "image_url", "url", "file",
         "file_data", "input_audio", "data", "reasoning_details", "reasoning", "refusal", "custom", "input", "mode",
         "allowed_tools", "tools", "function_call", "audio"]), inner),
    max_leaves=12,
)  # fmt: skip
TURN = st.dictionaries(st.sampled_from(["content", "tool_calls", "reasoning_details", "refusal", "name"]), JSON)
TURNS = st.tuples(TURN, st.sampled_from(["user", "assistant", "tool", "function", "system"])).map(
    lambda turn: [{**turn[0], "role": turn[1]}]
)
NAMES = [
    "prompt", "tools", "tool_choice", "functions", "metadata", "logprobs", "best_of", "echo", "suffix", "n", "stop",
    "stream_options", "response_format", "user", "safety_identifier",
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON), TURNS)
def test_any_json_is_a_request_or_a_complaint(fields: dict[str, Any], messages: Any) -> None:
    """A TypeError or KeyError from odd JSON would be a 500."""
    for ask, rest in ((chat, {"messages": messages}), (texts, {})):
        try:
            answered = bool(ask(**fields, **rest).request.messages)
        except BackendError as error:
            answered = error.code is ErrorCode.INVALID_REQUEST
        assert answered
