"""What a repair is, and how one JSON payload inside an SSE frame is edited. Pure.

Law: a rule returns the very frame it was given unless that frame needs it; what stands around the payload (`event:`,
`id:`, comments, line ends) stays byte for byte.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_LINE = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data:")
_OBJECT = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data: ?(\{[^\r\n]*\})[ \t]*(?=[\r\n])")


class Rule(ABC):
    """One repair within one reader's view. `spent` True: it will never touch a frame again. `always`: until then it may
    touch any frame, also one that is nothing but text like the one before."""

    always: ClassVar[bool] = False
    spent: bool = False

    @abstractmethod
    def touches(self, block: bytes) -> bool:
        """Whether any frame of the block may need it: cheap, and rather once too often."""

    @abstractmethod
    def mend(self, frame: bytes) -> list[bytes]:
        """The frame, or what goes out in its place. Never raises."""


def span(frame: bytes) -> tuple[int, int] | None:
    """Where the JSON object of a frame stands; None when its data is something else or more than one line."""
    found = _OBJECT.search(frame)
    if found is None or len(_LINE.findall(frame)) != 1:
        return None
    return found.span(1)


def edited(frame: bytes, change: Callable[[dict[str, Any]], Sequence[dict[str, Any]] | None]) -> list[bytes]:
    """The frame with its object changed, once per object `change` returns; None, or what is no JSON, leaves it."""
    at = span(frame)
    if at is None:
        return [frame]
    start, end = at
    try:
        value = _decode(frame[start:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [frame]
    changed = change(value)
    if changed is None:
        return [frame]
    return [frame[:start] + encode(one) + frame[end:] for one in changed]


def choices_of(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a chat chunk that have a delta."""
    found = chunk.get("choices")
    items = found if isinstance(found, list) else []
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("delta"), dict)]
