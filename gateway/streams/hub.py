"""The running streams of this worker: start one, find one, stop one, count them. Owns every producer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from backends.contract.errors import BackendError, ErrorCode
from gateway.streams.archive import Archive, Recording
from gateway.streams.course import Opener
from gateway.streams.names import stream_key
from gateway.streams.plan import Plan
from gateway.streams.producer import Hold, Producer
from gateway.streams.settle import outlived, settle
from gateway.streams.stream import Entry, Identity, Receipt, State, Stream
from gateway.streams.views import about_of

_STOPS = {  # who stopped it -> the state it ends in
    "client": State.CANCELLED,
    "operator": State.CANCELLED,
    "node_lost": State.NODE_LOST,
    "shed": State.SHED,
}


class Hub:
    """One per worker. `finished` is called once per stream with its receipt, after the terminal state. `running` is by
    `stream_key`: two owners may use the same id."""

    def __init__(self, finished: Callable[[Producer, Receipt], None], archive: Archive | None = None) -> None:
        self.running: dict[str, Producer] = {}
        self._finished = finished
        self._archive = archive
        self.hold: Hold | None = None
        self.ending: Callable[[Producer], object] = lambda producer: None  # told of one that `settles`

    def __len__(self) -> int:
        return len(self.running)

    def __iter__(self) -> Iterator[Producer]:
        return iter(list(self.running.values()))

    def open(self, identity: Identity, plan: Plan, transport: Opener, now: float) -> Producer:
        """Create a stream and its producer; the caller attaches a reader and calls `start`."""
        producer = Producer(Stream(identity, now), plan, transport, self._ended)
        producer.hold = self.hold
        self.running[stream_key(identity.id, identity.owner)] = producer
        return producer

    def find(self, stream_id: str, owner: str | None) -> Producer | None:
        """A running stream of an owner; None for the owner (operators): anybody's, the oldest if several share it."""
        if owner is not None:
            return self.running.get(stream_key(stream_id, owner))
        return next((p for p in self.running.values() if p.stream.identity.id == stream_id), None)

    def entry(self, stream_id: str, owner: str) -> Entry | None:
        """A running stream as lists show it."""
        producer = self.find(stream_id, owner)
        return None if producer is None else producer.stream.entry()

    def _ended(self, producer: Producer) -> None:
        stream = producer.stream
        self.running.pop(stream_key(stream.identity.id, stream.identity.owner), None)
        stream.receipt = settle(
            stream,
            tap=producer.tap,
            bytes_in=producer.bytes_in,
            now=stream.ended or stream.accepted,
            ended_ms=int(time.time() * 1000),
            prompt_chars=producer.plan.prompt_chars,
        )
        if producer.settles(lambda: self._told(producer)):
            self.ending(producer)
        else:
            self._told(producer)

    def _told(self, producer: Producer) -> None:
        """It is known how it ended."""
        stream = producer.stream
        assert stream.receipt is not None
        if producer.moved:
            stream.receipt = outlived(stream.receipt)
        elif self._archive is not None:
            self._archive.keep(_recording(producer), whole=producer.transcript.base == 0)
        self._finished(producer, stream.receipt)

    def forget(self, stream_id: str, owner: str) -> None:
        """An ended stream was refused after all: nobody comes back to it, and its id may be used again."""
        if self._archive is not None:
            self._archive.forget(stream_id, owner)

    def stop(self, stream_id: str, owner: str, by: str, reason: str) -> Receipt | None:
        """Stop one stream of this worker; None when it is not running here."""
        producer = self.find(stream_id, owner)
        if producer is None:
            return None
        state = _STOPS.get(reason) or _STOPS.get(by, State.CANCELLED)
        if state is State.CANCELLED:
            producer.stop(state, by=by, reason=reason, finish="cancelled")
        else:
            code = ErrorCode.NODE_LOST if state is State.NODE_LOST else ErrorCode.SHED
            lost = state is State.NODE_LOST
            producer.moved = lost and producer.stream.identity.survives
            text = "another node declared this stream lost" if lost else "the gateway is shutting down"
            producer.stop(state, by=by, reason=text, finish="error", error=BackendError(code, text))
        return producer.stream.receipt


def _recording(producer: Producer) -> Recording:
    stream, plan = producer.stream, producer.plan
    return Recording(
        stream.identity,
        producer.driver,
        about_of(stream.identity, include_usage=plan.include_usage, dialect=producer.driver.dialect),
        producer.transcript,
        stream.state,
        producer.ending(),
        stream.ended or stream.accepted,
        plan.turns,
    )
