"""Conversations of several turns: nothing of one turn is taken for another's, also where calls come without ids."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backends import catalog
from backends.base import Driver
from backends.contract.events import ToolCallDelta
from backends.contract.request import ChatRequest, Message, TextPart, ToolCall
from config.schema import Backend

AGAIN = (
    Message("user", "hi"),
    Message("assistant", tool_calls=(ToolCall("call_0", "look", "{}"),)),
    Message("tool", "seen", tool_call_id="call_0"),
    Message("assistant", tool_calls=(ToolCall("call_0", "act", "{}"),)),
    Message("tool", "done", tool_call_id="call_0"),
)


def driver_of(kind: str) -> Driver:
    return catalog.build("b", Backend(driver=kind, url="http://h:1"))


def body_of(kind: str, *messages: Message) -> Any:
    return msgspec.json.decode(driver_of(kind).prepare(ChatRequest(model="m", messages=messages)).body)


def test_a_result_is_of_the_call_before_it() -> None:
    """A model would be told that a tool it called later gave what an earlier one did."""
    turns = body_of("google", *AGAIN)["contents"]
    answered = [
        part["functionResponse"]["name"] for turn in turns for part in turn["parts"] if "functionResponse" in part
    ]
    assert answered == ["look", "act"]
    assert [m["tool_name"] for m in body_of("ollama", *AGAIN)["messages"] if m["role"] == "tool"] == ["look", "act"]


def google(answer: str) -> bytes:
    parts = [{"functionCall": {"name": "f", "args": {}}}, {"functionCall": {"name": "g", "args": {}}}]
    chunk = {"responseId": answer, "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def ollama(moment: str) -> bytes:
    calls = [{"function": {"name": name, "arguments": {}}} for name in "fg"]
    line = {"model": "m", "created_at": moment, "message": {"role": "assistant", "tool_calls": calls}, "done": False}
    return msgspec.json.encode(line) + b"\n"


@pytest.mark.parametrize(("kind", "answers"), [
    ("google", [google("aB-_1/x"), google("aB-_2/x")]),
    ("ollama", [ollama("2026-11-21T10:00:00.123456789Z"), ollama("2026-11-21T10:00:01.5Z")]),
])  # fmt: skip
def test_calls_of_several_answers_have_ids_of_their_own(kind: str, answers: list[bytes]) -> None:
    """Frontends that know a call by its id would show one answer's call in another's place; some APIs refuse such a
    conversation."""
    events = [event for answer in answers for event in driver_of(kind).decoder().feed(answer)]
    ids = [event.id for event in events if isinstance(event, ToolCallDelta)]
    assert len(set(ids)) == len(ids) == 4
    assert all(name.replace("_", "").replace("-", "").isalnum() and len(name) <= 40 for name in ids)


@pytest.mark.parametrize("kind", ["anthropic", "google", "ollama"])
def test_paragraphs_of_instructions_stay_apart(kind: str) -> None:
    """Instructions that came as several blocks would run into each other in mid-sentence."""
    said = msgspec.json.encode(
        body_of(kind, Message("system", (TextPart("Be kind."), TextPart("Be brief."))), Message("user", "hi"))
    )
    assert rb"Be kind.\n\nBe brief." in said
