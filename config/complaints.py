"""What is wrong with gateway.yaml, said so that it can be put right: file, line, dotted path, sentence, suggestion.

A complaint never holds a value that may be a secret: what came from the environment is named, not shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from msgspec import Struct


class Complaint(Struct, frozen=True):
    """One problem. `line` counts from 1 (0: the file as a whole); `path` is dotted: `routes[2].to[0].backend`."""

    file: str
    line: int
    path: str
    message: str
    suggestion: str = ""

    @property
    def where(self) -> str:
        """`file:line`, or the file alone when no line is to blame."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.where, self.path, self.message) if part)
        return f"{text} ({self.suggestion})" if self.suggestion else text


class ConfigError(Exception):
    """A configuration that cannot be used, with every reason at once."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(str(c) for c in self.complaints))


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion for a word that is not one of `known`, if one of them is near."""
    near = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion for a word that is not one of `known`: the nearest, or else what there is."""
    names = sorted(known)
    return nearest(word, names) or (f"known: {', '.join(names)}" if names else "")
