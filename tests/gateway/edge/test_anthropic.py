"""The official Anthropic SDK against a whole gateway: what it sends is understood, what it reads is what was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import pytest
from support.inprocess import client, config_for, running
from support.upstream import CLOSE, HOLD, Upstream, chunk, head

from config.schema import Access, Backend, Config
from config.values import Secret
from gateway.app import Gateway

ROOT = Path(__file__).parents[2] / "transcripts"
ASK: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
WEATHER = {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}


def sdk(gateway: Gateway, **more: Any) -> anthropic.AsyncAnthropic:
    base = f"http://127.0.0.1:{gateway.public_port}"
    return anthropic.AsyncAnthropic(api_key="k", base_url=base, max_retries=0, **more)


@asynccontextmanager
async def front(*script: Any, driver: str, **settings: Any) -> AsyncIterator[tuple[Gateway, Upstream]]:
    """A gateway before an upstream that plays this script."""
    async with Upstream(list(script)) as upstream:
        url = upstream.url + ("/v1" if driver == "openai" else "")
        config: Config = config_for(url, driver=driver)
        config.backends["up"] = Backend(driver=driver, url=url, **settings)
        async with running(config) as gateway:
            yield gateway, upstream


def sse(*events: dict[str, Any]) -> bytes:
    """A chunked body of OpenAI's chunks, `[DONE]` behind them."""
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return head() + chunk(body + b"data: [DONE]\n\n") + b"0\r\n\r\n"


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def native(name: str) -> bytes:
    return (ROOT / "anthropic" / name).read_bytes()


async def test_the_sdk_streams_from_the_demo() -> None:
    """Anthropic's clients could not use a backend of another kind."""
    async with running(config_for()) as gateway, sdk(gateway) as asked:
        async with asked.messages.stream(**ASK, system="be kind", extra_body={"top_k": 5}) as stream:
            told = "".join([text async for text in stream.text_stream])
            message = await stream.get_final_message()
        whole = await asked.messages.create(**ASK)
    assert told == message.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert told
    assert (message.stop_reason, message.model, message.role) == ("end_turn", "m", "assistant")
    assert message.usage.output_tokens == whole.usage.output_tokens > 0
    assert message.usage.input_tokens == whole.usage.input_tokens > 0


async def test_the_sdk_reads_tools_and_reasoning_of_an_openai_backend() -> None:
    """A coding agent could not run the tool the model asked for, or its calls would be mixed up."""
    script = sse(
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(content="Let me "),
        delta(content="look."),
        delta(tool_calls=[{"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": ""}}]),
        delta(tool_calls=[{"index": 1, "id": "call_b", "function": {"name": "weather", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
        delta(tool_calls=[{"index": 1, "function": {"arguments": '{"city":"Bonn"}'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"Köln"}'}}]),
        delta("tool_calls"),
        {
            "choices": [],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
        },
    )
    async with front(script, driver="openai") as (gateway, upstream), sdk(gateway) as asked:
        async with asked.messages.stream(**ASK, tools=[WEATHER], tool_choice={"type": "any"}) as stream:  # type: ignore[list-item]
            message = await stream.get_final_message()
        whole = await asked.messages.create(**ASK, tools=[WEATHER])  # type: ignore[list-item]
    sent = json.loads(upstream.requests[0][1])
    assert sent["tool_choice"] == "required"
    assert sent["tools"][0]["function"]["name"] == "weather"
    for answer in (message, whole):
        said = [(b.type, getattr(b, "input", None)) for b in answer.content]
        assert said == [
            ("thinking", None),
            ("text", None),
            ("tool_use", {"city": "Köln"}),
            ("tool_use", {"city": "Bonn"}),
        ]
        assert answer.stop_reason == "tool_use"
        usage = answer.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 4, 5)


@pytest.mark.parametrize("name", ["text.sse", "tools.sse", "server_tool.sse"])
async def test_a_backend_of_the_same_kind_passes_unchanged(name: str) -> None:
    """New events and fields would be lost on the way, and bytes would be changed that signatures are made over."""
    news = b'event: brand_new\ndata: {"type":"brand_new","x":[1]}\n\n'
    script = head() + chunk(news + native(name)) + b"0\r\n\r\n"
    body = {
        **ASK,
        "stream": True,
        "unknown_field": {"a": 1},
        "messages": [{"role": "user", "content": [{"type": "new"}]}],
    }
    async with (
        front(script, driver="anthropic", api_key=Secret("sk-own")) as (gateway, upstream),
        client(gateway, **{"anthropic-version": "2026-10-21", "anthropic-beta": "x-1,y-2", "x-api-key": "k"}) as http,
    ):
        answer = await http.post("/v1/messages", json=body)
        assert await answer.read() == news + native(name)
    raw, sent = upstream.requests[0]
    assert json.loads(sent) == body
    assert b"anthropic-version: 2026-10-21\r\n" in raw
    assert b"anthropic-beta: x-1,y-2\r\n" in raw
    assert b"x-api-key: sk-own\r\n" in raw


async def test_headers_of_the_configuration_win() -> None:
    """An operator could not pin what is asked of a backend."""
    script = head() + chunk(native("text.sse")) + b"0\r\n\r\n"
    settings = {"headers": {"anthropic-beta": Secret("operators")}}
    async with (
        front(script, driver="anthropic", **settings) as (gateway, upstream),
        client(gateway, **{"anthropic-beta": "clients"}) as http,
    ):
        await (await http.post("/v1/messages", json=ASK)).read()
    assert b"anthropic-beta: operators\r\n" in upstream.requests[0][0]
    assert b"anthropic-version: 2023-06-01\r\n" in upstream.requests[0][0]
    assert b"clients" not in upstream.requests[0][0]


async def test_a_whole_answer_keeps_what_the_backend_said() -> None:
    """Clients that do not stream would lose every field the gateway does not know."""
    script = head() + chunk(native("tools.sse")) + b"0\r\n\r\n"
    async with front(script, driver="anthropic") as (gateway, _), sdk(gateway) as asked:
        message = await asked.messages.create(**ASK)
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert [getattr(block, "input", 0) for block in message.content] == [0, {"a": 1}, {}]
    assert (message.id, message.model, message.usage.output_tokens) == ("msg_1", "c", 15)


async def test_an_error_inside_the_stream_is_raised() -> None:
    """The SDK takes a mere end for success: half an answer would look whole."""
    events = [delta(content="one"), {"error": {"message": "out of memory", "type": "server_error"}}]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    async with front(head() + chunk(body), CLOSE, driver="openai") as (gateway, _), sdk(gateway) as asked:
        stream = await asked.messages.create(**ASK, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="out of memory"):
            [event async for event in stream]


async def test_a_native_error_inside_the_stream_passes_and_is_raised() -> None:
    """An overloaded Anthropic would look like a short answer, or be told twice."""
    script = head() + chunk(native("error.sse"))
    async with front(script, CLOSE, driver="anthropic") as (gateway, _), client(gateway) as http:
        answer = await http.post("/v1/messages", json={**ASK, "stream": True})
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
        async with sdk(gateway) as asked:
            stream = await asked.messages.create(**ASK, stream=True)
            with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
                [event async for event in stream]


@pytest.mark.parametrize("driver", ["openai", "anthropic"])
async def test_a_cancel_is_raised(driver: str) -> None:
    """A cancelled answer would look whole."""
    start = native("text.sse").split(b"event: message_delta")[0]
    words = start if driver == "anthropic" else b"data: " + json.dumps(delta(content="one")).encode() + b"\n\n"
    async with (
        front(head() + chunk(words), HOLD, driver=driver) as (gateway, _),
        sdk(gateway) as asked,
        client(gateway) as http,
    ):
        stream = await asked.messages.create(**ASK, stream=True)

        async def read() -> None:
            async for event in stream:
                if event.type == "content_block_delta":
                    await (await http.delete(f"/api/streaming/{stream.response.headers['x-stream-id']}")).read()

        with pytest.raises(anthropic.APIStatusError, match="cancelled"):
            await asyncio.wait_for(read(), 10)


async def test_refusals_have_their_class_and_say_whether_to_retry() -> None:
    """SDKs choose the exception, and whether to try again, by status, type and headers."""
    busy = head(b"Content-Length: 2\r\nRetry-After: 7\r\n", b"529 Overloaded") + b"{}"
    async with front(busy, driver="anthropic") as (gateway, _), sdk(gateway) as asked:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await asked.messages.create(**ASK)
        assert caught.value.status_code == 529
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index,call-overload]
        assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index,call-overload]
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            await asked.post("/v1/messages", body={"model": "m", "messages": ASK["messages"]}, cast_to=object)
    async with front(driver="tgi") as (gateway, _), sdk(gateway) as asked:
        hosted = {"type": "web_search_20250305", "name": "web_search"}
        with pytest.raises(anthropic.BadRequestError, match="web_search") as refused:
            await asked.messages.create(**ASK, tools=[hosted])  # type: ignore[list-item]
        assert refused.value.response.headers["x-should-retry"] == "false"


async def test_what_cannot_be_expressed_is_told() -> None:
    """A client would not learn that its cache marks and its tier did nothing."""
    system = [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}]
    async with front(sse(delta("stop", content="hi")), driver="openai") as (gateway, _), client(gateway) as http:
        answer = await http.post("/v1/messages", json={**ASK, "system": system, "service_tier": "auto"})
        assert answer.status == 200
        assert answer.headers["X-Headgate-Dropped"] == "cache control, service_tier"
        result = {"type": "tool_result", "tool_use_id": "t", "content": "no such city", "is_error": True}
        call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
        turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        answer = await http.post("/v1/messages", json={**ASK, "messages": [*ASK["messages"], *turns]})
        assert answer.headers["X-Headgate-Dropped"] == "error marks of tool results"


async def test_what_anthropic_takes_only_alone_is_told_and_caps_hold() -> None:
    """A client would not learn that its temperature did nothing, and thinking would cost more than operators allow."""
    async with Upstream((head() + chunk(native("text.sse")) + b"0\r\n\r\n",)) as up:
        config = config_for(up.url, driver="anthropic", access=Access(max_tokens=5000))
        async with running(config) as gateway, client(gateway) as http:
            asked = {**ASK, "max_tokens": None, "temperature": 0.5, "reasoning_effort": "high"}
            answer = await http.post("/v1/chat/completions", json=asked)
            assert answer.headers["X-Headgate-Dropped"] == "temperature"
            said = json.loads(up.requests[0][1])
    assert (said["max_tokens"], said["thinking"]["budget_tokens"]) == (5000, 2500)


async def test_a_server_with_both_apis_is_asked_in_the_clients_own() -> None:
    """vLLM's and llama.cpp's own Messages API would be translated to and fro, and lose thinking on the way."""
    for driver in ("vllm", "llamacpp"):
        script = head() + chunk(native("text.sse")) + b"0\r\n\r\n"
        async with front(script, driver=driver, api_key=Secret("sk-own")) as (gateway, upstream), sdk(gateway) as asked:
            message = await asked.messages.create(**ASK)
        assert message.content[0].type == "thinking"
        raw, _ = upstream.requests[0]
        assert raw.startswith(b"POST /v1/messages HTTP/1.1\r\n")
        assert b"authorization: Bearer sk-own\r\n" in raw


async def test_tokens_are_counted_or_estimated() -> None:
    """Agents compact their history by this count: a missing one stops them, a silent guess misleads them."""
    counted = head(b"Content-Length: 19\r\n") + b'{"input_tokens":42}'
    question = {"model": "m", "messages": ASK["messages"]}
    async with front(counted, driver="anthropic") as (gateway, upstream), client(gateway) as http:
        answer = await http.post("/v1/messages/count_tokens", json={**question, "new": 1})
        assert (await answer.json(), answer.headers.get("X-Headgate-Estimated")) == ({"input_tokens": 42}, None)
    assert json.loads(upstream.requests[0][1]) == {**question, "new": 1}
    missing = head(b"Content-Length: 2\r\n", b"404 Not Found") + b"{}"
    for driver, script in (("openai", b""), ("vllm", missing)):
        async with front(script, driver=driver) as (gateway, _), client(gateway) as http, sdk(gateway) as asked:
            answer = await http.post("/v1/messages/count_tokens", json=question)
            assert (await answer.json(), answer.headers["X-Headgate-Estimated"]) == ({"input_tokens": 2}, "true")
            assert (await asked.messages.count_tokens(**question)).input_tokens == 2  # type: ignore[arg-type]
            bad = await http.post("/v1/messages/count_tokens", json={"model": "m"})
            assert (bad.status, (await bad.json())["type"]) == (400, "error")


async def test_a_query_does_not_hide_the_path() -> None:
    """Beta clients, Claude Code among them, ask `/v1/messages?beta=true`."""
    async with running(config_for()) as gateway, client(gateway) as http:
        answer = await http.post("/v1/messages?beta=true", json=ASK)
        assert (answer.status, (await answer.json())["type"]) == (200, "message")
        question = {"model": "m", "messages": ASK["messages"]}
        answer = await http.post("/v1/messages/count_tokens?beta=true", json=question)
        assert (await answer.json())["input_tokens"] == 2
