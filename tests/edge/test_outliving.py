"""A real browser behind a real nginx over two nodes: its network goes, its node is killed, the next one is stopped. The
text on the page is exact, with the browser's own EventSource and with the module for POST streams."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from support.browser import network, run, until
from support.gateway import Gateway, start_gateway
from support.nginx import nginx
from support.process import free_port
from support.redis_server import BINARY, RedisServer
from support.wire import Wire

pytestmark = [pytest.mark.edge, pytest.mark.skipif(BINARY is None, reason="no redis-server on this machine")]

TOKENS = 360
CONFIG = """
server: {port: {port}, drain_timeout: 0s}
registry: {url: "%s", lease: 2s}
backends: {demo: {driver: demo}}
routes: [{model: "*", to: demo, survive: node}]
"""
BEGIN = """
document.body.replaceChildren(Object.assign(document.createElement('p'), { id: 'text' }));
window.ids = []; window.over = ''; window.connections = () => window.opened; window.opened = 0;
const show = (text) => document.getElementById('text').append(text);
"""
PAGES = {  # how a page reads a stream
    "EventSource": """
const source = new EventSource('/api/v1/chat/stream?message=' + encodeURIComponent('%s'));
const seen = (e) => window.ids.push(Number(e.lastEventId.split('.').pop()));
for (const name of ['start', 'usage', 'reset']) source.addEventListener(name, seen);
source.addEventListener('token', (e) => { seen(e); show(JSON.parse(e.data).content); });
source.addEventListener('done', (e) => { seen(e); window.over = 'done'; source.close(); });
source.onopen = () => { window.opened += 1; };
source.addEventListener('error', (e) => {
  if (e.data) window.over = 'error ' + e.data; else if (source.readyState === 2) window.over = 'closed';
});
""",
    "module": """
import('/headgate.js').then(async ({ stream }) => {
  const body = { model: 'demo', messages: [{ role: 'user', content: '%s' }], max_tokens: 9999 };
  const source = stream('', { protocol: 'openai', body, backoff: 200 });
  window.connections = () => source.connections;
  try {
    for await (const event of source) { window.ids.push(event.seq); show(event.text); }
    window.over = 'done';
  } catch (e) { window.over = e.name + ' ' + e.code; }
});
""",
}


class Pair:
    """Two nodes on one Redis, on ports that stay theirs."""

    def __init__(self, redis: str) -> None:
        self._text = CONFIG % redis
        self._ports = [(free_port(), free_port()) for _ in range(2)]
        self.nodes: list[Gateway] = []
        for ports in self._ports:
            self.nodes.append(start_gateway(self._text, ports=ports))

    def owner(self, url: str) -> int:
        """Which of them carries the one stream that runs."""
        with urllib.request.urlopen(f"{url}/api/streaming/active", timeout=5) as answer:
            (entry,) = json.load(answer)["streams"]
        return [node.process.pid for node in self.nodes].index(int(entry["node"].split("-")[-2]))

    def end(self, url: str, by: signal.Signals) -> int:
        """End the one that carries the stream, as it should; which it was."""
        at = self.owner(url)
        self.nodes[at].process.send_signal(by)
        assert self.nodes[at].process.wait(20) == (0 if by is signal.SIGTERM else -by)
        return at

    def begin(self, at: int) -> None:
        """Start it again."""
        self.nodes[at] = start_gateway(self._text, ports=self._ports[at])

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with RedisServer() as redis:
        nodes = Pair(redis.url)
        yield nodes
        nodes.stop()


@pytest.fixture
def line(pair: Pair, tmp_path: Path) -> Iterator[Wire]:
    """The browser's line to nginx."""
    with nginx(tmp_path, *(node.url for node in pair.nodes)) as url, Wire(int(url.rpartition(":")[2])) as wire:
        yield wire


def whole_answer(front: str) -> str:
    """What the demo says to that, read in peace."""
    said = f"Tell me. [tokens={TOKENS}] [rate=0]"
    body = {"model": "demo", "messages": [{"role": "user", "content": said}], "stream": False}
    request = urllib.request.Request(
        f"{front}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def started(front: str) -> int:
    with urllib.request.urlopen(f"{front}/api/streaming/statistics", timeout=5) as answer:
        told = json.load(answer)
    return int(told["total"]) + int(told["active"])


def goes_on(browser: webdriver.Chrome, tokens: int = 8) -> None:
    """It reads on, from where it is now."""
    until(browser, f"window.over !== '' || window.ids.length > {run(browser, 'return window.ids.length') + tokens}")
    assert run(browser, "return window.over") == ""


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(120)
def test_the_text_is_exact_whatever_dies(browser: webdriver.Chrome, pair: Pair, line: Wire, page: str) -> None:
    """A phone that loses its network, a node that crashes and a deploy, all in one answer: the page would show words
    twice or not at all, stop, or pay for another answer."""
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": page == "module"})  # the page is the gateway's own
    browser.get(f"{line.url}/")
    before = started(line.url)
    run(browser, BEGIN + PAGES[page] % f"Tell me. [tokens={TOKENS}] [rate=14]")
    until(browser, "window.ids.length > 10")
    for by in (signal.SIGKILL, signal.SIGTERM):  # each time the node it reads from: there is no other yet
        lost = pair.end(line.url, by)
        goes_on(browser)
        pair.begin(lost)
    network(browser, offline=True)
    line.cut()
    time.sleep(1.0)
    at = run(browser, "return window.ids.length")
    time.sleep(0.3)
    assert run(browser, "return window.ids.length") == at
    network(browser, offline=False)
    goes_on(browser)
    until(browser, "window.over !== ''", 40)
    assert run(browser, "return window.over") == "done"
    ids = run(browser, "return window.ids")
    assert ids == list(range(1, len(ids) + 1))
    assert run(browser, "return window.connections()") >= 4
    assert run(browser, "return document.getElementById('text').textContent") == whole_answer(line.url)
    time.sleep(0.5)  # another node's figures come with its next flush
    assert started(line.url) == before + 2  # this answer, and the one it is compared with
