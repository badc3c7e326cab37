"""The upstream transport against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Authority
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


async def test_a_kept_connection_is_had_at_once() -> None:
    """Each request would pay for a task of its own, though there is nothing to wait for; or go out on no connection."""
    async with Upstream([HELLO]) as up:
        client = transport(up)
        assert client.at_once(post(), Recorder()) is None
        assert up.requests == []
        await ask(client)
        sink = Recorder()
        assert client.at_once(post(), sink) is not None
        assert client.active == 1
        await sink.end()
        assert (sink.body, up.connections, client.active) == (b"hello", 1, 0)
        with pytest.raises(BackendError):
            client.at_once(post("/a b"), Recorder())
        assert (await ask(client)).body == b"hello"  # the connection was not lost by it
        assert up.connections == 1
        await client.close()
        assert client.at_once(post(), Recorder()) is None


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


# -- TLS, addresses, options of the socket ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of this run."""
    return Authority(tmp_path_factory.mktemp("tls"))


async def test_tls_with_a_private_authority(authority: Authority) -> None:
    """`ca_file` would not be used, so that a company's own model server could only be reached unchecked."""
    async with Upstream([HELLO], tls=authority.server()) as up:
        client = transport(up, ca_file=str(authority.ca_file))
        for _ in range(2):
            assert (await ask(client)).body == b"hello"
        assert up.connections == 1
        await client.close()


@pytest.mark.parametrize("fault", ["expired", "unknown", "other name", "old"])
async def test_tls_that_is_not_right(authority: Authority, tmp_path: Path, fault: str) -> None:
    """A stranger in between would get the prompts and the provider's key (B 22)."""
    other = Authority(tmp_path, "other") if fault == "unknown" else authority
    host = "127.0.0.2" if fault == "other name" else "127.0.0.1"
    context = other.server(host, expired=fault == "expired", tls="1.1" if fault == "old" else "")
    async with Upstream([HELLO], tls=context) as up:
        with pytest.raises(BackendError) as caught:
            await ask(transport(up, ca_file=str(authority.ca_file)), post("/", ("x-api-key", "sk-canary")))
        assert caught.value.code is ErrorCode.UPSTREAM_FAILED
        assert "certificate" in caught.value.message or fault == "old"
        assert up.requests == []
        if fault != "old":  # `verify: false` is an operator's own decision, for one backend
            assert (await ask(transport(up, verify=False))).body == b"hello"


async def test_ipv6() -> None:
    """A model server that listens on IPv6 only could not be reached, or its Host header would be malformed."""
    server = Upstream([HELLO])
    try:
        listener = await asyncio.start_server(server._serve, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 loopback on this machine")
    port = listener.sockets[0].getsockname()[1]
    client = transport(f"http://[::1]:{port}/v1")
    assert (await ask(client)).body == b"hello"
    assert b"\r\nHost: [::1]:%d\r\n" % port in server.requests[0][0]
    await client.close()
    listener.close()


async def test_a_full_backlog_fails_within_the_connect_timeout() -> None:
    """A model server that no longer accepts would hold every request for the two minutes the kernel tries (B 22)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        await asyncio.sleep(0.05)
        began = time.monotonic()
        client = transport(f"http://127.0.0.1:{address[1]}", connect_timeout=Duration(0.3))
        with pytest.raises(BackendError) as caught:
            await ask(client)
        assert caught.value.code is ErrorCode.TIMED_OUT
        assert time.monotonic() - began < 1.5
        assert client.connections == 0
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:10.0.0.1"]])
async def test_a_name_that_turns_private_is_refused(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    """DNS under an attacker's control would lead the gateway, and its keys, to services inside (B 22)."""
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in answers]

    async with Upstream([HELLO]) as up:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        client = transport(f"http://model.example:{up.url.rpartition(':')[2]}", allow_private=False)
        with pytest.raises(BackendError, match="private address"):
            await ask(client)
        assert asked == ["model.example"]
        assert up.connections == 0


async def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look-up between check and connect could give another answer (DNS rebinding)."""
    loop, asked, connected = asyncio.get_running_loop(), [], []

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        return [(0, 0, 0, "", ("93.184.216.34", port))]

    async def create_connection(_factory: object, host: str, _port: int, **options: object) -> None:
        connected.append((host, options["server_hostname"]))
        raise OSError("enough")

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(loop, "create_connection", create_connection)
    with pytest.raises(BackendError):
        await ask(transport("https://model.example", allow_private=False))
    assert (asked, connected) == (["model.example"], [("93.184.216.34", "model.example")])


async def test_sockets_to_backends_are_tuned() -> None:
    """Small requests would wait for Nagle, and a dead backend be noticed after two hours."""
    async with Upstream([HELLO]) as up:
        client = transport(up)
        await ask(client)
        assert client._pool is not None
        ((_since, connection),) = client._pool._idle
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 55_000
        await client.close()


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"deflate", b"gzip, gzip"])
async def test_a_compressed_answer_is_never_unpacked(coding: bytes) -> None:
    """Some kilobytes would become gigabytes (B 17)."""
    bomb = gzip.compress(bytes(20_000_000))
    framing = b"Content-Encoding: %s\r\nContent-Length: %d\r\n" % (coding, len(bomb))
    async with Upstream([head(framing) + bomb, HOLD]) as up:
        sink = await ask(transport(up))
        assert (sink.code, sink.body) == (ErrorCode.UPSTREAM_FAILED, b"")
        assert await settled(lambda: bool(up.closed_at))


@pytest.mark.parametrize(
    "odd",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"X-A: b\r\n Content-Length: 5\r\n",
        b"X-A: b\nContent-Length: 5\r\n",
        b"X-A: b\rContent-Length: 5\r\n",
        b"X-A : b\r\nContent-Length: 5\r\n",
        b"X-A: b\0\r\nContent-Length: 5\r\n",
    ],
)
async def test_doubtful_heads_are_refused(odd: bytes) -> None:
    """Two readers of one answer would disagree where it ends: response smuggling (B 20)."""
    async with Upstream([head(odd) + b"hello", HOLD]) as up:
        sink = await ask(transport(up))
        assert sink.code in (ErrorCode.UPSTREAM_FAILED, ErrorCode.UPSTREAM_TRUNCATED)
        assert sink.body == b""


async def test_a_forged_reason_stays_a_reason() -> None:
    """A line end in the reason phrase would begin a header of the backend's choosing (B 20)."""
    async with Upstream([b"HTTP/1.1 200 OK\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n", HOLD]) as up:
        sink = await ask(transport(up))
        assert sink.code is ErrorCode.UPSTREAM_FAILED
