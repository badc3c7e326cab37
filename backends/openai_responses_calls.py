"""Which function call a Responses event speaks of. Pure.

Law: one call, one slot, however its events name it: by item id, by `output_index`, or (llama.cpp) by the call's own id;
an event that names nothing speaks of the last call opened.
"""

from __future__ import annotations

from typing import Any

from backends.contract.events import ToolCallDelta

_Key = tuple[str, str | int]


class CallSlots:
    """The calls of one stream, numbered in order of appearance."""

    def __init__(self) -> None:
        self._slots: dict[_Key, int] = {}
        self._told: list[bool] = []  # whether a slot's arguments have been told already

    def __len__(self) -> int:
        return len(self._told)

    def open(self, item: dict[str, Any], index: int | None) -> list[ToolCallDelta]:
        """A call begins (or is repeated)."""
        if self._known(item, index) is not None:
            return []
        slot = len(self._told)
        self._told.append(bool(_text(item.get("arguments"))))
        for key in _keys(item, index):
            self._slots.setdefault(key, slot)
        given = _text(item.get("call_id")) or _text(item.get("id")) or f"call_{slot}"
        return [ToolCallDelta(slot, given, _text(item.get("name")), _text(item.get("arguments")))]

    def more(self, item_id: str | None, index: int | None, delta: Any) -> list[ToolCallDelta]:
        """More of a call's arguments."""
        slot = self._find(item_id, index)
        if slot is None or not isinstance(delta, str) or not delta:
            return []
        self._told[slot] = True
        return [ToolCallDelta(slot, arguments=delta)]

    def whole(self, item_id: str | None, index: int | None, arguments: Any) -> list[ToolCallDelta]:
        """All of a call's arguments: news only when no delta told them."""
        slot = self._find(item_id, index)
        if slot is None or self._told[slot]:
            return []
        return self.more(item_id, index, arguments)

    def finish(self, item: dict[str, Any], index: int | None) -> list[ToolCallDelta]:
        """A call is complete; servers may never have announced it."""
        slot = self._known(item, index)
        if slot is None:
            return self.open(item, index)
        arguments = _text(item.get("arguments"))
        if self._told[slot] or not arguments:
            return []
        self._told[slot] = True
        return [ToolCallDelta(slot, arguments=arguments)]

    def _known(self, item: dict[str, Any], index: int | None) -> int | None:
        return next((self._slots[key] for key in _keys(item, index) if key in self._slots), None)

    def _find(self, item_id: str | None, index: int | None) -> int | None:
        for key in (("id", item_id or ""), ("at", -1 if index is None else index)):
            if key in self._slots:
                return self._slots[key]
        return len(self._told) - 1 if self._told else None


def _keys(item: dict[str, Any], index: int | None) -> list[_Key]:
    names: list[_Key] = [("id", name) for name in (_text(item.get("id")), _text(item.get("call_id"))) if name]
    return names if index is None else [*names, ("at", index)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
