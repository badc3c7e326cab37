"""`GET /v1/responses/{id}/input_items`, read by openai-python: what a response was asked with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from msgspec.structs import replace
from support.inprocess import config_for, running
from support.model_server import ModelServer
from support.redis_server import BINARY, RedisServer
from support.resuming import fleet_config, two
from support.upstream import HOLD, Upstream, head

from config.schema import Config, Key
from gateway.access.keys import hash_of

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}
CALL: Any = {"type": "function_call", "id": "fc_mine", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
RESULT: Any = {"type": "function_call_output", "call_id": "c1", "output": "18 degrees"}
LOOK: Any = {"role": "user", "content": [{"type": "input_text", "text": "Look"}, IMAGE]}


def translated(config: Config) -> Config:
    """A backend that has chat completions only."""
    return replace(config, backends={"up": replace(config.backends["up"], options={"responses": False})})


def api_of(port: int, key: str = "hg-a") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)


@asynccontextmanager
async def sdk(url: str, **rest: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with running(translated(config_for(url, **rest))) as gateway, api_of(gateway.public_port) as api:
        yield api


async def ended(api: openai.AsyncOpenAI, response_id: str) -> Any:
    for _ in range(200):
        found = await api.responses.retrieve(response_id)
        if found.status not in ("queued", "in_progress"):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("still running")


async def listed(api: openai.AsyncOpenAI, response_id: str, **query: Any) -> list[Any]:
    """All items, page by page, oldest first unless the query says otherwise."""
    found: list[Any] = []
    async for item in api.responses.input_items.list(response_id, **{"order": "asc", **query}):
        found.append(item.to_dict())  # noqa: PERF401 - the SDK's own paging is what is tried
    return found


async def missing(api: openai.AsyncOpenAI, response_id: str) -> openai.NotFoundError:
    with pytest.raises(openai.NotFoundError) as caught:
        await api.responses.input_items.list(response_id)
    return caught.value


async def test_a_chain_in_the_background_and_streamed() -> None:
    """An agent that reads its history from the gateway would find none of it, or not what it had sent."""
    async with ModelServer("openai") as server, sdk(server.url) as api:
        first = await api.responses.create(model="m", input="hi", instructions="Be brief.", background=True)
        done = await ended(api, first.id)
        events = await api.responses.create(model="m", input=[LOOK], previous_response_id=first.id, stream=True)
        second = [event async for event in events][-1].response
        third = await api.responses.create(model="m", input=[CALL, RESULT], previous_response_id=second.id)
        items = await listed(api, third.id)
        assert await listed(api, third.id, limit=2) == items
        assert (
            await listed(api, third.id, order="desc", limit=1, include=["message.input_image.image_url"])
            == (items[::-1])
        )
        assert await listed(api, second.id) == items[:3]
        newest = await api.responses.input_items.list(third.id, limit=2, after=items[-1]["id"])
        assert [item.to_dict() for item in newest.data] == [items[-2], items[-3]]
    assert items[0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert (items[1]["id"], items[1]["content"][0]["text"]) == (done.output[0].id, "Hello you")
    assert items[2]["content"] == LOOK["content"]
    assert items[3]["id"] == second.output[0].id
    assert items[4] == {**CALL, "status": "completed"}
    assert items[5] == {**RESULT, "id": items[5]["id"], "status": "completed"}
    assert len({item["id"] for item in items}) == 6


async def test_a_backend_that_speaks_this_api_itself() -> None:
    """The id its client knows is the backend's: its list would be missing."""
    async with (
        ModelServer("openai") as server,
        running(config_for(server.url)) as gateway,
        api_of(gateway.public_port) as api,
    ):
        first = await api.responses.create(model="m", input="hi")
        assert first.id == "resp_1"
        assert [item["role"] for item in await listed(api, first.id)] == ["user"]


async def test_while_it_runs_and_after_it_was_cancelled() -> None:
    """A page that shows a running response could not say what was asked."""
    async with Upstream([head(), HOLD]) as up, sdk(up.url) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        running_items = await listed(api, begun.id)
        await api.responses.cancel(begun.id)
        assert (await ended(api, begun.id)).status == "cancelled"
        assert await listed(api, begun.id) == running_items
        assert running_items[0]["content"][0]["text"] == "hi"


async def test_what_is_not_there() -> None:
    """One customer would read another's prompt, or what was not to be stored."""
    keys = (Key(id="a", owner="a", hash=hash_of("hg-a")), Key(id="b", owner="b", hash=hash_of("hg-b")))
    async with ModelServer("openai") as server, sdk(server.url, keys=keys) as api:
        kept = await api.responses.create(model="m", input="hi")
        unkept = await api.responses.create(model="m", input="hi", store=False)
        for client, given in ((api, unkept.id), (api, "resp_0"), (api.with_options(api_key="hg-b"), kept.id)):
            error = await missing(client, given)
            assert (error.type, error.body is not None) == ("invalid_request_error", True)
        with pytest.raises(openai.BadRequestError) as wrong:
            await api.responses.input_items.list(kept.id, limit=101)
        assert wrong.value.param == "limit"
        with pytest.raises(openai.AuthenticationError):
            await api.with_options(api_key="nobody").responses.input_items.list(kept.id)
        assert len(await listed(api, kept.id)) == 1
        await api.responses.delete(kept.id)
        await missing(api, kept.id)


async def test_what_goes_on_from_something_unknown_is_not_told_by_half() -> None:
    """A list without the beginning would look like the whole of it."""
    async with (
        ModelServer("openai") as server,
        running(config_for(server.url)) as gateway,
        api_of(gateway.public_port) as api,
    ):
        later = await api.responses.create(model="m", input="and?", previous_response_id="resp_of_another_time")
        assert "not kept" in str(await missing(api, later.id))


@pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
async def test_on_another_node() -> None:
    """Behind a balancer the list, and the conversation itself, would be there for every other request only."""
    with RedisServer() as redis:
        async with (
            ModelServer("openai") as server,
            two(translated(fleet_config(server.url, redis.url))) as (a, _at_a, b, _at_b),
            api_of(a.public_port) as here,
            api_of(b.public_port) as there,
        ):
            first = await here.responses.create(model="m", input="hi")
            second = await there.responses.create(model="m", input=[LOOK], previous_response_id=first.id)
            items = await listed(there, second.id)
            assert [item["role"] for item in items] == ["user", "assistant", "user"]
            assert await listed(here, second.id) == items
            assert await listed(there, first.id) == items[:1]
            middling = await here.responses.create(model="m", input="x" * 200_000)
            assert await listed(there, middling.id) == await listed(here, middling.id)
            large = await here.responses.create(model="m", input="x" * 300_000)
            assert len(await listed(here, large.id)) == 1
            assert "not kept" in str(await missing(there, large.id))
