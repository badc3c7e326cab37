"""What readers of a stream that survives its node may see: no block that is not safe elsewhere yet. Pure.

Law: the shown transcript is a beginning of the kept one: same blocks, same numbers, same segments. Whoever goes on
with the stream elsewhere therefore goes on behind everything any client has been shown.
"""

from __future__ import annotations

from gateway.streams.transcript import Transcript

_MOST = 1 << 20  # blocks of one step: `since` stops at 64 KiB anyway


class Veil:
    """`kept` grows with the backend, `shown` with `lift`."""

    def __init__(self, kept: Transcript) -> None:
        self._kept = kept
        self.shown = Transcript(kept.cap)
        self._turns = 0  # segments shown

    def lift(self, tip: int) -> bool:
        """Show the blocks before number `tip`; whether any is new. Raises LookupError where they are gone."""
        kept, shown = self._kept, self.shown
        tip = min(tip, kept.tip)
        if shown.tip >= tip:
            return False
        while shown.tip < tip:
            for block in kept.since(shown.tip, min(_MOST, tip - shown.tip)):
                self._turn()
                shown.append(block)
        return True

    def _turn(self) -> None:
        segments = self._kept.segments
        while self._turns < len(segments) and segments[self._turns].first <= self.shown.tip:
            segment = segments[self._turns]
            self.shown.begin(segment.driver, restart=segment.restart)
            self._turns += 1
