"""Scalars of gateway.yaml to typed values, one parser for each type. Pure; a ValueError says what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from config.schema import Hedge, OnDisconnect
from config.values import Duration, Secret, Size

_INTEGER = re.compile(r"[-+]?\d{1,18}")
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,12})?")
_PERCENTILE = re.compile(r"p([1-9]\d?)")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parse_on_disconnect(text: str) -> OnDisconnect:
    """`cancel`, `continue`, `grace 30s` (also `grace=30s`, as the header has it). Raises ValueError."""
    word, _, rest = text.strip().replace("=", " ", 1).partition(" ")
    if word == "grace" and rest:
        return OnDisconnect("grace", Duration.parse(rest.strip()))
    if word == "cancel" and not rest:
        return OnDisconnect("cancel")
    if word == "continue" and not rest:
        return OnDisconnect("continue")
    raise ValueError(f"expected cancel, continue or a grace such as 'grace 30s', got {text[:60]!r}")


def parse_hedge(text: str) -> Hedge:
    """`800ms`, or a percentile of first-token times: `p95`. Raises ValueError."""
    found = _PERCENTILE.fullmatch(text.strip())
    if found:
        return Hedge(percentile=int(found[1]))
    after = Duration.parse(text.strip())
    if after <= 0:
        raise ValueError(f"must be longer than nothing, got {text!r}")
    return Hedge(after=after)


def _number(text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text.strip()) else -1.0
    if value < 0:
        raise ValueError(f"expected a number that is not negative, got {text!r}")
    return value


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise ValueError(f"expected a whole number, got {text!r}")
    return int(text)


def parse_boolean(text: str) -> bool:
    if text.strip().lower() not in _BOOLS:
        raise ValueError(f"expected true or false, got {text!r}")
    return _BOOLS[text.strip().lower()]


PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: _integer,
    float: _number,
    bool: parse_boolean,
    Duration: Duration.parse,
    Size: Size.parse,
    Secret: Secret,
    Hedge: parse_hedge,
    OnDisconnect: parse_on_disconnect,
}
