"""Whole answers of OpenAI's two completion APIs, put together from their streams with all that the backend sent. Pure.

Law: every choice by its index, text in order, and no field lost: of fields nobody here knows the last value wins. The
exceptions are told: `obfuscation` (padding of the wire), `object` and `model`, which are the client's to know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.halves import reading
from backends.contract.payload import sse_events
from gateway.protocols.base import About, Ending, Gatherer
from gateway.protocols.openai_content import Content
from gateway.protocols.openai_words import FINISH, answer_id, to_json, usage_object

_decode = reading(msgspec.json.Decoder().decode)
_OURS = frozenset({"choices", "model", "object", "obfuscation", "usage"})  # of a chunk, not simply kept
_LISTS = frozenset({"annotations", "reasoning_details"})  # of a delta: told piece by piece
_TEXTS = frozenset({"reasoning_content", "reasoning", "refusal"})
_SOUND = frozenset({"data", "transcript"})  # of `audio`


class Pieces:
    """An object in the making: some fields are texts in pieces, some lists in pieces, the rest single values."""

    __slots__ = ("_lists", "_rest", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._rest: dict[str, Any] = {}

    def text(self, name: str, piece: str) -> None:
        """More of a text."""
        self._texts.setdefault(name, []).append(piece)

    def items(self, name: str, items: list[Any]) -> None:
        """More of a list."""
        self._lists.setdefault(name, []).extend(items)

    def keep(self, name: str, value: Any) -> None:
        """A value; null never replaces another."""
        if value is not None or name not in self._rest:
            self._rest[name] = value

    def first(self, name: str, value: Any) -> None:
        """A value that is said once: the first that says something stays."""
        if not self._rest.get(name):
            self._rest[name] = value

    def get(self, name: str) -> Any:
        """A value kept so far."""
        return self._rest.get(name)

    def whole(self) -> dict[str, Any]:
        """The object."""
        return {**self._rest, **self._lists, **{name: "".join(pieces) for name, pieces in self._texts.items()}}


class _Calls:
    """Tool calls by index. Servers without an index, or that number every call 0, open a call by its name."""

    def __init__(self) -> None:
        self._calls: list[tuple[Pieces, Pieces, str]] = []  # the call, its function (or custom), the latter's name
        self._by_index: dict[Any, int] = {}

    def add(self, delta: dict[str, Any]) -> None:
        kind = next((name for name in ("function", "custom") if isinstance(delta.get(name), dict)), "")
        inner: dict[str, Any] = delta[kind] if kind else {}
        call, function, _ = self._calls[self._slot(delta, inner, kind or "function")]
        for name, value in delta.items():
            if name not in ("index", kind):
                (call.first if name == "id" else call.keep)(name, value)
        for name, value in inner.items():
            if name in ("arguments", "input") and value is not None:
                function.text(name, value if isinstance(value, str) else to_json(value).decode())
            else:
                function.first(name, value)

    def _slot(self, delta: dict[str, Any], inner: dict[str, Any], kind: str) -> int:
        index, named = delta.get("index"), bool(inner.get("name"))
        slot = self._by_index.get(index) if index is not None else len(self._calls) - 1
        known = slot is not None and slot >= 0
        if known and named:
            other = delta.get("id") and delta.get("id") != self._calls[slot or 0][0].get("id")
            known = index is not None and not other
        if known and slot is not None:
            return slot
        self._by_index[index] = len(self._calls)
        self._calls.append((Pieces(), Pieces(), kind))
        return len(self._calls) - 1

    def whole(self) -> list[dict[str, Any]]:
        return [{**call.whole(), kind: function.whole()} for call, function, kind in self._calls]


class _Choice:
    """One choice of either API."""

    def __init__(self) -> None:
        self.own = Pieces()
        self.logprobs: Pieces | None = None
        self.content = Content()
        self.message = Pieces()
        self.function = Pieces()  # `function_call`, the oldest form of a tool call
        self.audio = Pieces()
        self.calls = _Calls()
        self.seen: set[str] = set()

    def add(self, choice: dict[str, Any]) -> None:
        for name, value in choice.items():
            if name == "delta":
                self._delta(value if isinstance(value, dict) else {})
            elif name == "logprobs" and isinstance(value, dict):
                self._logprobs(value)
            elif name == "text" and isinstance(value, str):
                self.own.text(name, value)
            elif name not in ("index", "logprobs"):
                self.own.keep(name, value)

    def _logprobs(self, value: dict[str, Any]) -> None:
        """Every list of them is told token by token: `content` and `refusal`, or the older API's four."""
        said = self.logprobs = self.logprobs or Pieces()
        for name, items in value.items():
            if isinstance(items, list):
                said.items(name, items)
            else:
                said.keep(name, items)

    def _delta(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name == "content" and isinstance(value, str | list):
                self.content.add(value)
            elif name in _TEXTS and isinstance(value, str):
                self.message.text(name, value)
            elif name in _LISTS and isinstance(value, list):
                self.message.items(name, value)
            elif name == "tool_calls" and isinstance(value, list):
                self._call(value)
            elif name in ("function_call", "audio") and isinstance(value, dict):
                self._nested(name, value)
            else:
                self.message.keep(name, value)

    def _call(self, deltas: list[Any]) -> None:
        self.seen.add("tool_calls")
        for delta in deltas:
            if isinstance(delta, dict):
                self.calls.add(delta)

    def _nested(self, name: str, value: dict[str, Any]) -> None:
        self.seen.add(name)
        target, texts = (self.audio, _SOUND) if name == "audio" else (self.function, {"arguments"})
        for key, item in value.items():
            if key in texts and isinstance(item, str):
                target.text(key, item)
            else:
                target.keep(key, item)

    def said(self) -> dict[str, Any]:
        """The message of a chat's choice. What only called something has no content, as OpenAI says it."""
        message = {"role": "assistant", "content": None, "refusal": None, **self.message.whole()}
        message["content"] = self.content.whole()
        message["role"] = message["role"] or "assistant"
        if self.seen:
            called = [("function_call", self.function.whole()), ("audio", self.audio.whole())]
            message |= {name: said for name, said in called if name in self.seen}
            message |= {"tool_calls": self.calls.whole()} if "tool_calls" in self.seen else {}
            message["content"] = message["content"] or None
        elif message["content"] is None and not message["refusal"]:
            message["content"] = ""
        return message


class _Completion(Gatherer):
    """What chat and the older API share."""

    object: str
    prefix: str

    def __init__(self) -> None:
        self._top = Pieces()
        self._choices: dict[int, _Choice] = {}

    def feed(self, block: bytes) -> None:
        for _, data in sse_events(block):
            try:
                chunk = _decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # `[DONE]`; what cannot be read has ended the stream already
            if isinstance(chunk, dict):
                self._chunk(chunk)

    def _chunk(self, chunk: dict[str, Any]) -> None:
        for name, value in chunk.items():
            if name in ("id", "created"):
                self._top.first(name, value)
            elif name not in _OURS or (name == "usage" and isinstance(value, dict)):
                self._top.keep(name, value)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                self._choices.setdefault(index if isinstance(index, int) else 0, _Choice()).add(choice)

    def body(self, about: About, ending: Ending) -> bytes:
        top = self._top.whole()
        head = {
            "id": top.pop("id", "") or answer_id(self.prefix, about),
            "object": self.object,
            "created": top.pop("created", 0) or about.created_ms // 1000,
            "model": about.model,
            "choices": [self._whole(index, self._choices[index], ending) for index in sorted(self._choices)],
            "usage": top.pop("usage", None) or usage_object(ending.usage),
        }
        return to_json(head | top)

    def _whole(self, index: int, choice: _Choice, ending: Ending) -> dict[str, Any]:
        own = {"index": index, **self.told(choice), **choice.own.whole()}
        own["logprobs"] = choice.logprobs.whole() if choice.logprobs else None
        own["finish_reason"] = own.get("finish_reason") or FINISH.get(ending.finish, "stop")
        return own

    def told(self, choice: _Choice) -> dict[str, Any]:
        """What a choice says, in this API's form."""
        return {}


class ChatGatherer(_Completion):
    """`chat.completion`."""

    object = "chat.completion"
    prefix = "chatcmpl-"

    def told(self, choice: _Choice) -> dict[str, Any]:
        return {"message": choice.said()}


class TextGatherer(_Completion):
    """`text_completion`; its choices' text is a field of their own."""

    object = "text_completion"
    prefix = "cmpl-"

    def told(self, choice: _Choice) -> dict[str, Any]:
        return {"text": ""}
