"""A whole Message from the Messages stream of a backend that speaks it, with every field it sent. Pure.

Law: a field not known here is kept. Strings of an unknown delta are added to the block's, everything else is set.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.halves import read_json
from backends.contract.payload import sse_events
from gateway.protocols.anthropic_encoder import message_id
from gateway.protocols.base import About, Ending, Gatherer

_DELTAS = {"text_delta": "text", "thinking_delta": "thinking"}


class MessageGatherer(Gatherer):
    """One answer in the making; events that cannot be read are left out."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}  # (block, field) -> its pieces

    def feed(self, block: bytes) -> None:
        for _, data in sse_events(block):
            try:
                self._event(read_json(data))
            except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError, ValueError):
                continue

    def _event(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "message_delta":
                self._merge(event)

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        block, kind = self._blocks[index], delta["type"]
        if kind in _DELTAS:
            self._add(index, _DELTAS[kind], delta[_DELTAS[kind]])
        elif kind == "input_json_delta":
            self._add(index, "input", delta["partial_json"])
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        else:
            self._unknown(index, delta)

    def _unknown(self, index: int, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name != "type" and isinstance(value, str):
                self._add(index, name, value)
            elif name != "type":
                self._blocks[index][name] = value

    def _add(self, index: int, name: str, piece: str) -> None:
        pieces = self._texts.setdefault((index, name), [])
        if not pieces and name != "input" and isinstance(self._blocks[index].get(name), str):
            pieces.append(self._blocks[index][name])
        pieces.append(piece)

    def _merge(self, event: dict[str, Any]) -> None:
        """Counts that are not repeated, or null, keep their earlier value."""
        usage = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
        rest = {name: value for name, value in event.items() if name not in ("type", "delta", "usage")}
        before = self._message.get("usage") or {}
        self._message |= {**rest, **event["delta"], "usage": {**before, **usage}}

    def body(self, about: About, ending: Ending) -> bytes:
        for (index, name), pieces in self._texts.items():
            text = "".join(pieces)
            self._blocks[index][name] = _input(text) if name == "input" else text
        whole = {"id": message_id(about), "type": "message", "role": "assistant", **self._message}
        whole["model"] = about.model
        whole["content"] = [self._blocks[index] for index in sorted(self._blocks)]
        return msgspec.json.encode(whole)


def _input(text: str) -> Any:
    """A tool's input; what was cut off by a limit is no JSON and stays the text it is."""
    if not text:
        return {}
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
