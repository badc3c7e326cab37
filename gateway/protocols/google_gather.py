"""GenerateContentResponse objects of one stream put together to one (protocol source: its reference, v1beta). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends.contract.halves import read_json
from backends.contract.payload import sse_events
from gateway.protocols.base import About, Ending, Gatherer


class Gathered(Gatherer):
    """Objects put together: per candidate its parts in order, texts of one kind joined; else the last word counts."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._candidates: dict[int, dict[str, Any]] = {}

    def feed(self, block: bytes) -> None:
        for said in objects(block):
            try:
                self._add(said)
            except (AttributeError, TypeError):
                continue  # the decoder has told of it

    def _add(self, said: dict[str, Any]) -> None:
        for one in said.pop("candidates", None) or ():
            _join(self._candidates.setdefault(one.get("index", 0), {}), one)
        self._fields.update(said)

    def body(self, about: About, ending: Ending) -> bytes:
        """With the backend's own `modelVersion`: it is a version, not the name that was asked for."""
        found = {"candidates": [self._candidates[i] for i in sorted(self._candidates)]} if self._candidates else {}
        return msgspec.json.encode({**found, **self._fields})


def objects(block: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a block of SSE frames; what is none is left out."""
    for _, data in sse_events(block):
        try:
            said = read_json(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(said, dict):
            yield said


def _join(into: dict[str, Any], one: dict[str, Any]) -> None:
    for name, value in one.items():
        before = into.get(name)
        if name == "content" and before is not None:
            _join_content(before, value)
        elif name == "logprobsResult" and before is not None:
            for kind, items in value.items():
                before[kind] = [*before.get(kind, ()), *items] if isinstance(items, list) else items
        else:
            into[name] = value


def _join_content(into: dict[str, Any], content: dict[str, Any]) -> None:
    parts = into.setdefault("parts", [])
    for part in content.get("parts") or ():
        last = parts[-1] if parts else {}
        alike = {**last, "text": ""} == {**part, "text": ""} and "thoughtSignature" not in part
        if alike and isinstance(last.get("text"), str) and isinstance(part.get("text"), str):
            last["text"] += part["text"]
        else:
            parts.append(part)
    into.update({name: value for name, value in content.items() if name != "parts"})
