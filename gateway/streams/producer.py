"""One producer per stream: brings together its attempts, its transcript and its readers, and ends it once.

Law: everything from the first byte to the terminal state happens without a task switch, so no cancel lands in the
middle; and whoever ends the stream, and why, `stop` is where it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from backends.base import Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import FinishReason
from gateway.protocols.base import About, ClientProtocol, Ending
from gateway.streams.course import Leg, Opener, Straight
from gateway.streams.plan import Plan
from gateway.streams.reader import Reader
from gateway.streams.readership import Readership
from gateway.streams.settle import ending
from gateway.streams.sofar import answer_of, can_be_cut
from gateway.streams.stream import State, Stream
from gateway.streams.succession import Succession
from gateway.streams.transcript import Transcript
from gateway.streams.veil import Blocks
from gateway.streams.view import View
from gateway.streams.views import about_of, make_view
from gateway.streams.visibility import Visibility

Hold = Callable[[Callable[[], object]], bool]  # told what is to be done; True: it will be, later
_FAILED = {ErrorCode.UPSTREAM_TRUNCATED: State.UPSTREAM_TRUNCATED, ErrorCode.TIMED_OUT: State.TIMED_OUT}


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
        self.heard = False  # its client was told of it, and may come back for it
        self.moved = False  # another node goes on with it: nothing of it ends here
        self.ahead = False  # readers were to see nothing that is not safe
        self.hold: Hold | None = None  # asked before it ends
        self.look_at = 0.0  # the watchdog's mark
        self.transcript = Transcript(plan.limits.transcript_cap)
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._expired = False
        self._admitted = stream.identity
        self._ending: Ending | None = None  # how it ended, once it has
        self._readership = Readership(stream, self.transcript, plan.on_disconnect, self._deserted)
        self.readers = self._readership.readers
        self._visibility: Visibility | None = None  # None: readers see a block as it comes
        who = stream.identity
        course = plan.course or Straight(Leg(who.backend, who.upstream_model, plan.driver, plan.request, transport))
        self._succession = Succession(stream, plan, course, self.transcript, self._readership, self)

    # -- attempts ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask the first backend. Returns at once; failures arrive as the stream's ending."""
        self._succession.start()

    def inherit(self, transcript: Transcript, lost: Sequence[int], first_token: float | None, grace: float) -> None:
        """Before `start`: what other nodes had of it, which were lost at these blocks. Without a reader within `grace`
        seconds it is given up, unless its policy is to go on."""
        self.transcript.extend(transcript)
        self.opened = self.heard = True
        self._succession.inherit(lost, first_token)
        self._readership.expect(grace, "the client of a node that was lost is gone")

    def answered_by(self, leg: Leg) -> None:
        """An attempt leads: who answers is said where it is not too late to say so."""
        who = self.stream.identity
        if not self.opened and len(self.transcript.segments) == 1:
            self.driver = leg.driver
            if (leg.backend, leg.model) != (who.backend, who.upstream_model):
                self.stream.identity = replace(who, backend=leg.backend, upstream_model=leg.model)

    @property
    def waiting_since(self) -> float:
        """When the attempt that is waited for was made."""
        return self._succession.waiting_since

    @property
    def tap(self) -> Tap | None:
        """The account of the whole stream, over all its attempts."""
        return self._succession.tap

    def settle(self) -> None:
        """Account for what came by a lane: the stream's marks, and its reader's, are those of its last token."""
        self._succession.settle()

    @property
    def bytes_in(self) -> int:
        """Bytes received from backends."""
        return self._succession.bytes_in

    @property
    def upstream_headers(self) -> Mapping[str, str]:
        """The headers of the backend's answer, names in lower case; empty before its head came."""
        return self._succession.headers

    # -- surviving this node -------------------------------------------------------------------------------------------

    @property
    def shown(self) -> Transcript:
        """What readers read: the transcript, as far as it is safe."""
        return self.transcript if self._visibility is None else self._visibility.shown

    def veil(self) -> None:
        """Before the first reader: from now on readers see a block when `reveal` says so."""
        self._visibility = Visibility(self.stream, self.transcript, self.readers, self)
        self._readership.fed = []
        self.opened = self.ahead = True

    @property
    def fed(self) -> list[Reader]:
        """Those that are told of every block as it comes: the readers, unless behind a veil."""
        return self._readership.fed

    def reveal(self, tip: int, new: Blocks | None = None) -> None:
        """The blocks before number `tip` are safe; `new`: those that were not before, where they are at hand."""
        if self._visibility is not None:
            self._visibility.reveal(tip, new)

    def unveil(self) -> None:
        """Nobody waits any longer until it is safe. Idempotent."""
        if self._visibility is not None:
            self._visibility.unveil()

    def settles(self, told: Callable[[], None]) -> bool:
        """Ended: whether it is still to be seen if that was its end, or another node has gone on with it. `told` is
        called when it is, before the readers hear of it."""
        return self._visibility is not None and self._visibility.settles(told)

    def outlived(self) -> bool:
        """It ended here behind the veil when another node had gone on with it: its readers read on there. False: it did
        not, or was shown."""
        return self._visibility is not None and self._visibility.outlived()

    def fell_behind(self, error: BackendError) -> None:
        """What would become safe next is kept no longer."""
        self.stop(State.UPSTREAM_ERROR, by="gateway", reason=error.message, finish="error", error=error)

    # -- readers -------------------------------------------------------------------------------------------------------

    def open_view(self, protocol: ClientProtocol, view: View, about: About) -> View:
        """The view of the client that started the stream, at the moment its head goes out: `view`, made of `about` at
        admission, or another where another backend answers."""
        self.opened = True
        if self.driver is self.plan.driver and self.stream.identity is self._admitted:
            return view
        now = about_of(self.stream.identity, include_usage=self.plan.include_usage, dialect=self.driver.dialect)
        return view if self.driver is self.plan.driver and now == about else make_view(self.driver, protocol, now)

    def press(self) -> None:
        """The transcript holds much: pause the backend if nobody keeps up with it. The watchdog lets it go on."""
        self._readership.pressure.press()
        if self.paused:
            self.look_at = 0.0

    def relieve(self) -> None:
        """A reader has caught up (or left): perhaps the backend may go on."""
        self._readership.pressure.relieve()

    @property
    def paused(self) -> bool:
        """Whether the backend is held back by its readers: then silence is not the backend's fault."""
        return self._readership.pressure.paused

    def attach(self, reader: Reader) -> None:
        """A reader joins; it starts from its own cursor."""
        self._readership.join(reader)
        if self.stream.state.terminal and not (self._visibility is not None and self._visibility.veiled):
            self.tell_end(reader)
        elif self.shown.tip > reader.cursor:
            reader.push()

    def detach(self, reader: Reader, why: str = "the client disconnected") -> None:
        """A reader leaves, and why. The last one to leave a running stream sets the disconnect policy to work."""
        self._readership.leave(reader, why)

    def _deserted(self, why: str) -> None:
        self.stop(State.CLIENT_GONE, by="client", reason=why)

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
        """Every ending goes through here: terminal state, upstream closed, readers told. True for the first. Where it
        cannot be known now whose stream it is, that waits, but for the upstream: nobody needs it any more."""
        if self.hold and self.hold(partial(self.stop, state, by=by, reason=reason, finish=finish, error=error)):
            self._succession.close(completed=state is State.COMPLETED)
            return False
        if not self.stream.end(state, self._loop.time(), by=by, reason=reason, finish=finish, error=error):
            return False
        self._succession.close(completed=state is State.COMPLETED)
        self._readership.close()
        self._on_end(self)
        if self._visibility is None or not self._visibility.hide_end():
            for reader in list(self.readers):
                self.tell_end(reader)
        return True

    def tell_end(self, reader: Reader) -> None:
        """How it ended; or neither an ending nor an error, where the client reads on on another node."""
        if self.moved and not (self._visibility is not None and self._visibility.exposed):
            reader.cut()
        else:
            reader.end(self.ending(), self.stream.state is State.COMPLETED)

    def ending(self) -> Ending:
        """How the stream ended, for the readers' last frame."""
        if self._ending is not None:
            return self._ending
        found = ending(self.stream, self.tap, self.plan.prompt_chars)
        if self.stream.receipt is not None:
            self._ending = found
        return found

    def completed(self, finish: FinishReason) -> None:
        """The backend said the end; readers render the last block with their ending."""
        self.stop(State.COMPLETED, by="backend", reason="completed", finish=finish)

    def expire(self, reason: str) -> None:
        """No token in time, or no more of them: the attempts under way have failed."""
        self._expired = True
        self._succession.expire(BackendError(ErrorCode.TIMED_OUT, reason))
        self._expired = False

    def failed(self, error: BackendError) -> None:
        """No attempt is left, and this is why."""
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
