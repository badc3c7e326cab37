"""The reader of shared transcripts: one per worker, one hub per stream however many clients read it here.

Law: the log is the truth. It is read when a wake-up comes and once a second anyway; what a node that is gone left
behind is read to its end, and then closed for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from backends.base import Driver
from backends.contract.errors import BackendError, ErrorCode
from gateway.registry.base import Entry
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.shared_layout import PAGE, SharedLayout, entries_of, terminal_words
from gateway.registry.shared_stream import SharedStream
from gateway.registry.shared_wakes import Wakes
from gateway.streams.names import split_key
from gateway.streams.stream import Receipt, State

log = structlog.get_logger(__name__)

Find = Callable[[str, str], Awaitable[Entry | Receipt | None]]

POLL = 1.0  # seconds between two looks without a wake-up
DEAF = 0.05  # the same while there are no wake-ups
BLINK = 1.0  # seconds Redis may be away before who asks is told
LINGER = 5.0  # seconds a stream nobody reads is kept
PATIENCE = 60.0  # seconds readers wait for a Redis that is away
_LATE = 5.0  # seconds the last entries of an ended stream may take
_TOGETHER = 32  # streams of one batch


class Reading:
    """`find` asks the registry about a stream; `lease`: seconds after which a silent node is gone; `adopt` goes on with
    one that no node knows of, if that can be done."""

    def __init__(
        self,
        link: Link,
        layout: SharedLayout,
        drivers: Callable[[], Mapping[str, Driver]],
        find: Find,
        *,
        cap: int,
        lease: float,
    ) -> None:
        self._link, self._layout, self._drivers, self._find = link, layout, drivers, find
        self._cap, self._lease = cap, lease
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, SharedStream] = {}
        self._by_channel: dict[str, SharedStream] = {}
        self._watched: set[str] = set()
        self._wake = asyncio.Event()
        self._looked = 0.0
        self._away_since: float | None = None
        self.adopt: Callable[[SharedStream], Awaitable[bool]] = _by_nobody
        self.wakes = Wakes(link, self._woken)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def blinking(self) -> bool:
        """Whether Redis has been away for so short a time that it may be a stumble."""
        return not self._link.healthy and time.monotonic() - self._link.down_since < BLINK

    async def open(self, key: str) -> SharedStream:
        """A stream as far as it is shared now; `meta` None where nothing is. Raises Away."""
        stream = self._streams.get(key)
        if stream is None:
            if not self._link.healthy:
                raise Away(self._link.error)
            stream = SharedStream(key, self._drivers, self._cap, self._keep)
            self._keep(stream)
        self._rouse(stream)
        if not stream.loaded.is_set():
            async with asyncio.timeout(self._link.timeout * 10):
                await stream.loaded.wait()
        if self._away_since is not None:
            raise Away(self._link.error)
        stream.left = self._loop.time()
        if stream.meta is None:
            self._drop(stream)
        elif not stream.state.terminal:
            self.wakes.listen(self._layout.log(key))
        return stream

    async def forget(self, key: str) -> None:
        """Erase an ended stream, and tell all nodes. Raises Away."""
        await self._link.batch([self._layout.forgetting(key), self._layout.erase(key)])
        if (stream := self._streams.get(key)) is not None:
            self._drop(stream)

    async def forgotten(self, key: str) -> bool:
        """Whether a node was asked to `forget` it; False while Redis is away."""
        return (await self._link.ask([self._layout.was_forgotten(key)])) == [1]

    def _keep(self, stream: SharedStream) -> None:
        """It is read, or about to be: its node is told with the next step."""
        if stream.state.terminal and stream.key in self._streams:
            return
        self._streams[stream.key] = self._by_channel[self._layout.log(stream.key)] = stream
        if stream.meta is not None and not stream.state.terminal:
            self.wakes.listen(self._layout.log(stream.key))
        self._wake.set()

    def _woken(self, channel: str) -> None:
        stream = self._by_channel.get(channel)
        if stream is not None:
            self._rouse(stream)

    def _rouse(self, stream: SharedStream) -> None:
        if not stream.state.terminal:
            stream.woken = True
            self._wake.set()

    async def run(self) -> None:
        """The loop; ends by being cancelled."""
        while True:
            pause = POLL if self.wakes.listening or not self._streams else DEAF
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                for stream in self._streams.values():
                    stream.woken = not stream.state.terminal
            self._wake.clear()
            try:
                await self.step()
            except Away as error:
                self._away(str(error))
                await asyncio.sleep(DEAF)
            except Exception:
                log.exception("shared_reading.step_failed")
                await asyncio.sleep(POLL)

    async def step(self) -> None:
        """Read what is due, see to watches, let go what nobody reads. Raises Away."""
        if not self._link.healthy:
            raise Away(self._link.error)
        while due := [s for s in self._streams.values() if s.woken and not s.state.terminal][:_TOGETHER]:
            await self._read(due)
        self._away_since = None
        await self._watch()
        now = self._loop.time()
        if now - self._looked >= POLL:
            self._looked = now
            for stream in list(self._streams.values()):
                await self._doubt(stream, now)

    async def _read(self, due: list[SharedStream]) -> None:
        for stream in due:
            stream.woken = False
        try:
            answers = await self._link.batch([self._layout.read(s.key, s.after) for s in due])
        except Away:
            for stream in due:
                stream.woken = True
            raise
        for stream, answer in zip(due, answers, strict=True):
            try:
                page = entries_of(answer)
            except ValueError as error:
                stream.fail(BackendError(ErrorCode.CURSOR_EXPIRED, f"the shared copy cannot be read: {error}"))
                page = []
            stream.take(page)
            if len(page) >= PAGE and stream.readable:
                stream.woken = True
            else:
                stream.loaded.set()
            if stream.state.terminal:
                self.wakes.leave(self._layout.log(stream.key))

    async def _watch(self) -> None:
        """Tell the owners which of their streams are read here."""
        now = self._loop.time()
        read = {key for key, s in self._streams.items() if s.readers and not s.state.terminal}
        gone = self._watched - read
        ops: list[Op] = [self._layout.unwatch(key) for key in gone]
        new = read - self._watched
        renew = read if now - self._looked >= POLL else new
        ops += [self._layout.watching(key) for key in renew]
        self._watched = read
        if ops:
            await self._link.batch(ops)
        for stream in [s for key, s in self._streams.items() if key in new]:
            self._rouse(stream)  # what came before the watch was not announced
        for stream in list(self._streams.values()):
            if not stream.readers and stream.loaded.is_set() and now - stream.left >= LINGER:
                self._drop(stream)

    def _drop(self, stream: SharedStream) -> None:
        channel = self._layout.log(stream.key)
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
            del self._by_channel[channel]
        self.wakes.leave(channel)

    # -- streams whose node is gone ------------------------------------------------------------------------------------

    async def _doubt(self, stream: SharedStream, now: float) -> None:
        """A silent stream: does anybody carry it? If not, it is closed."""
        if stream.state.terminal or stream.meta is None or not stream.readers or now - stream.news < POLL:
            return
        try:
            found = await self._find(*split_key(stream.key))
        except BackendError:
            return  # the registry is away
        if isinstance(found, Entry):
            stream.doubted = None
            return
        stream.doubted = stream.doubted or now
        if found is None and now - stream.doubted >= self._lease and await self.adopt(stream):
            stream.doubted = None
            return
        if await self.close_lost(stream, found, now - stream.doubted):
            stream.woken = True
            self._wake.set()

    async def close_lost(self, stream: SharedStream, found: Receipt | None, doubted: float) -> bool:
        """Close the log of a stream that has no node, where that is certain after so many seconds of doubt. True: read
        it again."""
        lost = found is not None and found.state == State.NODE_LOST.wire
        if not lost and doubted < (_LATE if found is not None else self._lease * 2):
            return False
        text = "the gateway node that carried this stream is gone"
        ending = stream.lost_ending(found.token_count if found else 0, BackendError(ErrorCode.NODE_LOST, text))
        words = terminal_words(State.NODE_LOST, stream.transcript.total, ending)
        answer = (await self._link.batch([self._layout.fence(stream.key, words)]))[0]
        if answer != 1:
            stream.fail(BackendError(ErrorCode.NODE_LOST, text))
        return True

    def _away(self, error: str) -> None:
        """Redis is away: who has just come is told, who reads waits."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        for stream in list(self._streams.values()):
            if not stream.loaded.is_set():
                stream.loaded.set()
                self._drop(stream)
            elif now - self._away_since >= PATIENCE:
                text = "the shared registry cannot be reached; come back for the rest"
                stream.fail(BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=2))
        log.debug("shared_reading.away", error=error)


async def _by_nobody(_stream: SharedStream) -> bool:
    return False
