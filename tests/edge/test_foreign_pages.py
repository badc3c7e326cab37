"""A page of another site in a real browser, against a gateway without keys on the visitor's machine."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from support.browser import chromium
from support.gateway import Gateway, start_gateway

pytestmark = pytest.mark.edge

CONFIG = """
backends: {demo: {driver: demo}}
routes: [{model: "*", to: demo}]
"""
ASK = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    running = start_gateway(CONFIG)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of a site whose pages are empty."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser whose DNS lets evil.example point here."""
    with chromium(tmp_path, "--host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        yield browser


def statistics(gateway: Gateway) -> Any:
    """What the gateway has served so far, as an operator sees it."""
    with urllib.request.urlopen(f"{gateway.admin_url}/api/statistics", timeout=5) as answer:
        return json.load(answer)


def fetched(browser: webdriver.Chrome, url: str, options: str) -> Any:
    """`[status, text]` of a page's fetch; `["refused", ...]` where the browser gives the page nothing."""
    script = f"""const done = arguments[0];
    fetch({json.dumps(url)}, {options})
      .then(async (answer) => done([answer.status, await answer.text()]), (error) => done(["refused", ""]));"""
    return browser.execute_async_script(script)  # type: ignore[no-untyped-call]


def test_a_foreign_page_spends_nothing(visitor: webdriver.Chrome, gateway: Gateway, site: int) -> None:
    """Any site could spend the tokens of whoever visits it, by a request no browser asks leave for."""
    visitor.get(f"http://evil.example:{site}/")
    before = statistics(gateway)
    simple = f"{{method: 'POST', mode: 'no-cors', headers: {{'Content-Type': 'text/plain'}}, body: {json.dumps(ASK)}}}"
    for path in ("/v1/chat/completions", "/api/streaming/chat"):
        assert fetched(visitor, gateway.url + path, simple) == [0, ""]
    image = f"{{onerror: () => done(), src: '{gateway.url}/api/v1/chat/stream?message=x'}}"
    script = f"const done = arguments[0]; Object.assign(new Image(), {image})"
    visitor.execute_async_script(script)  # type: ignore[no-untyped-call]
    assert fetched(visitor, f"{gateway.url}/api/v1/chat/stream?message=x", "{}")[0] == "refused"
    assert statistics(gateway) == before


def test_a_rebound_page_reads_nothing(visitor: webdriver.Chrome, gateway: Gateway) -> None:
    """A site that lets its name point here would be of the gateway's own origin, and read all it says."""
    there = gateway.url.replace("127.0.0.1", "evil.example")
    visitor.get(f"{there}/v1/models")
    status, text = fetched(visitor, f"{there}/v1/models", "{}")
    assert status == 403
    assert "server.hosts" in text
    status, text = fetched(visitor, f"{there}/v1/chat/completions", f"{{method: 'POST', body: {json.dumps(ASK)}}}")
    assert status == 403


def test_pages_of_this_machine_are_welcome(visitor: webdriver.Chrome, gateway: Gateway, site: int) -> None:
    """A developer's own page at another port could not start a stream, or the gateway's own page could not."""
    for page in (f"{gateway.url}/", gateway.url.replace("127.0.0.1", "localhost") + "/"):
        visitor.get(page)
        status, text = fetched(visitor, "/v1/chat/completions", f"{{method: 'POST', body: {json.dumps(ASK)}}}")
        assert (status, "choices" in text) == (200, True)
    visitor.get(f"http://localhost:{site}/")
    before = statistics(gateway)
    simple = f"{{method: 'POST', mode: 'no-cors', body: {json.dumps(ASK)}}}"
    assert fetched(visitor, f"{gateway.url}/v1/chat/completions", simple) == [0, ""]
    assert statistics(gateway) != before
