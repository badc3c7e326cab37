"""The data plane: one request, one stream. Everything up to the head is decided here; bytes then flow past this file.

The head waits for the first frame (or a second), so that a backend which fails early still answers with its status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.access.keys import Caller
from gateway.edge.admission import Admitted, admit, caller_of
from gateway.edge.guards import check_target, cors_headers, read_body
from gateway.edge.output import ClientOutput, StreamHead
from gateway.edge.services import Services, request_id
from gateway.protocols.base import ClientProtocol, Refusal
from gateway.streams.collector import collector
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.stream import State
from gateway.streams.view import make_view

_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Chat:
    """Handlers of every chat-like path; `services` is this worker's."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def post(
        self, request: web.Request, protocol: ClientProtocol, extra: Mapping[str, str]
    ) -> web.StreamResponse:
        """A JSON body asks; `extra` are parameters of the path."""
        return await self._serve(request, protocol, extra, onboarding=False)

    async def get(self, request: web.Request, protocol: ClientProtocol, *, onboarding: bool) -> web.StreamResponse:
        """A browser's EventSource asks, by query."""
        return await self._serve(request, protocol, dict(request.query), onboarding=onboarding)

    async def _serve(
        self, request: web.Request, protocol: ClientProtocol, params: Mapping[str, str], *, onboarding: bool
    ) -> web.StreamResponse:
        services, owner = self._services, ""
        try:
            check_target(request, services.config.server.hosts)
            caller = caller_of(services, request)
            owner = caller.owner
            admitted = await self._admitted(request, protocol, params, caller, onboarding=onboarding)
        except BackendError as error:
            return self._refuse(request, protocol, error, owner)
        producer = self._open(admitted)
        if admitted.asked.stream:
            return await self._stream(request, protocol, admitted, producer)
        return await self._whole(request, protocol, admitted, producer)

    async def _admitted(
        self,
        request: web.Request,
        protocol: ClientProtocol,
        params: Mapping[str, str],
        caller: Caller,
        *,
        onboarding: bool,
    ) -> Admitted:
        if request.method == "GET" and "message" not in params:
            raise BackendError(ErrorCode.INVALID_REQUEST, "the query parameter `message` is required", param="message")
        body = b"{}" if request.method == "GET" else await read_body(request, self._services.config.server.max_body)
        asked = protocol.parse(body, params)
        return await admit(self._services, request, protocol, asked, caller, onboarding=onboarding)

    def _open(self, admitted: Admitted) -> Producer:
        """From here on the stream exists: no await between the lease and this."""
        services, identity = self._services, admitted.identity
        transport = services.transports[identity.backend]
        producer = services.hub.open(identity, admitted.plan, transport, services.loop.time())
        producer.scope = admitted.scope
        services.registry.opened(producer.stream.entry())
        services.metrics.started(identity)
        return producer

    # -- streaming -----------------------------------------------------------------------------------------------------

    async def _stream(
        self, request: web.Request, protocol: ClientProtocol, admitted: Admitted, producer: Producer
    ) -> web.StreamResponse:
        services = self._services
        output = ClientOutput(protocol.keepalive, services.config.streams)
        view = make_view(admitted.plan.driver, protocol, admitted.about)
        reader = Reader(producer.transcript, view, output, services.pacer, polite=protocol.family == "native")
        output.on_drain = _on_drain(reader, producer)
        producer.attach(reader)
        try:
            producer.start()
            await _first(reader, protocol.head_wait, services.loop)
            early = self._early_failure(producer, protocol)
            if early is not None:
                return self._refuse(request, protocol, early, admitted.identity.owner, admitted)
            head = self._head(request, protocol, admitted)
            await head.prepare(request)
            services.outputs.add(output)
            output.open(request)
            opening = view.start()
            if opening:  # an empty chunk would end the body
                output.write(opening)
            reader.flush()
            await reader.done
            return head
        finally:
            services.outputs.discard(output)
            producer.detach(reader, "the client did not read" if output.stuck else "the client disconnected")

    @staticmethod
    def _early_failure(producer: Producer, protocol: ClientProtocol) -> BackendError | None:
        """The error of a stream that ended before it said anything; such an ending still has a status to give."""
        stream = producer.stream
        if not stream.state.terminal or stream.tokens:
            return None
        if stream.error is None and stream.state is State.CANCELLED and protocol.family != "native":
            return BackendError(ErrorCode.CANCELLED, stream.reason)
        return stream.error

    def _head(self, request: web.Request, protocol: ClientProtocol, admitted: Admitted) -> StreamHead:
        headers = {
            **_SAFE,
            "Content-Type": protocol.content_type,
            "X-Accel-Buffering": "no",
            **_names(admitted),
            **cors_headers(self._services.config.server.cors, request.headers),
        }
        return StreamHead(status=200, headers=headers)

    # -- whole answers -------------------------------------------------------------------------------------------------

    async def _whole(
        self, request: web.Request, protocol: ClientProtocol, admitted: Admitted, producer: Producer
    ) -> web.StreamResponse:
        reader, view = collector(producer.transcript, admitted.plan.driver.decoder(), self._services.loop)
        producer.attach(reader)
        try:
            producer.start()
            await reader.done
        finally:
            producer.detach(reader)
        ending = view.ending or producer.ending()
        error = ending.error
        if error is None and producer.stream.state is not State.COMPLETED and protocol.family != "native":
            error = BackendError(ErrorCode.CANCELLED, producer.stream.reason)
        if error is not None:
            return self._refuse(request, protocol, error, admitted.identity.owner, admitted)
        body = protocol.whole(admitted.about, view.folding.answer(), ending)
        headers = {**_SAFE, **_names(admitted), **cors_headers(self._services.config.server.cors, request.headers)}
        return web.Response(body=body, headers=headers, content_type="application/json")

    # -- refusals ------------------------------------------------------------------------------------------------------

    def _refuse(
        self,
        request: web.Request,
        protocol: ClientProtocol,
        error: BackendError,
        owner: str,
        admitted: Admitted | None = None,
    ) -> web.Response:
        name = request_id()
        refusal = protocol.failure(error, name)
        services = self._services
        services.metrics.refused(error.code.wire)
        services.access_log.refused(
            code=error.code.wire,
            status=refusal.status,
            method=request.method,
            path=request.path,
            owner=owner,
            request_id=name,
        )
        extra = _names(admitted) if admitted else {}
        return refusal_response(refusal, name, {**cors_headers(services.config.server.cors, request.headers), **extra})


def refusal_response(refusal: Refusal, name: str, extra: Mapping[str, str]) -> web.Response:
    """A Refusal as an HTTP answer."""
    headers = {**_SAFE, **dict(refusal.headers), **extra, "X-Request-Id": name, "Content-Type": refusal.content_type}
    return web.Response(status=refusal.status, body=refusal.body, headers=headers)


def _names(admitted: Admitted) -> dict[str, str]:
    stream_id = admitted.identity.id
    return {
        "X-Stream-Id": stream_id,
        "Location": f"/api/streaming/{stream_id}",
        "X-Stream-Resumable": "true" if admitted.identity.resumable else "false",
    }


def _on_drain(reader: Reader, producer: Producer) -> Callable[[], None]:
    def drained() -> None:
        reader.flush()
        producer.relieve()

    return drained


async def _first(reader: Reader, wait: float, loop: asyncio.AbstractEventLoop) -> None:
    timer = loop.call_later(wait, reader.wake)
    try:
        await reader.ready
    finally:
        timer.cancel()
