"""What a request must look like before anything is decided by it. Raises BackendError; never trusts Host or the path.

Nothing is ever routed or authorised by `request.url` or `request.host`: handlers see the raw target only.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Cors, Server
from gateway.edge.connection import BodyTimeout, BodyTooLarge, Refuse
from gateway.edge.cross_site import CHANGING, is_host, lured

_NONE: list[str] = []
_ENCODED = re.compile(r"%(?:[01][0-9a-f]|7f|2e|2f|5c|25)", re.IGNORECASE)
_MODEL = re.compile(r"/v1(?:alpha|beta)?/models/.")  # what follows is a name, org/name often; SDKs encode its slash
_EXPOSED = (
    "X-Stream-Id, Location, X-Stream-Resumable, X-Stream-State, X-Stream-Tail, X-Stream-Replayed, Stream-Next-Offset, "
    "X-Headgate-Dropped, X-Headgate-Degraded, X-Headgate-Limit, X-Headgate-Estimated, X-Request-Id, "
    "X-Upstream-Request-Id, Retry-After, ETag, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, "
    "Stream-SSE-Data-Encoding"
)


def check_target(request: web.BaseRequest, hosts: tuple[str, ...]) -> None:
    """Host, request target, version and content encoding, strictly (reliability A 1-3, 5)."""
    if request.version not in ((1, 0), (1, 1)):
        raise BackendError(ErrorCode.INVALID_REQUEST, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    headers = request.headers
    names = headers.getall("Host", _NONE)
    if len(names) > 1 or (not names and request.version >= (1, 1)):
        raise BackendError(ErrorCode.INVALID_REQUEST, "exactly one Host header is required")
    if names and not is_host(names[0]):
        raise BackendError(ErrorCode.INVALID_REQUEST, "the Host header is not a host name")
    if hosts and names and not _served(names[0].lower(), hosts):
        raise BackendError(ErrorCode.FORBIDDEN, "this host name is not served here (server.hosts)")
    if not _is_plain(request.raw_path.split("?", 1)[0]):
        raise BackendError(ErrorCode.INVALID_REQUEST, "the request target is not a plain path")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BackendError(
            ErrorCode.UNSUPPORTED_ENCODING, "send the body uncompressed: Content-Encoding is not accepted"
        )


@lru_cache(512)
def _is_plain(path: str) -> bool:
    if _MODEL.search(path):
        path = path.replace("%2F", "/").replace("%2f", "/")
    return not (
        not path.startswith("/")
        or path.startswith("//")
        or "\\" in path
        or _ENCODED.search(path)
        or "/../" in path + "/"
    )


def _served(name: str, hosts: tuple[str, ...]) -> bool:
    """Whether a Host header is one of `server.hosts`, with or without its port."""
    bare = re.sub(r":[0-9]+$", "", name)
    return any(host.lower() in (name, bare) for host in hosts)


def check_page(request: web.BaseRequest, server: Server, *, starts: bool = False) -> None:
    """For a gateway without keys, see `cross_site`. `starts`: it begins a stream, whatever its method. A Host that is
    none, or not the only one, is left to `check_target`. Raises FORBIDDEN."""
    headers = request.headers
    names = headers.getall("Host", _NONE)
    if len(names) > 1 or not all(map(is_host, names)):
        return
    changes = starts or request.method in CHANGING
    why = lured(
        server,
        names[0] if names else None,
        headers.getall("Origin", _NONE),
        headers.get("Sec-Fetch-Site", ""),
        changes=changes,
    )
    if why:
        raise BackendError(ErrorCode.FORBIDDEN, why)


async def read_body(request: web.Request, limit: int) -> bytes:
    """The body, counted as it arrives. Raises TOO_LARGE beyond `limit` bytes; INVALID_REQUEST when it is badly framed,
    or does not come (the connection makes a 408 of that)."""
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        body = await request.read()
    except (web.HTTPRequestEntityTooLarge, BodyTooLarge):
        raise _too_large(limit) from None
    except BodyTimeout:
        raise BackendError(ErrorCode.INVALID_REQUEST, "the request body did not come in time") from None
    except web.RequestPayloadError:
        raise BackendError(ErrorCode.INVALID_REQUEST, "the request body is badly framed") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> BackendError:
    return BackendError(ErrorCode.TOO_LARGE, f"the request body is larger than {limit} bytes (server.max_body)")


async def expecting(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], refuse: Refuse, limit: int
) -> web.StreamResponse:
    """A request with an Expect or a Transfer-Encoding header. `100-continue` is aiohttp's to answer, unless the body
    that waits is one to refuse; 417 to all else (RFC 9110, 10.1.1). A body that is not only chunked would be taken for
    what its coding hides: 501 (RFC 9112, 6.1)."""
    headers, waits = request.headers, request.headers.get("Expect", "").lower()
    if any(coding.strip().lower() != "chunked" for coding in headers.getall("Transfer-Encoding", _NONE)):
        text = "no Transfer-Encoding but chunked is understood here"
        answer = refuse(request, BackendError(ErrorCode.UNSUPPORTED_ENCODING, text))
        answer.set_status(501)
    elif waits not in ("", "100-continue"):
        text = "no Expect but 100-continue is understood here"
        answer = refuse(request, BackendError(ErrorCode.INVALID_REQUEST, text))
        answer.set_status(417)
    elif not waits or (request.content_length or 0) <= limit:
        return await handler(request)
    else:
        answer = refuse(request, _too_large(limit))
    answer.force_close()  # whether a body follows is anyone's guess
    return answer


def cors_headers(cors: Cors, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that let an allowed origin read the answer; empty for all others."""
    origin = headers.get("Origin")
    if origin is None or origin not in cors.origins:
        return {"Vary": "Origin"} if cors.origins else {}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED, "Vary": "Origin"}


def preflight(cors: Cors, headers: Mapping[str, str]) -> web.Response:
    """The answer to a browser's OPTIONS. Raises FORBIDDEN."""
    allowed = cors_headers(cors, headers)
    if "Access-Control-Allow-Origin" not in allowed:
        raise BackendError(ErrorCode.FORBIDDEN, "this origin is not allowed (server.cors.origins)")
    allowed["Access-Control-Allow-Methods"] = "GET, POST, DELETE, HEAD, OPTIONS"
    allowed["Access-Control-Allow-Headers"] = headers.get("Access-Control-Request-Headers", "")[:1000]
    allowed["Access-Control-Max-Age"] = "600"
    return web.Response(status=204, headers=allowed)
