"""`POST /v1/messages/count_tokens`, on any route: how many tokens a prompt has, without an answer.

Law: a count is the backend's own wherever it can count; an estimate says so by `X-Headgate-Estimated: true`. Source:
Anthropic's reference, "Count tokens in a Message".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from backends.contract.errors import BackendError
from backends.contract.fit import fit
from backends.contract.request import ChatRequest, FilePart, ImagePart, ReasoningPart, TextPart
from gateway.access.limits import limit_header, limit_of
from gateway.edge.admission import caller_of
from gateway.edge.asides import Call, counted, decided
from gateway.edge.families import prefix_of
from gateway.edge.guards import check_target, cors_headers, read_body
from gateway.edge.planning import handed_on
from gateway.edge.refusals import refusal_response
from gateway.edge.services import Services, request_id
from gateway.protocols.anthropic_request import read_request
from gateway.protocols.parsing import Fields, decode_object
from gateway.routing.policies import Candidate
from gateway.streams.accounts import CHARS_PER_TOKEN

PATH = "/v1/messages/count_tokens"
_IMAGE_TOKENS = 1500  # what Anthropic's reference gives for an image of the size it scales to
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def routes(services: Services) -> list[web.RouteDef]:
    """The path, with the prefix of Anthropic's family; none when the family is switched off."""
    if "anthropic" not in services.protocols:
        return []
    prefix = prefix_of(services.config.server.prefixes, "anthropic")

    async def count(request: web.Request) -> web.Response:
        extra = cors_headers(services.config.server.cors, request.headers)
        try:
            tokens, estimated = await _count(services, request)
        except BackendError as error:
            return _refuse(services, request, error, extra)
        said = {"X-Headgate-Estimated": "true"} if estimated else {}
        body = msgspec.json.encode({"input_tokens": tokens})
        return web.Response(body=body, headers={**_HEADERS, **said, **extra}, content_type="application/json")

    return [web.post(prefix + PATH, count)]


async def _count(services: Services, request: web.Request) -> tuple[int, bool]:
    """Prompt tokens, and whether they are an estimate."""
    check_target(request, services.config.server.hosts)
    caller = caller_of(services, request)
    fields = Fields(decode_object(await read_body(request, services.config.server.max_body)))
    wanted = read_request(fields, counting=True)
    decision = decided(services, caller, wanted, request.headers)

    def call(candidate: Candidate) -> Call:
        return _call(services, candidate, replace(wanted, model=candidate.model), fields.data, request.headers)

    found = await counted(services, decision, call)
    return (estimate(wanted), True) if found is None else (found, False)


def _call(
    services: Services, candidate: Candidate, wanted: ChatRequest, body: dict[str, Any], headers: Mapping[str, str]
) -> Call:
    """A backend with this very API gets the client's own body."""
    driver = services.drivers[candidate.backend]
    protocol = services.protocols["anthropic"]
    same = driver.speaking(protocol.dialect)
    if same is None:
        fitting, _dropped = fit(wanted, driver.expresses, candidate.backend, driver.dialect)
        return driver, driver.count(fitting)
    call = same.count(wanted)
    if call is None:
        return same, None
    call = replace(call, body=msgspec.json.encode({**body, "model": candidate.model}))
    return same, handed_on(call, headers, protocol)


def estimate(request: ChatRequest) -> int:
    """Prompt tokens by the length of all that is text in it, tools included; at least 1."""
    chars = sum(len(call.name) + len(call.arguments) for m in request.messages for call in m.tool_calls)
    chars += sum(len(msgspec.json.encode(tool)) for tool in request.tools)
    images = 0
    for message in request.messages:
        for part in (TextPart(message.content),) if isinstance(message.content, str) else message.content:
            match part:
                case TextPart() | ReasoningPart():
                    chars += len(part.text)
                case FilePart() if part.media_type.startswith("text/"):
                    chars += len(part.data) * 3 // 4  # base64
                case ImagePart() | FilePart():
                    images += 1
                case _:
                    chars += len(msgspec.json.encode(part))
    return max(1, -(-chars // CHARS_PER_TOKEN) + images * _IMAGE_TOKENS)


def _refuse(services: Services, request: web.Request, error: BackendError, extra: dict[str, str]) -> web.Response:
    name = request_id()
    refusal = services.protocols["anthropic"].failure(error, name)
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
