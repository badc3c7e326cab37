"""What a client understood of an answer, whichever API it was told in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from support.dialects import Said, calls_whole


@dataclass
class Heard:
    """An answer as a client's SDK gave it out. `error`: what the SDK raised, "" when it took the answer for whole.
    `usage` is (prompt, completion, reasoning, cached), None for a count this API has no word for."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    finish: str = ""
    usage: tuple[int | None, ...] = ()
    logprobs: int = 0
    others: dict[int, tuple[str, str]] = field(default_factory=dict)  # text and finish of the choices beside the first
    error: str = ""

    def other(self, number: int, text: str, finish: str | None) -> None:
        """More of another choice."""
        before, known = self.others.get(number, ("", ""))
        self.others[number] = (before + text, finish or known)

    def call(self, name: str, arguments: Any, call_id: str) -> None:
        """A whole call; arguments as JSON text or as the object."""
        self.calls.append((name, json.loads(arguments or "{}") if isinstance(arguments, str) else arguments))
        self.ids.append(call_id)


def meant(said: Said) -> Heard:
    """What was said, had every API a word for everything."""
    heard = Heard(finish=said.finish, usage=said.usage)
    heard.others = {n: (meant(other).text, other.finish) for n, other in enumerate(said.others, 1)}
    for step in calls_whole(said):
        if step.kind == "text":
            heard.text += step.text
            heard.logprobs += step.logprobs
        elif step.kind == "think":
            heard.reasoning += step.text
        else:
            heard.call(step.name, step.text, step.id)
    return heard


class Calls:
    """Calls told in pieces, by their number."""

    def __init__(self) -> None:
        self._found: dict[int, list[str]] = {}

    def add(self, index: int, call_id: str | None, name: str | None, arguments: str | None) -> None:
        entry = self._found.setdefault(index, ["", "", ""])
        entry[0] += call_id or ""
        entry[1] += name or ""
        entry[2] += arguments or ""

    def into(self, heard: Heard) -> None:
        for _, (call_id, name, arguments) in sorted(self._found.items()):
            heard.call(name, arguments, call_id)
