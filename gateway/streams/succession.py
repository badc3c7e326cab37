"""The attempts of one stream: who is asked, whose frames are the answer, and who takes over from one that failed.

Law: at most one attempt leads. A failure is told to nobody while somebody else may still answer, and nothing is added
to an answer that is finished, or to a call that somebody may run already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from backends.base import Tap
from backends.contract.errors import BackendError
from backends.contract.events import FinishReason
from gateway.streams.accounts import Spent, spent_with
from gateway.streams.arguments import CappedTap
from gateway.streams.attempt import Attempt
from gateway.streams.course import Course, Leg
from gateway.streams.legacy import spent_on, tries_of
from gateway.streams.plan import Plan
from gateway.streams.reader import Reader
from gateway.streams.readership import Readership
from gateway.streams.sofar import answer_of
from gateway.streams.stream import Stream, Try
from gateway.streams.transcript import Transcript


class Principal(Protocol):
    """Whose attempts they are."""

    def answered_by(self, leg: Leg) -> None:
        """This backend's frames are the answer from now on."""

    def completed(self, finish: FinishReason) -> None:
        """The answer was said to its end."""

    def failed(self, error: BackendError) -> None:
        """Nobody else takes over."""

    def press(self) -> None:
        """The transcript holds much: is anybody reading?"""


class Succession:
    """Its attempts feed the transcript and the readers. `waiting_since`: when the attempt that is waited for was
    made."""

    def __init__(
        self,
        stream: Stream,
        plan: Plan,
        course: Course,
        transcript: Transcript,
        readership: Readership,
        principal: Principal,
    ) -> None:
        self.stream = stream
        self.transcript = transcript
        self.waiting_since = stream.accepted
        self._plan = plan
        self._course = course
        self._readership = readership
        self._principal: Principal | None = principal  # None at the end: the two would keep each other in memory
        self._loop = asyncio.get_running_loop()
        self._attempts: list[Attempt] = []  # under way
        self._leader: Attempt | None = None
        self._spent = Spent()
        self._timers: list[asyncio.TimerHandle] = []

    # -- from the producer ---------------------------------------------------------------------------------------------

    def inherit(self, lost: Sequence[int], first_token: float | None) -> None:
        """Before `start`: the transcript is of other nodes, which were lost at these blocks."""
        stream = self.stream
        stream.tries += tries_of(self.transcript, lost, stream.identity)
        self._spent = spent_on(self.transcript, self._plan.prompt_chars)
        stream.attempts = self._spent.attempts
        if self._spent.tokens:
            stream.progress(self._spent.tokens, self._loop.time())
            stream.first_token = stream.accepted + (first_token or 0.0)

    def start(self) -> None:
        """Ask the first backend. Returns at once."""
        self._launch(self._course.first())
        if self._course.hedge_after is not None:
            self._timers.append(self._loop.call_later(self._course.hedge_after, self._hedge))

    def expire(self, error: BackendError) -> None:
        """The attempts under way took too long, and have failed; so has the stream where none is, nor will be."""
        for attempt in list(self._attempts):
            attempt.fail(error)
        if not self._attempts and not self._timers and self._principal is not None:
            self._principal.failed(error)

    def close(self, *, completed: bool) -> None:
        """The stream ended: no attempt is wanted any longer. `completed`: their connections may be kept. Idempotent."""
        if self._principal is None:
            return
        for timer in self._timers:
            timer.cancel()
        for attempt in self._attempts:
            attempt.close(drain=completed)
            if not completed:
                self._course.over(attempt.leg, completed=False)
        self._principal = None

    @property
    def tap(self) -> Tap | None:
        """The account of the whole stream: of the attempt that leads, and of those before it."""
        attempt = self._leader or (self._attempts[0] if self._attempts else None)
        return self._spent.before(attempt.tap if attempt else None, self._plan.prompt_chars)

    def settle(self) -> None:
        """Account for what came by a lane."""
        if self._leader is not None:
            self._leader.settle()

    @property
    def bytes_in(self) -> int:
        """Bytes received from backends."""
        under_way = set(self._attempts) | ({self._leader} if self._leader else set())
        return int(self._spent.bytes_in) + sum(attempt.bytes_in for attempt in under_way)

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the backend's answer, names in lower case; empty before its head came."""
        attempt = self._leader or (self._attempts[-1] if self._attempts else None)
        return attempt.headers if attempt is not None else {}

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _launch(self, leg: Leg) -> None:
        if leg.delay > 0:
            self._timers.append(self._loop.call_later(leg.delay, self._launch, replace(leg, delay=0.0)))
            return
        if self.stream.state.terminal:
            return
        attempt = self._attempt(leg)
        self.waiting_since = attempt.asked
        if self._attempts or self._spent.attempts:
            self.stream.attempts += 1
        self._attempts.append(attempt)
        if leg.kind == "start" and not self._course.more() and self._course.hedge_after is None:
            self.lead(attempt)
        attempt.open()

    def _attempt(self, leg: Leg) -> Attempt:
        limits = self._plan.limits
        attempt = Attempt(self, leg, limits.max_event, limits.transcript_cap // 2)
        if limits.max_tool_arguments:
            attempt.count_by(CappedTap(attempt.tap, leg.driver, limits.max_tool_arguments))
        return attempt

    def _hedge(self) -> None:
        """The first attempt takes long: ask somebody else too; whoever says the first token wins."""
        if self._leader is None and self._attempts and not self.stream.state.terminal:
            leg = self._course.hedge()
            if leg is not None:
                self._launch(leg)

    # -- from an attempt (Chief) ---------------------------------------------------------------------------------------

    @property
    def fed(self) -> list[Reader]:
        """The readers that are told of every block as it comes."""
        return self._readership.fed

    def press(self) -> None:
        """The transcript holds much."""
        if self._principal is not None:
            self._principal.press()

    def lead(self, attempt: Attempt) -> None:
        """This attempt's frames are the answer from now on; the others are no longer wanted."""
        leg = attempt.leg
        self._leader = attempt
        self.stream.degraded = leg.degraded
        self.stream.last = Try(leg.backend, leg.model, leg.kind, "", self._spent.tokens)
        self._readership.pressure.source = attempt
        self.stream.count_by(attempt)
        self._readership.rest()
        self.transcript.begin(leg.driver, restart=leg.kind == "restart")
        if self._principal is not None:
            self._principal.answered_by(leg)
        attempt.take_lead()
        self._drop_others(attempt)

    def _drop_others(self, leader: Attempt) -> None:
        for other in [other for other in self._attempts if other is not leader]:
            self._attempts.remove(other)
            other.close()
            self._spend(other, "lost the race")
            self._course.over(other.leg, completed=False)

    def began(self, attempt: Attempt) -> None:
        """It leads, and gave its first token."""
        self._course.began(attempt.leg, self._loop.time() - attempt.asked)

    def completed(self, attempt: Attempt) -> None:
        """The backend said the end; readers render the last block with their ending."""
        self._course.over(attempt.leg, completed=True)
        if self._principal is not None:
            self._principal.completed(attempt.tap.finish or "stop")

    def failed(self, attempt: Attempt, error: BackendError, block: bytes = b"") -> None:
        """An attempt failed: somebody else takes over, or the stream ends. `block` told of the failure."""
        if attempt in self._attempts:
            self._attempts.remove(attempt)
        self._course.failed(attempt.leg, error)
        if self.stream.state.terminal or self._attempts:
            self._spend(attempt, error.code.wire)
            return  # nobody waits for it
        leg = self._successor(attempt, error)
        if leg is not None:
            self._spend(attempt, error.code.wire)
            self._leader = None
            self._launch(leg)
            return
        if block:
            self._last_words(attempt, block)
        self._leader = attempt
        if self._principal is not None:
            self._principal.failed(error)

    def _successor(self, attempt: Attempt, error: BackendError) -> Leg | None:
        if self.stream.tokens == 0:
            return None if attempt.leading else self._course.next(error)
        answer = answer_of(self.transcript)
        if answer is None or answer.tool_calls or answer.finish is not None or attempt.tap.finish is not None:
            return None
        return self._course.resume(error, answer)

    def _last_words(self, attempt: Attempt, block: bytes) -> None:
        if not attempt.leading:
            attempt.held.append(block)
            self.lead(attempt)
        else:
            self._readership.rest()
            self.transcript.append(block)

    def _spend(self, attempt: Attempt, outcome: str) -> None:
        leg, tap, chars = attempt.leg, attempt.tap, self._plan.prompt_chars
        self.stream.tries.append(Try(leg.backend, leg.model, leg.kind, outcome, tap.tokens))
        self._spent = spent_with(self._spent, tap, attempt.bytes_in, chars, leading=attempt.leading)
