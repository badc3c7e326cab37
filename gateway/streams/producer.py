"""One producer per stream: takes the backend's bytes, keeps the transcript, feeds the readers, ends the stream once.

It is the transport's Sink: `head`, `data`, `eof` and `lost` are called synchronously from the socket's callback.
Everything from the first byte to the terminal state happens without a task switch, so no cancel lands in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from msgspec import Struct

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import FinishReason
from backends.contract.framing import Framer, NdjsonFramer, SseFramer
from backends.transport import Exchange, Transport
from config.schema import OnDisconnect, Streams
from gateway.protocols.base import Ending
from gateway.streams.reader import Reader
from gateway.streams.settle import ending
from gateway.streams.stream import State, Stream
from gateway.streams.transcript import Transcript

_ERROR_BODY = 64 * 1024  # bytes of a refusal's body that are read


class Plan(Struct, frozen=True):
    """All that is decided before a stream starts."""

    driver: Driver
    request: HttpRequest
    limits: Streams
    on_disconnect: OnDisconnect
    prompt_chars: int


class Producer:
    """Runs one stream. `on_end` is called exactly once, at the terminal state, synchronously."""

    def __init__(self, stream: Stream, plan: Plan, transport: Transport, on_end: Callable[[Producer], None]) -> None:
        self.stream = stream
        self.plan = plan
        self.transcript = Transcript(plan.limits.transcript_cap)
        self._half = plan.limits.transcript_cap // 2  # bytes held before anybody can be that far behind
        self.tap = plan.driver.tap()
        self.readers: list[Reader] = []
        self.bytes_in = 0
        self.scope = ""  # the concurrency lease it holds, given back at the end
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._on_end = on_end
        self._framer = _framer(plan.driver, plan.limits.max_event)
        self._exchange: Exchange | None = None
        self._opening: asyncio.Task[None] | None = None
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._refusal = bytearray()
        self._paused = False
        self._grace: asyncio.TimerHandle | None = None

    # -- from the gateway ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask the backend. Returns at once; failures arrive as the stream's ending."""
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            exchange = await self._transport.open(self.plan.request, self)
        except BackendError as error:
            self._fail(error)
            return
        except Exception:  # a fault of ours: the client is told at once, and the loop's handler logs it
            self._fail(BackendError(ErrorCode.INTERNAL, "the gateway could not ask the backend"))
            raise
        if self.stream.state.terminal:
            exchange.abort()
        else:
            self._exchange = exchange

    def attach(self, reader: Reader) -> None:
        """A reader joins; it starts from its own cursor."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self.readers.append(reader)
        if self.stream.state.terminal:
            self._tell_end(reader)
        elif self.transcript.tip > reader.cursor:
            reader.push()

    def detach(self, reader: Reader, why: str = "the client disconnected") -> None:
        """A reader leaves, and why. The last one to leave a running stream sets the disconnect policy to work."""
        if reader in self.readers:
            self.readers.remove(reader)
        reader.abandon()
        if self.readers or self.stream.state.terminal:
            return
        self._resume()
        policy = self.plan.on_disconnect
        if policy.action == "cancel":
            self.stop(State.CLIENT_GONE, by="client", reason=why)
        elif policy.action == "grace":
            self._grace = self._loop.call_later(policy.grace, self._grace_over, why)

    def _grace_over(self, why: str) -> None:
        if not self.readers:
            self.stop(State.CLIENT_GONE, by="client", reason=f"{why} and did not come back")

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
        self._close_upstream(drain=state is State.COMPLETED)
        if self._grace is not None:
            self._grace.cancel()
        self._on_end(self)
        for reader in list(self.readers):
            self._tell_end(reader)
        return True

    def _close_upstream(self, *, drain: bool) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if drain:
                exchange.finish()
            else:
                exchange.abort()
        elif self._opening is not None and not self._opening.done() and self._opening is not asyncio.current_task():
            self._opening.cancel()

    def _tell_end(self, reader: Reader) -> None:
        reader.end(self.ending(), self.stream.state is State.COMPLETED)

    def ending(self) -> Ending:
        """How the stream ended, for the readers' last frame."""
        return ending(self.stream, self.tap, self.plan.prompt_chars)

    # -- from the transport (Sink) -------------------------------------------------------------------------------------

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The response head. Anything but 200 is collected as a refusal."""
        self._status = status
        self._headers = headers

    def data(self, data: bytes) -> None:
        """Body bytes. The token path: framer, transcript, tap, readers."""
        if self.stream.state.terminal:
            return
        if self._status != 200:
            self._collect(data)
            return
        self.bytes_in += len(data)
        try:
            block = self._framer.feed(data)
        except BackendError as error:
            self._fail(error)
            return
        if block:
            self._take(block)

    def _take(self, block: bytes) -> None:
        tap = self.tap
        self.transcript.append(block)
        tap.feed(block)
        if tap.tokens != self.stream.tokens:
            self.stream.progress(tap.tokens, self._loop.time())
        if tap.failure is not None or tap.done:
            self._conclude()
            return
        for reader in self.readers:
            reader.push()
        if self.transcript.size > self._half and self.readers:
            self._press_back()

    def _conclude(self) -> None:
        """The backend said the end, or said that it failed; readers render the last block with their ending."""
        failure = self.tap.failure
        if failure is not None:
            self._fail(failure)
        else:
            self.stop(State.COMPLETED, by="backend", reason="completed", finish=self.tap.finish or "stop")

    def _collect(self, data: bytes) -> None:
        self._refusal += data
        if len(self._refusal) > _ERROR_BODY:
            self._refused()

    def _refused(self) -> None:
        body = bytes(self._refusal[:_ERROR_BODY])
        self._fail(self.plan.driver.failure(self._status, self._headers, body))

    def eof(self) -> None:
        """The body ended by its framing. Only the dialect's own marker makes that a completion."""
        self._exchange_over()
        if self.stream.state.terminal:
            return
        if self._status != 200:
            self._refused()
            return
        self._flush_rest()
        self._judge_end()

    def _judge_end(self) -> None:
        if self.stream.state.terminal:
            return  # the rest held the ending
        self.tap.eof()
        if self.tap.done or self.tap.failure is not None:
            self._conclude()
        else:
            self.lost(BackendError(ErrorCode.UPSTREAM_TRUNCATED, "the backend ended its answer before it was complete"))

    def _flush_rest(self) -> None:
        """A last NDJSON line may lack its newline; an unfinished SSE event is discarded (WHATWG HTML 9.2.6)."""
        if isinstance(self._framer, NdjsonFramer) and self._framer.rest.strip():
            block = self._framer.feed(b"\n")
            if block:
                self._take(block)

    def lost(self, error: BackendError) -> None:
        """The connection broke."""
        self._exchange_over()
        self._fail(error)

    def _exchange_over(self) -> None:
        self._exchange = None

    def _fail(self, error: BackendError) -> None:
        state = State.UPSTREAM_ERROR
        by = "backend"
        if error.code is ErrorCode.UPSTREAM_TRUNCATED:
            state = State.UPSTREAM_TRUNCATED
        elif error.code is ErrorCode.TIMED_OUT:
            state = State.TIMED_OUT
        self.stop(state, by=by, reason=error.message, finish="error", error=error)

    # -- back-pressure -------------------------------------------------------------------------------------------------

    def _press_back(self) -> None:
        """Pause the backend only when even the fastest reader is half a transcript behind."""
        fastest = max(reader.sent for reader in self.readers)
        unread = self.transcript.total - fastest
        if not self._paused and unread > self.transcript.cap // 2 and self._exchange is not None:
            self._paused = True
            self._exchange.pause()
        elif self._paused and unread < self.transcript.cap // 4:
            self._resume()

    def relieve(self) -> None:
        """A reader has caught up (or left): perhaps the backend may go on."""
        if self._paused:
            if self.readers:
                self._press_back()
            else:
                self._resume()

    @property
    def paused(self) -> bool:
        """Whether the backend is held back by its readers: then silence is not the backend's fault."""
        return self._paused

    def _resume(self) -> None:
        if self._paused and self._exchange is not None:
            self._exchange.resume()
            self.stream.last_progress = self._loop.time()
        self._paused = False


def _framer(driver: Driver, limit: int) -> Framer:
    return NdjsonFramer(limit) if driver.framing == "ndjson" else SseFramer(limit)
