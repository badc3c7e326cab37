"""What a GET of a stream wants: its state or its frames, and in which protocol.

Law: who accepts a stream gets one, in the protocol it was started in where that fits: then the frames are the ones
already counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode
from gateway.protocols.base import ClientProtocol
from gateway.streams.cursor import names_cursor

_SSE = "text/event-stream"
_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")


def kind_of(protocol: ClientProtocol) -> Literal["sse", "ndjson", ""]:
    """How its frames are told apart by a client; "": not at all (one JSON array)."""
    if protocol.content_type.startswith(_SSE):
        return "sse"
    return "ndjson" if protocol.content_type.startswith(_NDJSON) else ""


def accepted(accept: str) -> Literal["sse", "ndjson", ""]:
    """The kind of frames this Accept header likes best (RFC 9110, section 12.5.1), SSE of two it likes alike; "": it
    names none, or likes JSON better."""
    weights = [_weighed(item) for item in accept.lower().split(",")]
    sse, ndjson, other = (
        max((weight for name, weight in weights if name in names), default=0.0)
        for names in ((_SSE,), _NDJSON, ("application/json",))
    )
    if not max(sse, ndjson) or other > max(sse, ndjson):
        return ""
    return "sse" if sse >= ndjson else "ndjson"


def _weighed(item: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in item.split(";"))
    said = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    return name, float(said) if _WEIGHT.fullmatch(said) else 0.0


def wants_stream(request: web.Request) -> bool:
    """Whether a GET of a stream asks for its frames, not for its state."""
    query = request.query
    framed = accepted(request.headers.get("Accept", "")) != ""
    return framed or "protocol" in query or names_cursor(request.headers.get("Last-Event-ID"), query)


def protocol_for(protocols: Mapping[str, ClientProtocol], started_in: str, wanted: str, accept: str) -> ClientProtocol:
    """The protocol to read in: the wanted one by name (or its family's), else the one the stream was started in where
    its kind is accepted, else the native one of the accepted kind. Raises INVALID_REQUEST."""
    origin = protocols.get(started_in)
    if wanted and wanted != "origin":
        family = (p for p in protocols.values() if p.family == wanted)
        return _known(protocols.get(wanted) or next(family, None), protocols)
    kind = accepted(accept)
    if wanted == "origin" or (origin is not None and kind in ("", kind_of(origin))):
        return _known(origin, protocols)
    if kind == "ndjson" and (origin is None or origin.family != "native"):
        text = f"this stream was started in the protocol {started_in!r}; for NDJSON say so: ?protocol=ndjson"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="protocol")
    return _known(protocols.get("ndjson" if kind == "ndjson" else "native"), protocols)


def _known(found: ClientProtocol | None, protocols: Mapping[str, ClientProtocol]) -> ClientProtocol:
    if found is None:
        text = f"`protocol` must be `origin` or one of {', '.join(protocols)}"
        raise BackendError(ErrorCode.INVALID_REQUEST, text, param="protocol")
    return found
