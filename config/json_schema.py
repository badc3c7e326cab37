"""JSON Schema of gateway.yaml, for editors: made from the typed tree, so that it cannot fall behind it. Pure.

Law: what `load` accepts the schema accepts, `${ENV}` in any place and the short forms included.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from config.schema import Config, Hedge, Match, OnDisconnect, Route, Target
from config.values import Duration, Secret, Size

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ENV = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> dict[str, Any]:
    """The schema of a whole file."""
    schema = _struct(Config)
    return {"$schema": DIALECT, "title": "Headgate: gateway.yaml", **schema}


def _struct(kind: type[Struct]) -> dict[str, Any]:
    known = fields(kind)
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {info.encode_name: _field(info) for info in known},
    }
    if kind.__doc__:
        schema["description"] = " ".join(kind.__doc__.split())
    if kind is Route:
        schema["properties"]["model"] = {
            "anyOf": [_SCALARS[str], {"type": "array", "minItems": 1, "items": _SCALARS[str]}]
        }
    if kind is Match:
        for name in ("key", "owner", "user", "workspace"):
            schema["properties"][name] = {"anyOf": [schema["properties"][name], _SCALARS[str]]}
    required = [info.encode_name for info in known if info.required]
    return schema | ({"required": required} if required else {})


def _field(info: FieldInfo) -> dict[str, Any]:
    schema = _type(info.type)
    empty_allowed = typing.get_origin(info.type) in (tuple, dict) or _is_struct(info.type)
    if empty_allowed and not info.required:
        schema = {"anyOf": [schema, {"type": "null"}]}
    default = info.default
    if default is not NODEFAULT and isinstance(default, str | int | float):
        schema = schema | {"default": default}
    return schema


def _type(kind: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return {"anyOf": [_type(part) for part in arguments]}
    if origin is tuple:
        return _targets() if arguments[0] is Target else {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if origin is Literal:
        return {"anyOf": [{"enum": list(arguments)}, _ENV]}
    if kind is OnDisconnect:
        return _on_disconnect()
    if kind is Hedge:
        return {"anyOf": [_SCALARS[Duration], {"type": "string", "pattern": r"^p[1-9]\d?$"}]}
    return _struct(kind) if _is_struct(kind) else _SCALARS[kind]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct) and kind not in (Hedge, OnDisconnect)


def _targets() -> dict[str, Any]:
    """`to`: a name, one target, or a list of both."""
    one = [{"type": "string", "minLength": 1}, _struct(Target)]
    return {"anyOf": [*one, {"type": "array", "minItems": 1, "items": {"anyOf": one}}]}


def _on_disconnect() -> dict[str, Any]:
    grace = {"type": "string", "pattern": r"^grace[ =]\s*\S+$"}
    return {"anyOf": [{"enum": ["cancel", "continue"]}, grace, _ENV]}


_AMOUNT = r"(\d+(\.\d+)?)"
_SCALARS: dict[Any, dict[str, Any]] = {
    Any: {},
    str: {"type": ["string", "number", "boolean"]},
    int: {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[-+]?\d+$"}, _ENV]},
    float: {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?$"}, _ENV]},
    bool: {"anyOf": [{"type": "boolean"}, {"enum": ["true", "false", "yes", "no", "on", "off"]}, _ENV]},
    type(None): {"type": "null"},
    Secret: {"type": ["string", "number", "boolean"]},
    Duration: {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": rf"^\s*({_AMOUNT}(ms|s|m|h|d)?)+\s*$"},
            _ENV,
        ],
        "description": "A duration: 250ms, 30s, 1m30s, 5m, 90d, or a bare number of seconds.",
    },
    Size: {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": rf"^\s*{_AMOUNT}\s*([KMG]i?)?[Bb]?\s*$"},
            _ENV,
        ],
        "description": "A size: 8MiB, 64KiB, 1GB, or a bare number of bytes.",
    },
}
