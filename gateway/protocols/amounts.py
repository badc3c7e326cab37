"""How much one request may consist of, told from its bytes before anything is made of them. Pure.

Law: what a body costs grows with its parts, not with its length: 20 MiB may be one image, or seven million empty lists.
The caps are far beyond what providers take (OpenAI: 128 tools, 300,000 tokens to embed; Anthropic: 10,000 tools), so
that only who means harm meets them. Bare numbers are counted apart: prompts and contexts of tokens are long lists of
them and cost little, but one with a large exponent costs a decoder 20 µs.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.contract.errors import BackendError, ErrorCode

MAX_PARTS = 200_000  # objects, arrays and strings (names of fields too) of a body
MAX_VALUES = 500_000  # values in all its arrays and objects
MAX_EXPONENTS = 1_000  # numbers written with an exponent
MAX_ITEMS = 10_000  # items of one list that is read one by one: messages, content parts, tools, stop sequences

_SMALL = 4096  # bytes that hold too little to count
_DIGITS = bytes.maketrans(b"E123456789+", b"e0000000000")  # an exponent is `e0` then; small ones, `e-5`, cost nothing


def check_amount(body: bytes) -> None:
    """Raises INVALID_REQUEST: more than a request may consist of. What is no JSON is left to who decodes it."""
    if len(body) > _SMALL:
        _judge("body", *_counted(body))


def check_texts(path: str, texts: Iterable[str]) -> None:
    """The same for JSON within strings, all of them together: the arguments of calls, which drivers decode."""
    known = [text for text in texts if len(text) > 1]
    if sum(map(len, known)) > _SMALL:
        counts = [_counted(text.encode("utf-8", "replace")) for text in known]
        _judge(path, *map(sum, zip(*counts, strict=True)))


def too_much(path: str, most: int, what: str) -> BackendError:
    """The complaint about more than there may be."""
    text = f"{path}: expected at most {most} {what}; send less, or in several requests"
    return BackendError(ErrorCode.INVALID_REQUEST, text, param=path)


def _counted(text: bytes) -> tuple[int, int, int]:
    """(parts, values, exponents) outside of strings; only the parts where they are too many already."""
    if b"\\" in text:  # without escapes every quote that is left begins or ends a string
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = text.count(b'"') // 2
    if strings > MAX_PARTS:
        return strings, 0, 0
    bare = b" ".join(text.split(b'"')[::2])
    boxes = bare.count(b"{") + bare.count(b"[")
    return strings + boxes, bare.count(b","), bare.translate(_DIGITS).count(b"e0")


def _judge(path: str, parts: int, values: int, exponents: int) -> None:
    if parts > MAX_PARTS:
        raise too_much(path, MAX_PARTS, "strings, objects and arrays")
    if values >= MAX_VALUES:
        raise too_much(path, MAX_VALUES, "values")
    if exponents > MAX_EXPONENTS:
        raise too_much(path, MAX_EXPONENTS, "numbers with an exponent")
