"""One reader of a stream that exists already: behind its cursor until it has caught up, then as any other.

Law: the bytes are those of the first reader. Nothing is sent before it is known whether anything is left to send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.last_word import LastWord, stream_end
from gateway.edge.output import ClientOutput
from gateway.edge.services import Services
from gateway.protocols.base import ClientProtocol
from gateway.streams.pacer import Pacer
from gateway.streams.reader import Reader
from gateway.streams.skipping import Skipping
from gateway.streams.sources import Source, tail_of
from gateway.streams.stream import State
from gateway.streams.views import make_view

HOLD = 5.0  # seconds a cursor may be ahead of a running stream before it is refused


class Rereading:
    """`catch_up`; then, unless it `has_all`, the head is sent and `go_on` ends with the stream; `leave` in any case."""

    def __init__(
        self,
        services: Services,
        source: Source,
        protocol: ClientProtocol,
        pacer: Pacer,
        after: int,
        *,
        envelope: bool,
        control: bool,
    ) -> None:
        """`after`: frames the client has; `control`: an SSE client is told at last how the stream ended."""
        self._services = services
        self._source = source
        self._after = after
        self._output = output = ClientOutput(protocol.keepalive, services.config.streams)
        source.begun()
        self._view = make_view(source.driver, protocol, source.about)
        sse = protocol.framing == "sse"
        told = LastWord(output, lambda: stream_end(source, tail_of(source, protocol, services.pacer)))
        self._skipping = skipping = Skipping(
            told if control and sse else output, after, sse=sse, later=services.turns.later, envelope=envelope
        )
        self._reader = Reader(source.transcript, self._view, skipping, pacer, polite=protocol.family == "native")
        output.on_drain, skipping.on_drain = skipping.drained, _on_drain(self._reader, source)
        self._changed = asyncio.Event()
        skipping.changed = self._changed.set

    @property
    def seen(self) -> int:
        """Frames the view has had so far."""
        return self._skipping.seen

    @property
    def has_all(self) -> bool:
        """Whether the stream has ended and the client has its last frame."""
        return self._skipping.ended is not None and self._skipping.empty

    async def catch_up(self) -> None:
        """Up to the first frame the client does not have, or the stream's end. Raises CURSOR_AHEAD, and REGISTRY_AWAY
        for a stream that leaves this node just now: its next one has the rest."""
        source, skipping = self._source, self._skipping
        opening = self._view.start()
        if opening:
            skipping.write(opening)
        skipping.pause()
        source.attach(self._reader)
        await _settle(skipping, self._changed)
        if self.has_all and not self._reader.told:
            text = "this stream is about to go on elsewhere; come back for the rest"
            raise BackendError(ErrorCode.REGISTRY_AWAY, text, retry_after=1)
        if skipping.seen < self._after and source.state is not State.COMPLETED:
            skipping.recall()

    async def go_on(self, request: web.Request) -> None:
        """Behind the head: what waited, and all that follows."""
        self._services.outputs.add(self._output)
        self._output.open(request)
        self._skipping.open()
        self._reader.flush()
        await self._reader.done

    def leave(self) -> None:
        """The stream is told why its reader is no more."""
        self._services.outputs.discard(self._output)
        why = "the client did not read" if self._output.stuck else "the client disconnected"
        self._source.detach(self._reader, why)


async def _settle(skipping: Skipping, changed: asyncio.Event) -> None:
    """Until something is to be sent, all was sent, or the client is known to be at the tail. Raises CURSOR_AHEAD."""
    while skipping.slicing and not skipping.settled:
        changed.clear()
        await changed.wait()
    try:
        async with asyncio.timeout(HOLD):
            while not skipping.settled and skipping.seen < skipping.skip:
                changed.clear()
                await changed.wait()
    except TimeoutError:
        text = f"the stream has {skipping.seen} frames so far, fewer than the cursor says"
        raise BackendError(ErrorCode.CURSOR_AHEAD, text, retry_after=1) from None


def _on_drain(reader: Reader, source: Source) -> Callable[[], None]:
    def drained() -> None:
        reader.flush()
        source.relieve()

    return drained
