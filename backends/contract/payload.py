"""What SSE frames say: the (event name, data) pairs of a block of complete frames (WHATWG HTML, section 9.2.6).

Pure. Comments, `id`, `retry`, unknown fields and a byte order mark are skipped; events without data say nothing.
"""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"  # some servers begin a body with it


def sse_events(block: bytes) -> list[tuple[bytes, bytes]]:
    """Events of a block, in order. The usual block, `data: {...}` and a blank line, is not looked at line by line."""
    if block.startswith(b"data: ") and block.endswith(b"\n\n") and block.find(b"\n") == len(block) - 2:
        payload = block[6:-2]
        return [(b"", payload)] if b"\r" not in payload else _by_line(block)
    return _by_line(block.removeprefix(BOM))


def _by_line(block: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    name: bytes = b""
    data: list[bytes] = []
    for line in block.splitlines():  # of bytes: CR, LF and CRLF, nothing else
        if not line:
            if data:
                found.append((name, b"\n".join(data)))
            name, data = b"", []
            continue
        key, _, value = line.partition(b":")
        if key == b"data":
            data.append(value.removeprefix(b" "))
        elif key == b"event":
            name = value.removeprefix(b" ")
    return found
