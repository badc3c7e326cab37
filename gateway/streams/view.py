"""What one client reads of one stream, block by block. Pure.

Law: a view depends on the transcript, the protocol and the ending, on nothing else, so the n-th frame is the same bytes
for every reader. A stream that did not complete never shows its dialect's completion mark.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from backends.base import Driver
from backends.contract.framing import SPLIT
from gateway.protocols.base import Ending
from gateway.streams.transcript import Segment

Split = Callable[[bytes], list[bytes]]  # a block to its frames
Past = Callable[[], Iterable[tuple[Segment, list[bytes]]]]


class View(ABC):
    """One reader's view; call `start` once, `render` per block, `end` once."""

    __slots__ = ()

    @property
    @abstractmethod
    def frames(self) -> int:
        """Frames rendered so far."""

    @abstractmethod
    def start(self) -> bytes:
        """The frames before the first block."""

    @abstractmethod
    def render(self, block: bytes) -> bytes:
        """The view of a block of complete frames."""

    def plain(self, block: bytes, text: str) -> bytes:
        """As `render(block)`, for one frame that is known to say this text and nothing else."""
        return self.render(block)

    def between(self, head: bytes, tail: bytes) -> Callable[[str, int], bytes] | None:
        """`plain` for the n-th text (from 1) since `said` was last told of some, that stands between these two. None:
        `exact`."""
        return lambda text, n: self.plain(head + text.encode() + tail, text)

    def said(self, texts: Sequence[str]) -> None:  # noqa: B027 - some know it from `between`
        """These went out as `between` says them."""

    @property
    def exact(self) -> bool:
        """Whether `plain` gives its block back as it is: then it need not be called, if `skip` is."""
        return False

    def skip(self, frames: int) -> None:  # noqa: B027 - only for those that are exact
        """So many frames went out without `plain`."""

    @abstractmethod
    def turn(self, segment: Segment, past: Past) -> View:
        """The view for the blocks that follow: this one, or another that goes on where it stands. `past`: the segments
        so far with their blocks. Raises LookupError when they are gone, BackendError where it cannot be said."""

    @abstractmethod
    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        """The last frames. `completed`: the backend reached its dialect's own end mark; `past` as in `turn`."""


Anew = Callable[[Driver], View]  # the view of a stream's first word, where another backend says it


def split_of(driver: Driver) -> Split:
    """How blocks of this backend fall into frames."""
    return SPLIT[driver.framing]
