"""The public listener: which path is whose. Data-plane paths are looked up in a plain table before aiohttp's router.

Every answer outside a protocol is native JSON. Middlewares guard and translate errors; handlers just raise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from backends.contract.errors import BackendError, ErrorCode
from gateway.edge.admission import caller_of
from gateway.edge.chat import Chat, refusal_response
from gateway.edge.connection import PublicServer, Refuse
from gateway.edge.guards import check_target, cors_headers, preflight
from gateway.edge.health_handlers import answer
from gateway.edge.health_handlers import routes as health_routes
from gateway.edge.page import page_response
from gateway.edge.services import Services, request_id
from gateway.edge.streams_api import stream_routes
from gateway.observe.health import Health
from gateway.protocols.base import ClientProtocol
from gateway.routing.models import ModelList

_Post = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NOTHING: Mapping[str, str] = {}


class PublicRunner(web.AppRunner):
    """An AppRunner whose server asks a table first and the application for everything else."""

    __slots__ = ("_refuse", "_table")

    def __init__(
        self, app: web.Application, table: Mapping[tuple[str, str], _Post], refuse: Refuse, **kwargs: object
    ) -> None:
        super().__init__(app, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        self._table = table
        self._refuse = refuse

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        table, ordinary = self._table, server.request_handler

        def dispatch(request: web.Request) -> Awaitable[web.StreamResponse]:
            handler = table.get((request.method, request.raw_path))
            return handler(request) if handler is not None else ordinary(request)

        return PublicServer(server, dispatch, self._refuse)


def public_runner(services: Services, health: Health, models: ModelList) -> PublicRunner:
    """The listener, ready for `setup`."""
    config = services.config.server
    chat = Chat(services)
    app = web.Application(middlewares=[_translate(services)], client_max_size=config.max_body)
    app.add_routes(health_routes(health))
    app.add_routes(stream_routes(services))
    app.add_routes(_chat_routes(services, chat))
    if "openai" in config.protocols:
        app.add_routes(_model_routes(services, models))
    if config.page and not services.config.apps:
        app.add_routes([web.get("/", _page)])
    return PublicRunner(
        app,
        _table(services.protocols, chat),
        partial(_refused, services),
        handle_signals=False,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=75,
        auto_decompress=False,
        max_line_size=8190,
        max_field_size=8190,
        shutdown_timeout=2.0,
    )


def _table(protocols: Mapping[str, ClientProtocol], chat: Chat) -> dict[tuple[str, str], _Post]:
    """Raw targets of the hot POSTs; anything else (a query, an alias) goes the ordinary road to the same handler."""
    paths = {"native": ("/api/streaming/chat", "/api/streaming/generate"), "openai": ("/v1/chat/completions",)}
    found: dict[tuple[str, str], _Post] = {}
    for name, targets in paths.items():
        protocol = protocols.get(name)
        for target in targets if protocol is not None else ():
            found["POST", target] = _poster(chat, protocol)  # type: ignore[arg-type]  # not None here
    return found


def _poster(chat: Chat, protocol: ClientProtocol) -> _Post:
    async def post(request: web.Request) -> web.StreamResponse:
        return await chat.post(request, protocol, _NOTHING)

    return post


def _chat_routes(services: Services, chat: Chat) -> list[web.RouteDef]:
    protocols = services.protocols
    found = [web.post(target, handler) for (_, target), handler in _table(protocols, chat).items()]
    if "native" in protocols:
        native, ndjson = protocols["native"], protocols["ndjson"]

        async def event_source(request: web.Request) -> web.StreamResponse:
            return await chat.get(request, native, onboarding=request.path.endswith("/onboarding-stream"))

        async def conversation(request: web.Request) -> web.StreamResponse:
            protocol = native if "text/event-stream" in request.headers.get("Accept", "") else ndjson
            return await chat.post(request, protocol, {"conversation_id": request.match_info["id"]})

        found += [
            web.get("/api/v1/chat/stream", event_source, allow_head=False),
            web.get("/api/v1/chat/onboarding-stream", event_source, allow_head=False),
            web.post("/api/v1/conversations/{id}/stream", conversation),
        ]
    return found


def _model_routes(services: Services, models: ModelList) -> list[web.RouteDef]:
    def row(name: str, backend: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": 0, "owned_by": backend}

    async def listing(request: web.Request) -> web.Response:
        caller_of(services, request)
        return answer({"object": "list", "data": [row(*item) for item in (await models.get()).items()]})

    async def one(request: web.Request) -> web.Response:
        caller_of(services, request)
        name = request.match_info["model"]
        known = await models.get()
        if name not in known:
            raise BackendError(ErrorCode.UNKNOWN_MODEL, f"no model {name[:100]!r} here", param="model")
        return answer(row(name, known[name]))

    return [web.get("/v1/models", listing), web.get("/v1/models/{model:.+}", one)]


async def _page(_request: web.Request) -> web.Response:
    return page_response()


def _translate(services: Services) -> Middleware:
    """Guard every ordinary request and turn errors into the caller's words."""

    @web.middleware
    async def translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        cors = services.config.server.cors
        try:
            check_target(request, services.config.server.hosts)
            if request.method == "OPTIONS":
                return preflight(cors, request.headers)
            response = await handler(request)
            if not response.prepared:
                response.headers.update(cors_headers(cors, request.headers))
            return response
        except BackendError as error:
            return _refused(services, request, error)
        except web.HTTPException as error:
            return _refused(services, request, _of_http(request, error))

    return translate


def _of_http(request: web.Request, error: web.HTTPException) -> BackendError:
    if error.status == 405:
        return BackendError(ErrorCode.METHOD_NOT_ALLOWED, f"{request.method} is not allowed on this path")
    if error.status == 413:
        return BackendError(ErrorCode.TOO_LARGE, "the request body is too large")
    if error.status == 404:
        return BackendError(ErrorCode.NOT_FOUND, "nothing is served at this path")
    return BackendError(ErrorCode.INVALID_REQUEST, error.reason)


def _refused(services: Services, request: web.BaseRequest, error: BackendError) -> web.Response:
    """In OpenAI's shape below /v1/ (but for our own aliases), else in the native one."""
    path = request.raw_path
    openai = services.protocols.get("openai")
    speaks_openai = openai is not None and path.startswith("/v1/") and not path.startswith("/v1/streams")
    protocol = openai if speaks_openai else services.protocols.get("native") or openai
    name = request_id()
    services.metrics.refused(error.code.wire)
    extra = cors_headers(services.config.server.cors, request.headers)
    if protocol is None:
        body = {"error": {"code": error.code.wire, "message": error.message, "requestId": name}}
        return answer(body, error.code.status, extra)
    return refusal_response(protocol.failure(error, name), name, extra)
