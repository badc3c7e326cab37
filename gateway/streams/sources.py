"""Where a stream can be read from: a running producer, a recording, and whatever else has its blocks.

Law: a reader never knows which it is. `Sources` finds them; handlers know nothing else of where streams are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sized
from typing import Protocol

from backends.base import Driver
from gateway.protocols.base import About, ClientProtocol, Ending
from gateway.streams.archive import Archive, Gone, Recording
from gateway.streams.hub import Hub
from gateway.streams.names import stream_key
from gateway.streams.pacer import Pacer
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.skipping import counting
from gateway.streams.stream import Identity, State
from gateway.streams.transcript import Transcript
from gateway.streams.views import about_of, make_view

_FORGOTTEN = 10_000  # streams are known to have been forgotten on purpose
_CHEAP = 256 * 1024  # bytes of transcript that are rendered only to count its frames


class Source(Protocol):
    """A stream one can attach to. All calls are synchronous."""

    @property
    def identity(self) -> Identity:
        """Who and what it is."""

    @property
    def state(self) -> State:
        """Its state now."""

    @property
    def driver(self) -> Driver:
        """The dialect its blocks are in."""

    @property
    def about(self) -> About:
        """What encoders may say of it."""

    @property
    def transcript(self) -> Transcript:
        """Its blocks. `base` above 0: the beginning is lost, and with it every view."""

    @property
    def turns(self) -> bytes:
        """What it was asked with, as in `Asked`; empty where that is not known."""

    @property
    def readers(self) -> Sized:
        """Who reads it now."""

    def begun(self) -> None:
        """Somebody is sent a head, perhaps before the first frame: `driver` and `identity` stay as they are."""

    def attach(self, reader: Reader) -> None:
        """A reader joins, from its own cursor; an ended stream tells it the ending at once."""

    def detach(self, reader: Reader, why: str = ...) -> None:
        """It leaves, and why."""

    def relieve(self) -> None:
        """A reader has caught up."""

    def ending(self) -> Ending:
        """How it ended (or would, now)."""


class Running:
    """A producer of this worker as a source."""

    __slots__ = ("_producer", "about")

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        dialect, usage = producer.driver.dialect, producer.plan.include_usage
        self.about = about_of(producer.stream.identity, include_usage=usage, dialect=dialect)

    @property
    def identity(self) -> Identity:
        return self._producer.stream.identity

    @property
    def state(self) -> State:
        return self._producer.stream.state

    @property
    def driver(self) -> Driver:
        return self._producer.driver

    @property
    def transcript(self) -> Transcript:
        return self._producer.shown

    @property
    def turns(self) -> bytes:
        return self._producer.plan.turns

    @property
    def readers(self) -> Sized:
        return self._producer.readers

    def begun(self) -> None:
        self._producer.opened = True

    def attach(self, reader: Reader) -> None:
        self._producer.attach(reader)

    def detach(self, reader: Reader, why: str = "the client disconnected") -> None:
        self._producer.detach(reader, why)

    def relieve(self) -> None:
        self._producer.relieve()

    def ending(self) -> Ending:
        return self._producer.ending()


class Sources(ABC):
    """Finds streams to read from. An owner finds only its own."""

    @abstractmethod
    async def find(self, stream_id: str, owner: str) -> Source | Gone | None:
        """A stream, running or ended; what is left of one; None: never heard of."""

    @abstractmethod
    async def forget(self, stream_id: str, owner: str) -> None:
        """Let an ended stream's content go before its time. Raises REGISTRY_AWAY where that cannot be done now."""

    @abstractmethod
    async def forgotten(self, stream_id: str, owner: str) -> bool:
        """Whether `forget` was asked for that stream, on any node; its receipt may be there still."""

    @abstractmethod
    async def newest(self, owner: str, conversation_id: str) -> Source | None:
        """The running stream of a conversation that was started last."""

    def matching(self, owner: str, wanted: Callable[[Source], bool]) -> Source | None:
        """A stream of an owner on this very node that a predicate picks out; asked of every one of them."""
        return None


class LocalSources(Sources):
    """The streams of this worker. `clock`: monotonic seconds, the loop's."""

    def __init__(self, hub: Hub, archive: Archive, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._archive = archive
        self._clock = clock
        self._forgotten: OrderedDict[str, None] = OrderedDict()  # stream keys

    async def find(self, stream_id: str, owner: str) -> Source | Gone | None:
        producer = self._hub.find(stream_id, owner)
        return Running(producer) if producer else self._archive.find(stream_id, owner, self._clock())

    async def forget(self, stream_id: str, owner: str) -> None:
        self._archive.forget(stream_id, owner)
        self._forgotten[stream_key(stream_id, owner)] = None
        if len(self._forgotten) > _FORGOTTEN:
            self._forgotten.popitem(last=False)

    async def forgotten(self, stream_id: str, owner: str) -> bool:
        """Not so where another stream has the id by now."""
        if stream_key(stream_id, owner) not in self._forgotten:
            return False
        return self._hub.find(stream_id, owner) is None and not isinstance(
            self._archive.find(stream_id, owner, self._clock()), Recording
        )

    async def newest(self, owner: str, conversation_id: str) -> Source | None:
        """Streams are listed in the order they were started."""
        for producer in reversed(list(self._hub)):
            who = producer.stream.identity
            if who.conversation_id == conversation_id and who.owner == owner:
                return Running(producer)
        return None

    def matching(self, owner: str, wanted: Callable[[Source], bool]) -> Source | None:
        """Running ones first, then recordings."""
        running = (Running(producer) for producer in self._hub if producer.stream.identity.owner == owner)
        kept = (recording for recording in self._archive if recording.identity.owner == owner)
        return next((source for source in running if wanted(source)), None) or next(filter(wanted, kept), None)


def tail_of(source: Source, protocol: ClientProtocol, pacer: Pacer) -> int | None:
    """Frames of this view so far; None where counting them would cost too much."""
    transcript = source.transcript
    if transcript.base or transcript.size > _CHEAP:
        return None
    view = make_view(source.driver, protocol, source.about)
    counter = counting(sse=protocol.framing == "sse")
    counter.write(view.start())
    reader = Reader(transcript, view, counter, pacer, polite=True)
    if source.state.terminal:
        reader.end(source.ending(), source.state is State.COMPLETED)
    else:
        reader.flush()
    return counter.seen
