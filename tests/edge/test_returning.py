"""A real browser behind a real nginx that loses its network and gets it back: the text on the page is exact."""

from __future__ import annotations

import http.server
import json
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from selenium import webdriver
from support.browser import network, run, until
from support.gateway import start_gateway
from support.nginx import nginx
from support.process import free_port
from support.wire import Wire

pytestmark = pytest.mark.edge

CONFIG = """
server: {port: {port}, drain_timeout: 2s, cors: {origins: ["http://127.0.0.1:%d"]}}
backends: {demo: {driver: demo}}
routes: [{model: "*", to: demo}]
"""
ASK = "[tokens=120] [rate=40]"
PAGE = """<!doctype html><title>app</title><p id="text"></p><script type="module">
import { stream } from "%s/headgate.js";
window.go = async (protocol) => {
  const body = { model: "demo", messages: [{ role: "user", content: "%s" }], max_tokens: 999 };
  const source = stream("%s", { protocol, body, backoff: 100 });
  window.source = source; window.seqs = []; window.over = "";
  try {
    for await (const event of source) {
      window.seqs.push(event.seq);
      document.getElementById("text").append(event.text);
    }
    window.over = "end";
  } catch (e) { window.over = e.name + " " + e.code; }
};
window.ready = true;
</script>"""


@pytest.fixture(scope="module")
def app_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, app_port: int) -> Iterator[Wire]:
    """To the gateway behind nginx; pages of another origin may read from it."""
    gateway = start_gateway(CONFIG.replace("%d", str(app_port)))
    try:
        with nginx(tmp_path_factory.mktemp("nginx"), gateway.url) as url, Wire(int(url.rpartition(":")[2])) as wire:
            yield wire
    finally:
        gateway.stop()


def outage(browser: webdriver.Chrome, line: Wire) -> None:
    """The network goes: open lines break, and the browser can make no new ones, and knows it."""
    network(browser, offline=True)
    line.cut()


def back(browser: webdriver.Chrome) -> None:
    """The network is there again."""
    network(browser, offline=False)


def whole_answer(front: str) -> str:
    """What the demo says to that, read in peace."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "[tokens=120] [rate=0]"}], "stream": False}
    request = urllib.request.Request(
        f"{front}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def started(front: str) -> int:
    with urllib.request.urlopen(f"{front}/api/streaming/statistics", timeout=5) as answer:
        return int(json.load(answer)["total"])


def test_event_source_over_an_outage_and_a_reload(browser: webdriver.Chrome, line: Wire) -> None:
    """A tab that loses its network, or is reloaded, would show words twice or not at all, or pay for another answer."""
    browser.get(f"{line.url}/resume")
    before = started(line.url)
    run(browser, f"document.getElementById('message').value = '{ASK}'; document.getElementById('start').click()")
    until(browser, "frames > 15")
    outage(browser, line)
    time.sleep(0.7)
    at = run(browser, "return frames")
    assert run(browser, "return document.getElementById('state').textContent") == "reconnecting"
    back(browser)
    until(browser, f"frames > {at + 10}")
    assert run(browser, "return connections") >= 2
    assert run(browser, "return wrong") == 0
    browser.refresh()
    until(browser, "document.getElementById('state').textContent === 'completed'")
    text = run(browser, "return document.getElementById('output').textContent")
    assert run(browser, "return [wrong, frames]") == [0, 123]
    assert text == whole_answer(line.url)
    assert started(line.url) == before + 2  # the answer, and the one it is compared with


def test_leaving_and_coming_back_on_the_page(browser: webdriver.Chrome, line: Wire) -> None:
    """The page's own button would show what the gateway cannot do."""
    browser.get(f"{line.url}/resume")
    run(browser, f"document.getElementById('message').value = '{ASK}'; document.getElementById('start').click()")
    until(browser, "frames > 10")
    run(browser, "document.getElementById('leave').click()")
    assert run(browser, "return document.getElementById('state').textContent") == "away"
    until(browser, "document.getElementById('state').textContent === 'completed'")
    assert run(browser, "return [wrong, frames, connections]") == [0, 123, 2]
    assert run(browser, "return document.getElementById('output').textContent") == whole_answer(line.url)
    assert run(browser, "return location.hash") == ""


@pytest.fixture(scope="module")
def app(line: Wire, app_port: int) -> Iterator[str]:
    """A page of another origin that imports the module from the gateway."""
    page = (PAGE % (line.url, ASK, line.url)).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", app_port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{app_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("protocol", ["native", "openai", "anthropic"])
def test_the_module_over_an_outage(browser: webdriver.Chrome, line: Wire, app: str, protocol: str) -> None:
    """A POST stream of another origin's page would end with the network, or go on with words missing."""
    browser.get(app)
    until(browser, "window.ready === true")
    run(browser, f"go('{protocol}')")
    until(browser, "window.seqs.length > 15")
    outage(browser, line)
    time.sleep(0.7)
    at = run(browser, "return window.seqs.length")
    assert at < 100
    back(browser)
    until(browser, "window.over !== ''")
    assert run(browser, "return window.over") == "end"
    seqs = run(browser, "return window.seqs")
    assert seqs == list(range(1, len(seqs) + 1))
    assert run(browser, "return window.source.connections") >= 2
    assert run(browser, "return document.getElementById('text').textContent") == whole_answer(line.url)
