"""OpenAI Responses from outside: the official SDK in front, scripted backends behind, the gateway in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, running
from support.upstream import HOLD, RESET, Upstream, chunk, head

from config.schema import Config, Key
from gateway.access.keys import hash_of
from gateway.app import Gateway

ROOT = Path(__file__).parents[2] / "transcripts" / "openai_responses"
END = b"0\r\n\r\n"


def recorded(name: str) -> bytes:
    return (ROOT / f"{name}.sse").read_bytes()


def translated(url: str) -> Config:
    """A backend that has chat completions only."""
    config = config_for(url)
    return replace(config, backends={"up": replace(config.backends["up"], options={"responses": False})})


def chat(*deltas: dict[str, Any], finish: str = "") -> list[bytes]:
    """Chat completion chunks, framed as a body's chunks."""
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish:
        said.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        said.append({**base, "choices": [], "usage": usage})
    frames = [chunk(b"data: " + json.dumps(data).encode() + b"\n\n") for data in said]
    return [*frames, chunk(b"data: [DONE]\n\n"), END] if finish else frames


@asynccontextmanager
async def sdk(gateway: Gateway, key: str = "k") -> AsyncIterator[openai.AsyncOpenAI]:
    base = f"http://127.0.0.1:{gateway.public_port}/v1"
    async with openai.AsyncOpenAI(api_key=key, base_url=base, max_retries=0) as found:
        yield found


async def read(stream: Any, seen: list[Any]) -> None:
    """All events of a stream, kept where they can be seen when it raises."""
    async for event in stream:
        seen.append(event)  # noqa: PERF401 - a comprehension would keep nothing of a stream that raises


async def finished(api: openai.AsyncOpenAI, response_id: str) -> Any:
    """The response, once it has ended."""
    for _ in range(200):
        found = await api.responses.retrieve(response_id)
        if found.status not in ("queued", "in_progress"):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("still running")


# -- translated --------------------------------------------------------------------------------------------------------


async def test_the_sdk_reads_a_translated_answer() -> None:
    """Clients of this API could not use backends that have chat completions only."""
    calls = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}]
    rest = [{"index": 0, "function": {"arguments": "1}"}}]
    script = [head(), *chat({"reasoning_content": "hm"}, {"content": "Hel"}, {"content": "lo"})]
    script += chat({"tool_calls": calls}, {"tool_calls": rest}, finish="tool_calls")
    async with Upstream(script) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        tools: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
        whole = await api.responses.create(model="m", input="hi", instructions="Obey.", tools=tools)
        async with api.responses.stream(model="m", input="hi", tools=tools) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
    asked = json.loads(up.requests[0][1])
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert asked["tools"][0]["function"]["name"] == "f"
    for found in (whole, streamed):
        assert (found.status, found.output_text) == ("completed", "Hello")
        assert [item.type for item in found.output] == ["reasoning", "message", "function_call"]
        assert found.output[2].arguments == '{"a":1}'  # type: ignore[union-attr]
        assert found.usage is not None
        assert found.usage.total_tokens == 10
    assert kinds[-1] == "response.completed"
    assert "response.reasoning_summary_text.delta" in kinds


@pytest.mark.parametrize("passed_on", [False, True])
async def test_the_sdk_raises_when_the_backend_breaks(passed_on: bool) -> None:
    """It takes a mere end of the body for success."""
    body = [chunk(recorded("truncated"))] if passed_on else chat({"content": "Hel"})
    async with Upstream([head(), *body, 0.05, RESET]) as up:
        config = config_for(up.url) if passed_on else translated(up.url)
        async with running(config) as gateway, sdk(gateway) as api:
            seen: list[Any] = []
            stream = await api.responses.create(model="m", input="hi", stream=True)
            with pytest.raises(openai.APIError):
                await read(stream, seen)
    assert seen[-1].type == "response.failed"
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


async def test_a_refusal_before_the_first_token_keeps_its_status() -> None:
    """The SDK chooses whether to try again by it."""
    refusal = head(b"Content-Length: 42\r\n", b"429 Too Many Requests") + b'{"error":{"message":"Slow down, please."}}'
    async with Upstream([refusal]) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        with pytest.raises(openai.RateLimitError, match="Slow down"):
            await api.responses.create(model="m", input="hi", stream=True)


# -- passed on ---------------------------------------------------------------------------------------------------------


async def test_a_native_stream_passes_unchanged() -> None:
    """Fields and events we do not know would be lost."""
    body = recorded("web_search")
    ask = {"model": "m", "input": "hi", "stream": True, "previous_response_id": "resp_0", "background": True}
    async with (
        Upstream([head(), chunk(body), END]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
        session.post("/v1/responses", json={**ask, "novel": 1}) as answer,
    ):
        assert await answer.read() == body
    assert b"POST /responses " in up.requests[0][0]
    asked = json.loads(up.requests[0][1])
    assert (asked["previous_response_id"], asked["novel"], "background" in asked) == ("resp_0", 1, False)


async def test_a_native_whole_answer_keeps_every_field() -> None:
    """Annotations, hosted tools and what is yet to be invented would be lost to clients that do not stream."""
    script = [head(), chunk(recorded("web_search")), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        whole = await api.responses.create(model="m", input="hi")
    assert json.loads(up.requests[0][1])["stream"] is True
    assert (whole.model, whole.status, whole.store) == ("gpt-5-2026", "completed", True)  # type: ignore[attr-defined]
    assert [item.type for item in whole.output] == ["web_search_call", "message"]
    assert whole.output[1].content[0].annotations[0].type == "url_citation"  # type: ignore[union-attr]


async def test_a_native_failure_is_told_once() -> None:
    """The client would read of two failures, the second in other words."""
    seen: list[bytes] = []
    async with (
        Upstream([head(), chunk(recorded("failed")), END]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
        session.post("/v1/responses", json={"model": "m", "input": "x", "stream": True}) as answer,
    ):
        with pytest.raises(aiohttp.ClientError):  # never a clean end
            await read(answer.content.iter_any(), seen)
    text = b"".join(seen)
    assert text.count(b"event: response.failed") == 1
    assert b"event: error" not in text


# -- as resources ------------------------------------------------------------------------------------------------------


async def test_in_the_background() -> None:
    """A client that polls would never get its answer, or one that resumes not all of it."""
    script = [head(), *chat({"content": "Hel"}), 0.1, *chat({"content": "lo"}, finish="length")]
    async with Upstream(script) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        assert begun.status == "queued"
        ended = await finished(api, begun.id)
        assert (ended.id, ended.status, ended.output_text) == (begun.id, "incomplete", "Hello")
        assert ended.incomplete_details.reason == "max_output_tokens"
        replay = [event async for event in await api.responses.retrieve(begun.id, stream=True)]
        rest = [event async for event in await api.responses.retrieve(begun.id, stream=True, starting_after=3)]
    assert [event.sequence_number for event in replay] == list(range(len(replay)))
    assert rest == replay[4:]
    assert rest[-1].type == "response.incomplete"


@pytest.mark.parametrize("background", [True, False])
async def test_only_a_background_stream_outlives_its_client(background: bool) -> None:
    """Background answers would be lost with the connection, others would run on unread."""
    script = [head(), *chat({"content": "Hel"}), 0.3, *chat({"content": "lo"}, finish="stop")]
    async with Upstream(script) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        stream = await api.responses.create(model="m", input="hi", stream=True, background=background)
        first = await anext(aiter(stream))
        assert first.type == "response.created"
        await stream.close()
        ended = await finished(api, first.response.id)
    assert ended.status == ("completed" if background else "cancelled")
    assert ended.output_text == ("Hello" if background else "Hel")


async def test_a_cancel_reaches_backend_and_client() -> None:
    """Generation would go on, paid and unread; the cancelled answer would look complete."""
    script = [head(), *chat({"content": "Hel"}), HOLD]
    async with Upstream(script) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        seen: list[Any] = []
        stream = await api.responses.create(model="m", input="hi", stream=True, background=True)
        while not seen or seen[-1].type != "response.output_text.delta":
            seen.append(await anext(stream))
        running_now = await api.responses.retrieve(seen[0].response.id)
        assert (running_now.status, running_now.output_text) == ("in_progress", "Hel")
        cancelled = await api.responses.cancel(seen[0].response.id)
        assert (cancelled.status, cancelled.output_text) == ("cancelled", "Hel")
        with pytest.raises(openai.APIError, match="cancelled"):
            await read(stream, seen)
        again = await api.responses.cancel(seen[0].response.id)
        assert again.status == "cancelled"
        await asyncio.sleep(0.05)
        assert len(up.closed_at) == 1
    assert seen[-1].response.status == "cancelled"


async def test_a_backends_own_id_leads_to_its_stream() -> None:
    """Where the backend's frames are passed on, its id is the only one an SDK knows."""
    head_of, tail = recorded("text").split(b"event: response.output_text.done", 1)
    script = [head(), chunk(head_of), 0.2, chunk(b"event: response.output_text.done" + tail), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        stream = await api.responses.create(model="m", input="hi", stream=True, background=True)
        seen = [await anext(aiter(stream)) for _ in range(4)]
        await stream.close()
        assert (await api.responses.retrieve("resp_68a1")).status == "in_progress"
        seen += [event async for event in await api.responses.retrieve("resp_68a1", stream=True, starting_after=3)]
        ended = await finished(api, "resp_68a1")
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert (ended.id, ended.status, ended.model) == ("resp_68a1", "completed", "m")
    assert seen[-1].response.output_text == ended.output_text


async def test_going_on_from_a_background_response() -> None:
    """The backend would be asked to go on from an id it never gave."""
    script = [head(), chunk(recorded("text")), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        await finished(api, begun.id)
        await api.responses.create(model="m", input="and?", previous_response_id=begun.id)
        await api.responses.create(model="m", input="and?", previous_response_id="resp_foreign")
    asked = [json.loads(body).get("previous_response_id") for _, body in up.requests]
    assert asked == [None, "resp_68a1", "resp_foreign"]


async def test_a_cancelled_native_answer_keeps_what_was_said() -> None:
    """The part that was paid for would be lost."""
    said = recorded("text").split(b"event: response.output_text.done")[0]
    async with Upstream([head(), chunk(said), HOLD]) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        while not (await api.responses.retrieve(begun.id)).output_text:
            await asyncio.sleep(0.02)
        cancelled = await api.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith("Hé w0 w1")


async def test_a_failed_response_says_why() -> None:
    """A client that polls would wait for ever, or take the failure for an empty answer."""
    script = [head(), chunk(recorded("error")), END]
    async with Upstream(script) as up, running(config_for(up.url)) as gateway, sdk(gateway) as api:
        begun = await api.responses.create(model="m", input="hi", background=True)
        ended = await finished(api, begun.id)
    assert (ended.status, ended.error.message) == ("failed", "The server had an error.")


async def test_strangers_find_nothing() -> None:
    """One customer would read or end another's answers."""
    keys = (Key(id="a", owner="a", hash=hash_of("hg-a")), Key(id="b", owner="b", hash=hash_of("hg-b")))
    script = [head(), chunk(recorded("text")), END]
    async with (
        Upstream(script) as up,
        running(replace(config_for(up.url), keys=keys)) as gateway,
        sdk(gateway, "hg-a") as mine,
        sdk(gateway, "hg-b") as theirs,
    ):
        begun = await mine.responses.create(model="m", input="hi", background=True)
        await finished(mine, begun.id)
        for given in (begun.id, "resp_68a1", "resp_", "nonsense", "resp_" + "x" * 200):
            with pytest.raises(openai.NotFoundError):
                await theirs.responses.retrieve(given)
            with pytest.raises(openai.NotFoundError):
                await theirs.responses.cancel(given)


async def test_turns_kept_by_the_provider_are_refused_in_translation() -> None:
    """The model would answer without the conversation it was asked to continue."""
    async with Upstream([head()]) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(model="m", input="and?", previous_response_id="resp_0")
    assert caught.value.param == "previous_response_id"
    assert not up.requests


async def test_what_cannot_be_cancelled() -> None:
    """SDK users go by OpenAI's 400: a finished response would seem cancelled, one be stopped while its client waits."""
    script = [head(), *chat({"content": "Hel"}), HOLD]
    whole = [head(), *chat({"content": "Hello"}, finish="stop")]
    async with Upstream(script, whole) as up, running(translated(up.url)) as gateway, sdk(gateway) as api:
        stream = await api.responses.create(model="m", input="hi", stream=True)
        first = await anext(aiter(stream))
        with pytest.raises(openai.BadRequestError, match="not in the background"):
            await api.responses.cancel(first.response.id)
        assert len(gateway.hub) == 1
        await stream.close()
        begun = await api.responses.create(model="m", input="hi", background=True)
        await finished(api, begun.id)
        with pytest.raises(openai.BadRequestError, match="has ended") as caught:
            await api.responses.cancel(begun.id)
        assert caught.value.type == "invalid_request_error"
        assert (await api.responses.retrieve(begun.id)).status == "completed"
