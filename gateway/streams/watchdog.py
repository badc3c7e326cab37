"""When a stream has taken too long: one sweep per worker over monotonic marks, no timer per token.

`verdict` decides and is pure; `Watchdog` acts. What is looked at says when it must be looked at again (`look_at`), so
that a sweep does not drive the tokens of a thousand streams out of the processor's caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Streams
from gateway.streams.producer import Producer
from gateway.streams.stream import Stream

SWEEP = 0.25  # seconds between two sweeps: the most by which a limit overshoots
_SETTLE = 2.0  # seconds for which a client's last token may go unnoticed: its keepalive may come so much earlier


class Watched(Protocol):
    """An output under watch: keepalives and write deadlines. Nothing is due before `look_at`."""

    look_at: float

    def sweep(self, now: float) -> None:
        """Send a keepalive or give up on a stuck client, if it is time."""


def overdue(stream: Stream, limits: Streams, now: float) -> str | None:
    """Why the stream must end now, whoever might still answer; or None."""
    if now - stream.accepted >= limits.total_timeout:
        return f"the stream took longer than {limits.total_timeout:g} s in total"
    return None


def verdict(stream: Stream, limits: Streams, now: float, *, paused: bool, since: float) -> str | None:
    """Why the present attempt has failed, or None. `since`: when it was made; `paused`: readers hold the backend back,
    so silence is not its fault."""
    if stream.first_token is None:
        if now - since >= limits.first_token_timeout:
            return f"no token within {limits.first_token_timeout:g} s"
    elif not paused and now - max(stream.last_progress, since) >= limits.no_progress:
        return f"no progress for {limits.no_progress:g} s"
    return None


def look_again(stream: Stream, limits: Streams, now: float, *, paused: bool, since: float) -> float:
    """Until when nothing of the above can become due, and nothing is to be accounted for."""
    if paused:
        return now
    rest = min(now + min(_SETTLE, limits.keepalive / 4), stream.accepted + limits.total_timeout)
    if stream.first_token is None:
        return min(rest, since + limits.first_token_timeout, now + limits.no_progress)
    return min(rest, max(stream.last_progress, since) + limits.no_progress)


class Watchdog:
    """Sweeps all streams and outputs of a worker."""

    def __init__(self, producers: Callable[[], Iterable[Producer]], outputs: Callable[[], Iterable[Watched]]) -> None:
        self._producers = producers
        self._outputs = outputs
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin sweeping."""
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(SWEEP, self._sweep, loop)

    def stop(self) -> None:
        """No more sweeps."""
        if self._handle is not None:
            self._handle.cancel()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """A fault of one stream must not leave the others without a watch: it is reported, and the sweep goes on."""
        self._handle = loop.call_later(SWEEP, self._sweep, loop)
        now = loop.time()
        for producer in list(self._producers()):
            if now < producer.look_at:
                continue
            try:
                self._judge(producer, now)
            except Exception as error:
                loop.call_exception_handler({"message": "the watchdog failed at a stream", "exception": error})
        for output in list(self._outputs()):
            if now < output.look_at:
                continue
            try:
                output.sweep(now)
            except Exception as error:
                loop.call_exception_handler({"message": "the watchdog failed at a client", "exception": error})

    def _judge(self, producer: Producer, now: float) -> None:
        """What a lane took is accounted for now and then only, and before anything is held against a stream."""
        stream, limits = producer.stream, producer.plan.limits
        producer.settle()
        reason = overdue(stream, limits, now)
        if reason is not None:
            producer.timed_out(BackendError(ErrorCode.TIMED_OUT, reason))
            return
        late = verdict(stream, limits, now, paused=producer.paused, since=producer.waiting_since)
        if late is not None:
            producer.expire(late)
            return
        producer.relieve()
        producer.look_at = look_again(stream, limits, now, paused=producer.paused, since=producer.waiting_since)
