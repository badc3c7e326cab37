"""What the readers of a stream that survives its node see, and when: the blocks, and its ending.

Law: a reader is shown a block when it is safe elsewhere, and an ending when it is known to be this stream's: another
node may have gone on with it. Only a copy that takes too long is not waited for, and then readers stay here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from backends.contract.errors import BackendError, ErrorCode
from gateway.streams.reader import Reader
from gateway.streams.release import released
from gateway.streams.stream import Stream
from gateway.streams.transcript import Transcript
from gateway.streams.veil import Blocks, Veil

_UNVEIL = 1.0  # seconds the ending of a stream that survives waits for its copy


class Keeper(Protocol):
    """Whose stream it is."""

    moved: bool  # another node goes on with it: nothing of it ends here

    def fell_behind(self, error: BackendError) -> None:
        """What would have to be shown next is kept no longer."""

    def tell_end(self, reader: Reader) -> None:
        """Tell a reader how it ended."""


class Visibility:
    """Made before the first reader. `exposed`: readers were shown what is safe nowhere."""

    __slots__ = ("_keeper", "_kept", "_loop", "_readers", "_settled", "_stream", "_veil", "exposed")

    def __init__(self, stream: Stream, kept: Transcript, readers: Sequence[Reader], keeper: Keeper) -> None:
        self.exposed = False
        self._stream = stream
        self._kept = kept
        self._readers = readers
        self._keeper: Keeper | None = keeper  # None once the ending is known: the two would keep each other in memory
        self._loop = asyncio.get_running_loop()
        self._veil: Veil | None = Veil(kept)
        self._settled: Callable[[], None] | None = None  # told when it is known how it ended

    @property
    def shown(self) -> Transcript:
        """What readers read: the transcript, as far as it is safe."""
        return self._kept if self._veil is None else self._veil.shown

    @property
    def veiled(self) -> bool:
        """Whether anything is still to be waited for, its ending included."""
        return self._veil is not None

    @property
    def _waited_for(self) -> bool:
        return self._veil is not None and self._keeper is not None and not self._keeper.moved

    def reveal(self, tip: int, new: Blocks | None = None) -> None:
        """The blocks before number `tip` are safe; `new`: those that were not before, where they are at hand."""
        keeper, veil = self._keeper, self._veil
        if veil is None or keeper is None or keeper.moved:
            return
        self.exposed = self.exposed and tip < veil.shown.tip
        if new is not None and released(veil, new, self._readers):
            return
        for reader in self._readers:
            reader.rest()
        try:
            grown = veil.lift(tip)
        except LookupError:
            text = "the shared copy fell behind by more than is kept"
            keeper.fell_behind(BackendError(ErrorCode.TRANSCRIPT_FULL, text))
            return
        for reader in list(self._readers) if grown else ():
            reader.push()

    def unveil(self) -> None:
        """Nobody waits any longer until it is safe. Idempotent."""
        if not self._waited_for or self._veil is None:
            return
        if self._kept.tip > self._veil.shown.tip:
            self.reveal(self._kept.tip)
            self.exposed = True
        if self._stream.state.terminal:
            self._veil = None
            self._tell()

    def settles(self, told: Callable[[], None]) -> bool:
        """It ended. Whether it is still to be seen if that was its end; `told` is called when it is, before the readers
        hear of it."""
        if not self._waited_for:
            return False
        self._settled = told
        return True

    def outlived(self) -> bool:
        """Another node went on with it, before it ended here unseen. False: it did not, or was shown."""
        if self._keeper is None or not self._waited_for or not self._stream.state.terminal:
            return False
        self._keeper.moved = True
        self._tell()
        return True

    def hide_end(self) -> bool:
        """It ended. True: the readers hear of it when it is known to be its end, at the latest when its copy has had
        its time."""
        if not self._waited_for:
            self._keeper = None
            return False
        self._loop.call_later(_UNVEIL, self._in_time, self._loop.time() + _UNVEIL)
        return True

    def _in_time(self, due: float) -> None:
        """The copy has had its time; unless it was this node that slept, and hears only now what Redis said."""
        now = self._loop.time()
        if now - due > _UNVEIL / 4:
            self._loop.call_later(_UNVEIL, self._in_time, now + _UNVEIL)
        else:
            self.unveil()

    def _tell(self) -> None:
        settled, self._settled = self._settled, None
        keeper, self._keeper = self._keeper, None
        if settled is not None:
            settled()
        if keeper is not None:
            for reader in list(self._readers):
                keeper.tell_end(reader)
