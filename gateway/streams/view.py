"""What one client reads of one stream: Passthrough (same dialect, same bytes) or Transcode. Pure.

Law: a view depends on the transcript, the protocol and the ending, on nothing else, so the n-th frame is the same bytes
for every reader. A stream that did not complete never shows its dialect's completion mark.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

from backends.base import Decoder, Driver
from backends.contract.framing import NdjsonFramer, SseFramer
from backends.contract.likeness import Likeness
from gateway.protocols.base import About, ClientProtocol, Ending

# An error in the backend's own words, at the beginning of a line. Within JSON text a quote or newline is always
# escaped, so a model that writes about such frames does not look like one.
_ERROR = re.compile(rb'(?:^|[\r\n])(?:event: ?error\b|(?:data: ?)?\{\s*"error"\s*:\s*[{"])')
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")  # a comment line may stand before it in the frame
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class View(ABC):
    """One reader's view; call `start` once, `render` per block, `end` once. `frames`: rendered so far."""

    frames: int = 0

    @abstractmethod
    def start(self) -> bytes:
        """The frames before the first block."""

    @abstractmethod
    def render(self, block: bytes) -> bytes:
        """The view of a block of complete frames."""

    @abstractmethod
    def end(self, ending: Ending, completed: bool) -> bytes:
        """The last frames. `completed`: the backend reached its dialect's own end mark."""


class Passthrough(View):
    """The backend's own bytes, but for a usage chunk nobody asked for and a completion mark not yet earned.

    `split` is the framer's: a block to its frames.
    """

    def __init__(
        self, protocol: ClientProtocol, about: About, hide_usage: bool, split: Callable[[bytes], list[bytes]]
    ) -> None:
        self._protocol = protocol
        self._about = about
        self._hide_usage = hide_usage
        self._split = split
        self._sse = protocol.framing == "sse"
        self._mark = b""  # a completion mark held back until the stream is known to have completed
        self._likeness = Likeness()
        self._failed = False  # the backend has told of its failure itself

    def start(self) -> bytes:
        return b""

    def render(self, block: bytes) -> bytes:
        if self._likeness.same(block):
            self.frames += 1
            return block
        if b"error" in block and _ERROR.search(block):
            self._failed = True
        if b"[DONE]" in block or (self._hide_usage and b'"usage"' in block and _USAGE.search(block)):
            return self._filtered(block)
        if self._sse and b"\r" not in block:
            self.frames += block.count(b"\n\n")
        else:
            self.frames += self._count(block)
        self._likeness.learn(block)
        return block

    def _count(self, block: bytes) -> int:
        if not self._sse:
            return block.count(b"\n")
        return len(self._split(block)) if b"\r" in block else block.count(b"\n\n")

    def _filtered(self, block: bytes) -> bytes:
        kept: list[bytes] = []
        for frame in self._split(block):
            if self._sse and _DONE.search(frame):
                self._mark = frame
            elif not (self._hide_usage and _USAGE.search(frame) and _NO_CHOICES.search(frame)):
                kept.append(frame)
        self.frames += len(kept)
        return b"".join(kept)

    def end(self, ending: Ending, completed: bool) -> bytes:
        if self._failed:
            return b""
        last = self._mark if completed else self._protocol.error_frame(self._about, ending, self.frames + 1)
        self.frames += self._count(last)
        return last


class Transcode(View):
    """Decoded from the backend's dialect, encoded in the client's."""

    def __init__(self, protocol: ClientProtocol, about: About, decoder: Decoder) -> None:
        self._decoder = decoder
        self._encoder = protocol.encoder(about)
        self._feed = self._encoder.feed
        self._decode = decoder.feed

    def start(self) -> bytes:
        return self._counted(self._encoder.start())

    def render(self, block: bytes) -> bytes:
        out = self._feed(self._decode(block))
        self.frames = self._encoder.frames
        return out

    def end(self, ending: Ending, completed: bool) -> bytes:
        rest = self._feed(self._decoder.eof()) if completed else b""
        return self._counted(rest + self._encoder.end(ending))

    def _counted(self, out: bytes) -> bytes:
        self.frames = self._encoder.frames
        return out


def make_view(driver: Driver, protocol: ClientProtocol, about: About) -> View:
    """Passthrough where client and backend speak the same dialect, Transcode otherwise."""
    if driver.dialect != protocol.dialect:
        return Transcode(protocol, about, driver.decoder())
    framer = SseFramer(0) if driver.framing == "sse" else NdjsonFramer(0)
    return Passthrough(protocol, about, not about.include_usage, framer.split)
