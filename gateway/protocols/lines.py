"""JSON for clients that split their input as Python's `str.splitlines` does (ollama-python, google-genai, httpx's
`iter_lines`). Pure.

Law: no byte of it could be taken for the end of a line; JSON itself escapes all such characters but three.
"""

from __future__ import annotations

from typing import Any

import msgspec

encode = msgspec.json.Encoder().encode  # for what is known to be ASCII
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def to_json(value: Any) -> bytes:
    """JSON of one line. Those three characters stand in texts only, where an escape means the same."""
    data = encode(value)
    if data.isascii():
        return data
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return data
