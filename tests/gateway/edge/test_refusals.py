"""Refusals from outside: one JSON shape, the right status and headers, and nothing left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.upstream import Upstream, chunk, head

from config.schema import Cors, Server
from config.values import Duration
from gateway.access.keys import create
from gateway.app import Gateway

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BUSY = [head(b"Content-Length: 2\r\n", b"429 Too Many Requests"), b"{}"]
TOKEN = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINE = [head(), chunk(TOKEN), chunk(TOKEN.replace(b"null", b'"stop"')), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]


async def raw(gateway: Gateway, data: bytes) -> bytes:
    """What a socket hears that says this."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read(4096)
    finally:
        writer.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/streaming/chat", "/v1/chat/completions"])
async def test_a_refused_stream_leaves_its_chosen_id_free(path: str, stream: bool) -> None:
    """An SDK repeats a refused request with the same headers, and would hear 409 ever after."""
    body, chosen = ASK | {"stream": stream}, {"X-Stream-Id": "mine"}
    async with Upstream(BUSY, BUSY, FINE) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        for _ in range(2):
            async with session.post(path, json=body, headers=chosen) as answer:
                assert answer.status == 429
            async with session.get("/api/streaming/mine") as answer:
                assert (await answer.json())["receipt"]["state"] == "upstream_error"
        async with session.post(path, json=body, headers=chosen) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        async with session.get("/api/streaming/mine") as answer:
            assert (await answer.json())["state"] == "completed"
        async with session.post(path, json=body, headers=chosen) as answer:
            assert answer.status == 409


async def refused(answer: aiohttp.ClientResponse, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = await answer.json()
    assert (answer.status, body["error"]["code"]) == (status, code)
    assert body["error"]["requestId"].startswith("req_")
    assert body["error"]["message"]
    return body


async def test_every_refusal_has_the_one_shape() -> None:
    """A client's error handling would break on plain text, or support could not find the request."""
    server = Server(port=0, cors=Cors(origins=("http://good",)))
    async with running(config_for(server=server)) as gateway, client(gateway) as session:
        asking = {"Origin": "http://bad", "Access-Control-Request-Method": "POST"}
        async with session.options("/api/streaming/chat", headers=asking) as answer:
            await refused(answer, 403, "forbidden")
        async with session.get("/api/monitoring/health/nonsense") as answer:
            await refused(answer, 404, "not_found")
        for check in ("store", "memory", "cpu", "disk", "up", "backend:up"):
            async with session.get(f"/api/monitoring/health/{check}") as answer:
                assert answer.status == 200, check


async def test_connections_without_a_request_are_refused_alike() -> None:
    """Half a head, or one connection too many, would get an answer without a word."""
    server = Server(port=0, header_timeout=Duration(0.2), max_connections=1)
    async with running(config_for(server=server)) as gateway:
        half = asyncio.create_task(raw(gateway, b"GET / HT"))
        await asyncio.sleep(0.05)
        full = await raw(gateway, b"")
        for said, status in ((full, b"503"), (await half, b"408")):
            assert said.startswith(b"HTTP/1.1 " + status)
            assert b"Content-Type: application/json" in said
            assert b'"requestId":"req_' in said


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        (b"GET /health HTTP/2.0", b'"requestId"'),
        (b"GET / HTTP/0.9", b'"requestId"'),
        (b"GET /v1/m\xc3\xb6dels HTTP/1.1", b'"type":"invalid_request_error"'),
        (b"POST /api/streaming/ch\xff HTTP/1.1", b'"requestId"'),
    ],
)
async def test_what_is_not_http_1_is_told_so_in_http_1(request_line: bytes, words: bytes) -> None:
    """The peer could not read the refusal, or not in the words it knows."""
    async with running(config_for()) as gateway:
        said = await raw(gateway, request_line + b"\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in said
    assert words in said


async def test_a_body_too_large_is_the_connections_last() -> None:
    """A client would send its next request into the middle of a body nobody reads."""
    async with running(config_for(server=Server(port=0, max_body=100))) as gateway:
        for path in (b"/api/streaming/chat", b"/v1/embeddings"):
            said = await raw(gateway, b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 413 ")
            assert b"\r\nConnection: close\r\n" in said


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/streaming/chat", {"POST"}),
        ("DELETE", "/api/streaming/generate", {"POST"}),
        ("DELETE", "/api/streaming/active", {"GET", "HEAD"}),
        ("PUT", "/api/streaming/statistics", {"GET", "HEAD"}),
        ("DELETE", "/v1/streams/statistics", {"GET", "HEAD"}),
    ],
)
async def test_fixed_names_are_never_ids(method: str, path: str, allow: set[str]) -> None:
    """A mistaken method would look like an unknown stream, or an id would hide a path."""
    async with running(config_for()) as gateway, client(gateway) as session:
        async with session.request(method, path) as answer:
            await refused(answer, 405, "method_not_allowed")
            assert {word.strip() for word in answer.headers["Allow"].split(",")} == allow
        async with session.options(path) as answer:
            assert answer.status == 204
            assert allow < {word.strip() for word in answer.headers["Allow"].split(",")}
        name = path.rpartition("/")[2]
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": name}) as answer:
            await refused(answer, 400, "invalid_request")


async def test_credentials_in_the_address() -> None:
    """Of two keys one would win silently, or a client would not know how to sign in."""
    secret, key = create("web", "acme")
    async with running(config_for(keys=(key,))) as gateway, client(gateway) as session:
        mine = f"/api/streaming/active?token={secret}"
        async with session.get(mine) as answer:
            assert answer.status == 200
        for path, headers in (
            (mine + "&key=other", {}),
            (mine + "&token=other", {}),
            (mine, {"x-api-key": "other"}),
            ("/api/streaming/active", {}),
        ):
            async with session.get(path, headers=headers) as answer:
                await refused(answer, 401, "unauthenticated")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        async with session.post("/v1/chat/completions", json=ASK) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
