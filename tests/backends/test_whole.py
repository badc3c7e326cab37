"""Answers that came whole: told as the stream they should have been, with nothing lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.catalog import build
from backends.contract.events import Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from backends.whole import frames_of
from config.schema import Backend

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CHAT: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "vendor": {"y": 2},
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hé", "reasoning_content": "hm", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
MESSAGE: dict[str, Any] = {
    "id": "msg",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hé"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
GOOGLE: dict[str, Any] = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "Hé"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
}


@pytest.mark.parametrize(("dialect", "body"), [("openai", CHAT), ("anthropic", MESSAGE), ("google", GOOGLE)])
def test_every_part_of_a_whole_answer_is_told(dialect: str, body: dict[str, Any]) -> None:
    """A server that cannot stream would be of no use behind the gateway, or would lose its tool calls there."""
    frames = frames_of(dialect, json.dumps(body).encode())
    decoder = build("up", Backend(driver=dialect, url="http://127.0.0.1:9")).decoder()
    events = [event for frame in frames for event in decoder.feed(frame)] + decoder.eof()
    assert decoder.done
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Hé"
    usage = [e for e in events if isinstance(e, Usage)][-1]
    assert (usage.prompt, usage.completion) == (3, 4)
    assert [e for e in events if isinstance(e, Finish)]
    if dialect != "google":
        assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "hm"
        calls = [e for e in events if isinstance(e, ToolCallDelta)]
        assert calls[0].name == "f"
        assert json.loads("".join(e.arguments for e in calls)) == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error":{"message":"x"}}', b"<html>", b'{"choices":[]}', b"7"])
@pytest.mark.parametrize("dialect", ["openai", "openai_completions", "anthropic", "google", "ollama"])
def test_what_is_no_answer_gives_no_frames(dialect: str, body: bytes) -> None:
    """An error body or a login page would be told as an empty, successful answer."""
    assert frames_of(dialect, body) == []
