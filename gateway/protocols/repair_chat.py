"""Repairs of OpenAI chat completion streams (what each server really sends: vLLM, TGI, mlx, transformers). Pure.

Law: see `repair_frame`. The searches by bytes are safe: inside JSON text every quote is escaped, so a quoted name
followed by a colon is a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from backends.contract.refusal import in_stream
from gateway.protocols.errors import openai_error
from gateway.protocols.repair_frame import Rule, choices_of, edited, encode, span

_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_ERROR_TEXT = re.compile(rb'\{\s*"error"\s*:\s*"')
_ERROR_WHOLE = re.compile(rb'\{\s*"error"\s*:\s*"(.*)"\s*\}', re.DOTALL)
_TEXT = rb'\s*:\s*("(?!")[^"\\]*+(?:\\.[^"\\]*+)*+")'  # not the empty one
_REASONING = re.compile(rb'"reasoning"' + _TEXT)
_REASONING_CONTENT = re.compile(rb'"reasoning_content"' + _TEXT)
_SPOKEN = ("content", "refusal", "reasoning", "reasoning_content", "tool_calls")


class FirstRole(Rule):
    """`first_role`: the first chunk with a choice says whose turn it is."""

    always: ClassVar[bool] = True

    def touches(self, block: bytes) -> bool:
        return True

    def mend(self, frame: bytes) -> list[bytes]:
        return [frame] if self.spent else edited(frame, self._first)

    def _first(self, chunk: dict[str, Any]) -> Sequence[dict[str, Any]] | None:
        choices = choices_of(chunk)
        self.spent = bool(choices)
        bare = [choice for choice in choices if not choice["delta"].get("role")]
        for choice in bare:
            choice["delta"] = {**choice["delta"], "role": "assistant"}
        return [chunk] if bare else None


class SplitFinish(Rule):
    """`split_finish`: content first, the finish reason (and usage) in a chunk after it."""

    def touches(self, block: bytes) -> bool:
        return block.count(b'"finish_reason"') > block.count(b'"finish_reason":null')

    def mend(self, frame: bytes) -> list[bytes]:
        return edited(frame, self._split) if _FINISH.search(frame) else [frame]

    def _split(self, chunk: dict[str, Any]) -> Sequence[dict[str, Any]] | None:
        choices = choices_of(chunk)
        ends = [choice for choice in choices if choice.get("finish_reason")]
        if not any(choice["delta"].get(name) for choice in ends for name in _SPOKEN):
            return None
        later = {"finish_reason": None, "stop_reason": None}
        said = [{**c, **{k: v for k, v in later.items() if k in c}} for c in choices]
        closing = [{**c, "delta": {}, **({"logprobs": None} if "logprobs" in c else {})} for c in ends]
        first = {**chunk, "choices": said, **({"usage": None} if "usage" in chunk else {})}
        return [first, {**chunk, "choices": closing}]


class StringError(Rule):
    """`string_error`: `{"error":"text"}`, its quotes escaped or not, as the error object the SDKs read."""

    def touches(self, block: bytes) -> bool:
        return b'"error"' in block and _ERROR_TEXT.search(block) is not None

    def mend(self, frame: bytes) -> list[bytes]:
        at = span(frame)
        if at is None or _ERROR_TEXT.match(frame, at[0]) is None:
            return [frame]
        made = edited(frame, lambda said: [openai_error(in_stream(said["error"]))])
        if made != [frame]:
            return made
        raw = _ERROR_WHOLE.fullmatch(frame, *at)
        text = raw[1].decode("utf-8", "replace") if raw else ""
        return [frame[: at[0]] + encode(openai_error(in_stream(text))) + frame[at[1] :]]


class ReasoningName(Rule):
    """`reasoning_name`: reasoning under the name it lacks. `both`: also `reasoning` where only the other name came."""

    def __init__(self, both: bool) -> None:
        self._both = both

    def touches(self, block: bytes) -> bool:
        return b'"reasoning"' in block or (self._both and b'"reasoning_content"' in block)

    def mend(self, frame: bytes) -> list[bytes]:
        short, long = b'"reasoning"' in frame, b'"reasoning_content"' in frame
        if short and long:  # one of them may be null
            return edited(frame, self._copied)
        if short:  # the usual case: written behind it, without reading the JSON
            return [_named(frame, _REASONING, b',"reasoning_content":')]
        return [_named(frame, _REASONING_CONTENT, b',"reasoning":')] if long and self._both else [frame]

    def _copied(self, chunk: dict[str, Any]) -> Sequence[dict[str, Any]] | None:
        changed = False
        for choice in choices_of(chunk):
            delta = choice["delta"]
            short, long = delta.get("reasoning"), delta.get("reasoning_content")
            if short and not long and isinstance(short, str):
                delta["reasoning_content"], changed = short, True
            elif self._both and long and not short and isinstance(long, str):
                delta["reasoning"], changed = long, True
        return [chunk] if changed else None


def _named(frame: bytes, pattern: re.Pattern[bytes], other: bytes) -> bytes:
    """The frame with each text of one name said again under the other, right behind it."""
    out, done = b"", 0
    for found in pattern.finditer(frame):
        out += frame[done : found.end()] + other + found[1]
        done = found.end()
    return out + frame[done:] if done else frame
