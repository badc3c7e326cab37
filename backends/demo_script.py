"""What the demo says: its whole answer as plays, or its failure. Pure; see `backends.demo`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, cycle
from typing import Any

from msgspec import Struct

from backends import wire
from backends.base import Play, Script

FOREVER = 1e9  # seconds; a stall

SSE = (("content-type", "text/event-stream; charset=utf-8"),)
_JSON = (("content-type", "application/json"),)
_THOUGHTS = [
    "The",
    "user",
    "is",
    "trying",
    "the",
    "gateway;",
    "a",
    "short",
    "and",
    "friendly",
    "answer",
    "will",
    "do.",
    "",
]
_CLOSING = (
    "These words come from the built-in demo backend, one token at a time, exactly as a model would send them. "
    "You can cancel this stream, watch it from another window, or leave and come back to it: nothing is lost. ☕ "
)


class Wish(Struct):
    """What one request asks of the demo. `tokens` None: the answer's own length; 0: endless. `gap` in seconds."""

    prompt: str
    gap: float
    tokens: int | None
    limit: int | None
    fail: str = ""
    fail_at: int = 0
    reasoning: bool = False
    tool: str = ""
    choices: int = 1
    so_far: str = ""  # what was said of the answer before, elsewhere


def refusal(fail: str) -> Script:
    """An HTTP error before the stream: `http429`."""
    status = int(number(fail[4:], 500))
    status = status if 400 <= status < 600 else 500
    error = {"error": {"message": f"the demo was asked to answer {status}", "type": "demo_error", "code": None}}
    headers = (*_JSON, ("retry-after", "2")) if status == 429 else _JSON
    return Script(status, headers, iter([Play(0.0, wire.encode(error)), Play(0.0, end="eof")]))


def steps(wish: Wish, id_: str, model: str, created: int) -> Iterator[Play]:
    """The plays of a whole answer, lazily: it may be endless. `created`: Unix seconds."""
    if wish.fail == "refuse":
        yield Play(0.0, end="cut")
        return
    if wish.fail == "silent":
        yield Play(FOREVER, end="eof")
        return
    head = {"id": id_, "object": "chat.completion.chunk", "created": created, "model": model}
    choices = range(wish.choices)
    yield Play(0.0, _delta(head, choices, {"role": "assistant", "content": ""}))
    sent, length, before = 0, False, len(wish.so_far)
    past = 0
    for delta in _deltas(wish, id_):
        if before > 0:
            before -= len(delta.get("content", ""))
            past += 1
            continue
        if wish.limit is not None and sent >= wish.limit:
            length = True
            break
        if wish.fail and past + sent >= wish.fail_at >= past + (past > 0):
            yield from _break(wish.fail)
            return
        sent += 1
        yield Play(wish.gap, _delta(head, choices, delta))
    if wish.fail and wish.fail_at >= past + (past > 0):
        yield from _break(wish.fail)
        return
    finish = "length" if length else "tool_calls" if wish.tool else "stop"
    prompt = len(wish.prompt.split())
    sent *= wish.choices
    usage = {"prompt_tokens": prompt, "completion_tokens": sent, "total_tokens": prompt + sent}
    yield Play(0.0, _delta(head, choices, {}, finish))
    yield Play(0.0, b"data: " + wire.encode({**head, "choices": [], "usage": usage}) + b"\n\n")
    yield Play(0.0, b"data: [DONE]\n\n")
    yield Play(0.0, end="eof")


def _break(fail: str) -> Iterator[Play]:
    if fail == "stall":
        yield Play(FOREVER, end="eof")
    elif fail == "error":
        yield Play(0.0, b'data: {"error":{"message":"the demo was asked to fail","type":"demo_error","code":500}}\n\n')
        yield Play(0.0, end="eof")
    else:
        yield Play(0.0, end="cut")


def _deltas(wish: Wish, id_: str) -> Iterator[dict[str, Any]]:
    if wish.reasoning:
        yield from ({"reasoning_content": word + " "} for word in _THOUGHTS if word)
    if wish.tool:
        yield _tool(id="call_" + id_.rpartition("-")[2], type="function", function={"name": wish.tool, "arguments": ""})
        for piece in ('{"que', 'ry":', '"demo"}'):
            yield _tool(function={"arguments": piece})
        return
    words = re.findall(r"\S+\s*", _answer(wish.prompt))
    if wish.tokens is None:
        yield from ({"content": word} for word in words)
        return
    for n, word in zip(count(1), cycle(words), strict=False):
        yield {"content": word}
        if n == wish.tokens:
            return


def _tool(**call: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **call}]}


def _delta(head: dict[str, Any], choices: range, delta: dict[str, Any], finish: str | None = None) -> bytes:
    """The same delta for every choice: one chunk each, as OpenAI sends them."""
    frames = [{**head, "choices": [{"index": i, "delta": delta, "finish_reason": finish}]} for i in choices]
    return b"".join([b"data: " + wire.encode(frame) + b"\n\n" for frame in frames])


def _answer(prompt: str) -> str:
    said = " ".join(prompt.split())
    shown = said if len(said) <= 120 else said[:117] + "..."
    return (f"You said: “{shown}”. What a good start! " if shown else "Hello! ") + _CLOSING


def number(text: str | None, default: float) -> float:
    """A number of a directive; the default for anything else."""
    try:
        value = float(text) if text else default
    except ValueError:
        return default
    return value if 0 <= value < 1e9 else default
