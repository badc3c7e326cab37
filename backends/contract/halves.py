"""JSON in which somebody cut a text between the two halves of a surrogate pair. Pure.

RFC 8259, section 8.2: such escapes are grammatical, and what readers make of them differs. msgspec refuses the text;
here half a pair is U+FFFD, because one emoji that a server cut by UTF-16 units should not cost the answer. What is kept
and passed through stays as it came.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

_T = TypeVar("_T")

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def reading(decode: Callable[[bytes], _T]) -> Callable[[bytes], _T]:
    """`decode`, which raises msgspec.DecodeError, but for half pairs."""

    def read(data: bytes) -> _T:
        try:
            return decode(data)
        except msgspec.DecodeError:
            whole = _without_halves(data)
            if whole == data:
                raise
            return decode(whole)

    return read


def _without_halves(data: bytes) -> bytes:
    if rb"\ud" not in data and rb"\uD" not in data:
        return data
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)


read_json = reading(msgspec.json.decode)  # to whatever it holds
