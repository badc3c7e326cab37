"""The public listener: which path is whose. Data-plane paths are looked up in a plain table before aiohttp's router.

An error that no handler answers (404, 405, malformed HTTP) is said in the words of the family its path belongs to, see
`families`; handlers just raise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Cors, Server
from gateway.access.limits import limit_header, limit_of
from gateway.edge.anthropic_api import routes as count_routes
from gateway.edge.chat import Chat
from gateway.edge.clients import client_routes
from gateway.edge.connection import MAX_HEADERS, MAX_LINE, Refuse
from gateway.edge.durable_views import durable_routes
from gateway.edge.embeddings import routes as embedding_routes
from gateway.edge.families import NATIVE, family_of, prefix_of
from gateway.edge.google_api import routes as google_routes
from gateway.edge.guards import check_page, check_target, cors_headers, expecting, preflight
from gateway.edge.health_handlers import answer
from gateway.edge.health_handlers import routes as health_routes
from gateway.edge.models_api import routes as model_routes
from gateway.edge.ollama_api import routes as ollama_routes
from gateway.edge.page import page_routes
from gateway.edge.peers import PublicServer
from gateway.edge.refusals import refusal_response
from gateway.edge.responses_api import response_routes
from gateway.edge.services import Services, request_id
from gateway.edge.streams_api import stream_routes
from gateway.edge.wanted import accepted
from gateway.observe.health import Health
from gateway.protocols.base import ClientProtocol
from gateway.protocols.errors import native_error
from gateway.routing.models import ModelList

_Post = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NOTHING: Mapping[str, str] = {}


class PublicRunner(web.AppRunner):
    """An AppRunner whose server asks a table first and the application for everything else."""

    __slots__ = ("_limits", "_refuse", "_screen", "_table")

    def __init__(
        self,
        app: web.Application,
        table: Mapping[tuple[str, str], _Post],
        screen: Callable[[web.BaseRequest], None],
        refuse: Refuse,
        limits: Server,
        **kwargs: object,
    ) -> None:
        super().__init__(app, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        self._table = table
        self._screen = screen
        self._refuse = refuse
        self._limits = limits

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        table, ordinary = self._table, server.request_handler

        def dispatch(request: web.Request) -> Awaitable[web.StreamResponse]:
            try:
                self._screen(request)
            except BackendError as error:
                return _last(self._refuse(request, error))
            if "Expect" in request.headers or "Transfer-Encoding" in request.headers:
                return expecting(request, ordinary, self._refuse, self._limits.max_body)
            handler = table.get((request.method, request.raw_path))
            return handler(request) if handler is not None else ordinary(request)

        return PublicServer(server, dispatch, self._refuse, self._limits)

    @property
    def busy(self) -> bool:
        """Whether anybody is connected."""
        return isinstance(self.server, PublicServer) and bool(self.server.connections)

    def closing(self) -> None:
        """From now on each answer that begins is the last one of its connection."""
        if isinstance(self.server, PublicServer):
            self.server.closing = True


async def _last(answer: web.Response) -> web.StreamResponse:
    """An answer to a request whose body nobody reads."""
    answer.force_close()
    return answer


def public_runner(services: Services, health: Health, models: ModelList) -> PublicRunner:
    """The listener, ready for `setup`."""
    config = services.config.server
    chat = Chat(services)
    app = web.Application(middlewares=[_translate(services)], client_max_size=config.max_body)
    app.add_routes(health_routes(health))
    app.add_routes(stream_routes(services))
    app.add_routes(_chat_routes(services, chat))
    app.add_routes(_family_routes(services, chat, models))
    if config.durable_streams:
        app.add_routes(durable_routes(services))
    if config.page and not services.config.apps:
        app.add_routes(page_routes() + client_routes())
    return PublicRunner(
        app,
        _table(services, chat),
        partial(_screen, services),
        partial(_refused, services),
        config,
        handle_signals=False,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=75,
        auto_decompress=False,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        shutdown_timeout=2.0,
    )


def _family_routes(services: Services, chat: Chat, models: ModelList) -> list[web.RouteDef]:
    """What the families served have besides their chat; each adds its own prefix."""
    found = model_routes(services, models) + count_routes(services) + embedding_routes(services)
    found += google_routes(services, chat, models) + ollama_routes(services, chat, models)
    if "openai_responses" in services.protocols:
        found += response_routes(services, prefix_of(services.config.server.prefixes, "openai"))
    return found


def _table(services: Services, chat: Chat) -> dict[tuple[str, str], _Post]:
    """Raw targets of the hot POSTs; anything else (a query, a variable in the path) goes the ordinary road to the same
    handler."""
    return {("POST", path): post for path, post in _posts(services, chat) if "{" not in path}


def _posts(services: Services, chat: Chat) -> Iterator[tuple[str, _Post]]:
    for protocol in services.protocols.values():
        for path in protocol.paths:
            yield prefix_of(services.config.server.prefixes, protocol.family) + path, _poster(chat, protocol)


def _poster(chat: Chat, protocol: ClientProtocol) -> _Post:
    async def post(request: web.Request) -> web.StreamResponse:
        return await chat.post(request, protocol, _NOTHING)

    async def post_with_variables(request: web.Request) -> web.StreamResponse:
        return await chat.post(request, protocol, {**request.query, **request.match_info})

    return post_with_variables if any("{" in path for path in protocol.paths) else post


def _chat_routes(services: Services, chat: Chat) -> list[web.RouteDef]:
    protocols = services.protocols
    found = [web.post(path, post) for path, post in _posts(services, chat)]
    if "native" in protocols:
        at = prefix_of(services.config.server.prefixes, NATIVE) + "/api/v1"

        async def event_source(request: web.Request) -> web.StreamResponse:
            _screen(services, request, starts=True)
            return await chat.get(request, protocols["native"], onboarding=request.path.endswith("/onboarding-stream"))

        async def conversation(request: web.Request) -> web.StreamResponse:
            kind = "native" if accepted(request.headers.get("Accept", "")) == "sse" else "ndjson"
            return await chat.post(request, protocols[kind], {"conversation_id": request.match_info["id"]})

        found += [
            web.get(at + "/chat/stream", event_source, allow_head=False),
            web.get(at + "/chat/onboarding-stream", event_source, allow_head=False),
            web.post(at + "/conversations/{id}/stream", conversation),
        ]
    return found


def _screen(services: Services, request: web.BaseRequest, *, starts: bool = False) -> None:
    """Raises FORBIDDEN for what a page may not ask. A page has no key: where one is asked for, nothing is looked at."""
    if services.keyring.empty:
        check_page(request, services.config.server, starts=starts)


def _translate(services: Services) -> Middleware:
    """Guard every ordinary request and turn errors into the caller's words."""

    @web.middleware
    async def translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        cors = services.config.server.cors
        try:
            check_target(request, services.config.server.hosts)
            if request.method == "OPTIONS":
                return _options(cors, request)
            response = await handler(request)
            if not response.prepared:
                response.headers.update(cors_headers(cors, request.headers))
            return response
        except BackendError as error:
            return _refused(services, request, error)
        except web.HTTPException as error:
            response = _refused(services, request, _of_http(request, error))
            if "Allow" in error.headers:  # a 405 must say what is (RFC 9110, 15.5.6)
                response.headers["Allow"] = error.headers["Allow"]
            return response

    return translate


def _options(cors: Cors, request: web.Request) -> web.Response:
    """A browser's preflight, or the question which methods a path has. Raises FORBIDDEN, and 404 as aiohttp does."""
    if "Origin" in request.headers:
        return preflight(cors, request.headers)
    no = request.match_info.http_exception
    if no is not None and no.status == 404:
        raise no
    allowed = {*filter(None, no.headers.get("Allow", "").split(",") if no else ()), "OPTIONS"}
    return web.Response(status=204, headers={"Allow": ", ".join(sorted(allowed))})


def _of_http(request: web.Request, error: web.HTTPException) -> BackendError:
    if error.status == 405:
        return BackendError(ErrorCode.METHOD_NOT_ALLOWED, f"{request.method} is not allowed on this path")
    if error.status == 413:
        return BackendError(ErrorCode.TOO_LARGE, "the request body is too large")
    if error.status == 404:
        return BackendError(ErrorCode.NOT_FOUND, "nothing is served at this path")
    return BackendError(ErrorCode.INVALID_REQUEST, error.reason)


def _refused(services: Services, request: web.BaseRequest, error: BackendError) -> web.Response:
    """In the words of the family the request belongs to, natively where that is not served."""
    family = family_of(request.raw_path, request.headers, services.config.server.prefixes)
    protocol = _speaker(services, family) or _speaker(services, NATIVE)
    name = request_id()
    services.metrics.refused(error.code.wire, limit_of(error))
    extra = cors_headers(services.config.server.cors, request.headers) | limit_header(error)
    if protocol is None:
        return answer(native_error(error, name), error.code.status, {**extra, "X-Request-Id": name})
    return refusal_response(protocol.failure(error, name), name, extra)


def _speaker(services: Services, family: str) -> ClientProtocol | None:
    """The protocol whose errors stand for a family's: the one of its name, or its first."""
    own = services.protocols.get(family)
    return own or next((p for p in services.protocols.values() if p.family == family), None)
