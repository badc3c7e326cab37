"""Whose streams are whose: keys, owners, limits, and what answers without a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.upstream import HOLD, RESET, Upstream, chunk, head

from config.schema import Key
from gateway.access.keys import hash_of
from gateway.app import Gateway

KEYS = (
    Key(id="k-alice", owner="alice", hash=hash_of("alice-secret"), max_streams=2),
    Key(id="k-bob", owner="bob", hash=hash_of("bob-secret"), models=("small-*",)),
    Key(id="k-gone", owner="bob", hash=hash_of("gone-secret"), disabled=True),
)
ASK: dict[str, Any] = {"model": "small-1", "messages": [{"role": "user", "content": "hi"}]}
LONG = {**ASK, "messages": [{"role": "user", "content": "hi [tokens=2000] [rate=50]"}]}
ALICE = {"Authorization": "Bearer alice-secret"}
BOB = {"x-api-key": "bob-secret"}
CHAT = "/api/streaming/chat"
OPEN = ("/api/version", "/health", "/health/ready", "/health/detailed", "/health/stream", "/api/v1/health/stream", "/")
PAGES = ("/resume", "/headgate.js", "/headgate.d.ts")


@pytest.fixture
async def guarded() -> AsyncIterator[Gateway]:
    """The demo behind two owners' keys."""
    async with running(config_for(keys=KEYS)) as gateway:
        yield gateway


@asynccontextmanager
async def stream(
    session: aiohttp.ClientSession, name: str, headers: dict[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A long stream under a chosen id, at its first bytes."""
    async with session.post(CHAT, json=LONG, headers={**headers, "X-Stream-Id": name}) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readuntil(b"\n\n")
        yield answer


def names(gateway: Gateway) -> set[str]:
    """The ids of all running streams."""
    return {p.stream.identity.id for p in gateway.hub}


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Authorization": "Bearer alice-secret"}, "", 200),
        ({"authorization": "bearer alice-secret"}, "", 200),
        ({"x-api-key": "alice-secret"}, "", 200),
        ({"api-key": "alice-secret"}, "", 200),
        ({}, "?token=alice-secret", 200),
        ({}, "", 401),
        ({"Authorization": "Bearer wrong"}, "", 401),
        ({"Authorization": "Basic alice-secret"}, "", 401),
        ({"x-api-key": "gone-secret"}, "", 401),
        ({"x-api-key": "alice-secret", "api-key": "bob-secret"}, "", 401),
        ({"x-api-key": "alice-secret"}, "?token=bob-secret", 401),
    ],
)
async def test_a_key_may_come_in_any_of_the_usual_places(
    guarded: Gateway, headers: dict[str, str], query: str, status: int
) -> None:
    """An SDK's way of sending its key would not be understood, or a wrong key would be let in."""
    async with client(guarded) as session, session.get(f"/api/streaming/active{query}", headers=headers) as answer:
        assert answer.status == status
        if status == 401:
            assert (await answer.json())["error"]["code"] == "unauthenticated"


async def test_an_event_source_brings_its_key_in_the_address(guarded: Gateway) -> None:
    """Browsers' EventSource cannot send headers: without ?token= it could not be used at all."""
    async with client(guarded) as session:
        async with session.get("/api/v1/chat/stream", params={"message": "hi", "token": "alice-secret"}) as answer:
            assert answer.status == 200
            assert "event: done" in await answer.text()
        async with session.get("/api/v1/chat/stream", params={"message": "hi"}) as answer:
            assert answer.status == 401


async def test_an_owner_sees_and_touches_only_its_own(guarded: Gateway) -> None:
    """One customer could read, count or stop another's streams, or learn which ids exist."""

    def timeless(body: dict[str, Any]) -> dict[str, Any]:
        assert body["error"].pop("requestId")
        return body

    async with client(guarded) as session, stream(session, "hers", ALICE), stream(session, "his", BOB):
        for headers, own in ((ALICE, "hers"), (BOB, "his")):
            for path in ("/api/streaming/active", "/v1/streams"):
                async with session.get(path, headers=headers) as answer:
                    assert [s["streamId"] for s in (await answer.json())["streams"]] == [own]
            async with session.get("/api/streaming/statistics", headers=headers) as answer:
                assert "k-" not in await answer.text()
        for method in ("GET", "DELETE"):
            found = []
            for name in ("hers", "never-was", "not%20an%20id"):
                async with session.request(method, f"/api/streaming/{name}", headers=BOB) as answer:
                    found.append((answer.status, timeless(await answer.json()), set(answer.headers)))
            assert found[0][0] == 404
            assert found[0] == found[1] == found[2]
        assert names(guarded) == {"hers", "his"}
        async with session.delete("/api/streaming/hers", headers=ALICE) as answer:
            assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")
        async with session.get("/api/streaming/hers", headers=BOB) as answer:
            assert answer.status == 404  # nor its receipt
        assert names(guarded) == {"his"}


@pytest.mark.parametrize("prefix", ["/api/streaming", "/v1/streams"])
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_foreign_unknown_and_malformed_ids_are_alike(
    guarded: Gateway, prefix: str, accept: str, method: str
) -> None:
    """Whoever guesses ids would learn which exist, from the answer to attach, show or cancel (D 29)."""
    async with client(guarded, Accept=accept) as session, stream(session, "hers", ALICE):
        found = []
        for name in ("hers", "never-was", "not%20an%20id", "hers@alice", "a" * 101, "hers~"):
            async with session.request(method, f"{prefix}/{name}", headers=BOB) as answer:
                text = re.sub(r"req_\w+", "", await answer.text())
                named = set(answer.headers) - {"Content-Length"}
                found.append((answer.status, text, named, answer.headers["Content-Type"]))
        assert found[0][0] == 404
        assert all(one == found[0] for one in found)
        assert names(guarded) == {"hers"}


async def test_a_foreign_id_cannot_be_taken_over(guarded: Gateway) -> None:
    """Choosing another owner's stream id would end or replace that stream, or tell that it exists."""
    async with client(guarded) as session, stream(session, "hers", ALICE):
        async with session.post(CHAT, json=LONG, headers={**ALICE, "X-Stream-Id": "hers"}) as answer:
            assert answer.status == 409
        async with stream(session, "hers", BOB), session.delete("/api/streaming/hers", headers=BOB) as answer:
            assert (await answer.json())["state"] == "cancelled"
        async with session.get("/api/streaming/hers", headers=ALICE) as answer:
            assert (await answer.json())["receipt"]["endedAt"] is None
        assert {p.stream.identity.owner for p in guarded.hub} == {"alice"}


async def _refused(session: aiohttp.ClientSession, path: str = CHAT) -> dict[str, Any]:
    async with session.post(path, json={**LONG, "stream": True}, headers={**ALICE, "X-Stream-Id": "third"}) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
        body: dict[str, Any] = await answer.json()
        return body


@pytest.mark.parametrize("ending", ["cancel", "disconnect", "end"])
async def test_a_lease_returns_with_every_ending(guarded: Gateway, ending: str) -> None:
    """A leaked lease would lock a customer out until a restart."""
    async with client(guarded) as session, stream(session, "one", ALICE):
        if ending == "end":
            second = session.post(
                CHAT, json={**ASK, "messages": [{"role": "user", "content": "[tokens=40] [rate=80]"}]}, headers=ALICE
            )
        else:
            second = session.post(
                CHAT, json=LONG, headers={**ALICE, "X-Stream-Id": "two", "X-Stream-On-Disconnect": "cancel"}
            )
        answer = await second
        await answer.content.readuntil(b"\n\n")
        assert (await _refused(session))["error"]["code"] == "rate_limited"
        assert (await _refused(session, "/v1/chat/completions"))["error"]["code"] == "rate_limit_exceeded"
        if ending == "cancel":
            await session.delete("/api/streaming/two", headers=ALICE)
        elif ending == "end":
            await answer.read()
        answer.close()
        await _until_running(guarded, 1)
        async with stream(session, "third", ALICE):  # the very request that was refused, repeated as SDKs do
            assert len(guarded.hub) == 2


async def _until_running(gateway: Gateway, count: int) -> None:
    async with asyncio.timeout(3):
        while len(gateway.hub) != count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "script",
    [
        [head(b"Content-Length: 2\r\n", b"500 Oops"), b"{}"],
        [head(), RESET],
        [head(), chunk(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'), RESET],
        [RESET],
    ],
    ids=["status 500", "reset after the head", "reset after a token", "reset at once"],
)
async def test_a_lease_returns_when_the_backend_fails(script: list[bytes | str]) -> None:
    """A backend's bad hour would eat up its customers' leases one failure at a time."""
    async with (
        Upstream(script) as up,
        running(config_for(up.url, keys=KEYS)) as gateway,
        client(gateway, **ALICE) as session,
    ):
        for path in (CHAT, "/v1/chat/completions") * 3:
            async with session.post(path, json=ASK) as answer:
                assert answer.status in (200, 502, 503), await answer.text()  # 503: the breaker has opened
                with contextlib.suppress(
                    aiohttp.ClientPayloadError
                ):  # a broken body, where the protocol has nothing better
                    await answer.read()
        assert gateway.registry.leases == {}  # type: ignore[attr-defined]


async def test_a_lease_returns_when_the_client_leaves_before_the_first_token() -> None:
    """Impatient clients would lock themselves out, and their backends would go on."""
    async with (
        Upstream([HOLD]) as up,
        running(config_for(up.url, keys=KEYS)) as gateway,
        client(gateway, **ALICE) as session,
    ):
        for path in (CHAT, "/v1/chat/completions") * 2:
            asking = asyncio.create_task(
                session.post(path, json=ASK, headers={"X-Stream-On-Disconnect": "cancel"}).__aenter__()
            )
            await _until_running(gateway, 1)
            asking.cancel()
            await _until_running(gateway, 0)
        async with asyncio.timeout(2):
            while len(up.closed_at) < 4:
                await asyncio.sleep(0.01)
        assert gateway.registry.leases == {}  # type: ignore[attr-defined]


async def test_a_key_opens_only_its_models(guarded: Gateway) -> None:
    """A cheap key would buy expensive answers."""
    async with client(guarded, **BOB) as session:
        for path, body in (
            (CHAT, ASK),
            ("/v1/chat/completions", ASK),
            ("/api/v1/conversations/c1/stream", {**ASK, "prompt": "hi"}),
        ):
            async with session.post(path, json={**body, "model": "large-1"}) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (403, "forbidden"), path
        async with session.get("/api/v1/chat/stream", params={"message": "hi", "model": "large-1"}) as answer:
            assert answer.status == 403
        async with session.post(CHAT, json=ASK) as answer:
            assert answer.status == 200


async def test_only_health_the_page_and_the_version_answer_without_a_key(guarded: Gateway) -> None:
    """A route somebody added without a check would be open to the world."""
    runner = guarded._runners[0]
    assert isinstance(runner, aiohttp.web.AppRunner)
    routes = [(r.method, r.resource.canonical) for r in runner.app.router.routes() if r.resource is not None]
    assert len(routes) > 20
    async with client(guarded) as session:
        for verb, canonical in routes:
            method = "POST" if verb == "*" else verb
            path = (
                canonical.replace("{id}", "abc")
                .replace("{check}", "memory")
                .replace("{model}", "m")
                .replace("{version}", "v1beta")
            )
            path = path.replace("{call}", "generateContent").replace("{digest}", "sha256:0")
            get = method in ("GET", "HEAD")
            query = {"message": "x"} if get else None
            async with session.request(method, path, params=query, json=None if get else LONG) as answer:
                may = path in OPEN + PAGES or path.startswith("/api/monitoring/") or answer.status == 501
                assert (answer.status != 401) == may, (method, path, answer.status)
                if not may and method != "HEAD":
                    assert json.loads(await answer.text())["error"]  # in whatever shape the path's clients know
    assert len(guarded.hub) == 0
