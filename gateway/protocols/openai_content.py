"""The `content` of a chat message, put together from its deltas: a text, or the parts Mistral's servers send. Pure.

Law: pieces of text alone give a text. Where one of them was a list of parts the whole is a list, in which neighbours of
one type (`text`, `thinking`) are one part; parts nobody here knows stay as they came.
"""

from __future__ import annotations

from typing import Any


class Content:
    """One message's."""

    __slots__ = ("_in_parts", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self._in_parts = False

    def add(self, piece: str | list[Any]) -> None:
        """More of it."""
        self._in_parts = self._in_parts or isinstance(piece, list)
        self._pieces.append(piece)

    def whole(self) -> str | list[Any] | None:
        """All of it; None: it was never told."""
        if not self._pieces:
            return None
        return _joined(self._pieces) if self._in_parts else "".join(self._pieces)


def _joined(pieces: list[Any]) -> list[Any]:
    parts: list[Any] = []
    for piece in pieces:
        for part in piece if isinstance(piece, list) else [{"type": "text", "text": piece}] if piece else ():
            if not (parts and _goes_on(parts[-1], part)):
                parts.append(dict(part) if isinstance(part, dict) else part)
    return parts


def _goes_on(last: Any, part: Any) -> bool:
    """Whether a part is more of the last one, which has it then."""
    if not isinstance(last, dict) or not isinstance(part, dict) or last.keys() != part.keys():
        return False
    kind = part.get("type")
    before, more = last.get(kind), part.get(kind)
    if last.get("type") != kind or kind not in ("text", "thinking"):
        return False
    if isinstance(before, str) and isinstance(more, str):
        last[kind] = before + more
    elif isinstance(before, list) and isinstance(more, list):
        last[kind] = _joined([before, more])
    else:
        return False
    return True
