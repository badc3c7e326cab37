"""Reading a client's JSON: every complaint names the field and what was expected there. Pure.

Law: whatever the bytes, the outcome is a value or BackendError INVALID_REQUEST; `null` is the same as absent.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from backends.contract.errors import BackendError, ErrorCode
from gateway.protocols.amounts import MAX_ITEMS, check_amount, too_much

MAX_DEPTH = 128  # far from the interpreter's limit, which would depend on who calls

_BIG = 2**63  # what the JSON of every backend can carry


def invalid(path: str, expected: str) -> BackendError:
    """The complaint about one field."""
    return BackendError(ErrorCode.INVALID_REQUEST, f"{path}: expected {expected}", param=path)


def decode_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object. Raises INVALID_REQUEST: bad JSON or UTF-8, lone surrogates, too deep, too much."""
    check_amount(body)
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BackendError(ErrorCode.INVALID_REQUEST, f"body: not valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(data, dict):
        raise BackendError(ErrorCode.INVALID_REQUEST, "body: expected a JSON object")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(data)
    return data


def _too_deep() -> BackendError:
    return BackendError(ErrorCode.INVALID_REQUEST, f"body: expected JSON nested at most {MAX_DEPTH} deep")


def _check_depth(data: Any) -> None:
    """Level by level, so that the check itself needs no depth."""
    level = [data]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            inner.extend(value.values() if isinstance(value, dict) else value)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise _too_deep()


class Fields:
    """A JSON object read field by field. Each reader takes the names a field may have; the first present one counts."""

    __slots__ = ("data", "path")

    def __init__(self, data: Any, path: str = "") -> None:
        if not isinstance(data, dict):
            raise invalid(path, "an object")
        self.data: dict[str, Any] = data
        self.path = path

    def at(self, name: str) -> str:
        """The path of a field, as complaints say it."""
        return f"{self.path}.{name}" if self.path else name

    def find(self, *names: str) -> tuple[str, Any]:
        """(path, value) of the first field present; the value is None when there is none."""
        found, value = names[0], None
        for name in names:
            value = self.data.get(name)
            if value is not None:
                found = name
                break
        return (f"{self.path}.{found}" if self.path else found), value

    def text(self, *names: str) -> str:
        """A string; "" when absent."""
        path, value = self.find(*names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise invalid(path, "a string")
        return encodable(path, value)

    def flag(self, *names: str) -> bool | None:
        """true or false."""
        path, value = self.find(*names)
        if value is not None and not isinstance(value, bool):
            raise invalid(path, "true or false")
        return value

    def number(self, *names: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A number within bounds."""
        path, value = self.find(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise invalid(path, f"a number{_between(low, high)}")
        return value

    def integer(self, *names: str, low: int = -_BIG) -> int | None:
        """A whole number; 5.0 is one too."""
        path, value = self.find(*names)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < _BIG:
            raise invalid(path, "an integer" if low == -_BIG else f"an integer of at least {low}")
        return value

    def object(self, *names: str) -> dict[str, Any] | None:
        """An object."""
        path, value = self.find(*names)
        return None if value is None else Fields(value, path).data

    def inner(self, name: str) -> Fields:
        """The object in a field, or this very object when there is none (the flat form)."""
        return Fields(self.data[name], self.at(name)) if name in self.data else self

    def items(self, *names: str) -> list[tuple[str, Any]]:
        """The elements of an array with their paths; none when absent."""
        path, value = self.find(*names)
        if value is None:
            return []
        if not isinstance(value, list):
            raise invalid(path, "an array")
        if len(value) > MAX_ITEMS:
            raise too_much(path, MAX_ITEMS, "items")
        return [(f"{path}[{i}]", item) for i, item in enumerate(value)]

    def stop(self) -> tuple[str, ...]:
        """`stop`: a string or an array of strings."""
        value = self.data.get("stop")
        if isinstance(value, str):
            return (value,)
        for path, item in self.items("stop"):
            if not isinstance(item, str):
                raise invalid(path, "a string")
        return tuple(value or ())


def encodable(path: str, text: str) -> str:
    """The text itself, when it can be sent on as UTF-8 (query parameters may hold lone surrogates)."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(path, "text without lone surrogates") from None
    return text


def _between(low: float, high: float) -> str:
    if math.isinf(low):
        return ""
    return f" of at least {low:g}" if math.isinf(high) else f" from {low:g} to {high:g}"
