"""One attempt at one backend: takes its bytes, knows its end. The transport's Sink: every call is synchronous.

Law: nothing of an attempt reaches a reader before it leads, and it leads with its first token, or when nobody could
take its place. Until then its frames are held, so that another attempt may begin the answer instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from backends.base import Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.framing import Framer, NdjsonFramer, SseFramer
from gateway.streams.course import Leg
from gateway.streams.in_flight import InFlight
from gateway.streams.lane import Lane, lane_to, shortest, told
from gateway.streams.reader import Reader
from gateway.streams.sofar import broken_at, segment_so_far
from gateway.streams.stream import Stream
from gateway.streams.transcript import Transcript
from gateway.streams.unstreamed import Unstreamed, unstreamed

_HELD = 64 * 1024  # bytes held back before an attempt leads without a token


class Chief(Protocol):
    """Whose attempt it is."""

    transcript: Transcript
    stream: Stream

    @property
    def fed(self) -> list[Reader]:
        """The readers that are told of every block as it comes."""

    def lead(self, attempt: Attempt) -> None:
        """Its frames are the answer from now on: take over what it holds."""

    def began(self, attempt: Attempt) -> None:
        """It leads, and gave its first token."""

    def failed(self, attempt: Attempt, error: BackendError, block: bytes = b"") -> None:
        """It is over, and not well; `block` are the frames that said so."""

    def completed(self, attempt: Attempt) -> None:
        """It reached its dialect's end mark."""

    def press(self) -> None:
        """The transcript holds much: is anybody reading?"""


class Attempt:
    """Made by its chief; `open` asks the backend."""

    __slots__ = (
        "_before",
        "_began",
        "_chief",
        "_flight",
        "_framer",
        "_half",
        "_lane",
        "_least",
        "_over",
        "_plain_road",
        "_readers",
        "_secrets",
        "_stream",
        "_tap",
        "_text",
        "_time",
        "_told",
        "_transcript",
        "_unkept",
        "_unstreamed",
        "asked",
        "headers",
        "held",
        "leading",
        "leg",
    )

    def __init__(self, chief: Chief, leg: Leg, max_event: int, half: int) -> None:
        self.leg = leg
        self._tap = leg.driver.tap()
        self._lane: Lane | None = None
        self.leading = False
        self.held: list[bytes] = []
        self.headers: Mapping[str, str] = {}
        self._chief: Chief | None = chief  # None once it is over: a stream that ended is nobody's, and freed at once
        self._time = asyncio.get_running_loop().time
        self.asked = self._time()
        self._transcript = chief.transcript
        self._readers = chief.fed
        self._stream = chief.stream
        self._half = half
        self._framer = _framer(leg.driver.framing, max_event)
        self._text = self._tap.likeness.text
        self._plain_road = False  # it leads, runs, and its framer holds nothing back: `_text` may decide
        self._over = False
        self._began = False
        self._told = 0  # the tap's count when the stream last heard of it by the long road
        self._before = 0  # bytes of the transcript that are not this attempt's
        self._secrets, self._least = _searched(leg.driver.secrets)
        self._unkept = 0  # bytes that came and are not in the transcript
        self._flight = InFlight()
        self._unstreamed: Unstreamed | None = Unstreamed(leg.driver, 0, {}, max_event)  # until a head says otherwise

    # -- from its chief ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Account for what came by a lane."""
        if self._lane is not None:
            self._lane.settle()

    @property
    def tap(self) -> Tap:
        """The account of its frames, up to now."""
        self.settle()
        return self._tap

    @property
    def tokens(self) -> int:
        """Content deltas of its frames."""
        return self.tap.tokens

    def count_by(self, tap: Tap) -> None:
        """Before `open`: account by another tap, which asks the first."""
        self._tap = tap

    def open(self) -> None:
        """Ask the backend. Returns at once; what goes wrong is told later."""
        self._flight.open(self.leg, self)

    def close(self, *, drain: bool = False) -> None:
        """No more of it. `drain`: it ended well, the connection may be kept."""
        self._over, self._plain_road = True, False
        if self._lane is not None:
            self._lane.close()
            self._lane = None
        self._chief = None
        self._flight.close(drain=drain)

    def take_lead(self) -> None:
        """Its frames go to the transcript from now on, and those it holds at once."""
        self.leading = True
        self._before = self._transcript.total
        for block in self.held:
            self._keep_one(block)
        self.held = []

    @property
    def bytes_in(self) -> int:
        """Bytes of body received."""
        return self._unkept + (self._transcript.total - self._before if self.leading else 0)

    def pause(self) -> bool:
        """Read no more for now; False when there is nothing to pause."""
        return self._flight.pause()

    def resume(self) -> None:
        """Read on."""
        self._flight.resume()

    def fail(self, error: BackendError, block: bytes = b"") -> None:
        """It failed; told once."""
        chief = self._chief
        if not self._over and chief is not None:
            self.close()
            chief.failed(self, error, block)

    # -- from the transport (Sink) -------------------------------------------------------------------------------------

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The response head."""
        self.headers = headers
        self._unstreamed = unstreamed(self.leg.driver, status, headers, self._framer.limit)

    def data(self, data: bytes) -> None:
        """Body bytes. The token path: framer, transcript, tap, readers; a block like the last one skips the framer."""
        if self._plain_road:
            text = self._text(data)
            if text is not None and not (len(text) >= self._least and told(self._secrets, data)):
                self._plain(data, text)
                return
        if self._over:
            return
        if self._unstreamed is not None:
            error = self._unstreamed.feed(data)
            if error is not None:
                self.fail(error)
            return
        self._unkept += len(data)
        try:
            block = self._framer.feed(data)
        except BackendError as error:
            self.fail(error)
            return
        if block:
            self._take(block)
        self._plain_road = self.leading and not self._framer.holding and not self._over

    def _plain(self, block: bytes, text: str) -> None:
        """A frame of nothing but text, as the ones before it: all that is done for most tokens. Each field that changes
        here is a cache line of a stream not looked at for milliseconds: there are few."""
        if self._lane is not None:  # it did not take this, which is counted here
            self._lane.leave()
            self._lane = None
        held = self._transcript.append(block)
        self._tap.plain()
        self._stream.progressed(self._time())
        for reader in self._readers:
            reader.take(block, text)
        chief = self._chief
        if chief is None:
            return
        if held > self._half:
            chief.press()
        elif len(self._readers) == 1 and self._plain_road and (exchange := self._flight.exchange) is not None:
            lane = lane_to(chief, self._readers[0], self._tap, self._half, self._secrets)
            if lane is not None:
                self._lane = lane
                if not exchange.express(lane):
                    lane.leave()

    def _take(self, block: bytes) -> None:
        """Complete frames. Where one of them is a failure, those before it count. A backend that repeats our key to us
        (providers do, in errors) does not get it into a transcript."""
        for secret in self._secrets:
            if secret in block:
                block = block.replace(secret, b"***")
        self._tap.feed(block)
        if self._tap.failure is None:
            self._taken(block)
        else:
            self._broken(self._tap.failure, self._framer.split(block))

    def _broken(self, failure: BackendError, frames: list[bytes]) -> None:
        said = segment_so_far(self._transcript) if self.leading else self.held
        at = broken_at(self.leg.driver, said, frames)
        if at:
            self._taken(b"".join(frames[:at]))
        # what the backend says of it is for readers of its own dialect; what nobody can read is for nobody
        self.fail(failure, frames[at] if b"error" in frames[at] else b"")

    def _taken(self, block: bytes) -> None:
        """The tap has seen these frames, and they are no failure."""
        tap = self._tap
        self._keep(block)
        if self.leading:
            if tap.tokens != self._told:
                self._told = tap.tokens
                self._stream.progress(self._stream.tokens, self._time())
                if not self._began and self._chief is not None:
                    self._began = True
                    self._chief.began(self)
            self._tell()

    def _keep(self, block: bytes) -> None:
        if self.leading:
            for reader in self._readers:
                reader.rest()
            self._keep_one(block)
            return
        self.held.append(block)
        if (self._tap.tokens or self._tap.done or self._unkept > _HELD) and self._chief is not None:
            self._chief.lead(self)

    def _keep_one(self, block: bytes) -> None:
        self._transcript.append(block)
        self._unkept -= len(block)

    def _tell(self) -> None:
        chief = self._chief
        if chief is None:
            return
        if self._tap.done:
            self._over, self._plain_road = True, False
            chief.completed(self)
            return
        for reader in self._readers:
            reader.push()
        if self._transcript.size > self._half:
            chief.press()

    def eof(self) -> None:
        """The body ended by its framing. Only the dialect's own marker makes that a completion."""
        self._flight.exchange = None
        if self._over:
            return
        if self._unstreamed is None:
            block = self._framer.last()
            if block:
                self._take(block)
            self._judge_end()
        else:
            self._unwrap(self._unstreamed.judge())

    def _unwrap(self, judged: list[bytes] | BackendError) -> None:
        """A backend that only answers whole: its answer is streamed as one chunk."""
        if isinstance(judged, BackendError):
            self.fail(judged)
            return
        for frame in judged:
            self._take(frame)
        self._judge_end()

    def _judge_end(self) -> None:
        tap, chief = self._tap, self._chief
        if self._over or chief is None:
            return  # the last frames held the ending
        tap.eof()
        if tap.failure is not None:
            self.fail(tap.failure)
        elif tap.done:
            self._over, self._plain_road = True, False
            if not self.leading:
                chief.lead(self)
            chief.completed(self)
        else:
            text = "the backend ended its answer before it was complete"
            self.fail(BackendError(ErrorCode.UPSTREAM_TRUNCATED, text))

    def lost(self, error: BackendError) -> None:
        """The connection broke."""
        self._flight.exchange = None
        self.fail(error)


@lru_cache(64)
def _searched(secrets: tuple[str, ...]) -> tuple[tuple[bytes, ...], int]:
    """A backend's secrets as they are looked for in its answers, and how long the shortest is."""
    found = tuple(secret.encode() for secret in secrets)
    return found, shortest(found)


def _framer(framing: str, limit: int) -> Framer:
    return NdjsonFramer(limit) if framing == "ndjson" else SseFramer(limit)
