"""Which models a caller may use: `GET /v1/models` and `GET /v1/models/{id}` in OpenAI's, Anthropic's or Google's shape.

Law: a model is listed only where the caller's key may use it, and one it may not use is as unknown as one there is not.
Protocol sources: the OpenAI API reference, "List models"; the Anthropic API reference, "List models" (its clients send
`anthropic-version`; `limit`, `after_id` and `before_id` page); the Gemini API reference, "models.list" (theirs
`x-goog-api-key`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Server
from config.values import glob_matches
from gateway.access.keys import Caller
from gateway.edge.admission import caller_of
from gateway.edge.families import family_of, prefix_of
from gateway.edge.health_handlers import answer
from gateway.edge.services import Services
from gateway.routing.models import ModelList

_FAMILIES = ("openai", "anthropic", "google")  # Google's clients list at /v1 too, besides its own paths
_LISTING = "/v1/models"
_EPOCH = "1970-01-01T00:00:00Z"  # Anthropic's word for a release date nobody knows
_PAGE = 1000  # Anthropic's largest page; without `limit` everything is on one


def routes(services: Services, models: ModelList) -> list[web.RouteDef]:
    """The paths of the families served that list models here, under each one's prefix."""
    server = services.config.server
    api = _Models(services, models)
    found: list[web.RouteDef] = []
    for prefix in dict.fromkeys(prefix_of(server.prefixes, family) for family in _served(server)):
        found += [web.get(prefix + _LISTING, api.listing), web.get(prefix + _LISTING + "/{model:.+}", api.one)]
    return found


def visible(caller: Caller, known: Mapping[str, str]) -> dict[str, str]:
    """The models (name -> backend) a caller may use."""
    return {name: home for name, home in known.items() if any(glob_matches(g, name) for g in caller.models)}


def openai_model(name: str, backend: str) -> dict[str, Any]:
    """One model in OpenAI's words."""
    return {"id": name, "object": "model", "created": 0, "owned_by": backend}


def anthropic_model(name: str) -> dict[str, Any]:
    """One model in Anthropic's words."""
    return {"type": "model", "id": name, "display_name": name, "created_at": _EPOCH}


def google_model(name: str) -> dict[str, Any]:
    """One model in Google's words; limits nobody knows are left out."""
    return {
        "name": f"models/{name}",
        "baseModelId": name,
        "version": "",
        "displayName": name,
        "description": "",
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
    }


def anthropic_page(names: Iterable[str], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of Anthropic's list. Raises BackendError INVALID_REQUEST for a `limit` that is no number from 1 to
    1000."""
    every = list(names)
    after, before = query.get("after_id"), query.get("before_id")
    rest = every
    if after in every:
        rest = every[every.index(after) + 1 :]
    elif before in every:
        rest = every[: every.index(before)]
    size = _limit(query.get("limit", ""))
    page = rest[-size:] if before in every else rest[:size]
    return {
        "data": [anthropic_model(name) for name in page],
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
        "has_more": len(page) < len(rest),
    }


def _limit(said: str) -> int:
    if not said:
        return _PAGE
    if not said.isdecimal() or not 1 <= int(said[:6]) <= _PAGE:
        raise BackendError(ErrorCode.INVALID_REQUEST, f"limit must be a number from 1 to {_PAGE}", param="limit")
    return int(said[:6])


class _Models:
    def __init__(self, services: Services, models: ModelList) -> None:
        self._services = services
        self._models = models

    async def listing(self, request: web.Request) -> web.Response:
        """All the caller may use."""
        known = await self._visible(request)
        match self._family(request):
            case "anthropic":
                return answer(anthropic_page(known, request.query))
            case "google":
                return answer({"models": [google_model(name) for name in known]})
            case _:
                return answer({"object": "list", "data": [openai_model(*item) for item in known.items()]})

    async def one(self, request: web.Request) -> web.Response:
        """One of them."""
        known = await self._visible(request)
        name = request.match_info["model"]
        if name not in known:
            raise BackendError(ErrorCode.UNKNOWN_MODEL, f"no model {name[:100]!r} here", param="model")
        match self._family(request):
            case "anthropic":
                return answer(anthropic_model(name))
            case "google":
                return answer(google_model(name))
            case _:
                return answer(openai_model(name, known[name]))

    async def _visible(self, request: web.Request) -> dict[str, str]:
        caller = caller_of(self._services, request)
        return visible(caller, await self._models.get())

    def _family(self, request: web.Request) -> str:
        """Whose shape: the caller's, as path and headers tell it, or the first that is served."""
        server = self._services.config.server
        asked = family_of(request.raw_path, request.headers, server.prefixes)
        return asked if asked in server.protocols else _served(server)[0]


def _served(server: Server) -> list[str]:
    return [family for family in _FAMILIES if family in server.protocols]
