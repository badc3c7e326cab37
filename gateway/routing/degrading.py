"""What a client gets when no backend can answer before the first token: a finished answer to the same request, or a
fixed text. Per route, see `config.schema.Degrade`.

Law: only where another backend would have been asked, and there is none; a request that is itself wrong, and a failure
in mid-answer, stay what they are. Nothing that is given instead counts for a backend, its breaker or its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from backends.base import HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from config.schema import Degrade
from gateway.protocols.base import Answer
from gateway.routing.course import Routed
from gateway.streams.answers import Answers, Kept
from gateway.streams.course import Leg, Straight
from gateway.streams.replay import CACHED, MESSAGE, SPEAKER, Replay, message_frames
from gateway.streams.stream import new_stream_id

_NOBODY = HttpRequest("POST", "", (), b"")
_AWAY = (ErrorCode.NO_UPSTREAM, ErrorCode.OVERLOADED, ErrorCode.SHED)  # nobody; nobody; all full, and the queues too


class Spare(Struct, frozen=True):
    """What there is for one request: `name` is its name among the `answers`, `model` the client's word for it."""

    degrade: Degrade
    answers: Answers
    name: str
    model: str
    now_ms: Callable[[], int]

    def ready(self, now: float) -> bool:
        """Whether there is something to give. `now`: monotonic seconds."""
        return bool(self.degrade.message) or self._kept(now) is not None

    def _kept(self, now: float) -> Kept | None:
        return self.answers.find(self.name, self.degrade.cached, now) if self.degrade.cached else None

    def leg(self, now: float) -> Leg | None:
        """An attempt that asks nobody; None: there is nothing to give."""
        kept = self._kept(now)
        if kept is not None:
            return Leg(CACHED, kept.model, kept.driver, _NOBODY, Replay(CACHED, kept.frames), degraded="cached")
        if not self.degrade.message:
            return None
        ms = self.now_ms()
        said = message_frames(self.degrade.message, self.model, new_stream_id(ms).removeprefix("st_"), ms // 1000)
        return Leg(MESSAGE, self.model, SPEAKER, _NOBODY, Replay(MESSAGE, said), degraded="message")

    def instead_of(self, error: BackendError, now: float) -> Leg | None:
        """What is given where a course could not even begin."""
        return self.leg(now) if error.code in _AWAY else None


class Spared(Routed):
    """A course that ends in what there is instead."""

    def __init__(self, *args: Any, spare: Spare, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._spare, self._given = spare, False

    def more(self) -> bool:
        """As long as there is something else to give, the first attempt holds back what is no token."""
        return super().more() or (not self._given and self._spare.ready(self._now()))

    def next(self, error: BackendError) -> Leg | None:
        """Another backend; where there is none, what there is instead."""
        if self._given:
            return None
        leg = super().next(error)
        if leg is None and error.code.elsewhere:
            leg = self._spare.leg(self._now())
            self._given = leg is not None
        return leg

    def hedge(self) -> Leg | None:
        """Nobody beside what is given instead."""
        return None if self._given else super().hedge()

    def resume(self, error: BackendError, answer: Answer) -> Leg | None:
        """What is given instead is not gone on with."""
        return None if self._given else super().resume(error, answer)

    def began(self, leg: Leg, seconds: float) -> None:
        """No backend's speed."""
        if not leg.degraded:
            super().began(leg, seconds)

    def failed(self, leg: Leg, error: BackendError) -> None:
        """No backend's failure."""
        if not leg.degraded:
            super().failed(leg, error)

    def over(self, leg: Leg, *, completed: bool) -> None:
        """No backend's success."""
        if not leg.degraded:
            super().over(leg, completed=completed)

    def _now(self) -> float:
        return self._world.upstreams.clock()


class Instead(Straight):
    """The course of a stream that no backend could even begin."""

    dropped: tuple[str, ...] = ()

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.leg = leg

    def close(self) -> None:
        """It holds nothing."""
