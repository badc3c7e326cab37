"""Reading a stream that exists already: attach, resume, replay. One road for running and for ended streams.

Law: the bytes are those of the first reader, from the cursor on. The head waits until it is known whether anything is
left to send: 204 says that the client has it all, 410 that it can no longer be had, 416 that the client has more than
there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import headers_of, mode_of
from gateway.edge.guards import cors_headers
from gateway.edge.health_handlers import answer
from gateway.edge.last_word import LastWord, stream_end
from gateway.edge.output import ClientOutput, StreamHead, begun
from gateway.edge.services import Services, request_id
from gateway.edge.wanted import kind_of, protocol_for
from gateway.protocols.base import ClientProtocol
from gateway.streams.archive import Gone
from gateway.streams.collector import collector
from gateway.streams.cursor import read_cursor
from gateway.streams.reader import Reader
from gateway.streams.skipping import Skipping
from gateway.streams.sources import Source, tail_of
from gateway.streams.stream import State
from gateway.streams.view import make_view

HOLD = 5.0  # seconds a cursor may be ahead of a running stream before it is refused
_RETRY = b"retry: 3000\n\n"
_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def unknown_stream() -> BackendError:
    """The one answer to unknown, malformed and foreign ids."""
    return BackendError(
        ErrorCode.NOT_FOUND, "no stream with this id (it never was, has been forgotten, or is not yours)"
    )


def gone_answer(gone: Gone) -> web.Response:
    """410: what is left of a stream. `earliestSeq` null: none of its frames can be read any more."""
    code = ErrorCode.CURSOR_EXPIRED if gone.code == "cursor_expired" else ErrorCode.STREAM_EXPIRED
    text = "this stream has ended and is no longer kept" if gone.code != "cursor_expired" else _CUT
    body = {"error": {"code": code.wire, "message": text, "requestId": request_id()}}
    return answer({**body, "state": gone.state, "earliestSeq": None, "tailSeq": None}, 410)


def _tail_lost(seen: int) -> web.Response:
    """410, and not 204, at the end of what a lost node left: whether the client's last frame was the error that stands
    there, or one the node sent and did not copy any more, its number does not tell."""
    text = "the node of this stream was lost, and what it had not yet shared with it"
    body = {"error": {"code": ErrorCode.CURSOR_EXPIRED.wire, "message": text, "requestId": request_id()}}
    return answer({**body, "state": State.NODE_LOST.wire, "earliestSeq": 1, "tailSeq": seen}, 410)


_CUT = "the beginning of this stream is no longer kept (streams.transcript_cap)"


class Attach:
    """Handlers; errors are raised as BackendError."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._turns = services.turns

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
        output = ClientOutput(protocol.keepalive, services.config.streams)
        source.begun()
        view = make_view(source.driver, protocol, source.about)
        sse = protocol.framing == "sse"
        told = LastWord(output, lambda: stream_end(source, tail_of(source, protocol, services.pacer)))
        skipping = Skipping(
            told if control and sse else output, after, sse=sse, later=self._turns.later, envelope=envelope
        )
        reader = Reader(source.transcript, view, skipping, pacer, polite=protocol.family == "native")
        output.on_drain, skipping.on_drain = skipping.drained, _on_drain(reader, source)
        changed = asyncio.Event()
        skipping.changed = changed.set
        try:
            opening = view.start()
            if opening:
                skipping.write(opening)
            skipping.pause()
            source.attach(reader)
            await _settle(skipping, changed)
            if skipping.seen < after and source.state is not State.COMPLETED:
                skipping.recall()
            if skipping.ended is not None and skipping.empty:
                if source.state is State.NODE_LOST:
                    return _tail_lost(skipping.seen)
                return web.Response(status=204, headers=self._headers(request, _SAFE | _names(source)))
            head = self._head(request, source, protocol, extra or {})
            if not await begun(head, request):
                return head
            services.outputs.add(output)
            output.open(request)
            skipping.open()
            reader.flush()
            await reader.done
            return head
        finally:
            services.outputs.discard(output)
            source.detach(reader, "the client did not read" if output.stuck else "the client disconnected")

    def _check(self, source: Source, protocol: ClientProtocol, after: int, envelope: bool) -> None:
        if source.transcript.base:
            raise BackendError(ErrorCode.CURSOR_EXPIRED, _CUT)
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
        if found is None or isinstance(found, Gone):
            return web.Response(headers={**_SAFE, "X-Stream-State": state, "X-Stream-Resumable": "false"})
        query, accept = request.query, request.headers.get("Accept", "")
        chosen = protocol_for(self._services.protocols, found.identity.protocol, query.get("protocol", ""), accept)
        tail = tail_of(found, chosen, self._services.pacer) if kind_of(chosen) else None
        return web.Response(headers=_SAFE | _names(found) | ({} if tail is None else {"X-Stream-Tail": str(tail)}))

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


def _names(source: Source) -> dict[str, str]:
    stream_id = source.identity.id
    return {
        "X-Stream-Id": stream_id,
        "Location": f"/api/streaming/{stream_id}",
        "X-Stream-Resumable": "true",
        "X-Stream-State": source.state.wire,
    }


def _on_drain(reader: Reader, source: Source) -> Callable[[], None]:
    def drained() -> None:
        reader.flush()
        source.relieve()

    return drained
