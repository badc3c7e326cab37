"""What clients get instead of an error: an answer kept from before, a fixed text, an answer as far as it came.

Real clients of every API in front, scripted servers of every kind behind.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import openai
import pytest
from msgspec.structs import replace
from support.answers import SERVERS, client, replace_url
from support.dialects import Said, Step
from support.inprocess import running
from support.model_server import HELLO, ModelServer
from support.operators import operator
from support.plain_clients import CLIENTS
from support.upstream import HOLD, chunk, head
from support.upstream import Step as Wire

from config.schema import Admin, Breaker, Config, Degrade, Key, Queue, Route, Server, Streams, Target
from config.values import Duration
from gateway.access.keys import hash_of
from gateway.app import Gateway

AWAY = (503, {}, b'{"error":{"message":"loading"}}')
WRONG = (400, {}, b'{"error":{"message":"no such thing"}}')
CALLS = Said((Step("text", "Hello"), Step("call", id="call_1", name="weather"), Step("args", '{"city":')), "tool_calls")
SORRY = "We are sorry, come back later."


class Stalling(ModelServer):
    """Says an answer up to the frame with this text in it, and then nothing more."""

    def __init__(self, kind: str, until: str, answer: Said = HELLO) -> None:
        super().__init__(kind)
        self.answer, self.until = answer, until.encode()

    def script(self, raw: bytes, body: bytes) -> Sequence[Wire]:
        frames = self.frames(raw.split(b" ", 2)[1].decode().partition("?")[0])
        last = next(i for i, frame in enumerate(frames) if self.until in frame)
        return [head(), *map(chunk, frames[: last + 1]), HOLD]


@asynccontextmanager
async def before(server: ModelServer, degrade: Degrade, **rest: Any) -> AsyncIterator[Gateway]:
    """A gateway before one server, with a route that degrades."""
    async with server:
        url = server.url + ("/v1" if server.kind == "openai" else "")
        backend = replace(replace_url(SERVERS[server.kind], url), **rest.pop("backend", {}))
        route = Route(model="*", to=(Target("up", rest.pop("model", "")),), degrade=degrade)
        config = Config(server=Server(port=0), admin=Admin(port=0), backends={"up": backend}, routes=(route,), **rest)
        async with running(config) as gateway:
            yield gateway


def base(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.public_port}"


async def posted(gateway: Gateway, name: str = "openai", **more: Any) -> tuple[int, str, str]:
    """Status, X-Headgate-Degraded and body of a plain request."""
    kind = CLIENTS[name]
    headers = {**kind.headers, **more.pop("headers", {})}
    async with (
        aiohttp.ClientSession(base(gateway)) as http,
        http.post(kind.target(stream=True), json={**kind.body(stream=True), **more}, headers=headers) as answer,
    ):
        body = b""
        with suppress(aiohttp.ClientPayloadError):  # broken off behind an error frame
            async for piece in answer.content.iter_any():
                body += piece
        return answer.status, answer.headers.get("X-Headgate-Degraded", ""), body.decode()


async def receipt(gateway: Gateway) -> Any:
    """The receipt of the stream that ended last."""
    seen: list[str] = []
    gateway.services.sources.matching("anonymous", lambda source: bool(seen.append(source.identity.id)))
    async with (
        aiohttp.ClientSession(base(gateway)) as http,
        http.get(f"/api/streaming/{seen[-1]}", headers={"Accept": "application/json"}) as answer,
    ):
        return (await answer.json())["receipt"]


async def scraped(gateway: Gateway) -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{gateway.admin_port}/metrics") as answer,
    ):
        return await answer.text()


# -- cached ------------------------------------------------------------------------------------------------------------

CACHED = Degrade(cached=Duration(60))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("kind", "name"), [("vllm", "openai"), ("vllm", "anthropic"), ("anthropic", "anthropic"),
                                            ("openai", "openai_responses"), ("google", "ollama"),
                                            ("ollama", "native")])  # fmt: skip
async def test_an_answer_is_given_again(kind: str, name: str, stream: bool) -> None:
    """Whoever asks the same while every backend is away would get an error although the answer is known."""
    async with before(server := ModelServer(kind), CACHED) as gateway, client(name, base(gateway)) as asking:
        first = await asking.ask(stream=True)
        server.refusal = AWAY
        again = await asking.ask(stream=stream)
    assert (first.text, first.error) == ("Hello you", "")
    assert again == first


async def test_what_is_given_again_is_marked() -> None:
    """Nobody would know that an answer is an old one: not the client, not the operator."""
    async with before(server := ModelServer("vllm"), CACHED, model="llama") as gateway:
        status, marked, fresh = await posted(gateway)
        assert (status, marked) == (200, "")
        server.refusal = AWAY
        status, marked, again = await posted(gateway)
        told = await receipt(gateway)
        figures = await scraped(gateway)
    assert (status, marked, again) == (200, "cached", fresh)
    assert (told["degraded"], told["backend"], told["state"]) == ("cached", "(cached)", "completed")
    assert (told["completionTokens"], told["tries"][0]["backend"]) == (5, "up")
    assert (told["tries"][0]["outcome"], told["last"]["backend"]) == ("overloaded", "(cached)")
    assert re.search(r'headgate_degraded_total\{kind="cached",model="\w+"\} 1\.0', figures)


@pytest.mark.parametrize(
    "more", [{"temperature": 0.3}, {"novel": 1}, {"messages": [{"role": "user", "content": "ho"}]}]
)
async def test_only_the_same_request_counts(more: dict[str, Any]) -> None:
    """A client would get the answer to another question."""
    async with before(server := ModelServer("vllm"), CACHED) as gateway:
        await posted(gateway)
        server.refusal = AWAY
        assert (await posted(gateway, **more))[0] == 503
        assert (await posted(gateway))[0] == 200


async def test_only_the_owner_gets_it() -> None:
    """One customer would read another's answers."""
    keys = (Key(id="a", owner="a", hash=hash_of("hg-a")), Key(id="b", owner="b", hash=hash_of("hg-b")))
    mine, theirs = ({"Authorization": f"Bearer hg-{name}"} for name in "ab")
    async with before(server := ModelServer("vllm"), CACHED, keys=keys) as gateway:
        await posted(gateway, headers=mine)
        server.refusal = AWAY
        assert (await posted(gateway, headers=theirs))[0] == 503
        assert (await posted(gateway, headers=mine))[1] == "cached"


@pytest.mark.parametrize("manner", ["cut", "short"])
async def test_only_whole_answers_are_kept(manner: str) -> None:
    """Half an answer would be given as a whole one."""
    async with before(server := ModelServer("vllm"), CACHED) as gateway:
        server.manner = manner
        await posted(gateway)
        server.refusal = AWAY
        assert (await posted(gateway))[0] == 503


async def test_a_faulty_request_stays_faulty() -> None:
    """The client would never learn what is wrong with what it asks."""
    async with before(server := ModelServer("vllm"), Degrade(Duration(60), message=SORRY)) as gateway:
        await posted(gateway)
        server.refusal = WRONG
        assert (await posted(gateway))[:2] == (400, "")


async def test_an_open_breaker_and_a_full_backend() -> None:
    """Degradation would begin only after a backend was asked in vain, and end when it is not asked any more."""
    rest = {"backend": {"breaker": Breaker(failures=1), "max_streams": 1, "queue": Queue()}}
    async with before(server := ModelServer("vllm"), CACHED, **rest) as gateway:
        await posted(gateway)
        server.manner = "hold"
        busy = asyncio.create_task(posted(gateway, seed=1))
        while not gateway.upstreams["up"].active:
            await asyncio.sleep(0.01)
        assert (await posted(gateway))[:2] == (200, "cached")
        busy.cancel()
        server.manner, server.refusal = "whole", AWAY
        await asyncio.sleep(0.05)
        assert (await posted(gateway))[:2] == (200, "cached")
        asked = len(server.requests)
        assert (await posted(gateway))[:2] == (200, "cached")
        assert len(server.requests) == asked
        assert gateway.upstreams["up"].active == 0


async def test_silence_after_the_head_went_out() -> None:
    """A client that has waited for the first token would be the one to get the error."""
    limits = Streams(first_token_timeout=Duration(1.3))
    async with before(server := ModelServer("vllm"), CACHED, streams=limits) as gateway:
        async with client("native", base(gateway)) as asking:
            first = await asking.ask(stream=True)
            server.scripted = [head(), HOLD]
            again = await asking.ask(stream=True)
        told = await receipt(gateway)
    assert again == first
    assert (told["degraded"], told["tries"][0]["outcome"]) == ("cached", "timeout")


# -- a fixed message ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_message_is_an_answer(name: str, stream: bool) -> None:
    """A client of some API could not read the message, or would take it for a broken answer."""
    async with before(server := ModelServer("vllm"), Degrade(message=SORRY)) as gateway:
        server.refusal = AWAY
        async with client(name, base(gateway)) as asking:
            heard = await asking.ask(stream=stream)
        told = await receipt(gateway)
    assert (heard.text, heard.finish, heard.error) == (SORRY, "stop", "")
    assert (told["degraded"], told["backend"], told["completionTokens"]) == ("message", "(message)", 0)


async def test_a_kept_answer_goes_before_the_message() -> None:
    """The apology would be said although the answer is there."""
    async with before(server := ModelServer("vllm"), Degrade(Duration(60), message=SORRY)) as gateway:
        await posted(gateway)
        server.refusal = AWAY
        assert (await posted(gateway))[1] == "cached"
        assert (await posted(gateway, seed=1))[1] == "message"


# -- an answer as far as it came ---------------------------------------------------------------------------------------

PARTIAL = Degrade(partial=True)
QUICK = Streams(no_progress=Duration(0.3))


SAME = [("openai", "openai"), ("openai", "openai_responses"), ("vllm", "openai_completions"), ("google", "google"),
        ("anthropic", "anthropic"), ("ollama", "ollama"), ("ollama", "ollama_generate")]  # fmt: skip
OTHER = [("vllm" if name != "openai" else "ollama", name) for name in CLIENTS if name != "openai_completions"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("kind", "name"), [*SAME, *OTHER])
async def test_a_partial_answer_ends_in_the_clients_own_words(kind: str, name: str, stream: bool) -> None:
    """Clients would throw the answer away, or find their protocol broken off in its middle."""
    async with before(Stalling(kind, " you"), PARTIAL, streams=QUICK) as gateway:
        async with client(name, base(gateway)) as asking:
            heard = await asking.ask(stream=stream)
        told = await receipt(gateway)
    wanted = "timeout" if name in ("native", "ndjson") else "length"
    assert (heard.text, heard.finish, heard.error) == ("Hello you", wanted, "")
    assert (told["state"], told["degraded"], told["finishReason"], told["errorCode"]) == (
        *("timed_out", "partial", "timeout", ""),
    )


async def test_the_total_timeout_too() -> None:
    """Only one of the two clocks would leave an answer."""
    limits = Streams(total_timeout=Duration(0.4))
    async with before(Stalling("vllm", " you"), PARTIAL, streams=limits) as gateway:
        status, _, text = await posted(gateway)
        told = await receipt(gateway)
    assert (status, '"finish_reason":"length"' in text, text.endswith("data: [DONE]\n\n")) == (200, True, True)
    assert (told["degraded"], told["reason"]) == ("partial", "the stream took longer than 0.4 s in total")


async def test_a_partial_answer_keeps_its_names() -> None:
    """SDKs fold a stream by the id of its chunks, and would find two answers, of two models."""
    async with before(Stalling("vllm", " you"), PARTIAL, streams=QUICK, model="llama") as gateway:
        _, _, text = await posted(gateway)
    frames = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    assert len({(frame["id"], frame["model"]) for frame in frames}) == 1
    assert [c["finish_reason"] for frame in frames for c in frame["choices"]][-1] == "length"


async def test_a_partial_message_closes_its_block() -> None:
    """Anthropic's clients read a block that never ends."""
    async with before(Stalling("anthropic", " you"), PARTIAL, streams=QUICK) as gateway:
        _, _, text = await posted(gateway, "anthropic")
    said = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert [one["type"] for one in said[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert said[-2]["delta"]["stop_reason"] == "max_tokens"


async def test_a_partial_response_has_its_output() -> None:
    """A Responses client would be told of an answer and find none in it."""
    async with (
        before(Stalling("openai", " you"), PARTIAL, streams=QUICK) as gateway,
        openai.AsyncOpenAI(api_key="k", base_url=f"{base(gateway)}/v1", max_retries=0) as api,
    ):
        seen = [event async for event in await api.responses.create(model="m", input="hi", stream=True)]
        kept = await api.responses.retrieve(seen[0].response.id)
    last = seen[-1].response
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert (seen[-1].type, last.output_text, last.incomplete_details.reason) == (
        *("response.incomplete", "Hello you", "max_output_tokens"),
    )
    assert (last.id, kept.status, kept.output_text) == (seen[0].response.id, "incomplete", "Hello you")


@pytest.mark.parametrize("server", [Stalling("vllm", "city", CALLS), Stalling("vllm", 'finish_reason":"stop')])
async def test_what_is_not_given_in_part(server: Stalling) -> None:
    """Somebody would run half a call, or an answer that said its end would be said to be cut short."""
    async with before(server, PARTIAL, streams=QUICK) as gateway:
        _, _, text = await posted(gateway)
        told = await receipt(gateway)
    assert ('"code":"timeout"' in text, told["degraded"], told["errorCode"]) == (True, "", "timeout")


async def test_without_partial_a_timeout_is_an_error() -> None:
    """Half an answer would pass for one although nobody asked for that."""
    async with (
        before(Stalling("vllm", " you"), Degrade(), streams=QUICK) as gateway,
        client("openai", base(gateway)) as asking,
    ):
        assert "no progress" in (await asking.ask(stream=True)).error


async def test_a_partial_answer_read_again() -> None:
    """Whoever comes back to the stream would read another ending than the first reader."""
    mine = {"X-Stream-Id": "mine", "Idempotency-Key": "k1"}
    async with before(Stalling("vllm", " you"), PARTIAL, streams=QUICK) as gateway:
        _, _, first = await posted(gateway, headers=mine)
        assert (await posted(gateway, headers=mine))[2] == first
        async with (
            aiohttp.ClientSession(base(gateway)) as http,
            http.get("/api/streaming/mine?protocol=openai") as answer,
        ):
            again = await answer.text()
    assert again == first


async def test_a_partial_whole_answer_asked_again() -> None:
    """A repeated request would be told the stream was cancelled, where the first one got an answer."""
    async with (
        before(Stalling("vllm", " you"), PARTIAL, streams=QUICK) as gateway,
        openai.AsyncOpenAI(api_key="k", base_url=f"{base(gateway)}/v1", max_retries=0) as api,
    ):
        said: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Idempotency-Key": "k1"}
        first = await api.chat.completions.with_raw_response.create(**said, extra_headers=headers)
        again = await api.chat.completions.with_raw_response.create(**said, extra_headers=headers)
    assert first.headers["X-Headgate-Degraded"] == "partial"
    assert again.headers["X-Stream-Replayed"] == "true"
    assert again.parse().choices == first.parse().choices


async def test_every_backend_is_asked_first() -> None:
    """An old answer, or an apology, would be given although another backend could answer."""
    async with ModelServer("vllm") as one, ModelServer("vllm") as two:
        backends = {name: replace_url(SERVERS["vllm"], up.url) for name, up in (("one", one), ("two", two))}
        to = (Target("one"), Target("two"))
        route = Route(model="*", to=to, policy="ordered", degrade=Degrade(Duration(60), message=SORRY))
        config = Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=(route,))
        one.refusal = AWAY
        async with running(config) as gateway:
            assert (await posted(gateway))[:2] == (200, "")
            assert len(two.requests) == 1
            two.refusal = AWAY
            assert (await posted(gateway))[1] == "cached"
            told = await receipt(gateway)
            assert (await posted(gateway, seed=1))[1] == "message"
    assert [attempt["backend"] for attempt in told["tries"]][:2] == ["one", "two"]


async def test_what_operators_paused_stays_refused() -> None:
    """A switch that was thrown would seem not to work."""
    async with before(ModelServer("vllm"), Degrade(message=SORRY)) as gateway, operator(gateway) as admin:
        await admin.post("/control/pause", {"backend": "up"})
        assert (await posted(gateway))[:2] == (503, "")
