"""What readers of a stream that survives its node may see: no block that is not safe elsewhere yet. Pure.

Law: the shown transcript is a beginning of the kept one: same blocks, same numbers, same segments. Whoever goes on
with the stream elsewhere therefore goes on behind everything any client has been shown.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.streams.alike import Alike
from gateway.streams.transcript import Segment, Transcript
from gateway.streams.view import View

_MOST = 1 << 20  # blocks of one step: `since` stops at 64 KiB anyway


class Shown(Transcript):
    """A transcript as far as the block number `limit`; it holds nothing itself."""

    __slots__ = ("_kept", "limit")

    def __init__(self, kept: Transcript) -> None:
        super().__init__(kept.cap)
        self._kept = kept
        self.limit = 0

    @property
    def base(self) -> int:
        return self._kept.base

    @property
    def tip(self) -> int:
        return self.limit

    @property
    def total(self) -> int:
        kept = self._kept
        total, at = kept.total, max(self.limit, kept.base)  # what is gone is hidden no more: `lift` tells
        while at < kept.tip:
            hidden = kept.since(at, _MOST)
            at += len(hidden)
            total -= sum(map(len, hidden))
        return total

    @property
    def size(self) -> int:
        return self.total - self._kept.trimmed

    @property
    def blocks(self) -> list[bytes]:
        found: list[bytes] = []
        base = self.base
        while base + len(found) < self.limit:
            found += self.since(base + len(found), self.limit)
        return found

    def since(self, cursor: int, most: int) -> list[bytes]:
        return self._kept.since(cursor, min(most, self.limit - cursor))


class Blocks(Struct, frozen=True, gc=False):
    """A few blocks from number `first` on that say `texts` and nothing else; `whole`: one after the other, each between
    the same two pieces."""

    first: int
    whole: bytes
    texts: list[str]
    around: Alike

    def seen_by(self, view: View) -> bytes:
        """As a reader sees them who has seen all before."""
        if view.exact:
            view.skip(len(self.texts))
            return self.whole
        return b"".join(map(view.plain, map(self.around.whole, self.texts), self.texts))


class Veil:
    """`kept` grows with the backend, `shown` with `lift`."""

    def __init__(self, kept: Transcript) -> None:
        self._kept = kept
        self.shown = Shown(kept)

    def lift(self, tip: int) -> bool:
        """Show the blocks before number `tip`; whether any is new. Raises LookupError where they are gone."""
        kept, shown = self._kept, self.shown
        tip = min(tip, kept.tip)
        if shown.limit >= tip:
            return False
        if kept.base > shown.limit:
            raise LookupError(shown.limit)
        shown.limit = tip
        if len(shown.segments) != len(kept.segments):
            begun: list[Segment] = [segment for segment in kept.segments if segment.first < tip]
            shown.segments += begun[len(shown.segments) :]
        return True

    def follows(self, new: Blocks) -> bool:
        """Whether these come right behind what is shown, in the segment that is shown: then they are shown from now
        on. False: `lift` is to do it."""
        shown = self.shown
        if shown.limit != new.first or len(shown.segments) != len(self._kept.segments):
            return False
        shown.limit += len(new.texts)
        return True
