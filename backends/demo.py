"""A backend without a network or a key: it answers pleasantly, at a pace, and fails on request. Dialect `openai`.

Options in YAML: `tokens_per_second` (30), `tokens` (0: as long as the answer is; -1: endless), `fail` (`error@10`).
The last user message may hold directives in square brackets, see DIRECTIVES. Law: the same request, the same bytes;
ids come from the body's hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from typing import Any

import msgspec
from msgspec import Struct

from backends import wire
from backends.base import HttpRequest, Play, Script
from backends.openai import Driver as OpenAIDriver
from config.schema import Backend

# What the last user message may say, and what it does.
DIRECTIVES = {
    "tokens=N": "answer with N tokens; 0: endless",
    "rate=N": "N tokens per second; 0: as fast as possible",
    "fail=error@N": "after N tokens, an error inside the stream",
    "fail=cut@N": "after N tokens, the connection breaks",
    "fail=stall@N": "after N tokens, silence",
    "fail=silent": "the head of the answer and nothing else",
    "fail=http500": "an HTTP error before the stream, any status",
    "fail=http429": "the same, with Retry-After: 2",
    "fail=refuse": "the connection breaks before the first byte of the body",
    "reasoning": "some visible reasoning first",
    "tool=NAME": "a call of the tool NAME instead of an answer",
}
FOREVER = 1e9  # seconds; a stall

_DIRECTIVE = re.compile(r"\[(tokens|rate|fail|tool)=([^\]\s]{1,64})\]|\[(reasoning)\]")
_SSE = (("content-type", "text/event-stream; charset=utf-8"),)
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


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """How the demo answers when the request does not say. Units: tokens per second, tokens (-1: endless)."""

    tokens_per_second: float = 30.0
    tokens: int = 0
    fail: str = ""


class _Wish(Struct):
    """What one request asks of the demo. `tokens` None: the answer's own length; 0: endless. `gap` in seconds."""

    prompt: str
    gap: float
    tokens: int | None
    limit: int | None
    fail: str = ""
    fail_at: int = 0
    reasoning: bool = False
    tool: str = ""


class Driver(OpenAIDriver):
    """`driver: demo`."""

    def __init__(self, name: str, backend: Backend) -> None:
        own = wire.options(name, backend, Options)
        super().__init__(name, msgspec.structs.replace(backend, options={}))
        self._own = own

    def script(self, request: HttpRequest) -> Script | None:
        body = msgspec.json.decode(request.body)
        id_ = hashlib.sha256(request.body).hexdigest()[:24]
        wish = self._wish(body)
        if wish.fail.startswith("http"):
            return _refusal(wish.fail)
        steps = _steps(wish, f"chatcmpl-demo-{id_}", str(body.get("model") or "demo"))
        return Script(200, _SSE, steps)

    def probe(self) -> HttpRequest | None:
        return None

    def list_models(self) -> HttpRequest | None:
        return None

    def read_models(self, body: bytes) -> Sequence[str]:
        return self.backend.models or ("demo",)

    def _wish(self, body: dict[str, Any]) -> _Wish:
        prompt = _last_user(body.get("messages"))
        said = {m[1] or m[3]: m[2] or "" for m in _DIRECTIVE.finditer(prompt)}
        rate = _number(said.get("rate"), self._own.tokens_per_second)
        own = {0: None, -1: 0}.get(self._own.tokens, self._own.tokens)
        fail, _, at = (said.get("fail") or self._own.fail).partition("@")
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        return _Wish(
            prompt=_DIRECTIVE.sub("", prompt).strip(),
            gap=1.0 / rate if rate > 0 else 0.0,
            tokens=int(_number(said["tokens"], 0)) if "tokens" in said else own,
            limit=limit if isinstance(limit, int) else None,
            fail=fail,
            fail_at=int(_number(at, 0)),
            reasoning="reasoning" in said,
            tool=said.get("tool", ""),
        )


def _refusal(fail: str) -> Script:
    status = int(_number(fail[4:], 500))
    status = status if 400 <= status < 600 else 500
    error = {"error": {"message": f"the demo was asked to answer {status}", "type": "demo_error", "code": None}}
    headers = (*_JSON, ("retry-after", "2")) if status == 429 else _JSON
    return Script(status, headers, iter([Play(0.0, wire.encode(error)), Play(0.0, end="eof")]))


def _steps(wish: _Wish, id_: str, model: str) -> Iterator[Play]:
    """The plays of a whole answer, lazily: it may be endless."""
    if wish.fail == "refuse":
        yield Play(0.0, end="cut")
        return
    if wish.fail == "silent":
        yield Play(FOREVER, end="eof")
        return
    head = {"id": id_, "object": "chat.completion.chunk", "created": 0, "model": model}
    yield Play(0.0, _delta(head, {"role": "assistant", "content": ""}))
    sent, length = 0, False
    for delta in _deltas(wish):
        if wish.limit is not None and sent >= wish.limit:
            length = True
            break
        if wish.fail and sent >= wish.fail_at:
            yield from _break(wish.fail)
            return
        sent += 1
        yield Play(wish.gap, _delta(head, delta))
    if wish.fail:
        yield from _break(wish.fail)
        return
    finish = "length" if length else "tool_calls" if wish.tool else "stop"
    prompt = len(wish.prompt.split())
    usage = {"prompt_tokens": prompt, "completion_tokens": sent, "total_tokens": prompt + sent}
    yield Play(0.0, _delta(head, {}, finish))
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


def _deltas(wish: _Wish) -> Iterator[dict[str, Any]]:
    if wish.reasoning:
        yield from ({"reasoning_content": word + " "} for word in _THOUGHTS if word)
    if wish.tool:
        yield _tool(id="call_0", type="function", function={"name": wish.tool, "arguments": ""})
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


def _delta(head: dict[str, Any], delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + wire.encode({**head, "choices": [choice]}) + b"\n\n"


def _answer(prompt: str) -> str:
    said = " ".join(prompt.split())
    shown = said if len(said) <= 120 else said[:117] + "..."
    return (f"You said: “{shown}”. What a good start! " if shown else "Hello! ") + _CLOSING


def _last_user(messages: Any) -> str:
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(wire.named(content, "text"))
            return content if isinstance(content, str) else ""
    return ""


def _number(text: str | None, default: float) -> float:
    try:
        value = float(text) if text else default
    except ValueError:
        return default
    return value if 0 <= value < 1e9 else default
