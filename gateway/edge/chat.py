"""The data plane: one request, one stream. Everything up to the head is decided here; bytes then flow past this file.

The head waits for the first frame (or a second), so that a backend which fails early still answers with its status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from gateway.access.keys import Caller
from gateway.access.limits import limit_header, limit_of
from gateway.edge.admission import Admitted, admit, caller_of, give_back
from gateway.edge.guards import check_target, cors_headers, read_body
from gateway.edge.output import ClientOutput, StreamHead, begun
from gateway.edge.passed import beside, passed_on
from gateway.edge.patience import Patience
from gateway.edge.refusals import SAFE, refusal_response
from gateway.edge.response_names import tell
from gateway.edge.response_turns import continued
from gateway.edge.returning import Held, Returns
from gateway.edge.services import Services, request_id
from gateway.edge.surviving import will_of
from gateway.protocols.base import ClientProtocol
from gateway.streams.collector import collector
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.sources import Source
from gateway.streams.stream import State
from gateway.streams.views import about_of, make_view


class Chat:
    """Handlers of every chat-like path; `services` is this worker's."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._returns = Returns(services)
        self._waits: dict[float, Patience] = {}

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
        admitted: Admitted | None = None
        known: Source | Held | None = None
        try:
            check_target(request, services.config.server.hosts)
            services.pacer.hurry()
            caller = caller_of(services, request)
            owner = caller.owner
            known = await self._returns.look(request, protocol, params, owner)
            if known is not None and not isinstance(known, Held):
                return await self._returns.answer(request, protocol, params, known)
            admitted = await self._admitted(request, protocol, params, caller, onboarding=onboarding)
        except BackendError as error:
            return self._returns.later(request, error) or self._refuse(request, protocol, error, owner)
        finally:
            if isinstance(known, Held):
                known.settle(admitted.identity.id if admitted else "")
        producer = self._open(admitted, request, protocol)
        if admitted.asked.stream:
            return await self._stream(request, protocol, admitted, producer)
        if admitted.asked.background:
            return self._pending(request, protocol, admitted, producer)
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
        asked = await continued(self._services, protocol.parse(body, params), caller.owner)
        return await admit(self._services, request, protocol, asked, caller, onboarding=onboarding)

    def _open(self, admitted: Admitted, request: web.Request, protocol: ClientProtocol) -> Producer:
        """From here on the stream exists: no await between the lease and this."""
        services, identity = self._services, admitted.identity
        plan = admitted.plan
        if identity.survives:
            plan = replace(plan, will=will_of(services, request.headers, protocol, admitted.asked, identity, plan))
        producer = services.hub.open(identity, plan, admitted.transport, services.loop.time())
        if identity.survives:
            services.sharing.ahead(producer, services.pacer)
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
        pacer = services.pacers.of(admitted.mode)
        reader = Reader(producer.shown, view, output, pacer, polite=protocol.family == "native")
        reader.wired = output
        output.on_drain = _on_drain(reader, producer)
        producer.attach(reader)
        try:
            producer.start()
            await self._patience(protocol.head_wait).until(reader.ready)
            early = self._early_failure(producer, protocol)
            if early is not None:
                await give_back(services, request, admitted.identity)
                return self._refuse(request, protocol, early, admitted.identity.owner, admitted, producer)
            head = self._head(request, protocol, admitted, producer)
            head.together = producer.heard = True
            if not await begun(head, request):
                return head
            tell(services, protocol, producer)
            services.outputs.add(output)
            output.open(request, head.unsent)
            output.gather()
            view = reader.view = producer.open_view(protocol, view, admitted.about)
            opening = view.start()
            if opening:  # an empty chunk would end the body
                output.write(opening)
            reader.flush()
            output.release()
            await reader.done
            return head
        finally:
            services.outputs.discard(output)
            output.leave()
            tell(services, protocol, producer)
            producer.detach(reader, "the client did not read" if output.stuck else "the client disconnected")

    def _patience(self, seconds: float) -> Patience:
        """How long the heads of a protocol's answers wait for their first frame."""
        found = self._waits.get(seconds)
        if found is None:
            found = self._waits[seconds] = Patience(self._services.loop, seconds)
        return found

    @staticmethod
    def _early_failure(producer: Producer, protocol: ClientProtocol) -> BackendError | None:
        """The error of a stream that ended before it said anything; such an ending still has a status to give."""
        stream = producer.stream
        if not stream.state.terminal or stream.tokens:
            return None
        if stream.error is None and stream.state is State.CANCELLED and protocol.family != "native":
            return BackendError(ErrorCode.CANCELLED, stream.reason)
        return stream.error

    def _head(
        self, request: web.Request, protocol: ClientProtocol, admitted: Admitted, producer: Producer
    ) -> StreamHead:
        headers = {
            **passed_on(producer.upstream_headers),
            **SAFE,
            "Content-Type": protocol.content_type,
            "X-Accel-Buffering": "no",
            **_names(admitted),
            **_degraded(producer),
            **cors_headers(self._services.config.server.cors, request.headers),
        }
        return StreamHead(status=200, headers=headers)

    # -- whole answers -------------------------------------------------------------------------------------------------

    async def _whole(
        self, request: web.Request, protocol: ClientProtocol, admitted: Admitted, producer: Producer
    ) -> web.StreamResponse:
        reader, view = collector(producer.shown, protocol, admitted.about, self._services.loop)
        producer.attach(reader)
        try:
            producer.start()
            await reader.done
        finally:
            producer.detach(reader)
        ending = view.ending or producer.ending()
        error = ending.error
        cut = producer.stream.state is not State.COMPLETED and not ending.partial
        if error is None and cut and protocol.family != "native":
            error = BackendError(ErrorCode.CANCELLED, producer.stream.reason)
        if reader.fault:
            error = BackendError(ErrorCode.INTERNAL, "the gateway failed; its log says more")
        if error is not None:
            await give_back(self._services, request, admitted.identity)
            return self._refuse(request, protocol, error, admitted.identity.owner, admitted, producer)
        tell(self._services, protocol, producer)
        about = about_of(
            producer.stream.identity, include_usage=admitted.about.include_usage, dialect=producer.driver.dialect
        )
        body = view.body(about, ending)
        headers = {
            **passed_on(producer.upstream_headers),
            **SAFE,
            **_names(admitted),
            **_degraded(producer),
            **cors_headers(self._services.config.server.cors, request.headers),
        }
        return web.Response(body=body, headers=headers, content_type="application/json")

    def _pending(
        self, request: web.Request, protocol: ClientProtocol, admitted: Admitted, producer: Producer
    ) -> web.Response:
        """The client comes back for the answer: the stream runs without a reader."""
        producer.heard = True
        producer.start()
        headers = {**SAFE, **_names(admitted), **cors_headers(self._services.config.server.cors, request.headers)}
        return web.Response(body=protocol.pending(admitted.about), headers=headers, content_type="application/json")

    # -- refusals ------------------------------------------------------------------------------------------------------

    def _refuse(
        self,
        request: web.Request,
        protocol: ClientProtocol,
        error: BackendError,
        owner: str,
        admitted: Admitted | None = None,
        producer: Producer | None = None,
    ) -> web.Response:
        name = request_id()
        refusal = protocol.failure(error, name)
        services = self._services
        services.metrics.refused(error.code.wire, limit_of(error))
        services.access_log.refused(
            code=error.code.wire,
            status=refusal.status,
            method=request.method,
            path=request.path,
            owner=owner,
            request_id=name,
        )
        extra = _names(admitted) if admitted else {}
        extra |= limit_header(error)
        if producer is not None:
            extra |= beside(refusal.headers, passed_on(producer.upstream_headers))
        return refusal_response(refusal, name, {**cors_headers(services.config.server.cors, request.headers), **extra})


def _names(admitted: Admitted) -> dict[str, str]:
    stream_id = admitted.identity.id
    return {
        "X-Stream-Id": stream_id,
        "Location": f"/api/streaming/{stream_id}",
        "X-Stream-Resumable": "true" if admitted.identity.resumable else "false",
        **({"X-Headgate-Dropped": ", ".join(admitted.plan.dropped)[:1000]} if admitted.plan.dropped else {}),
    }


def _degraded(producer: Producer) -> dict[str, str]:
    return {"X-Headgate-Degraded": producer.stream.degraded} if producer.stream.degraded else {}


def _on_drain(reader: Reader, producer: Producer) -> Callable[[], None]:
    def drained() -> None:
        reader.flush()
        producer.relieve()

    return drained
