"""Google's own schema dialect (a subset of OpenAPI 3.0) as JSON Schema. Pure."""

from __future__ import annotations

from typing import Any

_LEFT_OUT = frozenset(("nullable", "propertyOrdering", "property_ordering", "example"))
_SNAKE = {"any_of": "anyOf", "min_items": "minItems", "max_items": "maxItems", "min_length": "minLength"} | {
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
}
_NUMBERS = frozenset(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"))


def plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema in the words every other provider knows: types in lower case, `nullable` as a type of its own, counts
    as numbers (64-bit integers are text in JSON of protocol buffers)."""
    found = {_SNAKE.get(name, name): value for name, value in schema.items() if name not in _LEFT_OUT}
    out = {name: _field(name, value) for name, value in found.items()}
    if schema.get("nullable") is True and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def _field(name: str, value: Any) -> Any:
    match name, value:
        case "type", str():
            return value.lower()
        case "properties", dict():
            return {key: _inner(item) for key, item in value.items()}
        case "anyOf", list():
            return [_inner(item) for item in value]
        case "items", _:
            return _inner(value)
        case _, str() if name in _NUMBERS and value.isdecimal():
            return int(value)
        case _:
            return value


def _inner(value: Any) -> Any:
    return plain_schema(value) if isinstance(value, dict) else value
