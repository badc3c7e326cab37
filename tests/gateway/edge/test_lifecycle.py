"""A stream's life from outside: every door to an ending, seen by the client, the backend and the receipt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import aiohttp
import msgspec
import pytest
from support.inprocess import client, config_for, events, running
from support.upstream import HOLD, RESET, Upstream, chunk, head

from config.schema import Backend, Streams
from config.values import Duration, Secret

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
END = b"0\r\n\r\n"


def token(text: str) -> bytes:
    """One OpenAI chunk, framed twice: as an event and as a chunk of the body."""
    data = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return chunk(b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n")


def frame(value: Any) -> bytes:
    """Any JSON as one event."""
    return chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


FINISH = frame({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = frame(
    {"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
)
DONE = chunk(b"data: [DONE]\n\n")
WHOLE = (head(), token("Hel"), token("lo"), token("!"), FINISH, USAGE, DONE, END)


async def receipt(session: aiohttp.ClientSession, stream_id: str) -> dict[str, Any]:
    """The receipt, once the stream has ended."""
    for _ in range(100):
        async with session.get(f"/api/streaming/{stream_id}") as answer:
            body = await answer.json()
        if body["receipt"]["endedAt"]:
            found: dict[str, Any] = body["receipt"]
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"still running: {body}")


async def wait_for(condition: Any, seconds: float = 2.0) -> None:
    """Poll until it holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        await asyncio.sleep(0.01)


async def test_cancel_by_delete_reaches_the_backend_and_ends_honestly() -> None:
    """A cancelled stream would go on costing money, or its client would not know that it was cut."""
    async with (
        Upstream([head(), token("a"), token("b"), HOLD]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        async with session.post("/api/streaming/chat", json=ASK) as answer:
            stream_id = answer.headers["X-Stream-Id"]
            await answer.content.readuntil(b'"tokenCount":2}\n\n')
            began = time.monotonic()
            async with session.delete(f"/api/streaming/{stream_id}") as deleted:
                told = await deleted.json()
            rest = (await answer.content.read()).decode()
        await wait_for(lambda: bool(up.closed_at))
        assert up.closed_at[0] - began < 0.1
        assert deleted.status == 200
        assert (told["state"], told["receipt"]["tokenCount"]) == ("cancelled", 2)
        name, data = events(rest)[-1][1:]
        assert (name, json.loads(data)["finishReason"], json.loads(data)["fullText"]) == ("done", "cancelled", "ab")
        async with session.delete(f"/api/streaming/{stream_id}") as again:
            assert (again.status, (await again.json())["receipt"]) == (200, told["receipt"])
        assert len(gateway.hub) == 0


async def test_an_openai_client_notices_a_cancel() -> None:
    """openai SDKs take a clean end for success; only an error frame and a broken body tell them."""
    async with (
        Upstream([head(), token("a"), HOLD]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        async with session.post(
            "/v1/chat/completions", json=ASK | {"stream": True}, headers={"X-Stream-Id": "mine"}
        ) as answer:
            assert answer.headers["X-Stream-Id"] == "mine"
            await answer.content.readuntil(b"\n\n")
            await session.delete("/api/streaming/mine")
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()
        assert (await receipt(session, "mine"))["state"] == "cancelled"


async def test_passthrough_keeps_every_byte_and_hides_the_usage_nobody_asked_for() -> None:
    """Unknown fields of a vendor would be lost, or a client would see a chunk it did not ask for."""
    odd = frame(
        {
            "id": "c",
            "vendor": {"x": [1]},
            "choices": [{"index": 0, "delta": {"content": "é☕", "own": 1}, "finish_reason": None}],
        }
    )
    async with (
        Upstream([head(), odd, FINISH, USAGE, DONE, END]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        async with session.post("/v1/chat/completions", json=ASK | {"stream": True, "vendor_flag": 7}) as answer:
            body = await answer.read()
        sent = json.loads(up.requests[0][1])
        assert sent["vendor_flag"] == 7
        assert sent["stream_options"] == {"include_usage": True}
        frames = [raw.split(b"\r\n", 1)[1][:-2] for raw in (odd, FINISH, DONE)]
        assert body == b"".join(frames)
        got = await receipt(session, answer.headers["X-Stream-Id"])
        assert (got["state"], got["promptTokens"], got["completionTokens"], got["usageEstimated"]) == (
            "completed",
            7,
            3,
            False,
        )


async def test_a_whole_answer_is_the_sum_of_a_stream() -> None:
    """Clients that do not stream would get another answer, or one that cannot be cancelled."""
    async with Upstream(WHOLE) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post("/v1/chat/completions", json=ASK) as answer:
            body = await answer.json()
        assert json.loads(up.requests[0][1])["stream"] is True
        assert body["choices"][0]["message"]["content"] == "Hello!"
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"]["total_tokens"] == 10


async def test_the_native_events_in_their_order() -> None:
    """Frontends written against the documented events would break."""
    async with Upstream(WHOLE) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post("/api/streaming/chat", json=ASK | {"conversationId": "c1"}) as answer:
            found = events(await answer.text())
        stream_id = answer.headers["X-Stream-Id"]
        assert [name for _, name, _ in found] == ["start", "token", "token", "token", "usage", "done"]
        assert [i for i, _, _ in found] == [f"{stream_id}.{n}" for n in range(1, 7)]
        assert json.loads(found[0][2])["conversationId"] == "c1"
        done = json.loads(found[-1][2])
        assert (done["fullText"], done["tokenCount"], done["finishReason"]) == ("Hello!", 3, "stop")


async def test_ndjson_lines() -> None:
    """Clients that read line by line would break."""
    async with Upstream(WHOLE) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post("/api/v1/conversations/c9/stream", json=ASK) as answer:
            lines = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert [line["type"] for line in lines] == ["start", *["message_chunk"] * 3, "complete_state"]
        assert lines[-1]["message"] == "Hello!"
        assert (await receipt(session, answer.headers["X-Stream-Id"]))["conversationId"] == "c9"


@pytest.mark.parametrize("path", ["/api/streaming/chat", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("script", "state", "code"),
    [
        ([head(), token("a"), RESET], "upstream_truncated", "upstream_truncated"),
        ([head(), token("a"), END], "upstream_truncated", "upstream_truncated"),
        (
            [head(b"Connection: close\r\n"), b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', "close"],
            "upstream_truncated",
            "upstream_truncated",
        ),
        (
            [head(), token("a"), frame({"error": {"message": "boom", "type": "server_error"}}), DONE, END],
            "upstream_error",
            "upstream_error",
        ),
    ],
    ids=["reset", "early end", "close-delimited cut", "error then DONE"],
)
async def test_an_incomplete_stream_never_looks_complete(path: str, script: list[Any], state: str, code: str) -> None:
    """Half an answer would be stored and shown as a whole one."""
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        body = b""
        async with session.post(path, json=ASK | {"stream": True}) as answer:
            try:
                async for data in answer.content.iter_any():
                    body += data
                broken = False
            except aiohttp.ClientPayloadError:
                broken = True
        assert broken == (path != "/api/streaming/chat")  # the native `error` event says it all
        assert b"[DONE]" not in body
        assert b"event: done" not in body
        last = json.loads(body.decode().strip().split("\n")[-1].removeprefix("data: "))
        if path.startswith("/api"):
            assert (last["code"], last["tokenCount"]) == (code, 1)
        else:
            assert last["error"]["message"]
        assert (await receipt(session, answer.headers["X-Stream-Id"]))["state"] == state


async def test_a_failure_before_the_first_byte_keeps_its_status() -> None:
    """SDKs retry by status; an error inside a 200 would not be retried."""
    refused = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 28\r\n\r\n" + b'{"error":{"message":"slow"}}'
    async with Upstream([refused]) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post("/v1/chat/completions", json=ASK | {"stream": True}) as answer:
            body = await answer.json()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert "slow" in body["error"]["message"]
    async with (
        running(config_for("http://127.0.0.1:9")) as gateway,
        client(gateway) as session,
        session.post("/api/streaming/chat", json=ASK) as answer,
    ):
        assert answer.status == 502
        assert (await answer.json())["error"]["code"] == "upstream_error"


async def test_a_vanished_client_stops_the_backend() -> None:
    """Nobody reads, the backend goes on: tokens are paid for that nobody sees."""
    async with (
        Upstream([head(), token("a"), HOLD]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        headers = {"X-Stream-On-Disconnect": "cancel", "X-Stream-Id": "gone"}
        answer = await session.post("/api/streaming/chat", json=ASK, headers=headers)
        await answer.content.readuntil(b'"tokenCount":1}\n\n')
        began = time.monotonic()
        answer.close()
        await wait_for(lambda: bool(up.closed_at))
        assert up.closed_at[0] - began < 0.1
        assert (await receipt(session, "gone"))["state"] == "client_gone"


async def test_a_client_that_leaves_before_the_first_token_is_noticed() -> None:
    """A silent prefill would hide the departure until the first token."""
    async with Upstream([HOLD]) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        task = asyncio.create_task(
            session.post("/v1/chat/completions", json=ASK | {"stream": True}, headers={"X-Stream-Id": "early"})
        )
        await wait_for(lambda: bool(up.requests))
        task.cancel()
        await wait_for(lambda: bool(up.closed_at))
        assert (await receipt(session, "early"))["state"] == "client_gone"


async def test_grace_and_continue_let_the_stream_finish() -> None:
    """A tab that reloads would lose its answer although the policy says otherwise; nobody would see what that costs."""
    script = [head(), token("a"), 0.2, token("b"), FINISH, USAGE, DONE, END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        for policy in ("grace=5s", "continue"):
            headers = {"X-Stream-On-Disconnect": policy, "X-Stream-Id": policy.partition("=")[0]}
            answer = await session.post("/api/streaming/chat", json=ASK, headers=headers)
            await answer.content.readuntil(b'"tokenCount":1}\n\n')
            answer.close()
            got = await receipt(session, headers["X-Stream-Id"])
            assert (got["state"], got["tokenCount"], got["unreadTokens"]) == ("completed", 2, 1)
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "read"}) as answer:
            await answer.read()
        assert (await receipt(session, "read"))["unreadTokens"] == 0


@pytest.mark.parametrize(
    ("limits", "script", "reason"),
    [
        ({"first_token_timeout": Duration(0.3)}, [head(), HOLD], "no token"),
        ({"no_progress": Duration(0.3)}, [head(), token("a"), HOLD], "no progress"),
        ({"no_progress": Duration(0.3)}, [head(), token("a"), *[0.05, chunk(b": ping\n\n")] * 40], "no progress"),
        ({"total_timeout": Duration(0.4)}, [head(), *[token("a"), 0.05] * 40], "in total"),
    ],
    ids=["first token", "stall", "pings only", "total"],
)
async def test_each_time_limit_ends_the_stream(limits: dict[str, Any], script: list[Any], reason: str) -> None:
    """A stuck backend would hold a client, a slot and a lease for ever."""
    streams = Streams(**limits)
    async with (
        Upstream(script) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
    ):
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "slow"}) as answer:
            assert answer.status in (200, 504)
            try:
                body = await answer.text()
            except aiohttp.ClientPayloadError:
                body = ""
        got = await receipt(session, "slow")
        assert got["state"] == "timed_out"
        assert reason in got["reason"], body
        await wait_for(lambda: bool(up.closed_at))


async def test_keepalives_reach_an_idle_client() -> None:
    """Load balancers cut silent connections after a minute."""
    streams = Streams(keepalive=Duration(0.3))
    async with (
        Upstream([head(), token("a"), 1.2, token("b"), FINISH, DONE, END]) as up,
        running(config_for(up.url, streams=streams)) as gateway,
        client(gateway) as session,
    ):
        async with session.post("/v1/chat/completions", json=ASK | {"stream": True}) as answer:
            body = await answer.read()
        assert body.count(b": ping\n") >= 1
        assert b": ping\n\n" not in body
        async with session.post("/api/v1/conversations/c/stream", json=ASK) as answer:
            lines = (await answer.text()).splitlines()
        assert any(line.startswith(" ") for line in lines)
        assert all(json.loads(line)["type"] for line in lines)


async def test_ids_are_the_owners_own_and_unknown_ones_are_404() -> None:
    """A guess would tell whether a stream exists."""
    async with Upstream(WHOLE) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        for method in ("GET", "DELETE", "HEAD"):
            for bad in ("st_unknown", "..%2f", "a.b"):
                async with session.request(method, f"/api/streaming/{bad}") as answer:
                    assert answer.status in (404, 400)
        first = await session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "once"})
        await first.read()
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "once"}) as again:
            assert again.status == 409


@pytest.mark.parametrize("path", ["/api/streaming/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_backend_that_only_answers_whole_is_streamed_as_one_chunk(path: str) -> None:
    """A server without streaming could not be used, or its answer would be told as cut off."""
    whole = json.dumps(
        {
            "id": "x",
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "all"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
    ).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(whole), whole)
    async with Upstream([reply]) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post(path, json=ASK | {"stream": True, "max_tokens": 5}) as answer:
            body = await answer.text()
        assert answer.status == 200
        assert '"all"' in body
        assert "error" not in body


async def test_a_page_instead_of_an_answer_is_named() -> None:
    """Operators would look for a cut connection where a login page answered."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
    async with (
        Upstream([reply]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
        session.post("/v1/chat/completions", json=ASK) as answer,
    ):
        assert answer.status == 502
        assert "text/html" in (await answer.json())["error"]["message"]


async def test_a_backend_that_repeats_our_key_does_not_get_it_through() -> None:
    """Every client of the route, and every replay, would read the operator's key."""
    said = b'data: {"error":{"message":"bad key sk-upstream-secret"}}\n\n'
    async with Upstream([head(), token("a"), chunk(said), HOLD]) as up:
        backend = Backend(driver="openai", url=up.url, api_key=Secret("sk-upstream-secret"))
        config = msgspec.structs.replace(config_for(up.url), backends={"up": backend})
        async with running(config) as gateway, client(gateway, **{"X-Stream-Id": "s"}) as session:
            body = await _broken(session, "/v1/chat/completions")
            assert b"bad key ***" in body
            async with session.get("/api/streaming/s?after=0") as answer:
                assert b"sk-upstream" not in await _read_all(answer)


async def _broken(session: aiohttp.ClientSession, path: str) -> bytes:
    async with session.post(path, json=ASK | {"stream": True}) as answer:
        return await _read_all(answer)


async def _read_all(answer: aiohttp.ClientResponse) -> bytes:
    found = b""
    with contextlib.suppress(aiohttp.ClientPayloadError):
        async for data in answer.content.iter_any():
            found += data
    return found
