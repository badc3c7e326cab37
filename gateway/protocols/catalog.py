"""Which client protocols there are: the files of this folder that define a class `Protocol`.

Law: adding a protocol is adding a file; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

import gateway.protocols
from gateway.protocols.base import ClientProtocol


@cache
def _classes() -> tuple[type[ClientProtocol], ...]:
    """Every file's `Protocol`, in order of the files' names."""
    names = sorted(m.name for m in pkgutil.iter_modules(gateway.protocols.__path__))
    modules = [importlib.import_module(f"gateway.protocols.{name}") for name in names]
    found = (getattr(module, "Protocol", None) for module in modules)
    return tuple(c for c in found if isinstance(c, type) and issubclass(c, ClientProtocol))


def families() -> frozenset[str]:
    """The families (names of `server.protocols`) this build can serve."""
    return frozenset(c.family for c in _classes())


def build(families: Iterable[str]) -> dict[str, ClientProtocol]:
    """The protocols of these families by their `name`. A family without a file here adds nothing: compare with
    `families()` to tell an operator so."""
    wanted = frozenset(families)
    return {c.name: c() for c in _classes() if c.family in wanted}
