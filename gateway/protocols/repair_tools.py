"""The repair of tool-call deltas: TGI repeats id, type and an empty name in every one, others send no id or the same.

Law: in what goes out, the first delta of a call has a unique id, `type` and its name; later ones have neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gateway.protocols.repair_frame import Rule, choices_of, edited, encode

_MORE = re.compile(rb'"tool_calls":\[\{"index":\d+,"function":\{"arguments":"')


class ToolCallIds(Rule):
    """`tool_call_ids`."""

    def __init__(self) -> None:
        self._calls: dict[int, _Calls] = {}  # by choice

    def touches(self, block: bytes) -> bool:
        return b'"tool_calls"' in block

    def mend(self, frame: bytes) -> list[bytes]:
        if b'"tool_calls"' not in frame or self._continues(frame):
            return [frame]
        return edited(frame, self._chunk)

    def _continues(self, frame: bytes) -> bool:
        """Well-formed arguments of a call that is open, by bytes alone."""
        known = self._calls and not any(calls.renumbered for calls in self._calls.values())
        if not known or _MORE.search(frame) is None:
            return False
        return b'"name":' not in frame and b'"type":' not in frame and frame.count(b'"id":') <= 1

    def _chunk(self, chunk: dict[str, Any]) -> Sequence[dict[str, Any]] | None:
        changed = False
        for choice in choices_of(chunk):
            said = choice["delta"].get("tool_calls")
            if not isinstance(said, list):
                continue
            number = choice.get("index")
            calls = self._calls.setdefault(number if isinstance(number, int) else 0, _Calls())
            made = [calls.delta(call) for call in said]
            changed = changed or made != said
            choice["delta"]["tool_calls"] = made
        return [chunk] if changed else None


class _Calls:
    """The calls of one choice. The same reading as the decoder's: a known index goes on unless a new id has a name."""

    def __init__(self) -> None:
        self.renumbered = False
        self._slots: dict[int, int] = {}  # the server's index -> ours
        self._ids: list[str] = []
        self._theirs: list[str] = []

    def delta(self, call: Any) -> Any:
        """One delta as it should have been."""
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return call
        index, theirs, name = call.get("index"), call.get("id") or "", function.get("name")
        index = index if isinstance(index, int) else None
        slot = self._slot(index, theirs, bool(name))
        if slot is not None:
            kept = {key: value for key, value in call.items() if key not in ("id", "type")}
            return {**kept, "index": slot, "function": _function(function, "")}
        slot = self._open(index, theirs)
        opened = {**call, "index": slot, "id": self._ids[slot], "type": call.get("type") or "function"}
        return {**opened, "function": _function(function, name)}

    def _slot(self, index: int | None, theirs: str, has_name: bool) -> int | None:
        if index is None:
            return len(self._ids) - 1 if self._ids and not has_name else None
        slot = self._slots.get(index)
        if slot is None or (has_name and theirs and theirs != self._theirs[slot]):
            return None
        return slot

    def _open(self, index: int | None, theirs: str) -> int:
        slot = len(self._ids)
        given = theirs or f"call_{slot}"
        while given in self._ids:
            given = f"call_{slot}" if given == theirs else f"{given}_{slot}"
        self._ids.append(given)
        self._theirs.append(theirs)
        if index is not None:
            self._slots[index] = slot
        self.renumbered = self.renumbered or index != slot
        return slot


def _function(said: dict[str, Any], name: Any) -> dict[str, Any]:
    """A call's function with its name only where it counts, and arguments that are text."""
    function = {key: value for key, value in said.items() if key != "name"}
    arguments = said.get("arguments", "")
    if not isinstance(arguments, str):
        function["arguments"] = "" if arguments is None else encode(arguments).decode()
    return {"name": name, **function} if name else function
