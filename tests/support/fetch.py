"""The cheapest honest HTTP client: one request on a connection of its own, read until the server closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit


async def fetch(method: str, base: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body of an answer, as much of it as came. Raises OSError where nobody listens, or nobody answers."""
    where = urlsplit(base)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {where.netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        raw = await _all(reader)
    finally:
        writer.close()
    head, gap, body = raw.partition(b"\r\n\r\n")
    if not gap:
        raise ConnectionError(f"no answer: {raw!r}")
    chunked = b"transfer-encoding: chunked" in head.lower()
    return int(head.split(b" ", 2)[1]), _chunks(body) if chunked else body


async def _all(reader: asyncio.StreamReader) -> bytes:
    found = b""
    try:
        while data := await reader.read(65536):
            found += data
    except ConnectionError:
        pass  # broken off: what came before it counts
    return found


def _chunks(body: bytes) -> bytes:
    """What whole chunks hold."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0 or len(rest) < length:
            return found + rest[:length]
        found, body = found + rest[:length], rest[length + 2 :]
    return found
