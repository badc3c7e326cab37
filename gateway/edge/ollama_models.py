"""Which models there are, in Ollama's words: `/api/tags`, `/api/show`, `/api/ps`, `/api/version`.

Law: a caller sees the models its key may use and its own running streams. Sizes, digests and dates come from a real
Ollama server behind the gateway, or stay empty.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.fit import Feature
from backends.ollama import Driver as OllamaDriver
from gateway.edge.admission import caller_of
from gateway.edge.guards import read_body
from gateway.edge.health_handlers import answer
from gateway.edge.models_api import visible
from gateway.edge.services import Services
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.routing.asides import ask_small
from gateway.routing.models import ModelList

_SPOKEN = "0.13.0"  # it thinks (0.9), counts log probabilities (0.12.11); GitHub Copilot asks for 0.6.4 or later
_PATIENCE = 3.0  # seconds an Ollama server may take to answer
_NEVER = "1970-01-01T00:00:00Z"
_DETAILS: dict[str, Any] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}
_CAPABILITIES = ((Feature.TOOLS, "tools"), (Feature.IMAGES, "vision"), (Feature.REASONING, "thinking"))


class OllamaModels:
    """Handlers; errors are raised as BackendError and rendered by the middleware in Ollama's words."""

    def __init__(self, services: Services, models: ModelList) -> None:
        self._services = services
        self._models = models

    async def tags(self, request: web.Request) -> web.Response:
        """All models the caller may use."""
        known = await self._visible(request)
        real = await self._real("/api/tags")
        return answer({"models": [_tag(name, real.get((home, name), {})) for name, home in known.items()]})

    async def show(self, request: web.Request) -> web.Response:
        """One model; an Ollama server tells all it knows of it."""
        caller_of(self._services, request)  # before a stranger's megabytes are read
        body = await read_body(request, self._services.config.server.max_body)
        fields = Fields(decode_object(body))
        name = fields.text("model", "name")
        if not name:
            raise invalid("model", "the name of a model")
        known = await self._visible(request)
        if name not in known:
            raise BackendError(ErrorCode.UNKNOWN_MODEL, f"model {name[:100]!r} not found", param="model")
        driver = self._services.drivers[known[name]]
        if isinstance(driver, OllamaDriver):
            asked = {**fields.data, "model": self._services.router.choose(name, driver.name).model}
            return answer(await self._ask(driver, driver.ask("/api/show", asked)))
        return answer(_shown(driver))

    async def ps(self, request: web.Request) -> web.Response:
        """Models at work for the caller, on all nodes, and those its Ollama servers hold in memory."""
        known = await self._visible(request)
        owner = caller_of(self._services, request).owner
        real = await self._real("/api/ps")
        found = {name: row for (home, name), row in real.items() if known.get(name) == home}
        for entry in await self._services.registry.active(owner):
            found.setdefault(entry.model, {})
        return answer({"models": [_process(name, row) for name, row in found.items()]})

    async def version(self, _request: web.Request) -> web.Response:
        """The version of Ollama whose API this is: clients turn away from servers that are too old for them."""
        return answer({"version": _SPOKEN})

    async def _visible(self, request: web.Request) -> dict[str, str]:
        caller = caller_of(self._services, request)
        return visible(caller, await self._models.get())

    async def _real(self, path: str) -> dict[tuple[str, str], dict[str, Any]]:
        """(backend, model) -> what the Ollama servers say; one that is away says nothing."""
        drivers = [d for d in self._services.drivers.values() if isinstance(d, OllamaDriver)]
        answers = await asyncio.gather(*(self._ask(d, d.ask(path)) for d in drivers), return_exceptions=True)
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for driver, said in zip(drivers, answers, strict=True):
            rows = said.get("models") if isinstance(said, dict) else None
            for row in rows if isinstance(rows, list) else ():
                name = (row.get("name") or row.get("model")) if isinstance(row, dict) else None
                if isinstance(name, str):
                    found[driver.name, name] = row
        return found

    async def _ask(self, driver: Driver, call: HttpRequest) -> dict[str, Any]:
        """The JSON object a server answers with. Raises BackendError."""
        services = self._services
        transport = services.transports[driver.name]
        status, headers, body = await ask_small(services.upstreams, transport, driver.name, call, _PATIENCE)
        if status != 200:
            raise driver.failure(status, headers, body)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            text = f"backend {driver.name!r} answered with something else than an object"
            raise BackendError(ErrorCode.UPSTREAM_FAILED, text) from None


def _tag(name: str, real: dict[str, Any]) -> dict[str, Any]:
    unknown = {"modified_at": _NEVER, "size": 0, "digest": "", "details": _DETAILS}
    return {**unknown, **real, "name": name, "model": name}


def _process(name: str, real: dict[str, Any]) -> dict[str, Any]:
    unknown = {"size": 0, "digest": "", "details": _DETAILS, "expires_at": None, "size_vram": 0}
    return {**unknown, **real, "name": name, "model": name}


def _shown(driver: Driver) -> dict[str, Any]:
    able = [name for feature, name in _CAPABILITIES if feature in driver.expresses - driver.ignores]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _DETAILS,
        "model_info": {},
        "capabilities": ["completion", *able],
        "modified_at": _NEVER,
    }
