"""The admin listener over HTTP, with the real registry, metrics and health."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from config.schema import Admin
from config.values import Secret
from gateway.admin.api import admin_app, host_allowed, needs_token, origin_allowed
from gateway.observe.health import Health
from gateway.observe.metrics import Metrics
from gateway.registry.base import Entry
from gateway.registry.memory import MemoryRegistry
from gateway.streams.settle import settle
from gateway.streams.stream import Identity, Receipt, State, Stream

TOKEN = {"Authorization": "Bearer right"}
Client = TestClient[web.Request, web.Application]


class Node:
    """A registry with running streams that really end when they are stopped."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry("n")
        self.streams: dict[str, Stream] = {}
        self.registry.attach(lambda: list(self.registry.running.values()), self.stop)

    def begin(self, stream_id: str, owner: str) -> None:
        who = Identity(stream_id, owner, "native", "m", "demo", "m", "n", 1)
        self.streams[stream_id] = Stream(who, 0.0)
        fields = (stream_id, "streaming", "m", "demo", "native", owner, "", "", "", "n", 1)
        self.registry.opened(Entry(*fields, key_id="the-key"))

    def stop(self, stream_id: str, owner: str, by: str, reason: str) -> Receipt | None:
        stream = self.streams.get(stream_id)
        if stream is None or not stream.end(State.CANCELLED, 1.0, by=by, reason=reason):
            return None
        receipt = settle(stream, tap=None, bytes_in=0, now=1, ended_ms=2, prompt_chars=0)
        self.registry.closed(receipt, "the-key")
        return receipt


def app(node: Node, admin: Admin) -> web.Application:
    health = Health(version="1", registry=node.registry.health, active=lambda: 0)
    return admin_app(admin, metrics=Metrics(), health=health, registry=node.registry)


@pytest.fixture
async def node() -> Node:
    node = Node()
    node.begin("st_a", "acme")
    node.begin("st_b", "other")
    return node


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    async with TestClient(TestServer(app(node, Admin(token=Secret("right"))))) as found:
        yield found


async def test_all_owners_are_listed(client: Client) -> None:
    """Breaks when an operator sees only some owners' streams, or the key's id leaks into the list."""
    text = await (await client.get("/api/streams", headers=TOKEN)).text()
    assert '"count":2' in text
    assert "st_a" in text
    assert "st_b" in text
    assert "the-key" not in text


async def test_an_operator_cancels(client: Client, node: Node) -> None:
    """Breaks when an operator's cancel does not end the stream, or the receipt does not say who did it."""
    answer = await client.delete("/api/streams/st_b", headers=TOKEN)
    body = await answer.json()
    assert (answer.status, body["state"], body["receipt"]["endedBy"]) == (200, "cancelled", "operator")
    assert node.streams["st_b"].state is State.CANCELLED
    shown = await (await client.get("/api/streams/st_b", headers=TOKEN)).json()
    assert shown["state"] == "cancelled"
    assert (await client.delete("/api/streams/st_b", headers=TOKEN)).status == 200
    assert (await (await client.get("/api/streams", headers=TOKEN)).json())["count"] == 1


@pytest.mark.parametrize("stream_id", ["st_nobody", "bad.id", "x" * 200])
async def test_unknown_streams(client: Client, stream_id: str) -> None:
    """Breaks when an unknown or impossible id is anything but a 404."""
    assert (await client.get(f"/api/streams/{stream_id}", headers=TOKEN)).status == 404
    assert (await client.delete(f"/api/streams/{stream_id}", headers=TOKEN)).status == 404


async def test_figures(client: Client) -> None:
    """Breaks when Prometheus or the statistics get no answer here."""
    scrape = await client.get("/metrics", headers=TOKEN)
    assert scrape.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "headgate_streams_total" in await scrape.text()
    assert (await client.get("/api/statistics", headers=TOKEN)).status == 200
    assert "checks" in await (await client.get("/health/detailed", headers=TOKEN)).json()


async def test_nothing_without_the_token(client: Client, node: Node) -> None:
    """Breaks when any route but liveness answers someone without the token (walks all routes)."""
    for route in app(node, Admin(token=Secret("right"))).router.routes():
        path = (route.resource.canonical if route.resource else "").replace("{id}", "st_a").replace("{check}", "disk")
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            status = (await client.request(route.method, path, headers=wrong)).status
            assert (status == 401) is (path not in ("/health", "/health/ready")), path
    assert not node.streams["st_a"].state.terminal


async def test_a_lured_browser_changes_nothing(client: Client, node: Node) -> None:
    """Breaks when a page of another site can cancel streams, or reach the listener under its own name."""
    rebound = TOKEN | {"Host": "evil.example"}
    assert (await client.get("/api/streams", headers=rebound)).status == 421
    for more in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await client.delete("/api/streams/st_a", headers=TOKEN | more)).status == 403
    assert not node.streams["st_a"].state.terminal


async def test_without_a_token_on_loopback(node: Node) -> None:
    """Breaks when a laptop without a configured token cannot look at its own streams."""
    async with TestClient(TestServer(app(node, Admin()))) as client:
        assert (await client.get("/api/streams")).status == 200
        missing = await client.get("/nothing")
        assert (missing.status, (await missing.json())["error"]["code"]) == (404, "not_found")
        wrong = await client.post("/api/streams")
        assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD".replace(",", ", "))


def test_hosts() -> None:
    """Breaks when a foreign Host is taken for ours, or a wildcard listener with a token cannot be scraped by name."""
    plain = Admin(host="admin.internal")
    assert all(host_allowed(h, plain) for h in ("localhost:8081", "127.0.0.1", "[::1]:8081", "Admin.Internal:1"))
    assert not any(host_allowed(h, plain) for h in ("evil.example", "", "localhost.evil.example", "[::1", "127.0.0.2"))
    assert host_allowed("gateway:8081", Admin(host="0.0.0.0", token=Secret("x")))
    assert not host_allowed("gateway:8081", Admin(host="0.0.0.0"))


def test_origins() -> None:
    """Breaks when the console's own requests are refused."""
    assert origin_allowed("DELETE", "http://localhost:8081", "same-origin", "localhost:8081")
    assert origin_allowed("DELETE", None, None, "localhost:8081")
    assert not origin_allowed("DELETE", "http://localhost:9", None, "localhost:8081")


def test_where_a_token_is_needed() -> None:
    """Breaks when an admin listener that others can reach may start without a token."""
    assert [needs_token(h) for h in ("127.0.0.1", "localhost", "::1")] == [False] * 3
    assert [needs_token(h) for h in ("0.0.0.0", "::", "10.0.0.1", "gateway")] == [True] * 4
