"""What a Response says of its request, and how long it is kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import openai
import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, running
from support.redis_server import BINARY, RedisServer
from support.resuming import fleet_config, two
from support.upstream import HOLD, Upstream, chunk, head

from config.schema import Config
from gateway.app import Gateway
from gateway.protocols.openai_responses import Protocol
from gateway.registry.shared_layout import Meta, meta_words, read_meta
from gateway.streams.stream import Identity
from gateway.streams.views import about_of

END = b"0\r\n\r\n"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
ASKED: dict[str, Any] = {
    "instructions": "Obey.",
    "temperature": 0.5,
    "top_p": 0.9,
    "metadata": {"a": "b"},
    "max_output_tokens": 50,
    "tools": [TOOL],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_object"}},
    "user": "u1",
    "reasoning": {"effort": "low"},
}


def translated(url: str) -> Config:
    """A backend that has chat completions only."""
    config = config_for(url)
    return replace(config, backends={"up": replace(config.backends["up"], options={"responses": False})})


def said(text: str, *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return chunk(b"data: " + json.dumps(data).encode() + b"\n\n")


WHOLE = [head(), said("Hello", finish="stop"), chunk(b"data: [DONE]\n\n"), END]


def sdk(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="k", base_url=f"http://127.0.0.1:{gateway.public_port}/v1", max_retries=0)


def echoed(found: Any) -> dict[str, Any]:
    return {name: found.to_dict()[name] for name in ASKED}


async def ended(api: openai.AsyncOpenAI, response_id: str) -> Any:
    """The response, once it has ended."""
    while (found := await api.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        await asyncio.sleep(0.02)
    return found


async def read(stream: Any, seen: list[Any]) -> None:
    """All events of a stream, kept where they can be seen when it raises."""
    async for event in stream:
        seen.append(event)  # noqa: PERF401 - a comprehension would keep nothing of a stream that raises


async def test_the_request_is_said_again() -> None:
    """Clients that go by the Response's own fields (agents, tracers) would take defaults for what was asked."""
    async with Upstream(WHOLE) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        whole = await api.responses.create(model="m", input="hi", **ASKED)
        stream = await api.responses.create(model="m", input="hi", stream=True, **ASKED)
        events = [event async for event in stream]
        kept = await api.responses.retrieve(events[0].response.id)
    objects = [whole, kept, *(event.response for event in events if hasattr(event, "response"))]
    assert len(objects) == 5
    assert all(echoed(found) == ASKED for found in objects)


def test_other_nodes_say_the_same_bytes() -> None:
    """A client that comes back to another node would read another Response under the same numbers."""
    body = {"model": "m", "input": "hi", "background": True, **ASKED, "temperature": 1.0}
    asked = Protocol().parse(json.dumps(body).encode(), {})
    identity = Identity("st_a", "o", "openai_responses", "m", "up", "m", "n", 0, echo=asked.echo)
    words = [word.encode() if isinstance(word, str) else word for word in meta_words(Meta(identity, "up", "openai"))]
    meta = read_meta(dict(zip(words[::2], words[1::2], strict=True)))  # type: ignore[arg-type]
    assert meta is not None
    abouts = [about_of(who, include_usage=True, dialect="openai") for who in (identity, meta.identity)]
    here, there = (Protocol().encoder(about).start() for about in abouts)
    assert here == there
    assert b'"background":true' in here
    assert msgspec.json.decode(msgspec.json.encode(asked.echo)) == asked.echo


async def test_a_background_response_that_is_cancelled() -> None:
    """Its poller would take it for a failure, or for one that was not in the background."""
    async with (
        Upstream([head(), said("Hel"), HOLD]) as up,
        running(translated(up.url)) as gateway,
        sdk(gateway) as api,
    ):
        begun = await api.responses.create(model="m", input="hi", background=True)
        while not (now := await api.responses.retrieve(begun.id)).output_text:
            await asyncio.sleep(0.02)
        cancelled = await api.responses.cancel(begun.id)
        after = await api.responses.retrieve(begun.id)
        seen: list[Any] = []
        stream = await api.responses.retrieve(begun.id, stream=True)
        with pytest.raises(openai.APIError):
            await read(stream, seen)
    for found in (cancelled, after):
        assert (found.status, found.error, found.background) == ("cancelled", None, True)
    assert (begun.background, now.background) == (True, True)
    assert all(event.response.background for event in seen if hasattr(event, "response"))
    assert seen[-1].type == "response.failed"


async def test_a_native_background_response_says_so() -> None:
    """The backend, which was not told, says that it is none."""
    native = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m"}
    native |= {"background": False, "output": []}
    event = {"type": "response.completed", "sequence_number": 0, "response": native}
    script = [head(), chunk(b"event: response.completed\ndata: " + json.dumps(event).encode() + b"\n\n"), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        assert (await ended(api, begun.id)).background


async def test_what_was_not_to_be_stored_is_not_found() -> None:
    """A client that asked for no trace would leave one for everybody with its key."""
    async with Upstream(WHOLE) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        found = await api.responses.create(model="m", input="hi", store=False)
        assert found.output_text == "Hello"
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(found.id)
        with pytest.raises(openai.NotFoundError):
            await api.responses.cancel(found.id)


@pytest.mark.parametrize("running_still", [False, True])
async def test_a_deleted_response_is_gone(running_still: bool) -> None:
    """Who deletes an answer means it: it must not be read, paid or gone on from any longer."""
    script = [head(), said("Hel"), HOLD] if running_still else WHOLE
    async with Upstream(script) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        if not running_still:
            await ended(api, begun.id)
        gone = await api.responses.with_raw_response.delete(begun.id)
        assert json.loads(gone.text) == {"id": begun.id, "object": "response.deleted", "deleted": True}
        assert not len(gateway.hub)
        for again in (api.responses.retrieve, api.responses.delete, api.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await again(begun.id)
        with pytest.raises(openai.NotFoundError):
            await api.responses.delete("resp_unknown")
        async with client(gateway) as http:
            for method, accept in (("GET", "*/*"), ("HEAD", "*/*"), ("GET", "text/event-stream"), ("DELETE", "*/*")):
                path = "/api/streaming/st_" + begun.id.removeprefix("resp_")
                async with http.request(method, path, headers={"Accept": accept}) as answer:
                    assert answer.status == 404, (method, accept)


@pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
async def test_on_another_node() -> None:
    """A balancer would change what a Response says of its request, and bring a deleted one back."""
    with RedisServer() as redis:
        async with Upstream(WHOLE, WHOLE) as up:
            config = fleet_config(up.url, redis.url)
            config = replace(config, backends={"up": replace(config.backends["up"], options={"responses": False})})
            async with two(config) as (a, at_a, b, at_b), sdk(a) as one, sdk(b) as other:
                begun = await one.responses.create(model="m", input="hi", background=True, **ASKED)
                here = await ended(one, begun.id)
                there = await ended(other, begun.id)
                assert here.to_dict() == there.to_dict()
                assert (echoed(there), there.background) == (ASKED, True)
                await other.responses.delete(begun.id)
                for api, http in ((one, at_a), (other, at_b)):
                    with pytest.raises(openai.NotFoundError):
                        await api.responses.retrieve(begun.id)
                    async with http.get("/api/streaming/st_" + begun.id.removeprefix("resp_")) as answer:
                        assert answer.status == 404
                with pytest.raises(openai.BadRequestError):
                    await one.responses.create(model="m", input="and?", previous_response_id=begun.id)
                unkept = await one.responses.create(model="m", input="hi", store=False)
                with pytest.raises(openai.NotFoundError):
                    await other.responses.retrieve(unkept.id)
