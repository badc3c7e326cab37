"""A cap on the arguments of an answer's tool calls: an account that fails when they grow too large. Pure.

Law: only streams that are capped pay for it: their frames are decoded once more, but for those of plain text.
"""

from __future__ import annotations

from backends.base import Driver, Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import OtherChoice, ToolCallDelta


class CappedTap(Tap):
    """As `tap`, until all tool-call arguments together have more than `limit` bytes: then it has failed, as
    `event_too_large`."""

    def __init__(self, tap: Tap, driver: Driver, limit: int) -> None:
        self._tap = tap
        self._decoder = driver.decoder()
        self._left = limit
        self._limit = limit
        self.likeness = tap.likeness

    def feed(self, block: bytes) -> None:
        self._tap.feed(block)
        self._copy()
        for event in self._decoder.feed(block):
            said = event.event if isinstance(event, OtherChoice) else event
            if isinstance(said, ToolCallDelta):
                self._left -= len(said.arguments.encode("utf-8", "surrogatepass"))
        if self._left < 0 and self.failure is None:
            text = f"the arguments of the tool calls are larger than {self._limit} bytes (streams.max_tool_arguments)"
            self.failure = BackendError(ErrorCode.EVENT_TOO_LARGE, text)

    def plain(self, count: int = 1) -> None:
        self._tap.plain(count)
        self.tokens = self._tap.tokens

    def eof(self) -> None:
        self._tap.eof()
        self._copy()

    def _copy(self) -> None:
        tap = self._tap
        self.tokens, self.chars, self.done, self.finish = tap.tokens, tap.chars, tap.done, tap.finish
        self.usage, self.estimated = tap.usage, tap.estimated
        self.failure = self.failure or tap.failure
