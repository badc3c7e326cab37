"""Reading a stream that exists already: attach, resume, replay. One road for running and for ended streams.

Law: the bytes are those of the first reader, from the cursor on. The head waits until it is known whether anything is
left to send: 204 says that the client has it all, 410 that it can no longer be had, 416 that the client has more than
there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeGuard

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import headers_of, mode_of
from gateway.edge.gone import CUT, gone_answer, tail_lost, unknown_stream
from gateway.edge.guards import cors_headers
from gateway.edge.output import StreamHead, begun
from gateway.edge.rereading import Rereading
from gateway.edge.services import Services
from gateway.edge.wanted import kind_of, protocol_for
from gateway.protocols.base import ClientProtocol
from gateway.streams.archive import Gone
from gateway.streams.collector import collector
from gateway.streams.cursor import read_cursor
from gateway.streams.sources import Source, tail_of
from gateway.streams.stream import State

_RETRY = b"retry: 3000\n\n"
_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Attach:
    """Handlers; errors are raised as BackendError."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def stream(
        self, request: web.Request, stream_id: str, owner: str, *, protocol: str = "", after: int | None = None
    ) -> web.StreamResponse:
        """GET of one stream. `protocol` and `after` go before what the request says."""
        try:
            found = await self._services.sources.find(stream_id, owner)
        except BackendError as error:
            return self.later(request, error)
        if found is None:
            raise unknown_stream()
        if isinstance(found, Gone):
            return gone_answer(found)
        return await self.source(request, found, protocol=protocol, after=after)

    async def remains(self, stream_id: str, owner: str) -> web.Response:
        """410 for a stream that was; raises NOT_FOUND for one that never was."""
        found = await self._services.sources.find(stream_id, owner)
        if found is not None and not isinstance(found, Gone) and found.state.terminal:
            found = Gone(found.state.wire)  # its receipt went before this node's copy of it
        if isinstance(found, Gone):
            return gone_answer(found)
        raise unknown_stream()

    async def conversation(self, request: web.Request, owner: str) -> web.StreamResponse:
        """GET of a conversation's running stream; 204 where there is none."""
        try:
            found = await self._services.sources.newest(owner, request.match_info["id"])
        except BackendError as error:
            return self.later(request, error)
        if found is None:
            return web.Response(status=204, headers=self._headers(request, _SAFE))
        return await self.source(request, found)

    async def source(
        self, request: web.Request, source: Source, *, protocol: str = "", after: int | None = None
    ) -> web.StreamResponse:
        """Read a source as the request says."""
        query, headers = request.query, request.headers
        accept = headers.get("Accept", "")
        try:
            said = protocol or query.get("protocol", "")
            chosen = protocol_for(self._services.protocols, source.identity.protocol, said, accept)
            if after is None:
                last, header = headers.get("Last-Event-ID"), headers.get("X-Stream-After")
                after = read_cursor(source.identity.id, last, header, query)
            if source.transcript.base:
                return gone_answer(Gone(source.state.wire, "cursor_expired"))
            envelope, control = (query.get(name) in ("1", "true") for name in ("envelope", "control"))
            return await self.read(request, source, chosen, after, envelope=envelope, control=control)
        except BackendError as error:
            return self.later(request, error)

    def later(self, request: web.Request, error: BackendError) -> web.Response:
        """An EventSource is told to come again where other clients get a status that would stop it for good. Raises the
        error for those, and any that will not pass."""
        patient = request.headers.get("Accept", "").strip() == "text/event-stream" or request.query.get("es") == "1"
        if error.code.status not in (416, 503) or not patient:
            raise error
        kind = {"Content-Type": "text/event-stream"}
        return web.Response(body=_RETRY, headers=self._headers(request, _SAFE | kind))

    async def read(
        self,
        request: web.Request,
        source: Source,
        protocol: ClientProtocol,
        after: int,
        *,
        envelope: bool = False,
        control: bool = False,
        extra: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Send the frames of a view behind the first `after` ones. `control`: and, on SSE, how it ended. `extra`
        headers may be added."""
        services = self._services
        self._check(source, protocol, after, envelope)
        pacer = services.pacers.of(mode_of(headers_of(request)))
        reading = Rereading(services, source, protocol, pacer, after, envelope=envelope, control=control)
        try:
            await reading.catch_up()
            if reading.has_all:
                return self._nothing_left(request, source, reading.seen)
            head = self._head(request, source, protocol, extra or {})
            if await begun(head, request):
                await reading.go_on(request)
            return head
        finally:
            reading.leave()

    def _nothing_left(self, request: web.Request, source: Source, seen: int) -> web.Response:
        if source.state is State.NODE_LOST:
            return tail_lost(seen)
        return web.Response(status=204, headers=self._headers(request, _SAFE | _names(source)))

    def _check(self, source: Source, protocol: ClientProtocol, after: int, envelope: bool) -> None:
        if source.transcript.base:
            raise BackendError(ErrorCode.CURSOR_EXPIRED, CUT)
        if envelope and kind_of(protocol) != "ndjson":
            raise BackendError(ErrorCode.INVALID_REQUEST, "`envelope` is for NDJSON", param="envelope")
        if after and not kind_of(protocol):
            text = f"the protocol {protocol.name!r} has no frames to count; read it from the beginning, or another one"
            raise BackendError(ErrorCode.INVALID_REQUEST, text, param="protocol")
        limit = self._services.config.streams.max_readers
        if len(source.readers) >= limit:
            text = f"this stream has {limit} readers already (streams.max_readers)"
            raise BackendError(ErrorCode.RATE_LIMITED, text, retry_after=1)

    def _head(
        self, request: web.Request, source: Source, protocol: ClientProtocol, extra: Mapping[str, str]
    ) -> StreamHead:
        headers = {**_SAFE, "Content-Type": protocol.content_type, "X-Accel-Buffering": "no", **_names(source), **extra}
        if kind_of(protocol) == "ndjson":
            tail = tail_of(source, protocol, self._services.pacer)
            headers |= {} if tail is None else {"Stream-Next-Offset": str(tail)}
        return StreamHead(status=200, headers=self._headers(request, headers))

    def _headers(self, request: web.Request, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, **cors_headers(self._services.config.server.cors, request.headers)}

    async def head(self, request: web.Request, stream_id: str, owner: str, state: str) -> web.Response:
        """HEAD of a stream the registry knows: its state, and the frames so far of the view a GET would read."""
        found = await self._services.sources.find(stream_id, owner)
        if not _is_whole(found):
            return web.Response(headers={**_SAFE, "X-Stream-State": state, "X-Stream-Resumable": "false"})
        query, accept = request.query, request.headers.get("Accept", "")
        chosen = protocol_for(self._services.protocols, found.identity.protocol, query.get("protocol", ""), accept)
        tail = tail_of(found, chosen, self._services.pacer) if kind_of(chosen) else None
        return web.Response(headers=_SAFE | _names(found) | ({} if tail is None else {"X-Stream-Tail": str(tail)}))

    async def resumable(self, stream_id: str, owner: str) -> bool:
        """Whether its frames can be read here. What cannot be known now may be: who tries is told to come again."""
        try:
            return _is_whole(await self._services.sources.find(stream_id, owner))
        except BackendError:
            return True

    async def whole(
        self, request: web.Request, protocol: ClientProtocol, source: Source, extra: Mapping[str, str]
    ) -> web.Response:
        """The whole answer of a stream, once it has ended. Raises its failure."""
        self._check(source, protocol, 0, envelope=False)
        body = await _whole_answer(self._services.loop, protocol, source)
        headers = self._headers(request, {**_SAFE, **_names(source), **extra})
        return web.Response(body=body, headers=headers, content_type="application/json")


async def _whole_answer(loop: asyncio.AbstractEventLoop, protocol: ClientProtocol, source: Source) -> bytes:
    """A stream folded to one body. Raises the stream's failure."""
    reader, view = collector(source.transcript, protocol, source.about, loop)
    try:
        source.attach(reader)
        await reader.done
    finally:
        source.detach(reader, "the client disconnected")
    ending = view.ending or source.ending()
    if ending.error is not None:
        raise ending.error
    if source.state is not State.COMPLETED and not ending.partial and protocol.family != "native":
        raise BackendError(ErrorCode.CANCELLED, "the stream was cancelled")
    return view.body(source.about, ending)


def _is_whole(found: Source | Gone | None) -> TypeGuard[Source]:
    """Whether this can be read, from its beginning on."""
    return found is not None and not isinstance(found, Gone) and not found.transcript.base


def _names(source: Source) -> dict[str, str]:
    stream_id = source.identity.id
    return {
        "X-Stream-Id": stream_id,
        "Location": f"/api/streaming/{stream_id}",
        "X-Stream-Resumable": "true",
        "X-Stream-State": source.state.wire,
    }
