"""`?control=1`: how a stream ended, said to its reader in an SSE event of the gateway's own.

Law: it comes behind all frames of the view and is none of them: it has no id, and no cursor counts it. A reader that is
cut off, because the stream goes on elsewhere, does not get it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.streams.skipping import Outlet
from gateway.streams.sources import Source


class LastWord:
    """An output that sends `word()` before it is closed; b"": nothing is to be said."""

    def __init__(self, inner: Outlet, word: Callable[[], bytes]) -> None:
        self._inner, self._word = inner, word

    @property
    def blocked(self) -> bool:
        """Whether the inner output takes no more just now."""
        return self._inner.blocked

    def write(self, data: bytes) -> None:
        """Frames, as they are."""
        self._inner.write(data)

    def close(self, clean: bool) -> None:
        """The end, with its word before it."""
        word = self._word()
        if word:
            self._inner.write(word)
        self._inner.close(clean)


def stream_end(source: Source, tail: int | None) -> bytes:
    """`stream.end`: state, frames of the view (null where counting them would cost too much) and error of an ended
    stream; b"" while it runs."""
    if not source.state.terminal:
        return b""
    error = source.ending().error
    said = None if error is None else {"code": error.code.wire, "message": error.message}
    body = {"state": source.state.wire, "last_seq": tail, "error": said}
    return b"event: stream.end\ndata: %b\n\n" % msgspec.json.encode(body)
