"""The answer of an embeddings call in OpenAI's shape. Pure. Protocol source: the API reference, "Create embeddings"."""

from __future__ import annotations

import base64
import binascii
import struct

import msgspec
from msgspec import Struct

from backends.contract.events import Usage


class _Row(Struct):
    embedding: list[float] | str
    index: int = 0


class _Usage(Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Answer(Struct):
    data: list[_Row]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_embeddings(body: bytes) -> tuple[list[list[float]], Usage]:
    """Vectors in the order of their `index`, and usage. Raises ValueError: it is not such an answer."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not an embeddings answer: {error}") from None
    rows = sorted(answer.data, key=lambda row: row.index)  # a stable sort: servers that number nothing keep their order
    said = answer.usage or _Usage()
    return [_vector(row.embedding) for row in rows], Usage(prompt=said.prompt_tokens or said.total_tokens or 0)


def _vector(value: list[float] | str) -> list[float]:
    """Numbers, or little-endian 32-bit floats in base64. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        raw = base64.b64decode(value, validate=True)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (binascii.Error, struct.error) as error:
        raise ValueError(f"not an embedding: {error}") from None
