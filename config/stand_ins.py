"""What stands where a value could not be read, so that the rest of the file can still be checked. Pure.

Law: a stand-in is never used: there is a complaint about each, so the configuration is not returned.
"""

from __future__ import annotations

import typing
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import fields


def stand_in(kind: Any) -> Any:
    """The emptiest value of a type used in schema.py."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return typing.get_args(kind)[0]
    if origin is dict:
        return {}
    if origin is tuple:
        return ()
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind(**{info.name: stand_in(info.type) for info in fields(kind) if info.required})
    return kind(0) if isinstance(kind, type) and issubclass(kind, int | float) else kind("")
