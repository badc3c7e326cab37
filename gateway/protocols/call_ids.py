"""Ids for tool calls in dialects that may leave them out (Ollama, Google): a result names its tool only. Pure.

Law: a result answers the earliest call still open under its id, else under its tool's name, else of any name.
"""

from __future__ import annotations


class CallIds:
    """The calls of one conversation, read turn by turn."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []  # (id, name) of calls without a result
        self._count = 0

    def called(self, name: str, given: str = "") -> str:
        """The id of a call: the one it has, else one of its own."""
        found = given or f"call_{self._count}"
        self._count += 1
        self._open.append((found, name))
        return found

    def answered(self, name: str, given: str = "") -> tuple[str, str]:
        """(id, name) of the call a result is for; an id of its own where it is for none."""
        for wanted in (lambda c: c[0] == given, lambda c: not given and c[1] == name, lambda c: not given and not name):
            for call in self._open:
                if wanted(call):
                    self._open.remove(call)
                    return call[0], name or call[1]
        if given:
            return given, name
        self._count += 1
        return f"call_{self._count - 1}", name
