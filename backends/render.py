"""The bytes of a request. Pure. What would let a value become a header, or a path a second request, is refused.

The gateway owns framing and connection headers; drivers and `headers:` of gateway.yaml cannot set them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backends.base import HttpRequest
from backends.contract.errors import BackendError, ErrorCode

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*")
_OURS = frozenset(
    (
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "expect",
        "accept-encoding",
    )
)


class Renderer:
    """Requests to one origin. `extra` overrides the drivers' headers. Raises ValueError when `extra` cannot be sent."""

    def __init__(self, authority: str, prefix: str, extra: Iterable[tuple[str, str]], *, keepalive: bool) -> None:
        self._prefix = prefix
        self._fixed = {
            "host": ("Host", authority),
            "user-agent": ("User-Agent", "headgate"),
            "accept": ("Accept", "*/*"),
        }
        self._extra = {name.lower(): (name, value) for name, value in extra if name.lower() not in _OURS}
        for name, value in self._extra.values():
            if not _sendable(name, value):
                raise ValueError(f"header {name!r} holds a character that a header may not hold")
        self._asked, self._start = ("", ""), ""  # the method and path of the last request, and their line
        self._last: tuple[object, str] = (None, "")  # the headers of the last request, and their lines
        self._tail = "Accept-Encoding: identity\r\n" + ("" if keepalive else "Connection: close\r\n")

    def render(self, request: HttpRequest) -> bytes:
        """Head and body. Raises BackendError INVALID_REQUEST, which never quotes a value."""
        asked = request.method, request.path
        if asked != self._asked:  # streams of one API all ask the same
            self._start, self._asked = self._line(*asked), asked
        length = (
            f"Content-Length: {len(request.body)}\r\n" if request.body or request.method not in ("GET", "HEAD") else ""
        )
        if request.headers is not self._last[0]:  # most drivers send the very same ones each time
            self._last = request.headers, self._lines(request.headers)
        return f"{self._start}{self._last[1]}{length}{self._tail}\r\n".encode() + request.body

    def _line(self, method: str, path: str) -> str:
        target = self._prefix + path
        if _TARGET.fullmatch(target) is None or _TOKEN.fullmatch(method) is None:
            raise BackendError(
                ErrorCode.INVALID_REQUEST, "the request's path holds a character that a path may not hold"
            )
        return f"{method} {target} HTTP/1.1\r\n"

    def _lines(self, own: Iterable[tuple[str, str]]) -> str:
        headers = dict(self._fixed)
        for name, value in own:
            low = name.lower()
            if not _sendable(name, value):
                raise BackendError(
                    ErrorCode.INVALID_REQUEST, f"header {low!r} holds a character that a header may not hold"
                )
            if low not in _OURS and low != "host":
                headers[low] = (name, value)
        headers.update(self._extra)
        return "".join([f"{name}: {value}\r\n" for name, value in headers.values()])


def _sendable(name: str, value: str) -> bool:
    if _TOKEN.fullmatch(name) is None or _BAD_VALUE.search(value) is not None:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
