"""The whole answer of a backend that speaks the Responses API: the `response` of its last event. Pure.

Law: every field it sent is kept, known or not; only the model is named as the client named it. A server that streams
its items but leaves them out of the last event gets them put back in order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.halves import read_json
from backends.contract.payload import sse_events
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import About, Ending, Gatherer

_json = msgspec.json.Encoder().encode
_LAST = (b"response.completed", b"response.incomplete", b"response.failed")


class ResponsesGatherer(Gatherer):
    """One whole answer. Memory is that of the items."""

    def __init__(self) -> None:
        self._items: dict[int, Any] = {}
        self._response: dict[str, Any] | None = None

    def feed(self, block: bytes) -> None:
        """Only finished items and the last event are read; deltas repeat what those say."""
        if b"response.output_item.done" not in block and not any(kind in block for kind in _LAST):
            return
        for _, data in sse_events(block):
            try:
                said = read_json(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(said, dict):
                self._event(said)

    def _event(self, said: dict[str, Any]) -> None:
        kind = said.get("type")
        if kind == "response.output_item.done":
            index = said.get("output_index")
            self._items[index if isinstance(index, int) else len(self._items)] = said.get("item")
        elif isinstance(kind, str) and kind.encode() in _LAST and isinstance(said.get("response"), dict):
            self._response = said["response"]

    def response(self, about: About, ending: Ending) -> dict[str, Any]:
        """The answer as an object."""
        items = [self._items[index] for index in sorted(self._items)]
        if self._response is None:
            return words.final(about, ending, items)
        whole = {**self._response, "model": about.model}
        if not whole.get("output") and items:
            whole["output"] = items
        for name in ("background", "previous_response_id"):
            if about.echo.get(name):
                whole[name] = about.echo[name]  # the backend was not told, or told its own name for it
        for name in ("id", "object", "created_at", "status", "usage"):
            if whole.get(name) is None:
                whole[name] = words.final(about, ending, [])[name]
        return whole

    def body(self, about: About, ending: Ending) -> bytes:
        return _json(self.response(about, ending))
