"""The built-in pages: `/` tries a stream and its cancel in a browser, `/resume` leaves one and comes back.

Law: each is one file, read once, served from memory; its policy lets only that file's own script and style run (by
their hashes) and lets it talk only to this gateway.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).with_name("page")


def policy(html: str) -> str:
    """The Content-Security-Policy of a page whose only script and style are inline."""
    scripts = " ".join(_hashes(html, "script"))
    styles = " ".join(_hashes(html, "style"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


def page_routes() -> list[web.RouteDef]:
    """GET and HEAD of the pages."""

    async def index(_request: web.Request) -> web.Response:
        return page_response()

    async def resume(_request: web.Request) -> web.Response:
        return page_response("resume.html")

    return [web.get("/", index), web.get("/resume", resume)]


def page_response(name: str = "index.html") -> web.Response:
    """A page, fresh for each request (a response object can be sent once)."""
    body, headers = _page(name)
    return web.Response(body=body, headers=headers)


@cache
def _page(name: str) -> tuple[bytes, dict[str, str]]:
    html = (_FOLDER / name).read_text("utf-8")
    return html.encode(), {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


def _hashes(html: str, tag: str) -> list[str]:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]
