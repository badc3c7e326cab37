"""The shortest road of a token: from the backend's socket to the one client that reads, in one call.

Most streams have one reader, and most of their chunks differ from the one before in nothing but a piece of plain text
(`Likeness`). While both hold, a lane is open: a chunk goes as it came, framing and all, into the transcript and to the
client, or as the client's protocol writes that text. What changes with a token is what the memory of a thousand
streams costs most for, so nothing is counted here that the transcript's length tells: `settle` does it, every few
tokens and whenever somebody asks.

Law: a lane takes a chunk whole or leaves it untouched. Whoever wants the stream otherwise (a second reader, a frame
that is more than text, an ending, a client that does not read) closes it first, by `Reader.rest`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Protocol

from backends.base import Tap
from backends.http1 import CHUNKS
from gateway.streams.reader import Reader, Wired
from gateway.streams.stream import Stream
from gateway.streams.transcript import Transcript

_SETTLED = 31  # a lane settles when the number of blocks held has none of these bits


def shortest(secrets: tuple[bytes, ...]) -> int:
    """Text of fewer characters holds none of them: most tokens are not searched."""
    return min((len(secret.decode()) for secret in secrets), default=sys.maxsize)


def told(secrets: tuple[bytes, ...], block: bytes) -> bool:
    """Whether the backend repeats one of them to us."""
    return any(secret in block for secret in secrets)


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


class Lane:
    """Made open, for an attempt that leads and its `live` reader whose output has a `wire`; closed once."""

    __slots__ = (
        "_account",
        "_blocks",
        "_due",
        "_gap",
        "_half",
        "_head",
        "_least",
        "_mark",
        "_pacer",
        "_plain",
        "_reader",
        "_secrets",
        "_stamp",
        "_tail",
        "_tap",
        "_wire",
        "_wired",
        "open",
    )

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
        self._blocks = account.transcript.blocks
        self._mark = account.transcript.tip  # blocks accounted for
        self._tap = tap
        self._half = half
        self._secrets = secrets
        self._least = shortest(secrets)
        self._head = likeness.head
        self._tail = likeness.tail + b"\r\n"
        self._reader = reader
        self._pacer = reader.pacer
        self._stamp = reader.stamp
        self._wire = wire
        self._wired = wired
        view = reader.view
        self._plain: Callable[[bytes, str], bytes] | None = None if view.exact else view.plain
        self._gap = stream.max_gap
        self._due = stream.last_progress + stream.max_gap  # a token after this makes the longest gap longer
        reader.lane = self

    def take(self, data: bytes) -> bool:
        """One read of the backend's socket. True: it was one whole chunk like those before, and is dealt with."""
        if not self.open:
            return False
        start = data.find(b"\n", 0, 8) + 1
        head, tail = self._head, self._tail
        if CHUNKS.get(data[:start]) != len(data) or not data.startswith(head, start) or not data.endswith(tail):
            return False
        try:
            text = data[start + len(head) : -len(tail)].decode()
        except UnicodeDecodeError:
            return False
        if not text.isprintable() or '"' in text or "\\" in text or not text:
            return False
        if len(text) >= self._least and told(self._secrets, data):
            return False
        pacer, wire = self._pacer, self._wire
        if self._stamp == pacer.turn and pacer.written >= pacer.burst:
            return False
        if wire.is_closing():
            return False
        self._stamp = pacer.turn
        blocks = self._blocks
        block = data[start:-2]
        blocks.append(block)
        now = pacer.time()
        if now > self._due:
            self._gap += now - self._due
        self._due = now + self._gap
        plain = self._plain
        if plain is not None:
            try:
                data = plain(block, text)
            except Exception as error:
                self._reader.break_off(error)
                return True
            data = b"%x\r\n%b\r\n" % (len(data), data)
        wire.write(data)
        pacer.wrote()
        if not len(blocks) & _SETTLED:
            self.settle()
        return True

    def settle(self) -> None:
        """Account for what was taken since the last time."""
        account, reader = self._account, self._reader
        transcript = account.transcript
        count = transcript.tip - self._mark
        if not self.open or not count:
            return
        self._mark += count
        self._tap.plain(count)
        account.stream.progressed(self._due - self._gap, self._gap)
        reader.stamp = self._stamp
        if self._plain is None:
            reader.view.skip(count)
        self._wired.wrote()
        if self._wired.blocked:
            reader.rest()
        if transcript.size > self._half:
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
