"""Details native clients count on: endings, counts, the shape of a stream's state, modes and the query of a GET."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, events, running
from support.upstream import HOLD, RESET, Upstream, chunk, head

from config.schema import Config, Route, Target

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOP = {
    "streamId", "state", "model", "backend", "protocol", "owner", "userId", "workspaceId", "conversationId", "node",
    "startedAt", "firstTokenMs", "tokenCount", "resumable", "receipt",
}  # fmt: skip
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def frame(delta: dict[str, Any], finish: str | None = None, model: str = "up-model") -> bytes:
    """One OpenAI chunk as an event."""
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({**data, "choices": choices}, separators=(",", ":")).encode() + b"\n\n"


def tool(index: int, arguments: str, **named: str) -> bytes:
    """A piece of a tool call."""
    function = {"arguments": arguments, **({"name": named["name"]} if named else {})}
    return frame({"tool_calls": [{"index": index, **({"id": named["id"]} if named else {}), "function": function}]})


def renamed(url: str) -> Config:
    """A route that asks the backend for another model than the client."""
    config = config_for(url)
    return Config(
        server=config.server,
        admin=config.admin,
        backends=config.backends,
        routes=(Route(model="*", to=(Target("up", "up-model"),)),),
    )


NATIVE = ("/api/streaming/chat", "/api/v1/conversations/c/stream")


@pytest.mark.parametrize("path", NATIVE)
async def test_a_native_stream_that_fails_ends_properly_behind_its_error(path: str) -> None:
    """A plain HTTP reader would crash before it has read what went wrong."""
    script = [head(), chunk(frame({"content": "a"})), RESET]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post(path, json=ASK, headers={"X-Stream-Id": "x"}) as answer:
            body = await answer.text()  # raises where the body is broken
        assert "upstream_truncated" in body
        for accept in ("text/event-stream", "application/x-ndjson"):
            async with session.get("/api/streaming/x", headers={"Accept": accept}) as answer:
                assert "upstream_truncated" in await answer.text()
        async with session.get("/api/streaming/x?protocol=openai") as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


@pytest.mark.parametrize("before", [b"", frame({"content": "x"})], ids=["first read", "later read"])
@pytest.mark.parametrize("path", [NATIVE[0], "/v1/chat/completions"])
async def test_tokens_before_an_unreadable_frame_are_delivered(path: str, before: bytes) -> None:
    """What a backend said before its mistake would be lost, only because it came in the same packet."""
    bad = frame({"content": "a"}) + frame({"content": "b"}) + b"data: {not json\n\n"
    script = [head(), *([chunk(before), 0.05] if before else []), chunk(bad), END]
    body = b""
    async with (
        Upstream(script) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
        session.post(path, json=ASK | {"stream": True}) as answer,
    ):
        assert answer.status == 200
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async for data in answer.content.iter_any():
                body += data
    assert body.count(b'"content":"') == 2 + bool(before)
    assert b"cannot be read" in body
    assert b"{not json" not in body


async def test_counts_are_of_text_and_calls_are_named_in_each_delta() -> None:
    """A progress bar would count thoughts, and a reader of deltas would not know whose arguments they are."""
    frames = [
        frame({"reasoning_content": "hm"}),
        frame({"content": "a"}),
        tool(0, "", id="call_1", name="f"),
        tool(0, '{"q":'),
        tool(0, "1}"),
        frame({"content": "b"}),
        frame({}, "tool_calls"),
    ]
    script = [head(), *(chunk(one) for one in frames), chunk(DONE), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post(NATIVE[0], json=ASK) as answer:
            told = [(name, json.loads(data)) for _, name, data in events(await answer.text())]
        async with session.post(NATIVE[0], json=ASK | {"stream": False}) as answer:
            whole = await answer.json()
    assert [data["tokenCount"] for name, data in told if name in ("token", "done")] == [1, 2, 2]
    assert whole["tokenCount"] == 2
    deltas = [data for name, data in told if name == "tool_call_delta"]
    assert [(d["id"], d["name"], d["arguments"]) for d in deltas] == [
        ("call_1", "f", ""),
        ("call_1", "f", '{"q":'),
        ("call_1", "f", "1}"),
    ]


async def test_a_stream_has_one_shape_while_it_runs_and_after() -> None:
    """A dashboard would lose a stream's fields at its end, or find no receipt before."""
    script = [head(), chunk(frame({"content": "a"})), HOLD]
    named = {"X-Stream-Id": "x", "X-User-Id": "u", "X-Workspace-Id": "w", "X-Conversation-Id": "c"}
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.post(NATIVE[0], json=ASK, headers=named) as answer:
            await answer.content.readuntil(b"event: token")
            async with session.get("/api/streaming/x") as asked:
                running_ = await asked.json()
            async with session.get("/api/streaming/active") as asked:
                assert "keyId" not in (await asked.json())["streams"][0]
            async with session.delete("/api/streaming/x"):
                await answer.read()
        async with session.get("/api/streaming/x") as asked:
            ended = await asked.json()
    assert running_.keys() >= TOP
    assert running_.keys() == ended.keys()
    assert running_["receipt"].keys() == ended["receipt"].keys()
    assert (running_["state"], ended["state"]) == ("streaming", "cancelled")
    so_far, final = running_["receipt"], ended["receipt"]
    assert (so_far["endedAt"], so_far["endedBy"], so_far["finishReason"]) == (None, None, None)
    assert (so_far["tokenCount"], so_far["usageEstimated"], so_far["completionTokens"]) == (1, True, 1)
    assert final["endedAt"] >= so_far["startedAt"]
    for key in ("userId", "workspaceId", "conversationId", "model", "backend", "resumable"):
        assert running_[key] == ended[key]
    assert (ended["userId"], ended["workspaceId"], ended["conversationId"]) == ("u", "w", "c")


async def test_each_request_chooses_its_mode() -> None:
    """A phone could not save its battery without slowing everybody down."""
    async with running(config_for()) as gateway, client(gateway) as session:
        for mode in ("immediate", "high_performance", "balanced", "battery_saver"):
            async with session.post(
                NATIVE[0], json=ASK, headers={"X-Stream-Mode": mode, "X-Stream-Id": mode}
            ) as answer:
                assert (answer.status, b"event: done" in await answer.read()) == (200, True)
            again = {"Accept": "text/event-stream", "X-Stream-Mode": mode}
            async with session.get(f"/api/streaming/{mode}", headers=again) as answer:
                assert answer.status == 200
        for path in (NATIVE[0], "/v1/chat/completions"):
            async with session.post(path, json=ASK, headers={"X-Stream-Mode": "warp"}) as answer:
                assert answer.status == 400
                assert "X-Stream-Mode" in json.dumps((await answer.json())["error"])
        async with session.get("/api/v1/chat/stream?message=hi&mode=warp") as answer:
            assert answer.status == 400


async def test_a_slow_mode_sends_seldom() -> None:
    """The header would be accepted and change nothing."""
    frames = [chunk(frame({"content": f"{i} "})) for i in range(60)]
    script = [head(), *(step for one in frames for step in (one, 0.002)), chunk(frame({}, "stop")), chunk(DONE), END]
    reads = {}
    for mode in ("immediate", "battery_saver"):
        async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
            gateway.services.pacers.of("battery_saver").burst = 1
            async with session.post(NATIVE[0], json=ASK, headers={"X-Stream-Mode": mode}) as answer:
                reads[mode] = [data async for data in answer.content.iter_chunks()]
    assert len(reads["battery_saver"]) < len(reads["immediate"])


async def test_an_event_source_says_in_its_query_what_others_say_in_headers() -> None:
    """EventSource cannot send headers: its streams would be nobody's."""
    query = "message=[tokens=0] [rate=50]&stream_id=q&user_id=u&workspace_id=w&conversation_id=c&mode=immediate"
    async with (
        running(config_for()) as gateway,
        client(gateway) as session,
        session.get(f"/api/v1/chat/stream?{query}") as answer,
    ):
        await answer.content.readuntil(b"event: token")
        found = gateway.hub.find("q", "anonymous")
        assert found is not None
        who = found.stream.identity
        assert (who.user_id, who.workspace_id, who.conversation_id) == ("u", "w", "c")


async def test_streams_and_whole_answers_name_the_model_alike() -> None:
    """The client would see two names for one model, or the one that the route hides."""
    frames = [
        frame({"role": "assistant", "content": ""}),
        *(frame({"content": w}) for w in "abcdef"),
        frame({}, "stop"),
    ]
    script = [head(), *(step for one in frames for step in (chunk(one), 0.002)), chunk(DONE), END]
    for hidden in (True, False):
        async with Upstream(script) as up:
            config = renamed(up.url) if hidden else config_for(up.url)
            async with running(config) as gateway, client(gateway) as session:
                async with session.post("/v1/chat/completions", json=ASK | {"stream": True}) as answer:
                    streamed = await answer.read()
                async with session.post("/v1/chat/completions", json=ASK) as answer:
                    whole = await answer.json()
        wanted = b"".join(frames).replace(b"up-model", b"m") if hidden else b"".join(frames)
        assert streamed == wanted + DONE
        assert whole["model"] == ("m" if hidden else "up-model")


TWINS = {
    "maxTokens": "7", "temperature": "0.5", "userId": "u1", "workspaceId": "w1", "conversationId": "c1",
    "streamId": "own", "onDisconnect": "continue", "systemPrompt": "be brief",
}  # fmt: skip


@pytest.mark.parametrize("spelt", ["camel", "snake"])
async def test_what_an_eventsource_asks_in_either_spelling(spelt: str) -> None:
    """A limit that a page sets would be ignored without a word, because its name is spelt as in a body."""
    names = {name: name if spelt == "camel" else re.sub("([A-Z])", r"_\1", name).lower() for name in TWINS}
    query = {"message": "hi", **{names[name]: value for name, value in TWINS.items()}}
    script = [head(), chunk(frame({"content": "a"}, "stop")), chunk(DONE), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        async with session.get("/api/v1/chat/stream", params=query) as answer:
            await answer.read()
            assert (answer.status, answer.headers["X-Stream-Id"]) == (200, "own")
        asked = json.loads(up.requests[0][1])
        assert asked["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        assert (asked.get("max_tokens") or asked.get("max_completion_tokens"), asked["temperature"]) == (7, 0.5)
        async with session.get("/api/streaming/own") as answer:
            told = await answer.json()
        assert [told[name] for name in ("userId", "workspaceId", "conversationId")] == ["u1", "w1", "c1"]
        async with session.get("/api/v1/chat/stream", params={"message": "hi", names["maxTokens"]: "x"}) as answer:
            assert answer.status == 400
