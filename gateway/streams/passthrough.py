"""A view of a stream whose backend speaks its reader's own dialect: the same bytes. Pure.

Law: no byte is touched but for three reasons: usage nobody asked for, a completion mark that is not yet earned, and the
known defects of a server; and the model's name, where the route asks for another one than the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from backends.base import Driver
from gateway.protocols.base import About, ClientProtocol, Ending
from gateway.protocols.repairs import DONE, Mender
from gateway.streams.naming import ModelName
from gateway.streams.transcode import Transcode, going_on
from gateway.streams.transcript import Segment
from gateway.streams.view import Anew, Past, Split, View

# An error in the backend's own words, at the beginning of a line. Within JSON text a quote or newline is always
# escaped, so a model that writes about such frames does not look like one.
_ERROR = re.compile(
    rb"(?:^|[\r\n])(?:event: ?(?:error|response\.failed)\b"
    rb'|(?:data: ?)?\{\s*(?:"error"\s*:\s*[{"]|"type"\s*:\s*"(?:error|response\.failed)"))'
)
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")  # a comment line may stand before it in the frame
_MARK = b"\n\ndata: [DONE]\n\n"  # as most servers write it, behind other frames
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class Passthrough(View):
    """The backend's own bytes, but for a usage chunk nobody asked for, a completion mark not yet earned, and the
    repairs its server needs (`mender`; None: none).

    `anew` makes the view of another backend, as long as nothing was rendered.
    """

    __slots__ = (
        "_about",
        "_anew",
        "_began",
        "_driver",
        "_failed",
        "_frames",
        "_hide_usage",
        "_mark",
        "_mender",
        "_protocol",
        "_split",
        "_sse",
    )

    def __init__(
        self,
        protocol: ClientProtocol,
        about: About,
        hide_usage: bool,
        split: Split,
        anew: Anew,
        mender: Mender | None = None,
        driver: Driver | None = None,
    ) -> None:
        self._driver = driver
        self._protocol = protocol
        self._about = about
        self._hide_usage = hide_usage
        self._split = split
        self._anew = anew
        self._mender = mender
        self._sse = protocol.framing == "sse"
        self._began = b""  # the first block
        self._mark = b""  # a completion mark held back until the stream is known to have completed
        self._failed = False  # the backend has told of its failure itself
        self._frames = 0

    @property
    def frames(self) -> int:
        return self._frames

    def start(self) -> bytes:
        return b""

    def render(self, block: bytes) -> bytes:
        if self._mender is not None:
            block = self._mender.mend(block)
        self._began = self._began or block
        if b"error" in block and _ERROR.search(block):
            self._failed = True
        if (
            block.endswith(_MARK)
            or b"[DONE]" in block
            or (self._hide_usage and b'"usage"' in block and _USAGE.search(block))
        ):
            return self._filtered(block)
        if self._sse and b"\r" not in block:
            self._frames += block.count(b"\n\n")
        else:
            self._frames += self._count(block)
        return block

    def plain(self, block: bytes, text: str) -> bytes:
        if self._mender is not None and not self._mender.idle:
            return self.render(block)
        self._frames += 1
        return block

    def between(self, head: bytes, tail: bytes) -> Callable[[str, int], bytes] | None:
        return None if self.exact else super().between(head, tail)

    @property
    def exact(self) -> bool:
        return self._mender is None or self._mender.idle

    def skip(self, frames: int) -> None:
        self._frames += frames

    def turn(self, segment: Segment, past: Past) -> View:
        """Before anything was rendered: a view of that segment. Later: the rest is written in the same protocol, with
        the ids the client knows."""
        if self.frames == 0 and not self._failed:
            return self if segment.driver is self._driver else self._anew(segment.driver)
        return going_on(self._protocol, self._about, past(), segment, self.frames, self._anew)

    def _count(self, block: bytes) -> int:
        if not self._sse:
            return block.count(b"\n")
        return len(self._split(block)) if b"\r" in block else block.count(b"\n\n")

    def _filtered(self, block: bytes) -> bytes:
        usual = block.endswith(_MARK) and block.find(b"[DONE]") == len(block) - 8 and b"\r" not in block
        if usual and not (self._hide_usage and b'"usage"' in block):
            self._mark, said = _MARK[2:], block[: 2 - len(_MARK)]
            self._frames += said.count(b"\n\n")
            return said
        kept: list[bytes] = []
        for frame in self._split(block):
            if self._sse and b"[DONE]" in frame and _DONE.search(frame):
                self._mark = frame
            elif not (self._hide_usage and b'"usage"' in frame and _USAGE.search(frame) and _NO_CHOICES.search(frame)):
                kept.append(frame)
        self._frames += len(kept)
        return b"".join(kept)

    def end(self, ending: Ending, completed: bool, past: Past | None = None) -> bytes:
        try:
            cut = list(past()) if past is not None and ending.partial and not self._failed else []
        except LookupError:
            cut = []
        last = self._finished(cut, ending) if cut else self._last(ending, completed)
        self._frames += self._count(last)
        return last

    def _finished(self, cut: list[tuple[Segment, list[bytes]]], ending: Ending) -> bytes:
        """The end of an answer that is given as far as it came: whatever is open is closed, under the ids it has."""
        view = Transcode(self._protocol, self._about, cut[-1][0].driver.decoder(), self._anew)
        view.catch_up(cut, cut[-1][0], self._frames)
        return view.end(ending, False)

    def _last(self, ending: Ending, completed: bool) -> bytes:
        mender = self._mender
        if self._failed:
            return self._mark if mender is not None and mender.keeps_done else b""
        if completed:
            return self._mark or (DONE if mender is not None and mender.adds_done else b"")
        return self._protocol.break_off(self._about, ending, self.frames + 1, self._began)


class Renaming(Passthrough):
    """As Passthrough, where the route asks for another model than the client: frames name the client's."""

    __slots__ = ("_name",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._name = ModelName(self._about.model, self._split)

    @property
    def exact(self) -> bool:
        return False

    def render(self, block: bytes) -> bytes:
        return super().render(self._name.put(block))

    def plain(self, block: bytes, text: str) -> bytes:
        if self._mender is not None and not self._mender.idle:
            return self.render(block)
        self._frames += 1
        return block.replace(self._name.theirs, self._name.ours, 1)
