"""One producer per stream: makes the attempts, keeps the transcript, feeds the readers, ends the stream once.

Law: whatever happens to an attempt is decided here and in one place: another attempt takes over, or the stream ends.
Everything from the first byte to the terminal state happens without a task switch, so no cancel lands in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from backends.base import Driver, HttpRequest, Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import FinishReason
from backends.contract.request import Message
from config.schema import OnDisconnect, Streams
from gateway.protocols.base import ClientProtocol, Ending
from gateway.streams.arguments import CappedTap
from gateway.streams.attempt import Attempt
from gateway.streams.course import Course, Leg, Opener, Straight
from gateway.streams.legacy import spent_on, tries_of
from gateway.streams.pressure import Pressure
from gateway.streams.reader import Reader
from gateway.streams.settle import Spent, ending, spent_with
from gateway.streams.sofar import answer_of, can_be_cut
from gateway.streams.stream import State, Stream, Try
from gateway.streams.transcript import Transcript
from gateway.streams.veil import Veil
from gateway.streams.view import View, about_of, make_view

_FAILED = {ErrorCode.UPSTREAM_TRUNCATED: State.UPSTREAM_TRUNCATED, ErrorCode.TIMED_OUT: State.TIMED_OUT}
_UNVEIL = 1.0  # seconds the ending of a stream that survives waits for its copy


class Plan(Struct, frozen=True):
    """All that is decided before a stream starts. Without a `course`, `driver` is asked `request` and nobody else."""

    driver: Driver
    request: HttpRequest
    limits: Streams
    on_disconnect: OnDisconnect
    prompt_chars: int
    dropped: tuple[str, ...] = ()  # what the client asked for and the backend cannot express
    include_usage: bool = True  # as in About
    course: Course | None = None
    partial: bool = False  # an answer that runs out of time is given as far as it came
    remembered: str = ""  # the name under which the finished answer is kept (`answers`); empty: it is not
    turns: tuple[Message, ...] = ()  # what the client may refer to later by this answer's id
    will: bytes = b""  # what another node needs to go on with it (`legacy`); empty: none does


class Producer:
    """Runs one stream. `on_end` is called exactly once, at the terminal state, synchronously.

    `driver`: the one whose dialect readers begin in. `opened`: a client was sent the head before any frame; from then
    on `driver` and the stream's identity stay as they are, so that later readers see the same beginning.
    """

    def __init__(self, stream: Stream, plan: Plan, transport: Opener, on_end: Callable[[Producer], None]) -> None:
        self.stream = stream
        self.plan = plan
        self.driver = plan.driver
        self.opened = False
        self.transcript = Transcript(plan.limits.transcript_cap)
        self.readers: list[Reader] = []
        self.settle_at = 0.0  # when a lane's account is due
        self.waiting_since = stream.accepted  # when the attempt that is waited for was made
        self._loop = asyncio.get_running_loop()
        who = stream.identity
        self._course: Course = plan.course or Straight(
            Leg(who.backend, who.upstream_model, plan.driver, plan.request, transport)
        )
        self._on_end = on_end
        self._attempts: list[Attempt] = []  # under way
        self._leader: Attempt | None = None
        self._spent = Spent()
        self._timers: list[asyncio.TimerHandle] = []
        self._expired = False
        self._pressure = Pressure(self.transcript, self.readers, stream)
        self._grace: asyncio.TimerHandle | None = None
        self.heard = False  # its client was told of it, and may come back for it
        self.moved = False  # another node goes on with it: nothing of it ends here
        self._veil: Veil | None = None
        self._exposed = False  # readers were shown what is safe nowhere
        self.fed: list[Reader] = self.readers  # those that are told of every block as it comes

    # -- attempts ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask the first backend. Returns at once; failures arrive as the stream's ending."""
        self._launch(self._course.first())
        if self._course.hedge_after is not None:
            self._timers.append(self._loop.call_later(self._course.hedge_after, self._hedge))

    def _launch(self, leg: Leg) -> None:
        if leg.delay > 0:
            self._timers.append(self._loop.call_later(leg.delay, self._launch, replace(leg, delay=0.0)))
            return
        if self.stream.state.terminal:
            return
        limits = self.plan.limits
        attempt = Attempt(self, leg, limits.max_event, limits.transcript_cap // 2)
        if limits.max_tool_arguments:
            attempt.count_by(CappedTap(attempt.tap, leg.driver, limits.max_tool_arguments))
        self.waiting_since = attempt.asked
        if self._attempts or self._spent.attempts:
            self.stream.attempts += 1
        self._attempts.append(attempt)
        if leg.kind == "start" and not self._course.more() and self._course.hedge_after is None:
            self.lead(attempt)
        attempt.open()

    def _hedge(self) -> None:
        """The first attempt takes long: ask somebody else too; whoever says the first token wins."""
        if self._leader is None and self._attempts and not self.stream.state.terminal:
            leg = self._course.hedge()
            if leg is not None:
                self._launch(leg)

    def lead(self, attempt: Attempt) -> None:
        """This attempt's frames are the answer from now on; the others are no longer wanted."""
        leg = attempt.leg
        self._leader = attempt
        self.stream.degraded = leg.degraded
        self.stream.last = Try(leg.backend, leg.model, leg.kind, "", self._spent.tokens)
        self._pressure.source = attempt
        self.stream.count_by(attempt)
        for reader in self.readers:
            reader.rest()
        self.transcript.begin(leg.driver, restart=leg.kind == "restart")
        self._told_apart(leg)
        attempt.take_lead()
        for other in [other for other in self._attempts if other is not attempt]:
            self._attempts.remove(other)
            other.close()
            self._spend(other, "lost the race")
            self._course.over(other.leg, completed=False)

    def began(self, attempt: Attempt) -> None:
        """It leads, and gave its first token."""
        self._course.began(attempt.leg, self._loop.time() - attempt.asked)

    def _told_apart(self, leg: Leg) -> None:
        """Who answers, where it is not too late to say so."""
        who = self.stream.identity
        if not self.opened and len(self.transcript.segments) == 1:
            self.driver = leg.driver
            self.stream.identity = replace(who, backend=leg.backend, upstream_model=leg.model)

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
            if not attempt.leading:
                attempt.held.append(block)
                self.lead(attempt)
            else:
                for reader in self.readers:
                    reader.rest()
                self.transcript.append(block)
        self._leader = attempt
        self._fail(error)

    def _successor(self, attempt: Attempt, error: BackendError) -> Leg | None:
        if self.stream.tokens == 0:
            return None if attempt.leading else self._course.next(error)
        answer = answer_of(self.transcript)
        if answer is None or answer.tool_calls or answer.finish is not None or attempt.tap.finish is not None:
            return None  # nothing is added to a call that somebody may run already, or to a finished answer
        return self._course.resume(error, answer)

    def _spend(self, attempt: Attempt, outcome: str) -> None:
        leg, tap = attempt.leg, attempt.tap
        self.stream.tries.append(Try(leg.backend, leg.model, leg.kind, outcome, tap.tokens))
        self._spent = spent_with(self._spent, tap, attempt.bytes_in, self.plan.prompt_chars, leading=attempt.leading)

    def completed(self, attempt: Attempt) -> None:
        """The backend said the end; readers render the last block with their ending."""
        self._course.over(attempt.leg, completed=True)
        self.stop(State.COMPLETED, by="backend", reason="completed", finish=attempt.tap.finish or "stop")

    @property
    def tap(self) -> Tap | None:
        """The account of the whole stream: of the attempt that leads, and of those before it."""
        attempt = self._leader or (self._attempts[0] if self._attempts else None)
        return self._spent.before(attempt.tap if attempt else None, self.plan.prompt_chars)

    def settle(self) -> None:
        """Account for what came by a lane: the stream's marks, and its reader's, are those of its last token."""
        if self._leader is not None:
            self._leader.settle()

    @property
    def bytes_in(self) -> int:
        """Bytes received from backends."""
        under_way = set(self._attempts) | ({self._leader} if self._leader else set())
        return int(self._spent.bytes_in) + sum(attempt.bytes_in for attempt in under_way)

    @property
    def upstream_headers(self) -> Mapping[str, str]:
        """The headers of the backend's answer, names in lower case; empty before its head came."""
        attempt = self._leader or (self._attempts[-1] if self._attempts else None)
        return attempt.headers if attempt is not None else {}

    # -- surviving this node -------------------------------------------------------------------------------------------

    @property
    def shown(self) -> Transcript:
        """What readers read: the transcript, as far as it is safe."""
        return self.transcript if self._veil is None else self._veil.shown

    def veil(self) -> None:
        """Before the first reader: from now on readers see a block when `reveal` says so."""
        self._veil, self.fed, self.opened = Veil(self.transcript), [], True

    def reveal(self, tip: int) -> None:
        """The blocks before number `tip` are safe."""
        if self._veil is None or self.moved:
            return
        self._exposed = self._exposed and tip < self._veil.shown.tip
        for reader in self.readers:
            reader.rest()
        try:
            grown = self._veil.lift(tip)
        except LookupError:
            text = "the shared copy fell behind by more than is kept"
            error = BackendError(ErrorCode.TRANSCRIPT_FULL, text)
            self.stop(State.UPSTREAM_ERROR, by="gateway", reason=text, finish="error", error=error)
            return
        for reader in list(self.readers) if grown else ():
            reader.push()

    def unveil(self) -> None:
        """Nobody waits any longer until it is safe. Idempotent."""
        if self._veil is None or self.moved:
            return
        if self.transcript.tip > self._veil.shown.tip:
            self.reveal(self.transcript.tip)
            self._exposed = True
        if self.stream.state.terminal:
            self._veil = None
            for reader in list(self.readers):
                self._tell_end(reader)

    def outlived(self) -> bool:
        """It ended here behind the veil when another node had gone on with it: its readers read on there. False: it did
        not, or was shown."""
        if self._veil is None or self.moved or not self.stream.state.terminal:
            return False
        self.moved = True
        for reader in list(self.readers):
            self._tell_end(reader)
        return True

    def inherit(self, transcript: Transcript, lost: Sequence[int], first_token: float | None, grace: float) -> None:
        """Before `start`: what other nodes had of it, which were lost at these blocks. Without a reader within `grace`
        seconds it is given up, unless its policy is to go on."""
        now, stream = self._loop.time(), self.stream
        self.transcript.extend(transcript)
        self.opened = self.heard = True
        stream.tries += tries_of(transcript, lost, stream.identity)
        self._spent = spent_on(transcript, self.plan.prompt_chars)
        stream.attempts = self._spent.attempts
        if self._spent.tokens:
            stream.progress(self._spent.tokens, now)
            stream.first_token = stream.accepted + (first_token or 0.0)
        if self.plan.on_disconnect.action != "continue":
            wait = max(grace, self.plan.on_disconnect.grace)
            self._grace = self._loop.call_later(wait, self._grace_over, "the client of a node that was lost is gone")

    # -- readers -------------------------------------------------------------------------------------------------------

    def open_view(self, protocol: ClientProtocol) -> View:
        """The view of the client that started the stream, at the moment its head goes out."""
        self.opened = True
        about = about_of(self.stream.identity, include_usage=self.plan.include_usage, dialect=self.driver.dialect)
        return make_view(self.driver, protocol, about)

    def press(self) -> None:
        """The transcript holds much: pause the backend if nobody keeps up with it."""
        self._pressure.press()

    def relieve(self) -> None:
        """A reader has caught up (or left): perhaps the backend may go on."""
        self._pressure.relieve()

    @property
    def paused(self) -> bool:
        """Whether the backend is held back by its readers: then silence is not the backend's fault."""
        return self._pressure.paused

    def attach(self, reader: Reader) -> None:
        """A reader joins; it starts from its own cursor."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        for other in self.readers:
            other.rest()  # a lane has one reader
        self.readers.append(reader)
        if self.stream.state.terminal and self._veil is None:
            self._tell_end(reader)
        elif self.shown.tip > reader.cursor:
            reader.push()

    def detach(self, reader: Reader, why: str = "the client disconnected") -> None:
        """A reader leaves, and why. The last one to leave a running stream sets the disconnect policy to work."""
        if reader in self.readers:
            self.readers.remove(reader)
        reader.abandon()
        if self.readers or self.stream.state.terminal:
            return
        self._pressure.read_on()
        policy = self.plan.on_disconnect
        if policy.action == "cancel":
            self.stop(State.CLIENT_GONE, by="client", reason=why)
        elif policy.action == "grace":
            self._grace = self._loop.call_later(policy.grace, self._grace_over, why)

    def _grace_over(self, why: str) -> None:
        if not self.readers:
            self.stop(State.CLIENT_GONE, by="client", reason=f"{why} and did not come back")

    # -- endings -------------------------------------------------------------------------------------------------------

    def stop(
        self,
        state: State,
        *,
        by: str,
        reason: str,
        finish: FinishReason | None = None,
        error: BackendError | None = None,
    ) -> bool:
        """Every ending goes through here: terminal state, upstream closed, readers told. True for the first."""
        if not self.stream.end(state, self._loop.time(), by=by, reason=reason, finish=finish, error=error):
            return False
        for timer in self._timers:
            timer.cancel()
        for attempt in self._attempts:
            attempt.close(drain=state is State.COMPLETED)
            if state is not State.COMPLETED:
                self._course.over(attempt.leg, completed=False)
        if self._grace is not None:
            self._grace.cancel()
        self._on_end(self)
        if self._veil is not None and not self.moved:
            self._loop.call_later(_UNVEIL, self.unveil)
            return True
        for reader in list(self.readers):
            self._tell_end(reader)
        return True

    def expire(self, reason: str) -> None:
        """No token in time, or no more of them: the attempts under way have failed."""
        error = BackendError(ErrorCode.TIMED_OUT, reason)
        self._expired = True
        for attempt in list(self._attempts):
            attempt.fail(error)
        if not self._attempts and not self.stream.state.terminal and not self._timers:
            self._fail(error)
        self._expired = False

    def _tell_end(self, reader: Reader) -> None:
        if self.moved and not self._exposed:  # neither an ending nor an error: the client reads on where it goes on
            reader.cut()
            return
        reader.end(self.ending(), self.stream.state is State.COMPLETED)

    def ending(self) -> Ending:
        """How the stream ended, for the readers' last frame."""
        return ending(self.stream, self.tap, self.plan.prompt_chars)

    def _fail(self, error: BackendError) -> None:
        if self._expired:
            self.timed_out(error)
            return
        state = _FAILED.get(error.code, State.UPSTREAM_ERROR)
        self.stop(state, by="backend", reason=error.message, finish="error", error=error)

    def timed_out(self, error: BackendError) -> None:
        """No more time: the answer so far is given as one where the route says so, else `error` is told."""
        kept = self.plan.partial and self.stream.tokens and not self.stream.state.terminal
        if kept and can_be_cut(answer_of(self.transcript)):
            self.stream.degraded = "partial"
            self.stop(State.TIMED_OUT, by="gateway", reason=error.message, finish="timeout")
        else:
            self.stop(State.TIMED_OUT, by="gateway", reason=error.message, finish="timeout", error=error)
