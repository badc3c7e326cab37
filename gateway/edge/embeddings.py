"""`POST /v1/embeddings` as OpenAI's clients ask it, and the call behind it for the other protocols' embedding paths.

A backend of OpenAI's kind gets the client's body but for the model's name, and its answer passes untouched; any other
is asked in its own words and answered in OpenAI's shape. A backend that fails is followed by the route's next one.
Source: the OpenAI API reference, "Create embeddings".
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from backends.contract.request import ChatRequest
from gateway.access.keys import Caller
from gateway.access.limits import limit_header, limit_of
from gateway.edge.admission import caller_of
from gateway.edge.asides import decided, within_rates
from gateway.edge.guards import check_target, cors_headers, read_body
from gateway.edge.planning import world_of
from gateway.edge.refusals import refusal_response
from gateway.edge.services import Services, request_id
from gateway.protocols.parsing import Fields, decode_object, invalid
from gateway.routing.asides import ask_aside
from gateway.routing.policies import Candidate
from gateway.routing.router import Choice

PATH = "/v1/embeddings"
ANSWER_LIMIT = 64 << 20  # bytes: thousands of vectors of thousands of numbers, as text
_ERROR_LIMIT = 64 * 1024
_CHARS_PER_TOKEN = 4
_NONE: Mapping[str, str] = {}
_Said = bytes | tuple[list[list[float]], Usage]  # as the backend said it, or read
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def routes(services: Services) -> list[web.RouteDef]:
    """The path of OpenAI's family, its prefix included; none when the family is switched off."""
    if "openai" not in services.protocols:
        return []
    prefix = services.config.server.prefixes.get("openai", "").rstrip("/")

    async def post(request: web.Request) -> web.Response:
        extra = cors_headers(services.config.server.cors, request.headers)
        try:
            answer, said = await _serve(services, request)
        except BackendError as error:
            return _refuse(services, request, error, extra)
        return web.Response(body=answer, headers={**_HEADERS, **said, **extra}, content_type="application/json")

    return [web.post(prefix + PATH, post)]


async def embed(
    services: Services, caller: Caller, body: dict[str, Any], model: str, headers: Mapping[str, str] = _NONE
) -> tuple[list[list[float]], Usage, Choice]:
    """The vectors of an OpenAI-shaped body (`input`, `dimensions`, ...), in order; their usage; where they come from.

    Raises BackendError: the model is unknown or not the caller's, its backends cannot embed, or failed.
    """
    said, choice = await _vectors(services, caller, body, model, headers, raw=False)
    assert not isinstance(said, bytes)
    return *said, choice


async def _serve(services: Services, request: web.Request) -> tuple[bytes, dict[str, str]]:
    """The answer and what its headers say of it."""
    check_target(request, services.config.server.hosts)
    caller = caller_of(services, request)
    body = decode_object(await read_body(request, services.config.server.max_body))
    model, encoding = _checked(Fields(body))
    said, _choice = await _vectors(services, caller, body, model, request.headers, raw=True)
    if isinstance(said, bytes):
        return said, {}
    vectors, usage = said
    if usage.prompt:
        return _shaped(model, vectors, usage, encoding), {}
    return _shaped(model, vectors, _estimated(body["input"]), encoding), {"X-Headgate-Estimated": "true"}


async def _vectors(
    services: Services, caller: Caller, body: dict[str, Any], model: str, headers: Mapping[str, str], *, raw: bool
) -> tuple[_Said, Choice]:
    """What the route's first backend answers that can; `raw`: one of OpenAI's kind, as it said it."""
    if services.draining:
        raise BackendError(ErrorCode.SHED, "this gateway node is shutting down; try again", retry_after=1)
    user = body.get("user")
    request = ChatRequest(model=model, messages=(), user=user if isinstance(user, str) else "")
    decision = decided(services, caller, request, headers)

    def prepare(candidate: Candidate) -> HttpRequest:
        driver = services.drivers[candidate.backend]
        plain = raw and driver.dialect == "openai"
        return _request(candidate, driver, body if plain else {**body, "encoding_format": "float"})

    async def ask(candidate: Candidate, call: HttpRequest) -> tuple[_Said, Choice]:
        driver, choice = services.drivers[candidate.backend], Choice(candidate.backend, candidate.model, decision.route)
        answer = await _asked(services, driver, call)
        if raw and driver.dialect == "openai":
            return answer, choice
        return _read(driver, answer, _amount(body["input"])), choice

    size = _size(body["input"])
    async with within_rates(services, caller, request, headers, decision, size):
        tokens = -(-size // _CHARS_PER_TOKEN)
        return await ask_aside(decision, world_of(services), prepare, ask, whole=True, tokens=tokens)


def _checked(fields: Fields) -> tuple[str, str]:
    """(model, encoding_format); the rest is the backend's to judge."""
    model = fields.text("model")
    if not model:
        raise invalid("model", "the name of a model")
    if not isinstance(fields.data.get("input"), str | list):
        raise invalid("input", "a string or an array")
    encoding = fields.text("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise invalid("encoding_format", "float or base64")
    return model, encoding


async def _asked(services: Services, driver: Driver, request: HttpRequest) -> bytes:
    """The backend's answer, whole; refusals become errors, as everywhere."""
    wait = float(services.config.streams.total_timeout)
    status, headers, answer = await services.transports[driver.name].fetch(request, wait, ANSWER_LIMIT)
    if status != 200:
        raise driver.failure(status, headers, answer[:_ERROR_LIMIT])
    return answer


def _request(candidate: Candidate, driver: Driver, body: dict[str, Any]) -> HttpRequest:
    """Raises BackendError INVALID_REQUEST: this backend cannot be asked this."""
    if driver.dialect != "openai" and not _is_text(body.get("input")):
        raise BackendError(
            ErrorCode.INVALID_REQUEST,
            f"input: backend {candidate.backend!r} embeds a string or an array of strings, not tokens",
            param="input",
        )
    request = driver.embed(body, candidate.model)
    if request is None:
        text = f"backend {candidate.backend!r} cannot make embeddings; choose a model on another backend"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="model")
    return request


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _size(wanted: Any) -> int:
    """Characters of an `input`, about; a number in it is a token, of about four."""
    if isinstance(wanted, str):
        return len(wanted)
    return sum(map(_size, wanted)) if isinstance(wanted, list) else _CHARS_PER_TOKEN


def _amount(wanted: Any) -> int:
    """How many vectors an `input` is to get: one for a text or a row of tokens, else one for each item."""
    if isinstance(wanted, list) and not any(isinstance(item, int) for item in wanted):
        return len(wanted)
    return 1


def _estimated(wanted: str | list[str]) -> Usage:
    """For a backend that counts nothing."""
    texts = [wanted] if isinstance(wanted, str) else wanted
    return Usage(prompt=sum(-(-len(text) // _CHARS_PER_TOKEN) for text in texts))


def _read(driver: Driver, answer: bytes, amount: int) -> tuple[list[list[float]], Usage]:
    """Raises BackendError UPSTREAM_FAILED: no embeddings, or a number of them that cannot be matched to the texts."""
    try:
        vectors, usage = driver.read_embeddings(answer)
    except (ValueError, msgspec.DecodeError) as error:
        text = f"backend {driver.name!r} answered without embeddings"
        raise BackendError(ErrorCode.UPSTREAM_FAILED, text) from error
    if len(vectors) != amount:
        text = f"backend {driver.name!r} answered with {len(vectors)} embeddings to {amount} inputs"
        raise BackendError(ErrorCode.UPSTREAM_FAILED, text)
    return vectors, usage


def _shaped(model: str, vectors: list[list[float]], usage: Usage, encoding: str) -> bytes:
    said = [_packed(vector) if encoding == "base64" else vector for vector in vectors]
    rows = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(said)]
    counts = {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt}
    return msgspec.json.encode({"object": "list", "data": rows, "model": model, "usage": counts})


def _packed(vector: list[float]) -> str:
    """Little-endian 32-bit floats in base64: what OpenAI's SDKs ask for by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _refuse(services: Services, request: web.Request, error: BackendError, extra: dict[str, str]) -> web.Response:
    name = request_id()
    refusal = services.protocols["openai"].failure(error, name)
    services.metrics.refused(error.code.wire, limit_of(error))
    services.access_log.refused(
        code=error.code.wire,
        status=refusal.status,
        method=request.method,
        path=request.path,
        owner="",
        request_id=name,
    )
    return refusal_response(refusal, name, extra | limit_header(error))
