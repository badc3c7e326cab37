"""A refusal as an HTTP answer: what every one of them carries, whoever refuses."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from gateway.protocols.base import Refusal

SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def refusal_response(refusal: Refusal, name: str, extra: Mapping[str, str]) -> web.Response:
    """A Refusal as an HTTP answer."""
    headers = {**SAFE, **dict(refusal.headers), **extra, "X-Request-Id": name, "Content-Type": refusal.content_type}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 15.5.2
    response = web.Response(status=refusal.status, body=refusal.body, headers=headers)
    if refusal.status == 413:
        response.force_close()  # the rest of the body is not read
    return response
