"""The upstream transport against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest
from support.upstream import CLOSE, HOLD, RESET, Step, Upstream, chunk, head
from support.upstream_sink import Recorder, driver, post

from backends.base import HttpRequest, Play, Script
from backends.contract.errors import BackendError, ErrorCode
from backends.dial import is_public
from backends.transport import Exchange, Transport
from config.values import Duration, Secret

END = b"0\r\n\r\n"
HELLO = head() + chunk(b"hello") + END


def transport(up: Upstream | str, max_body: int = 0, **settings: object) -> Transport:
    return Transport(driver(up if isinstance(up, str) else up.url, **settings), connect_timeout=2.0, max_body=max_body)


async def ask(client: Transport, request: HttpRequest | None = None) -> Recorder:
    """One whole exchange."""
    sink = Recorder()
    await client.open(request or post(), sink)
    await sink.end()
    return sink


async def start(client: Transport) -> tuple[Exchange, Recorder]:
    sink = Recorder()
    return await client.open(post(), sink), sink


async def settled(check: object) -> bool:
    """Whether a condition comes true within a second."""
    for _ in range(100):
        if check():  # type: ignore[operator]
            return True
        await asyncio.sleep(0.01)
    return False


async def test_request_bytes() -> None:
    """The request would lack a header, or carry one that is not the driver's to set."""
    async with Upstream([HELLO]) as up:
        client = transport(up.url + "/base", headers={"X-Team": Secret("blue"), "authorization": Secret("Bearer k2")})
        await ask(
            client, post("/v1/x?a=b", ("Authorization", "Bearer k1"), ("Transfer-Encoding", "chunked"), body=b'{"a":1}')
        )
        raw, body = up.requests[0]
        assert raw.startswith(b"POST /base/v1/x?a=b HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"X-Team: blue\r\n" in raw
        assert b"Accept-Encoding: identity\r\n" in raw
        assert b"Bearer k2" in raw
        assert b"k1" not in raw
        assert b"Transfer-Encoding" not in raw
        assert body == b'{"a":1}'
        await client.close()


@pytest.mark.parametrize("at", range(1, len(HELLO), 7))
async def test_answer_in_two_reads(at: int) -> None:
    """A read boundary in the head or between head and body would break the answer."""
    async with Upstream([HELLO[:at], 0.002, HELLO[at:]]) as up:
        client = transport(up)
        sink = await ask(client)
        assert (sink.status, sink.body, sink.calls[-1]) == (200, b"hello", "eof")
        await client.close()


@pytest.mark.parametrize(
    ("script", "body"),
    [
        ([head(b"Content-Length: 5\r\n") + b"hello"], b"hello"),
        ([head(b"Content-Length: 0\r\n")], b""),
        ([head(b"") + b"hello", CLOSE], b"hello"),
        ([b"HTTP/1.0 200 OK\r\n\r\nhello", CLOSE], b"hello"),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + HELLO], b"hello"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", 0.01, HELLO], b"hello"),
    ],
)
async def test_clean_ends(script: list[Step], body: bytes) -> None:
    """One of the ways a body may end cleanly would be taken for a failure."""
    async with Upstream(script) as up:
        client = transport(up)
        sink = await ask(client)
        assert sink.calls[-1] == "eof"
        assert sink.body == body
        await client.close()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([head() + chunk(b"a"), CLOSE], ErrorCode.UPSTREAM_TRUNCATED),
        ([head() + chunk(b"a"), 0.02, RESET], ErrorCode.UPSTREAM_TRUNCATED),
        ([head(b"Content-Length: 9\r\n") + b"abc", CLOSE], ErrorCode.UPSTREAM_TRUNCATED),
        ([head(b"") + b"abc", 0.02, RESET], ErrorCode.UPSTREAM_TRUNCATED),
        ([head() + b"zz\r\n", HOLD], ErrorCode.UPSTREAM_TRUNCATED),
        ([CLOSE], ErrorCode.UPSTREAM_FAILED),
        ([RESET], ErrorCode.UPSTREAM_FAILED),
        ([b"HTTP/1.1 200 OK\r\nA", CLOSE], ErrorCode.UPSTREAM_FAILED),
        ([head(b"Content-Length: 1\r\nContent-Length: 2\r\n") + b"a", HOLD], ErrorCode.UPSTREAM_FAILED),
        ([head(b"Content-Encoding: gzip\r\nContent-Length: 1\r\n") + b"a", HOLD], ErrorCode.UPSTREAM_FAILED),
        ([b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, HOLD], ErrorCode.UPSTREAM_FAILED),
        ([b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", HOLD], ErrorCode.UPSTREAM_FAILED),
    ],
)
async def test_unclean_ends(script: list[Step], code: ErrorCode) -> None:
    """A broken answer would pass for a whole one, or be given the wrong name."""
    async with Upstream(script) as up:
        client = transport(up)
        sink = await ask(client)
        assert sink.code is code
        assert await settled(lambda: client.connections == 0)
        assert len(up.requests) == 1
        assert client.active == 0


async def test_compressed_answer_says_so() -> None:
    """An operator would not learn why a backend that compresses anyway does not work."""
    async with Upstream([head(b"Content-Encoding: br\r\nContent-Length: 1\r\n") + b"a", HOLD]) as up:
        sink = await ask(transport(up))
        assert "compressed answer refused" in str(sink.error)
        assert sink.calls == ["lost"]


async def test_reuse() -> None:
    """Each request would pay for a new connection."""
    async with Upstream([HELLO]) as up:
        client = transport(up)
        for _ in range(3):
            assert (await ask(client)).body == b"hello"
        assert up.connections == 1
        await client.close()
        assert await settled(lambda: client.connections == 0 and len(up.closed_at) == 1)


async def test_no_reuse_when_told_so() -> None:
    """`keepalive: false` (llama.cpp's dying connections) would be ignored."""
    async with Upstream([HELLO]) as up:
        client = transport(up, keepalive=False)
        await ask(client)
        await ask(client)
        assert up.connections == 2
        assert b"Connection: close\r\n" in up.requests[0][0]


@pytest.mark.parametrize(
    "first", [HELLO + b"HTTP/1.1 200 OK\r\n", head(b"Connection: close\r\nContent-Length: 1\r\n") + b"a"]
)
async def test_doubtful_connection_is_dropped(first: bytes) -> None:
    """Left-over bytes of one answer would begin the next stream's."""
    async with Upstream([first], [HELLO]) as up:
        client = transport(up)
        assert (await ask(client)).calls[-1] == "eof"
        assert (await ask(client)).body == b"hello"
        assert up.connections == 2
        await client.close()


@pytest.mark.parametrize("how", [CLOSE, RESET])
async def test_stale_connection_is_retried_once(how: str) -> None:
    """A kept connection that the backend closes as we write would fail the stream."""
    async with Upstream([HELLO], [how], [HELLO]) as up:
        client = transport(up)
        await ask(client)
        sink = await ask(client, post(body=b"again"))
        assert sink.calls == ["head", "data", "eof"]
        assert [body for _, body in up.requests[1:]] == [b"again", b"again"]
        await client.close()


async def test_only_one_retry() -> None:
    """A backend that dies of a request would get it again and again."""
    async with Upstream([HELLO], [CLOSE]) as up:
        client = transport(up)
        await ask(client)
        assert (await ask(client)).code is ErrorCode.UPSTREAM_FAILED
        assert len(up.requests) == 3


async def test_no_retry_after_a_byte() -> None:
    """A request the backend had begun to answer would be run, and billed, twice."""
    async with Upstream([HELLO], [b"HTTP/1.1 2", CLOSE]) as up:
        client = transport(up)
        await ask(client)
        assert (await ask(client)).code is ErrorCode.UPSTREAM_FAILED
        assert len(up.requests) == 2


async def test_abort_closes_at_once() -> None:
    """A cancelled stream would go on generating at the backend."""
    async with Upstream([head() + chunk(b"a"), HOLD]) as up:
        client = transport(up)
        exchange, sink = await start(client)
        await sink.until(1)
        began = time.monotonic()
        exchange.abort()
        exchange.abort()
        assert await settled(lambda: up.closed_at)
        assert up.closed_at[0] - began < 0.1
        assert sink.calls == ["head", "data"]
        assert client.active == 0


async def test_finish_keeps_the_connection() -> None:
    """A stream that stops at its marker would cost its connection."""
    async with Upstream([head() + chunk(b"[DONE]"), 0.05, END], [HELLO]) as up:
        client = transport(up)
        exchange, sink = await start(client)
        await sink.until(6)
        exchange.finish()
        assert await settled(lambda: client.active == 0)
        assert (await ask(client)).body == b"hello"
        assert up.connections == 1
        assert sink.calls == ["head", "data"]
        await client.close()


@pytest.mark.parametrize("rest", [[HOLD], [chunk(b"x" * 70_000), HOLD]])
async def test_finish_does_not_wait_for_ever(rest: list[Step]) -> None:
    """A backend that goes on after its marker would hold a connection, or be read for nothing."""
    async with Upstream([head() + chunk(b"[DONE]"), *rest]) as up:
        client = transport(up)
        exchange, sink = await start(client)
        await sink.until(6)
        exchange.finish()
        await asyncio.sleep(1.1)
        assert await settled(lambda: client.connections == 0)
        assert sink.calls[-1] == "data"
        assert client.active == 0


async def test_pause_stops_a_flood() -> None:
    """A slow client would make the gateway swallow a backend's whole answer into memory."""
    async with Upstream([head(), *([chunk(b"x" * 65_536)] * 400), END]) as up:
        client = transport(up)
        exchange, sink = await start(client)
        await sink.until(1)
        exchange.pause()
        await asyncio.sleep(0.1)
        held, sent = len(sink.body), up.sent
        await asyncio.sleep(0.1)
        assert len(sink.body) == held
        assert up.sent == sent < 400 * 65_536
        exchange.resume()
        assert await sink.end() == "eof"
        assert len(sink.body) == 400 * 65_536
        await client.close()


async def test_body_cap() -> None:
    """An endless answer would have no bound."""
    async with Upstream([head(), chunk(b"x" * 5000), HOLD]) as up:
        assert (await ask(transport(up, max_body=4096))).code is ErrorCode.UPSTREAM_TRUNCATED


async def test_redirect_is_a_status() -> None:
    """Following a redirect would carry the provider's key to another host."""
    async with Upstream([HELLO]) as other:
        location = f"Location: {other.url}/steal\r\nContent-Length: 0\r\n".encode()
        async with Upstream([head(location, b"307 Temporary Redirect")]) as up:
            client = transport(up)
            sink = await ask(client, post("/", ("x-api-key", "sk-canary")))
            assert sink.status == 307
            assert other.connections == 0
            await client.close()


async def test_connection_limit() -> None:
    """`max_connections` would be exceeded, or a slot lost with a connection."""
    async with Upstream([head() + chunk(b"a"), HOLD], [HELLO]) as up:
        client = transport(up, max_connections=1, connect_timeout=Duration(0.1))
        exchange, sink = await start(client)
        await sink.until(1)
        with pytest.raises(BackendError) as caught:
            await ask(client)
        assert caught.value.code is ErrorCode.OVERLOADED
        waiting = asyncio.create_task(ask(client))
        await asyncio.sleep(0.02)
        exchange.abort()
        assert (await waiting).body == b"hello"
        assert up.connections == 2
        await client.close()


async def test_refused_and_private() -> None:
    """A dead address would not have a name, or a private one would be reached against the rule."""
    async with Upstream([HELLO]) as up:
        url = up.url
        with pytest.raises(BackendError, match="private address"):
            await ask(transport(url, allow_private=False))
        assert up.connections == 0
    client = transport(url)
    with pytest.raises(BackendError) as caught:
        await ask(client)
    assert caught.value.code is ErrorCode.UPSTREAM_FAILED
    assert client.connections == client.active == 0


async def test_connect_timeout_covers_tls() -> None:
    """A server that accepts and never speaks TLS would hold a request for a minute."""
    async with Upstream([HOLD]) as up:
        client = transport(up.url.replace("http:", "https:"), connect_timeout=Duration(0.1))
        with pytest.raises(BackendError) as caught:
            await ask(client)
        assert caught.value.code is ErrorCode.TIMED_OUT


async def test_headers_cannot_be_forged() -> None:
    """A value with a line end would add a header or a request; its text would show in the error."""
    async with Upstream([HELLO]) as up:
        with pytest.raises(BackendError) as caught:
            await ask(transport(up), post("/", ("Authorization", "Bearer sk-canary\r\nX: y")))
        assert "canary" not in str(caught.value)
        with pytest.raises(BackendError):
            await ask(transport(up), post("/a b"))
        with pytest.raises(ValueError, match="X-Bad"):
            transport(up, headers={"X-Bad": Secret("a\nb")})
        assert up.connections == 0


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1", True), ("127.0.0.1", False), ("10.0.0.1", False), ("169.254.169.254", False),
     ("::1", False), ("fe80::1%eth0", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
     ("0.0.0.0", False),
     ("100.64.0.1", False), ("224.0.0.1", False)],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    """The egress rule would let an internal address through in some disguise."""
    assert is_public(address) is public


async def test_fetch() -> None:
    """Probes and model lists would not come whole, or without a bound in time and size."""
    async with Upstream([HELLO], [HOLD], [head(b"Content-Length: 999\r\n") + b"x" * 999]) as up:
        client = transport(up)
        status, headers, body = await client.fetch(HttpRequest("GET", "/v1/models", (), b""), 1.0)
        assert (status, headers["content-type"], body) == (200, "text/event-stream", b"hello")
        assert b"Content-Length" not in up.requests[0][0]
        with pytest.raises(BackendError) as slow:
            await client.fetch(post(), 0.05)
        assert slow.value.code is ErrorCode.TIMED_OUT
        with pytest.raises(BackendError, match="larger than 100 bytes"):
            await client.fetch(post(), 1.0, limit=100)
        await client.close()
        assert await settled(lambda: client.connections == 0)


def _playing(steps: Iterator[Play]) -> Transport:
    plain = driver("")
    plain.played = Script(200, (("Content-Type", "text/event-stream"),), steps)
    return Transport(plain, connect_timeout=1.0)


async def test_script() -> None:
    """The demo backend would lose, split or reorder steps, or not keep its time."""
    began = time.monotonic()
    sink = await ask(_playing(iter([Play(0, b"a"), Play(0, b"b"), Play(0.05, b"c"), Play(0, end="eof")])))
    assert sink.parts == [b"ab", b"c"]
    assert sink.headers == {"content-type": "text/event-stream"}
    assert 0.045 < time.monotonic() - began < 0.5
    assert (await ask(_playing(iter([Play(0, b"a", "cut")])))).code is ErrorCode.UPSTREAM_TRUNCATED


async def test_endless_script_pauses_and_aborts() -> None:
    """An endless script would block the loop, ignore back-pressure or outlive its stream."""
    client = _playing(Play(0.0, b"x") for _ in itertools.count())
    exchange, sink = await start(client)
    await sink.until(1000)
    exchange.pause()
    await asyncio.sleep(0.01)
    held = len(sink.body)
    await asyncio.sleep(0.02)
    assert len(sink.body) == held
    exchange.resume()
    await sink.until(held + 1000)
    exchange.abort()
    held = len(sink.body)
    await asyncio.sleep(0.02)
    assert len(sink.body) == held
    assert client.active == 0
