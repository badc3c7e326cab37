"""Bytes an attacker or a broken proxy would send, over raw sockets: nothing of it reaches a backend."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, running
from support.upstream import Upstream, chunk, head

from config.schema import Backend, Server
from config.values import Secret, Size
from gateway.app import Gateway

PATH = "/api/streaming/chat"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
LIMIT = 256 * 1024


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[Gateway, Upstream]]:
    """A gateway with a small body limit before an upstream that only remembers."""
    server = Server(port=0, max_body=Size(LIMIT))
    async with Upstream([head(), b"0\r\n\r\n"]) as up, running(config_for(up.url, server=server)) as gateway:
        yield gateway, up


async def send(gateway: Gateway, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the answer to these bytes; status 0: closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    try:
        writer.write(raw)
        async with asyncio.timeout(5):
            await writer.drain()
            return await answer(reader)
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0, {}, b""
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next answer that has a Content-Length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:-2])}
    return int(lines[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def post(
    *headers: bytes, target: str = PATH, body: bytes = BODY, host: bytes = b"Host: gw", version: bytes = b"HTTP/1.1"
) -> bytes:
    """A request; its framing headers are the caller's when it gives any."""
    framed = any(h.lower().startswith((b"content-length", b"transfer-encoding")) for h in headers)
    own = () if framed else (b"Content-Length: %d" % len(body),)
    lines = (b"POST " + target.encode() + b" " + version, host, *own, *headers)
    return b"\r\n".join(line for line in lines if line) + b"\r\n\r\n" + body


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d" % len(BODY)

FRAMING = {
    "length and chunked": post(LENGTH, b"Transfer-Encoding: chunked", body=CHUNKED),
    "two lengths": post(LENGTH, b"Content-Length: 4"),
    "the same length twice": post(LENGTH, LENGTH),
    "two hosts": post(b"Host: other"),
    "no host": post(host=b""),
    "bare LF": post().replace(b"\r\n", b"\n"),
    "obs-fold": post(b"X-A: b\r\n folded"),
    "NUL in a header": post(b"X-A: b\0c"),
    "NUL in the target": post(target="/api/streaming/chat\0"),
    "space before the colon": post(b"X-A : b"),
    "negative length": post(b"Content-Length: -1"),
    "signed length": post(b"Content-Length: +57"),
    "unknown transfer coding": post(b"Transfer-Encoding: xchunked", body=CHUNKED),
    "HTTP/2.0": post(version=b"HTTP/2.0"),
    "HTTP/0.9": b"GET /api/v1/chat/stream?message=hi\r\n\r\n",
    "a coding below the chunks": post(b"Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "a coding in a line of its own": post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=CHUNKED),
    "a bad chunk size": post(b"Transfer-Encoding: chunked", body=b"zz\r\n" + BODY),
}

TARGETS = {
    "absolute form": post(target=f"http://169.254.169.254{PATH}"),
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: gw\r\n\r\n",
    "two slashes": post(target=f"//evil{PATH}"),
    "encoded slash": post(target="/v1/..%2fapi/streaming/chat"),
    "encoded dots": post(target="/v1/%2e%2e/api/streaming/chat"),
    "plain dots": post(target="/v1/../api/streaming/chat"),
    "doubly encoded": post(target="/v1/%252e%252e/api/streaming/chat"),
    "encoded NUL": post(target=f"{PATH}%00"),
    "encoded line end": post(target="/api/v1/conversations/a%0d%0ab/stream"),
    "backslash": post(target="/api\\streaming\\chat"),
    "no slash": post(target="api/streaming/chat"),
    **{f"Host with {c}": post(host=b"Host: gw" + c.encode() + b"x") for c in "/?#@\\ "},
}

SIZES = {
    "130 headers": post(*(b"X-%d: v" % i for i in range(130))),
    "a line of 9 KB": post(b"X-A: " + b"a" * 9216),
    "a target of 9 KB": post(target=PATH + "?a=" + "a" * 9216),
    "1 MB of headers": post(*(b"X-%d: %s" % (i, b"a" * 8000) for i in range(130))),
    "too large by length": post(b"Content-Length: %d" % (LIMIT + 1), body=b"{"),
    "too large in chunks": post(b"Transfer-Encoding: chunked", body=chunk(b" " * LIMIT) * 2 + b"0\r\n\r\n"),
    "too large by the size of a chunk": post(b"Transfer-Encoding: chunked", body=b"ffffffffffffffff\r\na"),
    "gzip": post(b"Content-Encoding: gzip", body=gzip.compress(BODY)),
}

VALUES = {
    "10^5 deep": post(body=b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "n=10^6": post(target="/v1/chat/completions", body=BODY[:-1] + b',"n":1000000}'),
    "n=0": post(target="/v1/chat/completions", body=BODY[:-1] + b',"n":0}'),
    "invalid UTF-8": post(body=BODY.replace(b"hi", b"\xff")),
    "lone surrogate": post(body=BODY.replace(b"hi", b"\\ud800")),
    "surrogate in the model": post(body=BODY.replace(b'"m"', b'"\\udfff"')),
    "line end in a stream id": post(b"X-Stream-Id: a\rb"),
    "odd bytes in a stream id": post(b"X-Stream-Id: a\xed\xa0\x80"),
    "odd characters in a stream id": post(b"X-Stream-Id: a/../b"),
    "a nonsense policy": post(b"X-Stream-On-Disconnect: grace=\xff"),
    "not an object": post(body=b"[]"),
    "not JSON": post(body=b"{'a'"),
}


@pytest.mark.parametrize(
    "raw", [pytest.param(raw, id=name) for name, raw in (FRAMING | TARGETS | SIZES | VALUES).items()]
)
async def test_nothing_of_it_reaches_a_backend(guarded: tuple[Gateway, Upstream], raw: bytes) -> None:
    """A smuggled, misrouted or oversized request would run on somebody's account, or be refused in no known words."""
    gateway, up = guarded
    status, headers, body = await send(gateway, raw)
    assert status in (0, 501, 505) or 400 <= status < 500, (status, body)
    assert up.connections == 0
    assert len(gateway.hub) == 0
    if status:
        assert headers["content-type"].startswith("application/json"), (headers, body)
        assert json.loads(body)["error"]["message"]
    async with client(gateway) as session, session.get("/health") as alive:
        assert alive.status == 200


@pytest.mark.parametrize(
    ("path", "keys"),
    [("/v1/chat/completions", {"message", "type", "param", "code"}), (PATH, {"code", "message", "requestId"})],
)
async def test_each_protocol_refuses_in_its_own_words(
    guarded: tuple[Gateway, Upstream], path: str, keys: set[str]
) -> None:
    """An SDK that cannot read the refusal would report a parse error instead of it."""
    gateway, up = guarded
    cases = {
        415: post(b"Content-Encoding: gzip", target=path),
        413: post(b"Content-Length: %d" % (LIMIT + 1), target=path, body=b""),
        400: post(target=path, body=b"{"),
        405: b"PUT " + path.encode() + b" HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n",
    }
    for expected, raw in cases.items():
        status, headers, body = await send(gateway, raw)
        assert (status, set(json.loads(body)["error"])) == (expected, keys)
        assert headers["content-type"] == "application/json"
    assert up.requests == []


async def test_a_broken_header_is_not_logged(
    guarded: tuple[Gateway, Upstream], caplog: pytest.LogCaptureFixture
) -> None:
    """A key next to a stray control character would end up in the log, and in the answer."""
    gateway, _up = guarded
    status, _headers, body = await send(gateway, post(b"Authorization: Bearer hg_secret\0"))
    assert status == 400
    assert b"hg_secret" not in body
    assert "hg_secret" not in caplog.text


SPOOFED = {
    b"Connection": b"x-api-key, x-forwarded-for, authorization",
    b"X-Api-Key": b"canary-1",
    b"X-Forwarded-For": b"canary-2",
    b"Forwarded": b"for=canary-3",
    b"TE": b"trailers, canary-4",
    b"Cookie": b"session=canary-5",
    b"Proxy-Authorization": b"Basic canary-6",
    b"User-Agent": b"canary-7",
    b"OpenAI-Organization": b"canary-8",
    b"X-User-Id": b"canary-9",
    b"Accept-Encoding": b"gzip, canary-10",
    b"Upgrade": b"canary-11",
    b"Trailer": b"canary-12",
    b"X-Anything": b"canary-13",
    b"Referer": b"http://canary-14/",
}


@pytest.mark.parametrize("driver", ["openai", "anthropic", "ollama"])
@pytest.mark.parametrize("target", [PATH, "/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_nothing_of_the_clients_headers_reaches_a_backend(target: str, driver: str) -> None:
    """A client could pass for another one at the backend, or its own key and cookies would go there (A 7)."""
    async with Upstream([head(), b"0\r\n\r\n"]) as up:
        config = config_for(up.url, driver=driver)
        backend = Backend(driver=driver, url=up.url, api_key=Secret("ours"))
        async with running(replace(config, backends={"up": backend})) as gateway:
            await _spoof(gateway, up, target)


async def _spoof(gateway: Gateway, up: Upstream, target: str) -> None:
    headers = [name + b": " + value for name, value in SPOOFED.items()]
    asked = BODY[:-1] + b',"max_tokens":5}'
    trailers = b"%x\r\n%s\r\n0\r\nX-Api-Key: canary-15\r\nHost: canary-16\r\n\r\n" % (len(asked), asked)
    await send(gateway, post(*headers, b"Transfer-Encoding: chunked", target=target, body=trailers))
    assert len(up.requests) == 1
    raw, _body = up.requests[0]
    assert b"canary" not in raw
    names = {line.split(b":")[0].lower() for line in raw.strip().split(b"\r\n")[1:]}
    ours = {b"host", b"content-type", b"content-length", b"accept", b"accept-encoding", b"user-agent", b"connection"}
    assert names <= ours | {b"authorization", b"x-api-key", b"anthropic-version"}
    assert b"ours" in raw


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
async def test_an_upgrade_is_ignored(guarded: tuple[Gateway, Upstream], protocol: str) -> None:
    """curl --http2 and curious proxies offer one; the request would hang, or its body be lost (A 7)."""
    gateway, up = guarded
    more = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol.encode(), b"HTTP2-Settings: AAMAAABk")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    writer.write(post(*more))
    async with asyncio.timeout(5):
        assert (await answer(reader))[0] == 502  # what an answer without content is
        writer.write(b"GET /health HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert (await answer(reader))[0] == 200
    writer.close()
    assert [b'"hi"' in body for _, body in up.requests] == [True]


async def test_expect_100_continue_is_answered_and_nothing_else_is(guarded: tuple[Gateway, Upstream]) -> None:
    """curl sends it with larger bodies and waits a second; an unknown expectation would be taken for met (A 7)."""
    gateway, up = guarded
    for target in (PATH, "/api/v1/conversations/c/stream"):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
        request = post(b"Expect: 100-continue", target=target)
        writer.write(request.removesuffix(BODY))
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            assert (await answer(reader))[0] == 502  # what an answer without content is
        writer.close()
    assert len(up.requests) == 2
    status, _headers, body = await send(gateway, post(b"Expect: the-unexpected"))
    assert (status, json.loads(body)["error"]["code"]) == (417, "invalid_request")
    large = post(b"Expect: 100-continue").removesuffix(BODY).replace(b"Content-Length: ", b"Content-Length: 99999")
    status, _headers, body = await send(gateway, large)  # not first asked for, then refused
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    assert len(up.requests) == 2


@pytest.mark.parametrize(
    "value", [b"a\r\nX-Evil: 1", b"st_1.99999999999999999999", b"\xed\xa0\x80.1", b"a" * 3000, b"..", b"st_1.-1"]
)
async def test_a_forged_last_event_id_does_nothing(guarded: tuple[Gateway, Upstream], value: bytes) -> None:
    """What a client says it has read would become a header, an event, a huge number or somebody else's stream (A 6)."""
    gateway, _up = guarded
    target = b"GET /api/streaming/st_1 HTTP/1.1\r\nHost: gw\r\nAccept: text/event-stream\r\nLast-Event-ID: "
    status, headers, body = await send(gateway, target + value + b"\r\n\r\n")
    assert status in (400, 404)
    assert "x-evil" not in headers
    assert b"Evil" not in body


@pytest.mark.parametrize("name", ["X-User-Id", "X-Conversation-Id", "X-Workspace-Id"])
async def test_attributes_of_headers_are_cleaned(guarded: tuple[Gateway, Upstream], name: str) -> None:
    """A control character in an attribute would forge a line of the log or a field of an event (A 6)."""
    gateway, _up = guarded
    status, _headers, _body = await send(gateway, post(name.encode() + b": a\x1b[31m\xff\x7f\tb"))
    assert status in (200, 400)
    async with client(gateway) as session, session.get("/api/streaming/active") as listed:
        assert "\\u001b" not in await listed.text()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"llm.example.com", 200),
        (b"LLM.Example.com:8080", 200),
        (b"[::1]:8080", 200),
        (b"llm.example.com.evil", 403),
        (b"evil", 403),
        (b"127.0.0.1", 403),
        (b"[::1", 400),
    ],
)
async def test_only_configured_host_names_are_served(host: bytes, status: int) -> None:
    """A page of somebody else's, pointed at us by its DNS, could use a visitor's gateway (DNS rebinding)."""
    server = Server(port=0, hosts=("llm.example.com", "[::1]"))
    async with running(config_for(server=server)) as gateway:
        request = b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        assert (await send(gateway, request))[0] == status


async def test_attributes_cannot_forge_headers_or_lines(guarded: tuple[Gateway, Upstream]) -> None:
    """A line end in a user's or conversation's name would become a header, an event or a log line of the attacker's."""
    gateway, _up = guarded
    asked = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "userId": "a\r\nX-Evil: 1",
            "conversationId": "c\r\n\r\nevent: done",
        }
    )
    async with client(gateway) as session, session.post(PATH, data=asked.encode()) as reply:
        text = await reply.text()
        assert "X-Evil" not in reply.headers
    assert "\nevent: done\r" not in text
    assert not re.search(r"^event: done.*\n\n.*event: start", text, re.DOTALL)


async def test_pipelined_requests_are_answered_in_order(guarded: tuple[Gateway, Upstream]) -> None:
    """A client that pipelines would be given another request's answer."""
    gateway, _up = guarded
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    for i in range(200):
        writer.write(
            b"GET /api/monitoring/health/%s HTTP/1.1\r\nHost: gw\r\n\r\n" % (b"redis" if i % 2 else b"no-such")
            if i % 5
            else b"GET /health HTTP/1.1\r\nHost: gw\r\n\r\n"
        )
    async with asyncio.timeout(10):
        found = [await answer(reader) for _ in range(200)]
    writer.close()
    for i, (status, _headers, body) in enumerate(found):
        if i % 5 == 0:
            assert status == 200, (i, body)
        elif i % 2 == 0:
            assert (status, json.loads(body)["error"]["code"]) == (404, "not_found"), i
    assert len(found) == 200


async def test_a_request_behind_a_stream_waits_for_its_end() -> None:
    """The second answer of a connection would be mixed into the stream of the first."""
    async with running(config_for()) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
        ask = BODY.replace(b"hi", b"[tokens=20] [rate=100]")
        writer.write(post(body=ask) + b"GET /health HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            everything = await reader.read()
        writer.close()
        end = everything.index(b"\r\n0\r\n\r\n")
        assert b"event: done" in everything[:end]
        assert everything[end + 7 :].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_transfer_coding_nobody_undoes(guarded: tuple[Gateway, Upstream]) -> None:
    """A client would be told that its JSON is bad, where it is only packed (RFC 9112, 6.1)."""
    status, headers, body = await send(guarded[0], FRAMING["a coding below the chunks"])
    assert (status, headers["connection"]) == (501, "close")
    assert b"chunked" in body


PIECES = {
    "at once": [b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\na"],
    "byte by byte": [bytes([c]) for c in post(b"Transfer-Encoding: chunked", body=b"5;x=y\r\nhello\r\n40001\r\n")],
    "a chunk too many": [post(b"Transfer-Encoding: chunked", body=b""), chunk(b" " * LIMIT), b"1\r\n"],
}


@pytest.mark.parametrize("pieces", [pytest.param(pieces, id=name) for name, pieces in PIECES.items()])
async def test_a_body_that_is_to_be_too_large_is_not_waited_for(
    guarded: tuple[Gateway, Upstream], pieces: list[bytes]
) -> None:
    """A client that announces more than it may send would hold a connection until the body's time is up."""
    pieces = [piece.replace(b"POST / ", b"POST %s " % PATH.encode()) for piece in pieces]
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded[0].public_port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        status, headers, body = await answer(reader)
        assert (status, headers["connection"]) == (413, "close")
        assert b"server.max_body" in body
        assert await reader.read() == b""
    writer.close()


async def test_chunks_within_the_limit_are_a_body(guarded: tuple[Gateway, Upstream]) -> None:
    """An honest client that sends its body in pieces, with extensions and trailers, would be refused."""
    body = b"".join(b"%X;a=b\r\n%b\r\n" % (1, bytes([c])) for c in BODY)
    raw = post(b"Transfer-Encoding: Chunked", body=body + b"0\r\nX-Sum: 1\r\n\r\n", target="/v1/embeddings")
    status, _, said = await send(guarded[0], raw.replace(BODY, b""))
    assert (status, b"input" in said) == (400, True)
