"""Ollama's paths: chat and generate, embeddings, and its list of models (source: its API document).

Law: what is not known is empty or absent, never made up; a backend that is an Ollama server is asked for what it knows.
A request without a prompt loads or unloads a model: it goes to a real Ollama server, and is nothing to others.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from gateway.access.keys import Caller, may_use
from gateway.edge.admission import caller_of
from gateway.edge.chat import Chat
from gateway.edge.embeddings import embed
from gateway.edge.families import prefix_of
from gateway.edge.guards import read_body
from gateway.edge.health_handlers import answer
from gateway.edge.ollama_models import OllamaModels
from gateway.edge.services import Services
from gateway.protocols.base import Asked, ClientProtocol
from gateway.protocols.ollama_lines import moment, spoken
from gateway.protocols.ollama_request import unloads
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.routing.models import ModelList

_SAYS = {"ollama": re.compile(rb'"role"\s*:'), "ollama_generate": re.compile(rb'"prompt"\s*:\s*"[^"]')}
_MANAGED = ("pull", "push", "create", "copy")  # what changes the models of a server


def routes(services: Services, chat: Chat, models: ModelList) -> list[web.RouteDef]:
    """The paths of the family, its prefix included; none when it is switched off."""
    if "ollama" not in services.protocols:
        return []
    api, listed = OllamaApi(services, chat), OllamaModels(services, models)
    prefix = prefix_of(services.config.server.prefixes, "ollama")
    at = prefix + "/api"
    # Its command line asks at the root whether it runs; without a prefix the root is the page's or the app's.
    root = [web.get(prefix, _running), web.get(prefix + "/", _running)] if prefix else []
    return [
        *root,
        web.post(at + "/chat", api.chat),
        web.post(at + "/generate", api.generate),
        web.post(at + "/embed", api.embed),
        web.post(at + "/embeddings", api.embeddings),
        web.get(at + "/tags", listed.tags),
        web.post(at + "/show", listed.show),
        web.get(at + "/ps", listed.ps),
        web.get(at + "/version", listed.version),
        *(web.post(f"{at}/{name}", _managed) for name in _MANAGED),
        web.delete(at + "/delete", _managed),
        web.route("*", at + "/blobs/{digest}", _managed),
    ]


async def _running(_request: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


async def _managed(_request: web.Request) -> web.Response:
    text = "this gateway does not manage models: ask the Ollama server itself"
    return answer({"error": text}, 501)


class OllamaApi:
    """Handlers; errors are raised as BackendError and rendered by the middleware in Ollama's words."""

    def __init__(self, services: Services, chat: Chat) -> None:
        self._services = services
        self._chat = chat

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`/api/chat`."""
        return await self._talk(request, self._services.protocols["ollama"])

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """`/api/generate`."""
        return await self._talk(request, self._services.protocols["ollama_generate"])

    async def _talk(self, request: web.Request, protocol: ClientProtocol) -> web.StreamResponse:
        caller_of(self._services, request)  # before a stranger's megabytes are read
        body = await read_body(request, self._services.config.server.max_body)
        if not _SAYS[protocol.name].search(body):
            asked = protocol.parse(body, {})
            if not asked.request.messages and not self._is_native(asked.request.model, protocol):
                return self._loaded(caller_of(self._services, request), asked, protocol)
        return await self._chat.post(request, protocol, {})

    def _is_native(self, model: str, protocol: ClientProtocol) -> bool:
        """Whether a backend behind the model's route speaks this very API."""
        targets = self._services.router.choose(model).route.to
        return any(self._services.drivers[t.backend].speaking(protocol.dialect) is not None for t in targets)

    def _loaded(self, caller: Caller, asked: Asked, protocol: ClientProtocol) -> web.Response:
        """An empty answer: other backends have no models to load."""
        may_use(caller, asked.request.model)
        said = {
            "model": asked.request.model,
            "created_at": moment(self._services.now_ms()),
            **spoken("", chat=protocol.name == "ollama"),
            "done": True,
            "done_reason": "unload" if unloads(asked.body) else "load",
        }
        if not asked.stream:
            return answer(said)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=msgspec.json.encode(said) + b"\n", headers=headers, content_type=protocol.content_type)

    async def embed(self, request: web.Request) -> web.Response:
        """`/api/embed`: vectors for a text or several."""
        fields = await self._fields(request)
        model, said = fields.text("model"), fields.data.get("input")
        if not isinstance(said, str | list):
            raise invalid("input", "a string or an array of strings")
        vectors, prompt = await self._vectors(request, fields, [said] if isinstance(said, str) else said)
        counted = {"prompt_eval_count": prompt} if prompt else {}
        return answer({"model": model, "embeddings": vectors, **counted})

    async def embeddings(self, request: web.Request) -> web.Response:
        """`/api/embeddings`, the older form: one vector for one prompt."""
        fields = await self._fields(request)
        vectors, _prompt = await self._vectors(request, fields, [fields.text("prompt")])
        return answer({"embedding": vectors[0]})

    async def _vectors(self, request: web.Request, fields: Fields, texts: list[Any]) -> tuple[list[list[float]], int]:
        caller, model = caller_of(self._services, request), fields.text("model")
        if not model:
            raise invalid("model", "the name of a model")
        if not texts:
            return [], 0
        names = ("dimensions", "truncate", "options") if self._embeds_natively(model) else ("dimensions",)
        more = {name: fields.data[name] for name in names if fields.data.get(name) is not None}
        vectors, usage, _choice = await embed(self._services, caller, {"input": texts, **more}, model, request.headers)
        return vectors, usage.prompt

    def _embeds_natively(self, model: str) -> bool:
        """Whether Ollama's own fields can go with it: every backend behind the route is an Ollama server."""
        targets = self._services.router.choose(model).route.to
        return all(self._services.drivers[target.backend].dialect == "ollama" for target in targets)

    async def _fields(self, request: web.Request) -> Fields:
        caller_of(self._services, request)  # before a stranger's megabytes are read
        return Fields(decode_object(await read_body(request, self._services.config.server.max_body)))
