"""Google's paths, under `/v1`, `/v1beta` and `/v1alpha`: generate, count, embed and list (source: its API reference).

Law: the query tells how a stream is framed: `alt=sse`, else one JSON array. A count is the backend's own wherever it
can count; an estimate says so by `X-Headgate-Estimated: true`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.fit import fit
from backends.contract.request import ChatRequest
from gateway.edge.admission import caller_of
from gateway.edge.anthropic_api import estimate
from gateway.edge.asides import Call, counted, decided
from gateway.edge.chat import Chat
from gateway.edge.embeddings import embed
from gateway.edge.families import prefix_of
from gateway.edge.guards import read_body
from gateway.edge.health_handlers import answer
from gateway.edge.models_api import google_model, visible
from gateway.edge.services import Services
from gateway.protocols.google_request import read_request
from gateway.protocols.google_turns import camelled, inner, texts_of
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.routing.models import ModelList
from gateway.routing.policies import Candidate


def routes(services: Services, chat: Chat, models: ModelList) -> list[web.RouteDef]:
    """The paths of the family, its prefix included; none when it is switched off. `GET /v1/models`
    is shared with others and routed by `models_api`."""
    if "google" not in services.protocols:
        return []
    api = GoogleApi(services, chat, models)
    prefix = prefix_of(services.config.server.prefixes, "google")
    model = prefix + "/{version:v1|v1beta|v1alpha}/models/{model:.+}"
    listing = prefix + "/{version:v1beta|v1alpha}/models"
    return [
        web.post(model + ":{call:generateContent|streamGenerateContent}", api.generate),
        web.post(model + ":countTokens", api.count),
        web.post(model + ":embedContent", api.embed_one),
        web.post(model + ":batchEmbedContents", api.embed_many),
        web.get(listing, api.listing),
        web.get(listing + "/{model:.+}", api.one),
    ]


class GoogleApi:
    """Handlers; errors are raised as BackendError and rendered by the middleware in Google's words."""

    def __init__(self, services: Services, chat: Chat, models: ModelList) -> None:
        self._services = services
        self._chat = chat
        self._models = models

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Whole or streamed, by the path."""
        info = request.match_info
        array = info["call"] == "streamGenerateContent" and request.query.get("alt") != "sse"
        protocol = self._services.protocols["google_array" if array else "google"]
        return await self._chat.post(request, protocol, {"model": info["model"], "call": info["call"]})

    async def count(self, request: web.Request) -> web.Response:
        """Tokens of a prompt, without an answer."""
        services = self._services
        caller = caller_of(services, request)
        body = camelled(decode_object(await read_body(request, services.config.server.max_body)))
        wrapped = body.object("generateContentRequest")
        said = body.data if wrapped is None else wrapped
        wanted = read_request(said, _model(request))
        decision = decided(services, caller, wanted, request.headers)

        def call(candidate: Candidate) -> Call:
            driver = services.drivers[candidate.backend]
            return driver, _call(driver, replace(wanted, model=candidate.model), said)

        found = await counted(services, decision, call)
        if found is None:
            return answer({"totalTokens": estimate(wanted)}, extra={"X-Headgate-Estimated": "true"})
        return answer({"totalTokens": found})

    async def embed_one(self, request: web.Request) -> web.Response:
        """`:embedContent`: one content, one vector."""
        body = await self._body(request)
        vectors, dropped = await self._embed(request, [(body, "")])
        return answer({"embedding": {"values": vectors[0]}}, extra=dropped)

    async def embed_many(self, request: web.Request) -> web.Response:
        """`:batchEmbedContents`: a vector for each of `requests`."""
        body = await self._body(request)
        items = [(camelled(item, path), path) for path, item in body.items("requests")]
        if not items:
            raise invalid("requests", "an array of at least one request")
        vectors, dropped = await self._embed(request, items)
        return answer({"embeddings": [{"values": vector} for vector in vectors]}, extra=dropped)

    async def _embed(
        self, request: web.Request, items: list[tuple[Fields, str]]
    ) -> tuple[list[list[float]], dict[str, str]]:
        """Vectors, and a header that names what was left out."""
        caller = caller_of(self._services, request)
        body: dict[str, Any] = {"input": [texts_of(inner(fields, "content")) for fields, _ in items]}
        size = items[0][0].integer("outputDimensionality", low=1)
        if size is not None:
            body["dimensions"] = size
        vectors, _usage, _choice = await embed(self._services, caller, body, _model(request), request.headers)
        left = sorted({name for fields, _ in items for name in ("taskType", "title") if fields.data.get(name)})
        return vectors, {"X-Headgate-Dropped": ", ".join(left)} if left else {}

    async def _body(self, request: web.Request) -> Fields:
        caller_of(self._services, request)  # before a stranger's megabytes are read
        return camelled(decode_object(await read_body(request, self._services.config.server.max_body)))

    async def listing(self, request: web.Request) -> web.Response:
        """All models the caller may use, on one page."""
        return answer({"models": [google_model(name) for name in await self._known(request)]})

    async def one(self, request: web.Request) -> web.Response:
        """One of them."""
        name = _model(request)
        if name not in await self._known(request):
            raise BackendError(ErrorCode.UNKNOWN_MODEL, f"no model {name[:100]!r} here", param="model")
        return answer(google_model(name))

    async def _known(self, request: web.Request) -> dict[str, str]:
        caller = caller_of(self._services, request)
        return visible(caller, await self._models.get())


def _model(request: web.Request) -> str:
    return request.match_info["model"].removeprefix("models/")


def _call(driver: Driver, wanted: ChatRequest, said: dict[str, Any]) -> HttpRequest | None:
    """The call that counts; Google itself gets the client's own words, the known and the unknown ones."""
    if driver.dialect != "google":
        fitting, _dropped = fit(wanted, driver.expresses, driver.name, driver.dialect)
        return driver.count(fitting)
    call = driver.count(wanted)
    body = {"generateContentRequest": {**said, "model": "models/" + wanted.model.removeprefix("models/")}}
    return replace(call, body=msgspec.json.encode(body)) if call is not None else None
