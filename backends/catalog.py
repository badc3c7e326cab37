"""Which drivers there are: every file of this folder that defines a `Driver`, by its file name."""

from __future__ import annotations

import difflib
import importlib
import re
from functools import cache
from pathlib import Path

from backends.base import Driver
from config.schema import Backend

_FOLDER = Path(__file__).parent
_DEFINES = re.compile(r"^class Driver\(", re.MULTILINE)
_NOT_DRIVERS = frozenset({"__init__", "base", "catalog", "transport", "tap"})


@cache
def names() -> tuple[str, ...]:
    """The drivers' names, sorted. Reads the files; imports none."""
    files = (f for f in _FOLDER.glob("*.py") if f.stem not in _NOT_DRIVERS)
    return tuple(sorted(f.stem for f in files if _DEFINES.search(f.read_text(encoding="utf-8"))))


def load(name: str) -> type[Driver]:
    """The driver class of a name. Raises ValueError naming what exists, with a suggestion."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no driver named {name!r}; {hint}there are: {', '.join(names())}")
    found = importlib.import_module(f"backends.{name}").Driver
    if not (isinstance(found, type) and issubclass(found, Driver)):
        raise ValueError(f"backends/{name}.py: its Driver is not a backends.base.Driver")
    return found


def build(name: str, backend: Backend) -> Driver:
    """The driver of one backend of gateway.yaml; `name` is the backend's. Raises ValueError with a sentence."""
    return load(backend.driver)(name, backend)
