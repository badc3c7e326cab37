"""Leaving a stream and coming back: attach, resume, replay, over HTTP and byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import ClientConnectionResetError, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request
from support.inprocess import client, config_for, events, running
from support.upstream import HOLD, RESET, Upstream, chunk, head

from config.schema import Cors, Key, OnDisconnect, Registry, Server, Streams
from config.values import Duration, Size
from gateway.access.keys import hash_of
from gateway.app import Gateway
from gateway.edge.output import StreamHead, begun

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
END = b"0\r\n\r\n"
SSE = {"Accept": "text/event-stream"}
LATER = {"X-Stream-Id": "x", "X-Stream-On-Disconnect": "continue"}
LINES = {"Accept": "application/x-ndjson"}


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return chunk(b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n")


def token(text: str) -> bytes:
    return frame({"content": text})


DONE = chunk(b"data: [DONE]\n\n")
WORDS = [token(f"w{n} é☕ ") for n in range(8)]
WHOLE = (head(), *WORDS, frame({}, "stop"), DONE, END)


def slow(gap: float = 0.03, words: int = 8) -> list[Any]:
    script: list[Any] = [head()]
    for n in range(words):
        script += [token(f"w{n} é☕ "), gap]
    return [*script, frame({}, "stop"), DONE, END]


@asynccontextmanager
async def world(
    script: Any = WHOLE, *, streams: Streams | None = None, **rest: Any
) -> AsyncIterator[tuple[Upstream, Gateway, aiohttp.ClientSession]]:
    async with (
        Upstream(script) as up,
        running(config_for(up.url, streams=streams, **rest)) as gateway,
        client(gateway) as session,
    ):
        yield up, gateway, session


def started(session: aiohttp.ClientSession) -> Any:
    """A native stream with the id `x`."""
    return session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x"})


async def whole(answer: aiohttp.ClientResponse) -> bytes:
    """All bytes, also of a body that breaks off."""
    body = b""
    try:
        async for data in answer.content.iter_any():
            body += data
    except aiohttp.ClientPayloadError:
        body += b"<broken>"
    return body


async def fetch(session: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, bytes]:
    async with session.get(url, headers=headers) as answer:
        return answer.status, await whole(answer)


async def frames_of(answer: aiohttp.ClientResponse, count: int, mark: bytes = b"\n\n") -> bytes:
    """The first frames, then the client goes away."""
    got = b""
    for _ in range(count):
        got += await answer.content.readuntil(mark)
    answer.close()
    return got


ROADS = [
    pytest.param("/api/streaming/chat", {}, b"\n\n", id="native"),
    pytest.param("/api/v1/conversations/c1/stream", {}, b"\n", id="ndjson"),
    pytest.param("/v1/chat/completions", {"stream": True}, b"\n\n", id="openai passthrough"),
]


@pytest.mark.parametrize(("path", "more", "mark"), ROADS)
async def test_left_after_any_frame_and_resumed_is_the_whole(path: str, more: Any, mark: bytes) -> None:
    """A reader would see a token twice, or never, depending on where the line broke."""
    async with world() as (up, _, session):
        async with session.post(path, json=ASK | more, headers={"X-Stream-Id": "ref"}) as answer:
            assert answer.headers["X-Stream-Resumable"] == "true"
            reference = await answer.read()
        up.scripts = [slow(0.002)]
        count = reference.count(mark)
        for n in range(1, count + 1):
            name = f"s{n}"
            headers = {"X-Stream-Id": name, "X-Stream-On-Disconnect": "grace=5s"}
            wanted = reference.replace(b"ref", name.encode())
            answer = await session.post(path, json=ASK | more, headers=headers)
            first = await frames_of(answer, n, mark)
            status, rest = await fetch(session, f"/api/streaming/{name}?protocol=origin&after={n}")
            assert _timeless(first + rest) == _timeless(wanted)
            assert status == (204 if n == count else 200)
        assert len(up.requests) == count + 1


def _timeless(data: bytes) -> bytes:
    return re.sub(rb'"timestamp":\d+', b'"timestamp":0', data)


@pytest.mark.parametrize("wanted", ["native", "ndjson", "openai"])
async def test_any_protocol_is_the_same_live_and_later(wanted: str) -> None:
    """What is read after the end, or joined late, would differ from what was read live."""
    mark = b"\n" if wanted == "ndjson" else b"\n\n"
    async with world(slow()) as (_, _, session):
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "one"}) as answer:
            url = f"/api/streaming/one?protocol={wanted}"
            live = asyncio.create_task(fetch(session, url))
            await answer.content.readuntil(b'"tokenCount":3}')
            late = asyncio.create_task(fetch(session, url))
            await answer.read()
        bodies = [(await live)[1], (await late)[1], (await fetch(session, url))[1]]
        assert len(set(bodies)) == 1
        assert b"<broken>" not in bodies[0]
        for n in range(bodies[0].count(mark)):
            _, rest = await fetch(session, f"{url}&after={n}")
            assert rest == b"".join(part + mark for part in bodies[0].split(mark)[n:-1])
        assert (await fetch(session, f"{url}&after={bodies[0].count(mark)}"))[0] == 204


async def test_fifty_readers_at_the_switch_from_replay_to_live() -> None:
    """Between the last replayed and the first live frame one would be lost or doubled."""
    async with world(slow(0.003, 60)) as (_, _, session):
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "one"}) as answer:
            first = await answer.content.readuntil(b'"tokenCount":2}\n\n')
            tasks = []
            for n in range(50):
                tasks.append(asyncio.create_task(fetch(session, f"/api/streaming/one?after={n % 4}", **SSE)))
                await asyncio.sleep(0.003)
            body = first + await answer.read()
        parts = body.split(b"\n\n")
        suffixes = [hashlib.sha256(b"\n\n".join(parts[n:])).digest() for n in range(4)]
        for n, task in enumerate(tasks):
            assert hashlib.sha256((await task)[1]).digest() == suffixes[n % 4]


async def test_an_event_source_that_reconnects_gets_its_own_stream() -> None:
    """A tab whose line broke would start, and pay for, a second answer; and another one at the end, for ever."""
    async with world(slow()) as (up, _, session):
        url = "/api/v1/chat/stream?message=hi&model=m&conversation_id=c1"
        answer = await session.get(url, headers=SSE)
        first = await frames_of(answer, 3)
        stream_id = answer.headers["X-Stream-Id"]
        last = events(first.decode())[-1][0]
        assert last == f"{stream_id}.3"
        async with session.get(url, headers={**SSE, "Last-Event-ID": last}) as again:
            assert again.headers["X-Stream-Id"] == stream_id
            rest = await whole(again)
        found = events((first + rest).decode())
        assert [i for i, _, _ in found] == [f"{stream_id}.{n}" for n in range(1, len(found) + 1)]
        assert found[-1][1] == "done"
        assert len(up.requests) == 1
        assert await fetch(session, url, **SSE, **{"Last-Event-ID": found[-1][0]}) == (204, b"")
        status, _ = await fetch(session, url, **SSE, **{"Last-Event-ID": "st_never.3"})
        assert status == 410
        status, _ = await fetch(session, url, **SSE, **{"Last-Event-ID": "nonsense"})
        assert status == 400
        assert len(up.requests) == 1


async def test_an_event_source_with_an_id_of_its_own_never_starts_twice() -> None:
    """A line that broke before the first event leaves no Last-Event-ID; the answer would be asked for again."""
    async with world(slow()) as (up, gateway, session):
        url = "/api/v1/chat/onboarding-stream?message=hi&model=m&stream_id=mine&on_disconnect=continue"
        answer = await session.get(url, headers=SSE)
        answer.close()
        producer = gateway.hub.find("mine", "anonymous")
        assert producer is not None
        assert producer.plan.on_disconnect.action == "continue"
        _, body = await fetch(session, url, **SSE)
        assert [name for _, name, _ in events(body.decode())][0::9] == ["start", "usage"]
        assert len(up.requests) == 1


async def test_a_post_with_last_event_id_goes_on() -> None:
    """Fetch-based SSE clients reconnect by repeating their POST: each would start a new answer."""
    async with world(slow()) as (up, _, session):
        answer = await session.post("/api/streaming/chat", json=ASK)
        first = await frames_of(answer, 2)
        last = {"Last-Event-ID": events(first.decode())[-1][0]}
        async with session.post("/api/streaming/chat", json=ASK, headers=last) as again:
            rest = await whole(again)
        assert events(rest.decode())[0][0].endswith(".3")
        assert len(up.requests) == 1


async def test_the_ending_is_part_of_what_is_resumed() -> None:
    """A cancelled answer would look complete, and a broken one as well."""
    async with world([head(), token("a"), HOLD]) as (_, _, session):
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "c"}) as answer:
            await answer.content.readuntil(b'"tokenCount":1}\n\n')
            await session.delete("/api/streaming/c")
        status, body = await fetch(session, "/api/streaming/c?after=1", **SSE)
        name, data = events(body.decode())[-1][1:]
        assert (status, name, json.loads(data)["finishReason"]) == (200, "done", "cancelled")
        assert not body.endswith(b"<broken>")
    async with world([head(), token("a"), RESET]) as (_, _, session):
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "f"}) as answer:
            live = await whole(answer)
        for after in (0, 2):
            status, body = await fetch(session, f"/api/streaming/f?after={after}", **SSE)
            assert live.endswith(body)
            assert events(body.decode())[-1][1] == "error"
            assert not body.endswith(b"<broken>")
        last = events(live.decode())[-1][0]
        assert await fetch(session, "/api/streaming/f", **SSE, **{"Last-Event-ID": last}) == (204, b"")
        ahead = await fetch(session, "/api/streaming/f?after=99", **SSE)
        assert ahead[0] == 200
        assert events(ahead[1].decode())[0][1] == "error"
        _, openai = await fetch(session, "/api/streaming/f?protocol=openai")
        assert b'"error"' in openai
        assert b"[DONE]" not in openai


async def test_a_stream_in_its_grace_goes_on_and_the_policy_applies_again() -> None:
    """Coming back would be too late, or a stream nobody reads any more would run on."""
    streams = Streams(on_disconnect=OnDisconnect("grace", Duration(0.3)))
    async with world([head(), token("a"), HOLD], streams=streams) as (up, gateway, session):
        answer = await session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "g"})
        await frames_of(answer, 2)
        again = await session.get("/api/streaming/g", headers=SSE)
        await again.content.readuntil(b'"tokenCount":1}\n\n')
        await asyncio.sleep(0.5)
        assert len(gateway.hub) == 1
        again.close()
        async with asyncio.timeout(3):
            while len(gateway.hub):
                await asyncio.sleep(0.02)
        assert (await (await session.get("/api/streaming/g")).json())["state"] == "client_gone"
        assert len(up.requests) == 1


def two_keys() -> tuple[Key, ...]:
    return tuple(
        Key(id=name, owner=owner, hash=hash_of(name), on_disconnect=OnDisconnect("continue") if name == "a2" else None)
        for name, owner in (("a1", "a"), ("a2", "a"), ("b", "b"))
    )


async def test_an_owner_reads_its_own_and_nobody_else_does() -> None:
    """An id would be a credential: whoever guesses it reads the answer."""
    async with world(keys=two_keys()) as (_, _, session):
        key = {"Authorization": "Bearer a1"}
        async with session.post("/api/streaming/chat", json=ASK, headers={**key, "X-Stream-Id": "x"}) as answer:
            body = await answer.read()
        assert await fetch(session, "/api/streaming/x", **SSE, Authorization="Bearer a2") == (200, body)
        foreign = await fetch(session, "/api/streaming/x", **SSE, Authorization="Bearer b")
        unknown = await fetch(session, "/api/streaming/y", **SSE, Authorization="Bearer b")
        assert foreign[0] == unknown[0] == 404
        assert json.loads(foreign[1])["error"]["message"] == json.loads(unknown[1])["error"]["message"]
        assert (await fetch(session, "/api/streaming/x", **SSE))[0] == 401
        url = "/api/v1/chat/stream?message=hi&model=m"
        assert (await fetch(session, url, Authorization="Bearer b", **{"Last-Event-ID": "x.2"}))[0] == 410


async def test_a_keys_own_disconnect_policy() -> None:
    """An application that always comes back could not say so once, in its key."""
    async with world([head(), token("a"), HOLD], keys=two_keys()) as (_, gateway, session):
        for key, action in (("a1", "cancel"), ("a2", "continue")):
            headers = {"Authorization": f"Bearer {key}", "X-Stream-Id": key}
            async with session.post("/v1/chat/completions", json=ASK | {"stream": True}, headers=headers):
                producer = gateway.hub.find(key, "a")
                assert producer is not None
                assert producer.plan.on_disconnect.action == action


async def test_state_or_frames_by_what_is_accepted() -> None:
    """A dashboard that asks for JSON would be sent a stream, or a player a receipt."""
    async with world() as (_, _, session):
        async with session.post(
            "/v1/chat/completions", json=ASK | {"stream": True}, headers={"X-Stream-Id": "o"}
        ) as answer:
            body = await answer.read()
        for accept in ("application/json", "*/*"):
            assert json.loads((await fetch(session, "/api/streaming/o", Accept=accept))[1])["state"] == "completed"
        assert (await fetch(session, "/v1/streams/o", **SSE))[1] == body
        assert (await fetch(session, "/api/streaming/o?after=0"))[1] == body
        assert (await fetch(session, "/api/streaming/o", **LINES))[0] == 400
        lines = (await fetch(session, "/api/streaming/o?protocol=ndjson", **LINES))[1].splitlines()
        assert json.loads(lines[-1])["type"] == "complete_state"
        assert (await fetch(session, "/api/streaming/o?protocol=klingon"))[0] == 400
        async with session.post("/api/v1/conversations/c/stream", json=ASK, headers={"X-Stream-Id": "n"}) as answer:
            body = await answer.read()
        assert (await fetch(session, "/api/streaming/n", **LINES))[1] == body
        assert (await fetch(session, "/api/streaming/n", **SSE))[1].startswith(b"retry: 1000\nid: n.1\nevent: start\n")


async def test_ndjson_lines_in_an_envelope() -> None:
    """NDJSON has no ids; a client could not store where it is."""
    async with world() as (_, _, session):
        async with session.post("/api/v1/conversations/c/stream", json=ASK, headers={"X-Stream-Id": "n"}) as answer:
            plain = (await answer.read()).splitlines()
        async with session.get("/api/streaming/n?after=2&envelope=1", headers=LINES) as answer:
            assert answer.headers["Stream-Next-Offset"] == str(len(plain))
            wrapped = [json.loads(line) for line in (await answer.read()).splitlines()]
        assert wrapped == [{"seq": n + 1, "data": json.loads(line)} for n, line in enumerate(plain) if n >= 2]
        assert (await fetch(session, "/api/streaming/n?envelope=1", **SSE))[0] == 400


async def test_wrong_cursors() -> None:
    """A client with a wrong cursor would be sent the wrong text in silence."""
    async with world() as (_, _, session):
        await (await session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x"})).read()
        for wrong in ("y.3", "x.", "x.-3", "abc"):
            assert (await fetch(session, "/api/streaming/x", **SSE, **{"Last-Event-ID": wrong}))[0] == 400
        assert (await fetch(session, "/api/streaming/x?after=-1", **SSE))[0] == 400
        _, body = await fetch(session, "/api/streaming/x?after=1", **SSE, **{"Last-Event-ID": "x.4"})
        assert events(body.decode())[0][0] == "x.5"
        _, body = await fetch(session, "/api/streaming/x?starting_after=4", **SSE)
        assert events(body.decode())[0][0] == "x.6"


async def test_ahead_of_a_running_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor of another stream, or of a lost log, would wait for ever; an EventSource would stop for good."""
    monkeypatch.setattr("gateway.edge.rereading.HOLD", 0.2)
    script = [head(), token("a"), token("b"), 0.6, token("c"), HOLD]
    async with world(script) as (_, _, session), started(session) as first:
        await first.content.readuntil(b'"tokenCount":2}\n\n')
        assert (await fetch(session, "/api/streaming/x?after=50"))[0] == 416
        assert await fetch(session, "/api/streaming/x?after=50", **SSE) == (200, b"retry: 3000\n\n")
        async with session.get("/api/streaming/x?after=3", headers=SSE) as tail:  # just at the tail: waits
            assert (await tail.content.readuntil(b"\n\n")).startswith(b"id: x.4\n")


async def test_gone_is_told_from_never_was() -> None:
    """A client would retry for ever, or give up what it could ask for again."""
    async with world(registry=Registry(replay=Duration(0.3))) as (_, _, session):
        await (await session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x"})).read()
        assert (await fetch(session, "/api/streaming/x", **SSE))[0] == 200
        await asyncio.sleep(0.4)
        for headers in (SSE, {}):
            status, body = await fetch(session, "/api/streaming/x", **headers)
            told = json.loads(body)
            assert (status, told["error"]["code"], told["state"]) == (410, "stream_expired", "completed")
            assert {"earliestSeq", "tailSeq"} <= set(told)
        async with session.delete("/api/streaming/x") as answer:
            told = await answer.json()
            assert (answer.status, told["error"]["code"], told["state"]) == (410, "stream_expired", "completed")
        async with session.delete("/api/streaming/z") as answer:
            assert answer.status == 404
        assert (await fetch(session, "/api/streaming/z", **SSE))[0] == 404
    streams = Streams(transcript_cap=Size(2000))
    script = [head(), *[token("x" * 200), 0.005] * 30, HOLD]
    async with world(script, streams=streams) as (_, _, session), started(session) as answer:
        await answer.content.readuntil(b'"tokenCount":30}\n\n')
        status, body = await fetch(session, "/api/streaming/x", **SSE)
        told = json.loads(body)
        assert (status, told["error"]["code"], told["state"]) == (410, "cursor_expired", "streaming")
        assert await _resumable(session, "x") == {False}


async def _resumable(session: aiohttp.ClientSession, name: str, path: str = "/api/streaming") -> set[bool]:
    """What a stream's state, its HEAD and the list of running ones say of it."""
    async with session.head(f"{path}/{name}") as seen:
        said = {seen.headers["X-Stream-Resumable"] == "true"}
    _, body = await fetch(session, f"{path}/{name}")
    _, listed = await fetch(session, "/api/streaming/active")
    running = [entry for entry in json.loads(listed)["streams"] if entry["streamId"] == name]
    return said | {entry["resumable"] for entry in (json.loads(body), *running)}


async def test_an_expired_stream_is_gone_for_its_owner_only() -> None:
    """Another owner would learn from a DELETE which ids there were."""
    async with world(registry=Registry(replay=Duration(0.3)), keys=two_keys()) as (_, _, session):
        mine, foreign = {"Authorization": "Bearer a1"}, {"Authorization": "Bearer b"}
        await (await session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x", **mine})).read()
        await asyncio.sleep(0.4)
        for headers, status in ((mine, 410), (foreign, 404)):
            async with session.delete("/api/streaming/x", headers=headers) as answer:
                assert answer.status == status


async def test_head_says_where_a_stream_is() -> None:
    """A client could not find out what it missed without reading it."""
    async with world([head(), token("a"), HOLD]) as (_, _, session):
        async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x"}) as answer:
            await answer.content.readuntil(b'"tokenCount":1}\n\n')
            async with session.head("/api/streaming/x") as seen:
                found = [seen.headers[f"X-Stream-{name}"] for name in ("State", "Tail", "Resumable")]
            assert found == ["streaming", "2", "true"]
            await session.delete("/api/streaming/x")
            await answer.read()
        async with session.head("/v1/streams/x") as seen:
            assert (seen.headers["X-Stream-State"], seen.headers["X-Stream-Tail"]) == ("cancelled", "4")
        async with session.head("/v1/streams/y") as seen:
            assert seen.status == 404


async def test_too_many_readers() -> None:
    """One stream's readers could take the whole worker."""
    script = [head(), token("a"), HOLD]
    async with world(script, streams=Streams(max_readers=2)) as (_, _, session), started(session) as answer:
        await answer.content.readuntil(b'"tokenCount":1}\n\n')
        second = await session.get("/api/streaming/x", headers=SSE)
        async with session.get("/api/streaming/x", headers=SSE) as third:
            assert (third.status, third.headers["Retry-After"]) == (429, "1")
        second.close()


async def test_attached_before_the_first_token() -> None:
    """A page that reloads while the model still thinks would be told that there is nothing."""
    async with world([0.3, head(), token("a"), frame({}, "stop"), DONE, END]) as (_, _, session):
        answer = await session.post("/v1/chat/completions", json=ASK | {"stream": True}, headers=LATER)
        assert answer.status == 200
        _, body = await fetch(session, "/api/streaming/x?protocol=native")
        assert [name for _, name, _ in events(body.decode())] == ["start", "token", "usage", "done"]
    async with world([HOLD]) as (_, gateway, session):
        task = asyncio.create_task(session.post("/api/streaming/chat", json=ASK, headers=LATER))
        while gateway.hub.find("x", "anonymous") is None:
            await asyncio.sleep(0.01)
        async with session.get("/api/streaming/x", headers=SSE) as early:
            assert b"event: start" in await early.content.readuntil(b"\n\n")
        task.cancel()


async def test_a_conversation_leads_to_its_running_stream() -> None:
    """A reloaded page knows its conversation and nothing else."""
    async with world(slow(0.05)) as (up, _, session):
        for path in ("/api/v1/conversations/c1/stream", "/v1/conversations/c1/stream"):
            assert (await fetch(session, path))[0] == 204
        body = ASK | {"conversationId": "c1"}
        answer = await session.post("/api/streaming/chat", json=body, headers={"X-Stream-Id": "first"})
        await frames_of(answer, 2)
        for path, kind in (("/api/v1/conversations/c1/stream", SSE), ("/v1/conversations/c1/stream", LINES)):
            async with session.get(path, headers=kind) as found:
                assert (found.headers["X-Stream-Id"], found.content_type) == ("first", kind["Accept"])
        assert (await fetch(session, "/v1/conversations/c2/stream"))[0] == 204
        assert len(up.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_repeated_idempotency_key_asks_the_backend_once(stream: bool) -> None:
    """A client that timed out and asks again would pay twice."""
    ask = ASK | {"stream": stream}
    async with world(slow(0.02)) as (up, _, session):
        key = {"Idempotency-Key": "k1"}
        first = asyncio.create_task(_post(session, ask, key))
        second = asyncio.create_task(_post(session, ask, key))
        bodies = [(await first)[2], (await second)[2], (await _post(session, ask, key))[2]]
        assert len(set(bodies)) == 1
        assert len(up.requests) == 1
        status, headers, _ = await _post(session, ask, key)
        assert (status, headers["X-Stream-Replayed"]) == (200, "true")
        assert (await _post(session, ask | {"temperature": 1}, key))[0] == 422
        assert len(up.requests) == 1
        await _post(session, ask, {"Idempotency-Key": "k2"})
        assert len(up.requests) == 2
        if stream:
            _, _, rest = await _post(session, ask, {**key, "X-Stream-After": "3"})
            assert rest == b"\n\n".join(bodies[0].split(b"\n\n")[3:])


async def test_an_idempotent_client_that_left_finds_its_answer() -> None:
    """The SDK's own time-out would cancel the stream that its retry asks for."""
    async with world(slow(0.02)) as (up, _, session):
        key, ask = {"Idempotency-Key": "k"}, ASK | {"stream": True}
        answer = await session.post("/v1/chat/completions", json=ask, headers=key)
        await frames_of(answer, 1)
        status, headers, body = await _post(session, ask, key)
        assert (status, headers["X-Stream-Id"]) == (200, answer.headers["X-Stream-Id"])
        assert body.endswith(b"data: [DONE]\n\n")
        assert len(up.requests) == 1


async def test_a_refused_request_may_be_repeated_with_its_key() -> None:
    """SDKs retry a 503 with the same key; they would be told of the old failure for ten minutes."""
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"
    async with Upstream([refusal], WHOLE) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        key, ask = {"Idempotency-Key": "k"}, ASK | {"stream": True}
        assert (await _post(session, ask, key))[0] == 503
        status, headers, _ = await _post(session, ask, key)
        assert (status, "X-Stream-Replayed" in headers) == (200, False)
        assert (await _post(session, ask, {"Idempotency-Key": "k" * 300}))[0] == 400


async def _post(session: aiohttp.ClientSession, body: Any, headers: Any) -> tuple[int, Any, bytes]:
    async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
        return answer.status, answer.headers, await whole(answer)


async def test_a_chosen_id_is_not_started_twice() -> None:
    """A POST that is repeated by mistake would pay twice under one name."""
    async with world() as (up, _, session):
        for status in (200, 409):
            async with session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x"}) as answer:
                await answer.read()
                assert answer.status == status
        assert len(up.requests) == 1


async def test_a_long_answer_is_replayed_whole_to_a_slow_reader() -> None:
    """The slices of a long replay would leave out, or double, what is between two of them."""
    words = [token(f"{n} " + "x" * 500) for n in range(2000)]
    async with world([head(), *words, frame({}, "stop"), DONE, END]) as (_, _, session):
        async with session.post(
            "/v1/chat/completions", json=ASK | {"stream": True}, headers={"X-Stream-Id": "x"}
        ) as answer:
            body = await answer.read()
        assert len(body) > 1_000_000
        async with session.get("/api/streaming/x?protocol=origin&after=1500") as late:
            await asyncio.sleep(0.2)
            assert await late.read() == b"\n\n".join(body.split(b"\n\n")[1500:])
        _, native = await fetch(session, "/api/streaming/x?protocol=native&after=1999")
        assert [i for i, _, _ in events(native.decode())] == [f"x.{n}" for n in range(2000, 2004)]


async def test_browsers_may_read_the_headers() -> None:
    """A page on another origin could not know which stream it reads."""
    server = Server(port=0, cors=Cors(origins=("http://app.test",)))
    async with world(server=server) as (_, _, session):
        await (await session.post("/api/streaming/chat", json=ASK, headers={"X-Stream-Id": "x"})).read()
        async with session.get("/api/streaming/x", headers={**SSE, "Origin": "http://app.test"}) as answer:
            exposed = answer.headers["Access-Control-Expose-Headers"]
            assert answer.headers["Access-Control-Allow-Origin"] == "http://app.test"
        for name in ("X-Stream-State", "X-Stream-Tail", "X-Stream-Replayed", "Stream-Next-Offset", "Location"):
            assert name in exposed


async def test_a_real_sdk_that_times_out_and_retries_pays_once() -> None:
    """openai-python repeats a request that took too long; without its key being honoured, so does the bill."""
    slow_start = [head(), 0.6, token("Hello"), frame({}, "stop"), DONE, END]
    async with world(slow_start) as (up, gateway, _):
        sdk = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{gateway.public_port}/v1", api_key="k", timeout=0.3, max_retries=4
        )
        async with sdk:
            answer = await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], extra_headers={"Idempotency-Key": "once"}
            )
        assert answer.choices[0].message.content == "Hello"
        assert len(up.requests) == 1


@pytest.mark.parametrize("ahead", [0, 1, 2, 6])
@pytest.mark.parametrize("protocol", ["native", "ndjson", "openai"])
async def test_a_cursor_ahead_of_the_tail_waits_and_then_reads_on(protocol: str, ahead: int) -> None:
    """A client that lost count by a few would be given old text under new numbers."""
    config = config_for(streams=Streams(mode="immediate"))
    async with running(config) as gateway, client(gateway) as session:
        ask = {"model": "demo", "prompt": "x [tokens=60] [rate=100]"}
        reading = asyncio.create_task(_whole(session, ask))
        while (producer := gateway.hub.find("ahead", "anonymous")) is None or producer.stream.tokens < 5:
            await asyncio.sleep(0.005)
        after = producer.stream.tokens + ahead + 1
        target = f"/api/streaming/ahead?protocol={protocol}&after={after}"
        async with session.get(target, headers={"Accept": "*/*"}) as answer:
            assert answer.status == 200
            late = await answer.read()
        await reading
        async with session.get(f"/api/streaming/ahead?protocol={protocol}&after=0") as answer:
            whole = await answer.read()
        assert whole.endswith(late)
        assert len(late) > 500


async def test_a_client_that_leaves_while_it_is_held_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Its place among the readers would stay taken, and operators would look for a fault of ours."""
    async with world((head(), token("a"), HOLD)) as (_, gateway, session):
        async with session.post("/api/streaming/chat", json=ASK, headers=LATER):
            pass
        producer = gateway.hub.find("x", "anonymous")
        assert producer is not None
        held = asyncio.create_task(session.get("/api/streaming/x?after=50"))
        while not producer.readers:
            await asyncio.sleep(0.005)
        held.cancel()
        async with asyncio.timeout(2):  # far less than it is held
            while producer.readers:
                await asyncio.sleep(0.005)
        assert not [record for record in caplog.records if record.exc_info]


async def test_a_head_nobody_waits_for_is_no_error() -> None:
    """A client that leaves just as its answer begins would be logged as a failure of the gateway."""

    class Left(StreamHead):
        async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
            raise ClientConnectionResetError("Cannot write to closing transport")

    assert await begun(Left(), make_mocked_request("GET", "/")) is False


async def _whole(session: aiohttp.ClientSession, ask: dict[str, str]) -> bytes:
    async with session.post("/api/streaming/chat", json=ask, headers={"X-Stream-Id": "ahead"}) as answer:
        return await answer.read()


@pytest.mark.parametrize("protocol", ["native", "openai"])
@pytest.mark.parametrize("script", [WHOLE, (head(), *WORDS[:3], 0.1, RESET)], ids=["whole", "broken"])
async def test_control_says_how_it_ended(protocol: str, script: Any) -> None:
    """Who reads a stream in a protocol whose end says little could not tell how it ended, or would get an event it did
    not ask for; or its cursor would count it."""
    async with world(script) as (_, _, session):
        async with session.post("/api/streaming/chat", json=ASK, headers=LATER) as answer:
            await whole(answer)
        url = f"/v1/streams/x?protocol={protocol}"
        async with session.get(url, headers=SSE) as answer:
            plain = (await whole(answer)).removesuffix(b"<broken>")
        async with session.get(f"{url}&control=1", headers=SSE) as answer:
            told = (await whole(answer)).removesuffix(b"<broken>")
        assert told.startswith(plain)
        event, data = told[len(plain) :].decode().strip().split("\n")
        said = json.loads(data.removeprefix("data: "))
        frames = plain.count(b"data: ")
        assert (event, said["last_seq"]) == ("event: stream.end", frames)
        assert said["state"] == ("completed" if script is WHOLE else "upstream_truncated")
        assert (said["error"] or {}).get("code") == (None if script is WHOLE else "upstream_truncated")
        async with session.get(f"{url}&control=1&after={frames}", headers=SSE) as answer:
            assert answer.status == 204
