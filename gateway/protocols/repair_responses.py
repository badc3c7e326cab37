"""The repair of OpenAI Responses streams that lack fields strict clients demand (llama.cpp: Vercel's AI SDK). Pure.

Law: only what is missing is added; a server whose first event has its number and its time is left alone from then on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from gateway.protocols.base import About
from gateway.protocols.repair_frame import Rule, edited, span

_KIND = re.compile(rb'"type"\s*:\s*"(response\.[a-z_.]+)"')  # no nested type begins so
_ITEM = re.compile(rb'"item_id"\s*:\s*"([^"\\]+)"')
_WHOLE = frozenset({"created", "in_progress", "queued", "completed", "failed", "incomplete", "cancelled"})
_CONTENT = ("content_part.", "output_text.", "refusal.", "reasoning_text.")
_SUMMARY = ("reasoning_summary_part.", "reasoning_summary_text.")
# Clients read these without asking whether they are there (openai-python declares them present).
_DETAILS = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}


class ResponsesFields(Rule):
    """`responses_fields`. Times and names come from the stream (`about`), so that every rendering is the same."""

    always: ClassVar[bool] = True

    def __init__(self, about: About) -> None:
        self._about = about
        self._number = 0
        self._items: dict[str, int] = {}

    def touches(self, block: bytes) -> bool:
        return True

    def mend(self, frame: bytes) -> list[bytes]:
        at, found = span(frame), _KIND.search(frame)
        if at is None or found is None or self.spent:
            return [frame]
        number, self._number = self._number, self._number + 1
        kind = found[1].decode().removeprefix("response.")
        if kind in _WHOLE:
            return edited(frame, lambda event: self._response(event, number))
        if kind.startswith("output_item."):
            return edited(frame, lambda event: self._item(event, number, kind))
        return [self._delta(frame, at, number, kind)]

    def _delta(self, frame: bytes, at: tuple[int, int], number: int, kind: str) -> bytes:
        """The common case, by bytes: what is missing goes to the front of the object."""
        item = _ITEM.search(frame, *at)
        place = self._items.get(item[1].decode() if item else "", max(0, len(self._items) - 1))
        wanted = {"sequence_number": number, "output_index": place}
        if kind.startswith(_CONTENT):
            wanted["content_index"] = 0
        elif kind.startswith(_SUMMARY):
            wanted["summary_index"] = 0
        missing = [b'"%b":%d,' % (name.encode(), value) for name, value in wanted.items() if not _has(frame, name)]
        return frame[: at[0] + 1] + b"".join(missing) + frame[at[0] + 1 :] if missing else frame

    def _response(self, event: dict[str, Any], number: int) -> Sequence[dict[str, Any]] | None:
        said = event.get("response")
        if not isinstance(said, dict):
            return None
        if number == 0 and "sequence_number" in event and "created_at" in said and "model" in said:
            self.spent = True
            return None
        own = {"created_at": self._about.created_ms // 1000, "model": self._about.model, "output": []}
        usage = said.get("usage")
        counts = {"usage": {**_DETAILS, **usage}} if isinstance(usage, dict) else {}
        return [{"sequence_number": number, **event, "response": {**own, **said, **counts}}]

    def _item(self, event: dict[str, Any], number: int, kind: str) -> Sequence[dict[str, Any]] | None:
        item = event.get("item")
        if not isinstance(item, dict):
            return None
        name = str(item.get("id") or item.get("call_id") or "")
        if kind == "output_item.added":
            self._items.setdefault(name, len(self._items))
        place = self._items.get(name, max(0, len(self._items) - 1))
        item = {"id": name, **item} if name else item
        return [{"sequence_number": number, "output_index": place, **event, "item": item}]


def _has(frame: bytes, name: str) -> bool:
    return b'"%b":' % name.encode() in frame
