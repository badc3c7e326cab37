"""The built-in pages: their policy and what their scripts may do."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.edge.page import page_response

PAGES = pytest.mark.parametrize("name", ["index.html", "resume.html"])


async def fetch(name: str) -> tuple[str, str]:
    async def index(_request: web.Request) -> web.Response:
        return page_response(name)

    app = web.Application()
    app.add_routes([web.get("/", index)])
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 200
        answer = await client.get("/")
        return await answer.text(), answer.headers["Content-Security-Policy"]


@PAGES
async def test_the_policy_fits_the_page(name: str) -> None:
    """Breaks when the page's own script is refused by its policy, or the policy lets anything else run."""
    html, policy = await fetch(name)
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy


@PAGES
async def test_the_page_is_alone_and_harmless(name: str) -> None:
    """Breaks when the page fetches from elsewhere, writes markup from a model's answer, or has inline handlers."""
    html, _ = await fetch(name)
    assert "http://" not in html
    assert "https://" not in html
    assert " src=" not in html
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", html)
    assert not re.search(r"<[^>]+ (on\w+|style)=", html)
    assert all(f'id="{part}"' in html for part in ("message", "start", "output", "stream-id", "state"))
