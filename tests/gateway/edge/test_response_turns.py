"""`previous_response_id` where the backend keeps no turns: openai-python in front, chat servers and others behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from msgspec.structs import replace
from support.answers import CITY
from support.dialects import Said, Step
from support.inprocess import config_for, running
from support.model_server import ModelServer

from config.schema import Backend, Config, Key, Route, Streams, Target
from config.values import Size
from gateway.access.keys import hash_of

CALL = Said((Step("text", "Wait"), Step("call", id="call_1", name="weather"), Step("args", CITY)), "tool_calls")
THOUGHT = Said((Step("think", "Let me see"), Step("text", "Hello")))
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


def before(server: ModelServer, **rest: Any) -> Config:
    """A gateway's configuration: this server, and no Responses API there."""
    config = config_for(server.url, **rest)
    return replace(config, backends={"up": Backend(server.kind, url=server.url, options=OPTIONS.get(server.kind, {}))})


OPTIONS: dict[str, dict[str, Any]] = {"openai": {"responses": False}}


@asynccontextmanager
async def sdk(server: ModelServer, **rest: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with server, running(before(server, **rest)) as gateway:
        base = f"http://127.0.0.1:{gateway.public_port}/v1"
        async with openai.AsyncOpenAI(api_key="hg-a", base_url=base, max_retries=0) as found:
            yield found


def told(server: ModelServer) -> list[tuple[str, Any]]:
    """The turns the server was last asked with."""
    return [(turn["role"], turn["content"]) for turn in server.asked["messages"]]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_by_its_last_response(stream: bool) -> None:
    """Agents that send only what is new would talk to a model that knows nothing of what was said."""
    async with sdk(server := ModelServer("openai")) as api:
        first = await api.responses.create(model="m", instructions="Be brief.", input="hi")
        if stream:
            events = await api.responses.create(model="m", input="and?", previous_response_id=first.id, stream=True)
            second = [event async for event in events][-1].response
        else:
            second = await api.responses.create(model="m", input="and?", previous_response_id=first.id)
        await api.responses.create(model="m", instructions="Sing.", input="so?", previous_response_id=second.id)
    assert told(server) == [
        ("system", "Sing."),
        ("user", "hi"),
        ("assistant", "Hello you"),
        ("user", "and?"),
        ("assistant", "Hello you"),
        ("user", "so?"),
    ]


async def test_a_tools_result_finds_its_call() -> None:
    """A result without the call before it is refused by every server."""
    async with sdk(server := ModelServer("openai")) as api:
        server.answer = CALL
        first = await api.responses.create(model="m", input="hi", tools=[WEATHER])
        call = next(item for item in first.output if item.type == "function_call")
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
        await api.responses.create(model="m", input=[result], tools=[WEATHER], previous_response_id=first.id)
    asked = server.asked["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "tool"]
    assert (asked[1]["content"], asked[1]["tool_calls"][0]["id"]) == ("Wait", "call_1")
    assert json.loads(asked[1]["tool_calls"][0]["function"]["arguments"]) == json.loads(CITY)
    assert (asked[2]["tool_call_id"], asked[2]["content"]) == ("call_1", "18 degrees")


async def test_signed_reasoning_comes_back_to_who_signed_it() -> None:
    """Anthropic refuses a tool's result whose call has lost the thinking before it."""
    async with sdk(server := ModelServer("anthropic")) as api:
        server.answer = THOUGHT
        first = await api.responses.create(model="m", input="hi")
        await api.responses.create(model="m", input="and?", previous_response_id=first.id)
    assert server.asked["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Let me see", "signature": "c2ln"},
        {"type": "text", "text": "Hello"},
    ]


async def test_a_backends_own_id_in_translation() -> None:
    """A conversation begun at a server that keeps turns could not go on at one that does not."""
    async with ModelServer("openai") as keeps, ModelServer("openai") as forgets:
        config = config_for(keeps.url)
        backends = {
            "keeps": Backend("openai", url=keeps.url),
            "forgets": Backend("openai", url=forgets.url, options={"responses": False}),
        }
        routes = (Route("m", (Target("keeps"),)), Route("other", (Target("forgets"),)))
        async with running(replace(config, backends=backends, routes=routes)) as gateway:
            base = f"http://127.0.0.1:{gateway.public_port}/v1"
            async with openai.AsyncOpenAI(api_key="k", base_url=base, max_retries=0) as api:
                first = await api.responses.create(model="m", input="hi")
                await api.responses.create(model="m", input="and?", previous_response_id=first.id)
                assert (first.id, keeps.asked["previous_response_id"]) == ("resp_1", "resp_1")
                await api.responses.create(model="other", input="and?", previous_response_id=first.id)
    assert told(forgets)[:2] == [("user", "hi"), ("assistant", "Hello you")]
    assert told(forgets)[-1] == ("user", "and?")


async def refused(api: openai.AsyncOpenAI, given: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await api.responses.create(model="m", input="and?", previous_response_id=given)
    assert caught.value.param == "previous_response_id"


async def test_what_was_not_to_be_stored() -> None:
    """A client that said `store: false` would find its turns kept all the same."""
    async with sdk(ModelServer("openai")) as api:
        first = await api.responses.create(model="m", input="hi", store=False)
        await refused(api, first.id)


async def test_what_is_no_longer_held() -> None:
    """A model would be asked to go on without the beginning, silently."""
    async with sdk(server := ModelServer("openai"), streams=Streams(replay_memory=Size(8192))) as api:
        kept = await api.responses.create(model="m", input="hi")
        await api.responses.create(model="m", input="and?", previous_response_id=kept.id)
        first = await api.responses.create(model="m", input="x" * 8000)
        await refused(api, first.id)
        await refused(api, "resp_0")
    assert len(server.requests) == 3


async def test_broken_answers_are_not_gone_on_from() -> None:
    """Half an answer would be put into the model's mouth as what it said."""
    async with sdk(server := ModelServer("openai")) as api:
        server.manner = "short"
        events = await api.responses.create(model="m", input="hi", stream=True)
        begun: Any = await anext(aiter(events))
        with pytest.raises(openai.OpenAIError):
            [event async for event in events]
        await refused(api, begun.response.id)


async def test_only_the_owner_goes_on() -> None:
    """One customer would read another's conversation out of the model."""
    keys = (Key(id="a", owner="a", hash=hash_of("hg-a")), Key(id="b", owner="b", hash=hash_of("hg-b")))
    async with sdk(ModelServer("openai"), keys=keys) as api:
        first = await api.responses.create(model="m", input="hi")
        await refused(api.with_options(api_key="hg-b"), first.id)
        await api.responses.create(model="m", input="and?", previous_response_id=first.id)
