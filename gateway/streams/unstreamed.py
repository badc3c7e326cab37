"""A body that is no stream: a refusal, or a whole answer where frames were asked for. Pure.

Law: it is kept only as far as it can matter, and it gives either the frames of an answer or an error, never both.
"""

from __future__ import annotations

from collections.abc import Mapping

from backends.base import Driver
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.refusal import clean
from backends.whole import frames_of

_ERROR_BODY = 64 * 1024  # bytes of a refusal's body that are read
_WHOLE = ("application/json", "text/html")  # content types that are no stream


def unstreamed(driver: Driver, status: int, headers: Mapping[str, str], limit: int) -> Unstreamed | None:
    """What collects the body behind this head; None: it is a stream. `limit`: bytes of a whole answer."""
    kind = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if status == 200 and not (driver.framing == "sse" and kind in _WHOLE):
        return None
    return Unstreamed(driver, status, headers, limit)


class Unstreamed:
    """Collects such a body. Anything but 200 is a refusal; an answer whose head never came has status 0."""

    __slots__ = ("_body", "_driver", "_headers", "_limit", "_status")

    def __init__(self, driver: Driver, status: int, headers: Mapping[str, str], limit: int) -> None:
        self._driver = driver
        self._status = status
        self._headers = headers
        self._limit = limit
        self._body = bytearray()

    def feed(self, data: bytes) -> BackendError | None:
        """Body bytes. An error: no more of them are wanted."""
        self._body += data
        if self._status != 200:
            return self._refusal() if len(self._body) > _ERROR_BODY else None
        if len(self._body) <= self._limit:
            return None
        text = f"the backend sent a whole answer larger than {self._limit} bytes"
        return BackendError(ErrorCode.EVENT_TOO_LARGE, text)

    def judge(self) -> list[bytes] | BackendError:
        """Behind its last byte: the stream it should have been, or why it is none. An error that was raised would hold
        the frames of whoever caught it, and so the stream that keeps the error."""
        if self._status != 200:
            return self._refusal()
        frames = frames_of(self._driver.dialect, bytes(self._body))
        if frames:
            return frames
        error = self._refusal()
        kind = self._headers.get("content-type", "")[:100]
        if kind.startswith("text/html") or "HTTP 200" in error.message:
            text = f"the backend answered with {clean(kind)}, which is neither a stream nor an answer"
            error = BackendError(ErrorCode.UPSTREAM_FAILED, text)
        return error

    def _refusal(self) -> BackendError:
        return self._driver.failure(self._status, self._headers, bytes(self._body[:_ERROR_BODY]))
