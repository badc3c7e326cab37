"""The lines of Ollama's `/api/chat` and `/api/generate`, decoded (protocol source: its API document). Pure.

Law: the line with `done: true` ends the answer, unless it gives neither reason nor counts: then its model runner broke
off. A line `{"error": ...}` ends it too.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Decoder
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)  # fmt: skip
from backends.contract.halves import read_json
from backends.contract.payload import BOM
from backends.contract.refusal import in_stream, unreadable

_DIGITS = frozenset("0123456789")


class OllamaDecoder(Decoder):
    """One stream of lines of `/api/chat` or `/api/generate`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = self._failed = False
        self._calls = 0
        self._answer = ""  # what tells its calls, where they have no ids, from those of a conversation's other answers

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for line in block.split(b"\n"):
            if self.done or self._failed:
                break
            if not line.strip():
                continue
            try:
                self._line(read_json(line.removeprefix(BOM)), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError):
                self._fail(out, unreadable("a line"))
        return out

    def _fail(self, out: list[Event], error: BackendError) -> None:
        self._failed = True
        out.append(Failed(error))

    def _line(self, line: dict[str, Any], out: list[Event]) -> None:
        if "error" in line:
            self._fail(out, in_stream(line["error"], self._secrets))
            return
        if not self._started:
            self._started = True
            self._answer = "".join(filter(_DIGITS.__contains__, _text(line.get("created_at"))))[:24]
            out.append(Start("", _text(line.get("model"))))
        message = line.get("message") or line
        thinking, text = _text(message.get("thinking")), _text(message.get("content") or line.get("response"))
        if thinking:
            out.append(ReasoningDelta(thinking))
        if text:
            out.append(TextDelta(text, _logprobs(line.get("logprobs"))))
        for call in message.get("tool_calls") or ():
            self._call(call, out)
        if line.get("done"):
            self._end(line, out)

    def _call(self, call: dict[str, Any], out: list[Event]) -> None:
        function, index = call["function"], self._calls
        arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
        own = f"call_{self._answer}_{index}" if self._answer else f"call_{index}"
        out.append(ToolCallDelta(index, _text(call.get("id")) or own, _text(function["name"]), arguments))
        self._calls += 1

    def _end(self, line: dict[str, Any], out: list[Event]) -> None:
        reason = line.get("done_reason") or ""
        if not reason and "eval_count" not in line:  # its runner closed the connection: no reason, no counts
            self._fail(out, BackendError(ErrorCode.UPSTREAM_TRUNCATED, "the backend's model runner broke off"))
            return
        out.append(Finish("length" if reason == "length" else "tool_calls" if self._calls else "stop"))
        out.append(Usage(prompt=_number(line.get("prompt_eval_count")), completion=_number(line.get("eval_count"))))
        self.done = True


def _text(value: Any) -> str:
    """Raises TypeError where something else stands."""
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value or ""


def _number(value: Any) -> int:
    return value if type(value) is int else 0


def _logprobs(said: Any) -> list[dict[str, Any]] | None:
    """Ollama's items with every field OpenAI's have."""
    if not isinstance(said, list) or not said:
        return None
    return [{**_token(item), "top_logprobs": [_token(t) for t in item.get("top_logprobs") or ()]} for item in said]


def _token(item: dict[str, Any]) -> dict[str, Any]:
    token = _text(item["token"])
    return {"token": token, "logprob": item["logprob"], "bytes": item.get("bytes") or list(token.encode())}
