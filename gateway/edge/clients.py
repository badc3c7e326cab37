"""The frontend helpers a browser loads from the gateway: `/headgate.js` and its types.

Law: one file each, read once, served from memory, the same for everybody; any origin may import them, because they hold
nothing. The ETag is the content's hash, so a browser asks and is told 304.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

MODULE = Path(__file__).with_name("client") / "headgate.js"
_TYPES = MODULE.with_name("headgate.d.ts")
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Access-Control-Allow-Origin": "*",
    "Cache-Control": "no-cache",  # kept, but asked for each time: it changes with the gateway
}


def client_routes() -> list[web.RouteDef]:
    """GET and HEAD of the two files."""
    return [
        web.get("/headgate.js", _serving(MODULE, "text/javascript; charset=utf-8")),
        web.get("/headgate.d.ts", _serving(_TYPES, "text/plain; charset=utf-8")),
    ]


def _serving(path: Path, kind: str) -> Handler:
    async def serve(request: web.Request) -> web.Response:
        body, tag = _read(path)
        headers = {**_SAFE, "ETag": tag}
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": kind})

    return serve


@cache
def _read(path: Path) -> tuple[bytes, str]:
    body = path.read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
