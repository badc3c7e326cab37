"""Which client protocols there are: the classes in the files of this folder that have a `name` of their own.

Law: adding a protocol is adding a file; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import TypeGuard

import gateway.protocols
from gateway.protocols.base import ClientProtocol


@cache
def _classes() -> tuple[type[ClientProtocol], ...]:
    """Every file's protocols, in order of the files' names."""
    names = sorted(m.name for m in pkgutil.iter_modules(gateway.protocols.__path__))
    modules = [importlib.import_module(f"gateway.protocols.{name}") for name in names]
    return tuple(c for module in modules for c in vars(module).values() if _defined_in(c, module.__name__))


def _defined_in(thing: object, module: str) -> TypeGuard[type[ClientProtocol]]:
    return (
        isinstance(thing, type)
        and issubclass(thing, ClientProtocol)
        and thing.__module__ == module
        and "name" in vars(thing)
    )


def families() -> frozenset[str]:
    """The families (names of `server.protocols`) this build can serve."""
    return frozenset(c.family for c in _classes())


def build(families: Iterable[str]) -> dict[str, ClientProtocol]:
    """The protocols of these families by their `name`. A family without a file here adds nothing: compare with
    `families()` to tell an operator so."""
    wanted = frozenset(families)
    return {c.name: c() for c in _classes() if c.family in wanted}
