"""Google's own SDK, the definition of the format, as its users call it: in a thread over httpx, with chats that call
tools by themselves, counts, model lists, aborts. Its asynchronous half meets every kind of server in `tests/contract`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
from google import genai
from support.answers import before, told_in
from support.dialects import Said, Step
from support.google_client import over, understand
from support.heard import Heard, meant
from support.inprocess import config_for, running
from support.model_server import HELLO, ModelServer

SERVERS = ("openai", "anthropic", "google", "ollama", "tgi", "vllm")
CALL = (Step("call", id="call_1", name="weather"), Step("args", '{"city":"Pa'), Step("args", 'ris ☕"}'))
ALL = Said((Step("think", "Let me see"), *HELLO.steps, *CALL), "tool_calls", (19, 7, 2, 4))
ASK: dict[str, Any] = {"model": "m", "contents": "hi"}


@contextmanager
def sdk(base: str) -> Iterator[genai.Client]:
    made = genai.Client(api_key="any", http_options={"base_url": base})
    try:
        yield made
    finally:
        made.close()


def work(base: str) -> dict[str, Any]:
    ask: dict[str, Any] = {"model": "demo", "contents": "hi [tokens=5]"}
    with sdk(base) as google:
        said: dict[str, Any] = {
            "whole": google.models.generate_content(**ask).text,
            "streamed": "".join(part.text or "" for part in google.models.generate_content_stream(**ask)),
            "models": [model.name for model in google.models.list()],
            "model": google.models.get(model="demo").name,
            "count": google.models.count_tokens(**ask).total_tokens,
            "calls": google.models.generate_content(model="demo", contents="[tool=search]").function_calls,
        }
        for name, text in (("error", "[fail=error@3]"), ("cut", "[fail=cut@3]"), ("full", "[fail=http429]")):
            with pytest.raises(genai.errors.APIError) as caught:
                list(google.models.generate_content_stream(model="demo", contents=text))
            said[name] = caught.value.status
    return said


async def test_the_sdk_generates_streams_lists_counts_and_raises() -> None:
    """An application written for Gemini could not be pointed at the gateway."""
    async with running(config_for()) as gateway:
        said = await asyncio.to_thread(work, f"http://127.0.0.1:{gateway.public_port}")
    assert said["whole"] == said["streamed"] == "You said: “hi”. What a "
    assert (said["models"], said["model"], said["count"]) == (["models/demo"], "models/demo", 4)
    assert said["calls"][0].args == {"query": "demo"}
    assert (said["error"], said["cut"], said["full"]) == ("UNAVAILABLE", "UNAVAILABLE", "RESOURCE_EXHAUSTED")


def hear(base: str, *, stream: bool) -> Heard:
    heard = Heard()
    with sdk(base) as google:
        if stream:
            for part in google.models.generate_content_stream(**ASK):
                understand(heard, part)
        else:
            understand(heard, google.models.generate_content(**ASK))
    over(heard)
    return heard


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("server", SERVERS)
async def test_all_of_an_answer_arrives(server: str, stream: bool) -> None:
    """An application would miss thoughts, words, a call or what it costs."""
    async with before(server) as (up, base):
        up.answer = ALL
        heard = await asyncio.to_thread(hear, base, stream=stream)
        due = told_in(meant(ALL), up.dialect)
    assert (heard.reasoning, heard.text, heard.calls, heard.usage) == (due.reasoning, due.text, due.calls, due.usage)
    assert heard.finish == due.finish


@pytest.mark.parametrize("server", SERVERS)
async def test_an_answer_that_breaks_is_noticed(server: str) -> None:
    """An application would take half an answer for the answer."""
    async with before(server) as (up, base):
        up.answer = Said(HELLO.steps, broken="the engine died")
        for stream in (True, False):
            with pytest.raises(genai.errors.APIError, match="the engine died"):
                await asyncio.to_thread(hear, base, stream=stream)


def chat_with_a_tool(base: str, up: ModelServer) -> list[str]:
    told: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        told.append(city)
        up.answer = HELLO  # what the model says once it knows
        return "18 degrees"

    with sdk(base) as google:
        chat = google.chats.create(model="m", config={"tools": [weather]})
        told.append(chat.send_message("what is the weather?").text or "")
        told.append(chat.send_message("thanks").text or "")
    return told


@pytest.mark.parametrize("server", [name for name in SERVERS if name != "tgi"])
async def test_a_chat_runs_its_tool(server: str) -> None:
    """The SDK's agent would not find its call, or the model would not get what the tool said, nor the turns before."""
    async with before(server) as (up, base):
        up.answer = Said(CALL, "tool_calls")
        assert await asyncio.to_thread(chat_with_a_tool, base, up) == ["Paris ☕", "Hello you", "Hello you"]
        bodies = [body.decode() for _, body in up.requests]
        assert ["18 degrees" in body for body in bodies] == [False, True, True]
        assert "Hello you" in bodies[2]


def first_of(google: genai.Client) -> tuple[Any, str]:
    """A stream that has begun, and its id, which the SDK shows with every part."""
    stream = google.models.generate_content_stream(**ASK)
    headers = next(stream).sdk_http_response.headers
    return stream, {name.lower(): value for name, value in headers.items()}["x-stream-id"]


def closed(base: str) -> str:
    """Let go of in the SDK's way: its generator is closed."""
    with sdk(base) as google:
        stream, stream_id = first_of(google)
        stream.close()
        return stream_id


def deleted(base: str) -> str:
    """Deleted by its id; the reader must see that the answer is not whole."""
    with sdk(base) as google:
        stream, stream_id = first_of(google)
        with httpx.Client() as http:
            assert http.delete(f"{base}/api/streaming/{stream_id}").json()["state"] == "cancelled"
        with pytest.raises((genai.errors.APIError, httpx.HTTPError, httpx2.HTTPError)):
            list(stream)
        return stream_id


async def closed_aio(base: str) -> str:
    """The asynchronous half: the task that reads is cancelled."""
    google = genai.Client(api_key="any", http_options={"base_url": base})
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        async for part in await google.aio.models.generate_content_stream(**ASK):
            headers = {name.lower(): value for name, value in part.sdk_http_response.headers.items()}
            if not found.done():
                found.set_result(headers["x-stream-id"])

    reading = asyncio.create_task(read())
    stream_id = await found
    reading.cancel()
    await asyncio.wait([reading])
    await google.aio.aclose()
    google.close()
    return stream_id


@pytest.mark.parametrize(
    ("leave", "state", "by"),
    [(closed, "client_gone", "client"), (closed_aio, "client_gone", "client"), (deleted, "cancelled", "client")],
)
@pytest.mark.parametrize("server", SERVERS)
async def test_a_cancel_stops_the_server(server: str, leave: Callable[[str], Any], state: str, by: str) -> None:
    """A model would go on for a user who pressed stop."""
    async with before(server) as (up, base), aiohttp.ClientSession(base) as http:
        up.manner = "hold"
        stream_id = await (leave(base) if asyncio.iscoroutinefunction(leave) else asyncio.to_thread(leave, base))
        async with asyncio.timeout(5):
            while not up.closed_at:
                await asyncio.sleep(0.005)
            while (said := await (await http.get(f"/api/streaming/{stream_id}")).json()).get("receipt") is None:
                await asyncio.sleep(0.005)
        assert (said["receipt"]["state"], said["receipt"]["endedBy"]) == (state, by)
