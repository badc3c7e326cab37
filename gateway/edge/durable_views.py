"""A gateway's stream as a Durable Streams log: the bytes of one of its views.

Law: who reads it so is one of its readers, with all that follows for its disconnect policy; an owner reads only its
own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import caller_of
from gateway.edge.durable_streams import DurableReads, Log
from gateway.edge.gone import gone_answer, unknown_stream
from gateway.edge.guards import cors_headers
from gateway.edge.services import Services
from gateway.edge.wanted import kind_of, protocol_for
from gateway.protocols.base import ClientProtocol
from gateway.streams.archive import Gone
from gateway.streams.durable import NOW, Piece
from gateway.streams.reader import Reader
from gateway.streams.sources import Source
from gateway.streams.stream import ID_PATTERN
from gateway.streams.tape import Tape
from gateway.streams.views import make_view

PIECE = 64 * 1024  # bytes of one answer, about
PATH = "/v1/stream/{id}"


def durable_routes(services: Services) -> list[web.RouteDef]:
    """GET and HEAD; every other method is 405."""

    async def find(request: web.Request) -> Log | web.StreamResponse:
        return await _find(services, request)

    def extra(request: web.Request) -> Mapping[str, str]:
        return cors_headers(services.config.server.cors, request.headers)

    reads = DurableReads(find, write_timeout=services.config.streams.write_timeout, extra=extra)
    return [web.get(PATH, reads.get, allow_head=False), web.head(PATH, reads.head)]


async def _find(services: Services, request: web.Request) -> Log | web.StreamResponse:
    owner, stream_id = caller_of(services, request).owner, request.match_info["id"]
    found = await services.sources.find(stream_id, owner) if ID_PATTERN.fullmatch(stream_id) else None
    if found is None:
        raise unknown_stream()
    if isinstance(found, Gone):
        return gone_answer(found)
    wanted, messages = request.query.get("protocol", "origin"), request.query.get("messages") in ("1", "true")
    protocol = protocol_for(services.protocols, found.identity.protocol, wanted, "")
    return ViewLog(services, found, protocol, messages=messages)


class ViewLog:
    """One view of a stream. `messages`: the lines of an NDJSON view as a stream of JSON messages. Raises BackendError
    where a view cannot be read so."""

    def __init__(self, services: Services, source: Source, protocol: ClientProtocol, *, messages: bool) -> None:
        kind = kind_of(protocol)
        if not kind or (messages and kind != "ndjson"):
            text = "`messages` is for NDJSON" if kind else f"the protocol {protocol.name!r} has no frames; name another"
            raise BackendError(ErrorCode.INVALID_REQUEST, text, param="messages" if kind else "protocol")
        if source.transcript.base:
            text = "the beginning of this stream is no longer kept (streams.transcript_cap)"
            raise BackendError(ErrorCode.CURSOR_EXPIRED, text)
        self._services, self._source, self._protocol = services, source, protocol
        self.name = f"{source.identity.id}:{protocol.name}"
        self.content_type = "application/json" if messages else protocol.content_type

    @property
    def headers(self) -> Mapping[str, str]:
        return {"X-Stream-Id": self._source.identity.id, "X-Stream-State": self._source.state.wire}

    @asynccontextmanager
    async def tail(self, start: int) -> AsyncIterator[ViewTail]:
        """Raises RATE_LIMITED where a stream has as many readers as it may."""
        services, source = self._services, self._source
        limit = services.config.streams.max_readers
        if len(source.readers) >= limit:
            text = f"this stream has {limit} readers already (streams.max_readers)"
            raise BackendError(ErrorCode.RATE_LIMITED, text, retry_after=1)
        source.begun()
        tape = Tape(None if start == NOW else start, PIECE, later=services.loop.call_soon)
        view = make_view(source.driver, self._protocol, source.about)
        reader = Reader(source.transcript, view, tape, services.pacer, polite=True)
        tape.on_drain = _flushing(reader, source)
        opening = view.start()
        if opening:
            tape.write(opening)
        try:
            source.attach(reader)
            yield ViewTail(tape, reader)
        finally:
            source.detach(reader, "the client disconnected")


class ViewTail:
    """A cursor into a view's bytes."""

    def __init__(self, tape: Tape, reader: Reader) -> None:
        self._tape, self._reader = tape, reader
        self._changed = asyncio.Event()
        tape.changed = self._changed.set

    async def piece(self) -> Piece:
        """Raises CURSOR_AHEAD where the client has more than there is."""
        tape, reader = self._tape, self._reader
        reader.flush()
        while tape.slicing and not tape.ended and tape.size < PIECE:  # noqa: ASYNC110 - one turn of the loop is one slice
            await asyncio.sleep(0)
        tape.mark_now()
        if tape.start is not None and tape.start > tape.total and self._at_tip():
            text = f"this stream has {tape.total} bytes so far, fewer than the offset says"
            raise BackendError(ErrorCode.CURSOR_AHEAD, text, retry_after=1)
        self._changed.clear()
        caught_up = self._at_tip()
        data = tape.take()
        done = caught_up and tape.size == 0
        return Piece(data, tape.start or 0, done, done and tape.ended)

    def _at_tip(self) -> bool:
        return self._tape.ended or self._reader.cursor == self._reader.transcript.tip

    async def grown(self, seconds: float) -> bool:
        """The pacer decides when what is new is written; the event tells."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


def _flushing(reader: Reader, source: Source) -> Callable[[], None]:
    def drained() -> None:
        reader.flush()
        source.relieve()

    return drained
