"""What a backend, or somebody in its place, may say to a client through us: little, and never with our keys."""

from __future__ import annotations

from typing import Any

import pytest
from support.inprocess import client, config_for, running
from support.upstream import CLOSE, Upstream, chunk, head

from config.schema import Backend, Config, Route, Target
from config.values import Secret

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
NATIVE, OPENAI = "/api/streaming/chat", "/v1/chat/completions"
TOKEN = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n')
FINISH = chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
END = b"0\r\n\r\n"
NOW = "Sat, 21 Nov 2026 12:00:00 GMT"


def keyed(url: str, driver: str = "openai") -> Config:
    """A configuration whose backend has a key that must not get anywhere else."""
    config = config_for(url)
    up = Backend(driver=driver, url=url, api_key=Secret("sk-canary"), headers={"X-Extra": Secret("canary-2")})
    return Config(
        server=config.server, admin=config.admin, backends={"up": up}, routes=(Route(model="*", to=(Target("up"),)),)
    )


def refusal(extra: str, status: str = "429 Too Many Requests") -> bytes:
    """An answer without content."""
    return head(f"{extra}\r\nDate: {NOW}\r\nContent-Length: 0\r\n".encode(), status.encode())


@pytest.mark.parametrize("path", [NATIVE, OPENAI])
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("7", "7"),
        ("0.2", "1"),
        ("Sat, 21 Nov 2026 12:00:30 GMT", "30"),
        ("Sat, 21 Nov 2026 11:00:00 GMT", None),
        ("1000000000", "3600"),
        ("Sat, 21 Nov 2099 12:00:00 GMT", "120"),
        ("soon", None),
        ("-5", None),
        ("9" * 400, None),
        ("", None),
    ],
)
async def test_retry_after_is_read_capped_and_passed_on(path: str, status: str, said: str, told: str | None) -> None:
    """A client would hammer a backend that asked for a pause, or be told to wait thirty years (B 18)."""
    async with (
        Upstream([refusal(f"Retry-After: {said}", status)]) as up,
        running(keyed(up.url)) as gateway,
        client(gateway) as session,
        session.post(path, json={**ASK, "stream": True}) as answer,
    ):
        assert answer.status == int(status[:3])
        waits = answer.headers.get("Retry-After")
        assert waits == told or (told is None and waits is not None and 0 <= int(waits) <= 120)


@pytest.mark.parametrize("driver", ["openai", "anthropic", "ollama", "google", "tgi"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_an_error_and_is_not_followed(driver: str, status: str) -> None:
    """A backend, or whoever answers for it, would have the provider's key sent wherever it likes (B 19)."""
    async with Upstream([head(b"Content-Length: 0\r\n")]) as thief:
        async with (
            Upstream([refusal(f"Location: {thief.url}/steal", status)]) as up,
            running(keyed(up.url, driver)) as gateway,
            client(gateway) as session,
        ):
            for path in (NATIVE, OPENAI):
                async with session.post(path, json=ASK) as answer:
                    text = await answer.text()
                    assert answer.status == 502, text
                    assert "Location" not in answer.headers or answer.headers["Location"].startswith("/api/streaming/")
                    assert "steal" not in text
                    assert "canary" not in text
            assert len(up.requests) == 2
        assert thief.connections == 0


async def test_a_redirect_to_the_metadata_service_is_not_followed() -> None:
    """A cloud machine's own credentials would be fetched for a stranger (B 19)."""
    location = "Location: http://169.254.169.254/latest/meta-data/"
    async with (
        Upstream([refusal(location, "307 Temporary Redirect")]) as up,
        running(keyed(up.url)) as gateway,
        client(gateway) as session,
        session.post(OPENAI, json=ASK) as answer,
    ):
        assert answer.status == 502
        assert "169.254" not in await answer.text() + str(answer.headers)


FOREIGN = (
    b'Set-Cookie: session=canary\r\nAlt-Svc: h3=":443"\r\nX-Accel-Redirect: /etc/passwd\r\nX-Sendfile: /etc/passwd\r\n'
    b"X-Accel-Buffering: yes\r\nStrict-Transport-Security: max-age=1\r\nAccess-Control-Allow-Origin: *\r\n"
    b"Server: canary\r\nX-Stream-Id: canary\r\nOpenAI-Organization: canary\r\nX-Request-Id: theirs\r\n"
)


@pytest.mark.parametrize("path", [NATIVE, OPENAI])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_headers_of_a_backend_stay_there(path: str, stream: bool, status: str) -> None:
    """Cookies, file names for nginx and CORS of a backend would act on our clients and in our name (B 20)."""
    script = [head(FOREIGN + b"Transfer-Encoding: chunked\r\n", status.encode()), TOKEN, FINISH, END]
    async with (
        Upstream(script) as up,
        running(keyed(up.url)) as gateway,
        client(gateway) as session,
        session.post(path, json={**ASK, "stream": stream}) as answer,
    ):
        await answer.read()
        assert answer.status == int(status[:3])
        assert "canary" not in str(answer.headers)
        known = {
            "cache-control", "connection", "content-length", "content-type", "date", "location", "server",
            "transfer-encoding", "x-accel-buffering", "x-content-type-options", "x-request-id", "x-stream-id",
            "x-stream-resumable", "x-should-retry", "x-upstream-request-id",
        }  # fmt: skip
        assert {name.lower() for name in answer.headers} <= known
        assert answer.headers.get("X-Accel-Buffering", "no") == "no"
        assert answer.headers.get("X-Request-Id") != "theirs"


@pytest.mark.parametrize("smuggled", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary", b"canary", b"\r\n"])
async def test_extra_bytes_of_one_answer_never_begin_the_next(smuggled: bytes) -> None:
    """One user's answer would be prefixed with what an attacker left on the connection (B 21)."""
    good = [head(), TOKEN, FINISH, END]
    async with (
        Upstream([*good[:-1], END + smuggled], good, [CLOSE]) as up,
        running(keyed(up.url)) as gateway,
        client(gateway) as session,
    ):
        for _ in range(2):
            async with session.post(OPENAI, json={**ASK, "stream": True}) as answer:
                text = await answer.text()
                assert answer.status == 200
                assert "canary" not in text
                assert text.endswith("data: [DONE]\n\n")
        assert up.connections == 2


async def test_a_refusal_of_our_key_is_not_repeated_to_the_client() -> None:
    """Providers quote the key they refuse; our clients would learn part of it."""
    said = b'{"error":{"message":"Incorrect API key provided: sk-canary","type":"invalid_request_error"}}'
    async with (
        Upstream([head(b"Content-Length: %d\r\n" % len(said), b"401 Unauthorized") + said]) as up,
        running(keyed(up.url)) as gateway,
        client(gateway) as session,
    ):
        for path in (NATIVE, OPENAI):
            async with session.post(path, json=ASK) as answer:
                assert answer.status == 502
                assert "canary" not in await answer.text() + str(answer.headers)
