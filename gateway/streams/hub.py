"""The running streams of this worker: start one, find one, stop one, count them. Owns every producer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from backends.contract.errors import BackendError, ErrorCode
from backends.transport import Transport
from gateway.streams.producer import Plan, Producer
from gateway.streams.settle import settle
from gateway.streams.stream import Identity, Receipt, State, Stream

_STOPS = {  # who stopped it -> the state it ends in
    "client": State.CANCELLED,
    "operator": State.CANCELLED,
    "node_lost": State.NODE_LOST,
    "shed": State.SHED,
}


class Hub:
    """One per worker. `finished` is called once per stream with its receipt, after the terminal state."""

    def __init__(self, finished: Callable[[Producer, Receipt], None]) -> None:
        self.running: dict[str, Producer] = {}
        self._finished = finished

    def __len__(self) -> int:
        return len(self.running)

    def __iter__(self) -> Iterator[Producer]:
        return iter(list(self.running.values()))

    def open(self, identity: Identity, plan: Plan, transport: Transport, now: float) -> Producer:
        """Create a stream and its producer; the caller attaches a reader and calls `start`."""
        producer = Producer(Stream(identity, now), plan, transport, self._ended)
        self.running[identity.id] = producer
        return producer

    def _ended(self, producer: Producer) -> None:
        stream = producer.stream
        self.running.pop(stream.identity.id, None)
        stream.receipt = settle(
            stream,
            tap=producer.tap,
            bytes_in=producer.bytes_in,
            now=stream.ended or stream.accepted,
            ended_ms=int(time.time() * 1000),
            prompt_chars=producer.plan.prompt_chars,
        )
        self._finished(producer, stream.receipt)

    def stop(self, stream_id: str, by: str, reason: str) -> Receipt | None:
        """Stop one stream of this worker; None when it is not running here."""
        producer = self.running.get(stream_id)
        if producer is None:
            return None
        state = _STOPS.get(reason) or _STOPS.get(by, State.CANCELLED)
        if state is State.CANCELLED:
            producer.stop(state, by=by, reason=reason, finish="cancelled")
        else:
            code = ErrorCode.NODE_LOST if state is State.NODE_LOST else ErrorCode.SHED
            lost = state is State.NODE_LOST
            text = "another node declared this stream lost" if lost else "the gateway is shutting down"
            producer.stop(state, by=by, reason=text, finish="error", error=BackendError(code, text))
        return producer.stream.receipt
