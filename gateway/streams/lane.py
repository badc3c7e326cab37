"""The shortest road of a token: from the backend's socket to the one client that reads, in one call.

Most streams have one reader, and most of their chunks differ from the one before in nothing but a piece of plain text
(`Likeness`). While both hold, a lane is open: the text goes into the transcript, and the chunk as it came, framing and
all, to the client, or as the client's protocol writes that text. What changes with a token is what the memory of a
thousand streams costs most for, so nothing is counted here that the transcript's length tells: `settle` does it, every
few tokens and whenever somebody asks.

Law: a lane takes a chunk whole or leaves it untouched. Whoever wants the stream otherwise (a second reader, a frame
that is more than text, an ending, a client that does not read) closes it first, by `Reader.rest`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Protocol

from backends.base import Tap
from backends.http1 import CHUNKS, SIZE_LINES, chunk
from gateway.streams.reader import Reader, Wired
from gateway.streams.stream import Stream
from gateway.streams.transcript import Transcript

_SETTLED = 32  # texts after which a lane settles


def shortest(secrets: tuple[bytes, ...]) -> int:
    """Text of fewer characters holds none of them: most tokens are not searched."""
    return min((len(secret.decode()) for secret in secrets), default=sys.maxsize)


def told(secrets: tuple[bytes, ...], block: bytes) -> bool:
    """Whether the backend repeats one of them to us."""
    for secret in secrets:  # noqa: SIM110 - a generator costs more than the search
        if secret in block:
            return True
    return False


class Account(Protocol):
    """Whose tokens they are."""

    transcript: Transcript
    stream: Stream

    def press(self) -> None:
        """The transcript holds much: is anybody reading?"""


def lane_to(account: Account, reader: Reader, tap: Tap, half: int, secrets: tuple[bytes, ...]) -> Lane | None:
    """A lane to this reader, the only one, if it can take one now. Text with a secret is none it takes."""
    wired = reader.wired
    if wired is None or wired.wire is None or not reader.live or reader.dirty or reader.lane is not None:
        return None
    return Lane(account, reader, tap, wired, wired.wire, half, secrets)


class _Often:
    """What a token touches. Slots lie in memory class by class, sorted by name: these are two lines of a cache."""

    __slots__ = ("_count", "_gap", "_head", "_held", "_last", "_least", "_says", "_stamp", "_tail", "open", "wire")


class Lane(_Often):
    """Made open, for an attempt that leads and its `live` reader whose output has a `wire`; closed once."""

    __slots__ = ("_account", "_half", "_pacer", "_reader", "_secrets", "_tap", "_wired", "intake")

    def __init__(
        self,
        account: Account,
        reader: Reader,
        tap: Tap,
        wired: Wired,
        wire: asyncio.Transport,
        half: int,
        secrets: tuple[bytes, ...],
    ) -> None:
        stream, likeness = account.stream, tap.likeness
        self.open = True
        self._account = account
        self._held = account.transcript.held
        account.transcript.alike(likeness.head, likeness.tail)
        self._count = 0  # texts not accounted for
        self._tap = tap
        self._half = half
        self._secrets = secrets
        self._least = shortest(secrets)
        self._head = likeness.head
        self._tail = likeness.tail + b"\r\n"
        self._reader = reader
        self._pacer = reader.pacer
        self.intake = reader.pacer.intake
        self._stamp = reader.stamp
        self.wire = wire
        self._wired = wired
        self._says = reader.view.between(likeness.head, likeness.tail)
        self._gap = stream.max_gap
        self._last = stream.last_progress
        reader.lane = self

    def take(self, data: bytes) -> bool:
        """One read of the backend's socket. True: it was one whole chunk like those before, and is dealt with."""
        out = self.fit(data, self._pacer.time())
        if out is None:
            return False
        if out and not self.wire.is_closing():
            self.wire.write(out)
            self._pacer.wrote()
        return True

    def fit(self, data: bytes, now: float) -> bytes | None:
        """The same but for the writing: what goes to the client's socket. None: it is not for a lane."""
        line = SIZE_LINES.get(len(data))
        if line is None or not data.startswith(line):
            return self._several(data, now)
        # What `_text` and `_waits` say, without the calls: a tenth of what a token costs here.
        start, head, tail = len(line), self._head, self._tail
        if not data.startswith(head, start) or not data.endswith(tail) or not self.open:
            return None
        try:
            text = data[start + len(head) : -len(tail)].decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable() or '"' in text or "\\" in text or not text:
            return None
        if len(text) >= self._least and told(self._secrets, data):
            return None
        self._held.append(text)
        count = self._count = self._count + 1
        if now - self._last > self._gap:  # noqa: PLR1730 - a call costs more than the question
            self._gap = now - self._last
        self._last = now
        pacer, stamp, out = self._pacer, self._stamp, data
        self._stamp = pacer.turn
        if stamp == pacer.turn and pacer.written >= pacer.burst:
            out = self._later((data[start:-2],), (text,))
        elif self._says is not None:
            out = self._said((text,))
        if count >= _SETTLED:
            self.settle()
        return out

    def _several(self, data: bytes, now: float) -> bytes | None:
        """The same for more than one chunk in a read, as they come after a pause of ours."""
        texts: list[str] = []
        blocks: list[bytes] = []
        at = 0
        while at < len(data):
            start = data.find(b"\n", at, at + 8) + 1
            end = at + CHUNKS.get(data[at:start], len(data) + 1)
            text = self._text(data[at:end], start - at) if end <= len(data) else None
            if text is None:
                return None
            texts.append(text)
            blocks.append(data[start : end - 2])
            at = end
        if not self.open:
            return None
        self._held.extend(texts)
        self._count += len(texts)
        out = data
        if self._waits(now):
            out = self._later(blocks, texts)
        elif self._says is not None:
            out = self._said(texts)
        if self._count >= _SETTLED:
            self.settle()
        return out

    def _text(self, read: bytes, start: int) -> str | None:
        """What a chunk says whose block begins at `start`; None: something else than those before it."""
        head, tail = self._head, self._tail
        if not read.startswith(head, start) or not read.endswith(tail):
            return None
        try:
            text = read[start + len(head) : -len(tail)].decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable() or '"' in text or "\\" in text or not text:
            return None
        return None if len(text) >= self._least and told(self._secrets, read) else text

    def _waits(self, now: float) -> bool:
        """More was said now. Whether it goes out when the pacer's window ends, and not before."""
        if now - self._last > self._gap:  # noqa: PLR1730 - a call costs more than the question
            self._gap = now - self._last
        self._last = now
        pacer = self._pacer
        waits = self._stamp == pacer.turn and pacer.written >= pacer.burst
        self._stamp = pacer.turn
        return waits

    def _said(self, texts: Sequence[str]) -> bytes:
        """The last ones as the client reads them, in one chunk."""
        try:
            return chunk(self._rendered(texts))
        except Exception as error:
            self._reader.break_off(error)
            return b""

    def _later(self, blocks: Sequence[bytes], texts: Sequence[str]) -> bytes:
        try:
            self._reader.later(b"".join(blocks) if self._says is None else self._rendered(texts))
        except Exception as error:
            self._reader.break_off(error)
        return b""

    def _rendered(self, texts: Sequence[str]) -> bytes:
        says, last = self._says, self._count
        assert says is not None
        if len(texts) == 1:
            return says(texts[0], last)
        return b"".join(map(says, texts, range(last - len(texts) + 1, last + 1)))

    def settle(self) -> None:
        """Account for what was taken since the last time."""
        account, reader = self._account, self._reader
        transcript = account.transcript
        count, self._count = self._count, 0
        if not self.open or not count:
            return
        self._tap.plain(count)
        account.stream.progressed(self._last, self._gap)
        reader.stamp = self._stamp
        if self._says is None:
            reader.view.skip(count)
        elif said := transcript.said(transcript.tip - count, count):
            reader.view.said(said[1])
        self._wired.wrote(self._last)
        if self._wired.blocked:
            reader.rest()
        if transcript.pack() > self._half:
            account.press()

    def leave(self) -> None:
        """What comes now goes another way; there may be another lane later."""
        self.close()
        if self._reader.lane is self:
            self._reader.lane = None

    def close(self) -> None:
        """Take nothing more. Idempotent."""
        if self.open:
            self.settle()
            self.open = False
