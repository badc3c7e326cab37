"""Courses over scripted model servers: who is asked after which failure, how often, and what the client reads.

Every failure of a backend, at several tokens, under each way to answer it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import pytest
from support.inprocess import client, running
from support.upstream import CLOSE, HOLD, RESET, Step, Upstream, chunk, head

from config.schema import Admin, Backend, Breaker, Config, Hedge, Queue, Route, Server, Streams, Target
from config.values import Duration, Secret
from gateway.app import Gateway
from gateway.routing.circuits import circuits
from gateway.routing.upstreams import Upstreams

WORDS = ["Once", " upon", " a", " time", " there", " was", " é☕."]
ERROR = b'data: {"error":{"message":"engine died","type":"server_error"}}\n\n'
PROMPT = [{"role": "user", "content": "Go on."}]


def frame(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "x", "created": 1, "model": "m", "choices": [choice]}).encode() + b"\n\n"


def answer(words: Sequence[str] = WORDS) -> list[Step]:
    frames = [*map(frame, words), frame("", "stop"), b"data: [DONE]\n\n"]
    return [head(), *map(chunk, frames), b"0\r\n\r\n"]


def broken(words: Sequence[str], *how: Step) -> list[Step]:
    return [head(), chunk(frame("")), *(chunk(frame(word)) for word in words), *how]


def refused(status: bytes, extra: bytes = b"") -> list[Step]:
    body = b'{"error":{"message":"no","type":"x"}}'
    return [b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n%s\r\n" % (len(body), extra) + body]


class Failing:
    """The ways in which a backend fails, at a token."""

    def __init__(self, at: int) -> None:
        said = WORDS[:at]
        self.ways: dict[str, list[Step]] = {
            "reset": broken(said, 0.02, RESET),
            "cut": broken(said, CLOSE),
            "clean end without its mark": broken(said, b"0\r\n\r\n"),
            "error event": broken(said, chunk(ERROR + b"data: [DONE]\n\n"), b"0\r\n\r\n"),
            "garbage": broken(said, 0.02, b"zz\r\nnot a chunk\r\n"),
            "silence": broken(said, HOLD),
        }


FAILURES = list(Failing(0).ways)
QUICK = Streams(first_token_timeout=Duration(0.3), no_progress=Duration(0.3))


@asynccontextmanager
async def scene(*scripts: Sequence[Sequence[Step]], streams: Streams = QUICK, backend: Any = None, **route: Any) -> Any:
    """A gateway over one scripted server for each of `scripts`; they speak as vLLM does."""
    async with AsyncExitStack() as stack:
        ups = [await stack.enter_async_context(Upstream(*each)) for each in scripts]
        names = [f"b{n}" for n in range(len(ups))]
        backends = {n: Backend(driver="vllm", url=u.url, **(backend or {})) for n, u in zip(names, ups, strict=True)}
        routes = (Route(model="*", to=tuple(map(Target, names)), **{"policy": "ordered", **route}),)
        config = Config(server=Server(port=0), admin=Admin(port=0), streams=streams, backends=backends, routes=routes)
        yield await stack.enter_async_context(running(config)), ups


async def ask(gateway: Gateway, path: str = "/v1/chat/completions", **more: Any) -> tuple[int, str, Any]:
    """Status, the text read, and the headers."""
    body = {"model": "m", "messages": PROMPT, "stream": True, **more}
    async with client(gateway) as session, session.post(path, json=body) as got:
        page = b""
        try:
            async for part in got.content.iter_any():
                page += part
        except aiohttp.ClientPayloadError:
            page += b"<cut>"
        texts = []
        for line in page.decode().splitlines():
            if line.startswith('data: {"') and '"choices"' in line:
                texts += [c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"]]
        clean = b"[DONE]" in page and not page.endswith(b"<cut>")
        return got.status, "".join(texts) + ("" if clean else "<cut>"), got.headers


@pytest.mark.parametrize("failure", FAILURES)
async def test_before_the_first_token_another_backend_answers(failure: str) -> None:
    """A client would read an error although another backend could have answered."""
    async with scene([Failing(0).ways[failure]], [answer()]) as (gateway, ups):
        assert (await ask(gateway))[:2] == (200, "".join(WORDS))
        assert [len(up.requests) for up in ups] == [1, 1]


@pytest.mark.parametrize("status", [b"500 X", b"503 X", b"529 X", b"429 X", b"401 X"])
async def test_a_refusal_is_answered_elsewhere(status: bytes) -> None:
    """One provider's overload, or one wrong key of ours, would be every client's error."""
    async with scene([refused(status)], [answer()]) as (gateway, _):
        assert (await ask(gateway))[:2] == (200, "".join(WORDS))


@pytest.mark.parametrize("status", [b"400 X", b"413 X", b"422 X"])
async def test_a_bad_request_is_bad_everywhere(status: bytes) -> None:
    """Each client's mistake would cost every backend a request."""
    async with scene([refused(status)], [answer()]) as (gateway, ups):
        assert (await ask(gateway))[0] in (400, 413)
        assert len(ups[1].requests) == 0


@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("failure", FAILURES)
async def test_in_mid_answer_the_next_goes_on(failure: str, at: int) -> None:
    """The client would lose the answer, or a word of it, or read one twice."""
    async with scene([Failing(at).ways[failure]], [answer(WORDS[at:])], on_failure="continue") as (gateway, ups):
        assert (await ask(gateway, max_tokens=50))[:2] == (200, "".join(WORDS))
        asked = json.loads(ups[1].requests[0][1])
        assert asked["messages"] == [*PROMPT, {"role": "assistant", "content": "".join(WORDS[:at])}]
        assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
        assert asked["max_tokens"] == 50 - at


@pytest.mark.parametrize("failure", FAILURES)
async def test_by_default_a_broken_answer_ends_as_one(failure: str) -> None:
    """Another model would speak in the middle of an answer, and nobody asked for that."""
    async with scene([Failing(3).ways[failure]], [answer(WORDS[3:])]) as (gateway, ups):
        assert (await ask(gateway))[1] == "".join(WORDS[:3]) + "<cut>"
        assert len(ups[1].requests) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
        {"messages": [*PROMPT, {"role": "assistant", "content": "Once"}]},
    ],
)
async def test_what_cannot_go_on_exactly_does_not(more: dict[str, Any]) -> None:
    """Half of one JSON object would be followed by the whole of another, or a prefill by a prefill."""
    async with scene([Failing(3).ways["cut"]], [answer()], on_failure="continue") as (gateway, ups):
        assert (await ask(gateway, **more))[1].endswith("<cut>")
        assert len(ups[1].requests) == 0


async def test_a_backend_that_refuses_to_go_on_is_passed_over() -> None:
    """One server without prefill would end what a third could have completed."""
    scripts = [[Failing(2).ways["cut"]], [refused(b"400 X")], [answer(WORDS[2:])]]
    async with scene(*scripts, on_failure="continue") as (gateway, _):
        assert (await ask(gateway))[1] == "".join(WORDS)


async def test_it_may_break_more_than_once() -> None:
    """The second failure would lose what survived the first."""
    scripts = [[Failing(2).ways["cut"]], [broken(WORDS[2:4], CLOSE)], [answer(WORDS[4:])]]
    async with scene(*scripts, on_failure="continue") as (gateway, ups):
        assert (await ask(gateway))[1] == "".join(WORDS)
        assert json.loads(ups[2].requests[0][1])["messages"][-1]["content"] == "".join(WORDS[:4])


async def test_a_lone_backend_may_be_asked_again() -> None:
    """A restart of the only server would break every answer although it is back at once."""
    async with scene([Failing(3).ways["cut"], answer(WORDS[3:])], on_failure="continue") as (gateway, _):
        assert (await ask(gateway))[1] == "".join(WORDS)
    async with scene([refused(b"503 X"), answer()], attempts=2) as (gateway, _):
        assert (await ask(gateway))[1] == "".join(WORDS)


async def test_a_short_retry_after_is_waited_for_and_a_long_one_told() -> None:
    """A backend that asks for a moment would be hammered; one that asks for a minute would hold the client."""
    soon = refused(b"429 X", b"retry-after-ms: 50\r\n")
    async with scene([soon, answer()], attempts=2) as (gateway, _):
        assert (await ask(gateway))[1] == "".join(WORDS)
    async with scene([refused(b"429 X", b"Retry-After: 60\r\n"), answer()], attempts=2) as (gateway, ups):
        status, _, headers = await ask(gateway)
        assert (status, headers["Retry-After"], len(ups[0].requests)) == (429, "60", 1)


async def test_who_asked_for_a_minute_is_not_asked_again_after_anothers_failure() -> None:
    """What the last one said would count, not what a backend said itself: before, and after tokens were delivered."""
    busy = refused(b"429 X", b"Retry-After: 60\r\n")
    async with scene([busy], [refused(b"500 X"), answer()], attempts=3) as (gateway, ups):
        assert (await ask(gateway))[1] == "".join(WORDS)
        assert [len(up.requests) for up in ups] == [1, 2]
    async with scene([Failing(3).ways["cut"], busy], on_failure="continue", attempts=4) as (gateway, ups):
        assert (await ask(gateway))[1].startswith("".join(WORDS[:3]))
        assert len(ups[0].requests) == 2


async def test_a_backend_that_only_says_429_is_asked_once_by_each() -> None:
    """At low traffic the budget's floor lets every stream try three times, each time in vain."""
    async with scene([refused(b"429 X")], attempts=3) as (gateway, ups):
        for _ in range(2):
            assert (await ask(gateway))[0] == 429
        assert len(ups[0].requests) == 6
        await asyncio.sleep(1.0)
        for _ in range(5):
            assert (await ask(gateway))[0] == 429
        assert len(ups[0].requests) == 11


async def test_who_said_429_is_spared_and_not_cut_off() -> None:
    """Overload is no illness: the breaker would close a busy backend off for half a minute."""
    async with scene([refused(b"429 X", b"Retry-After: 60\r\n")], [answer()]) as (gateway, ups):
        for _ in range(8):
            assert (await ask(gateway))[0] == 200
        assert len(ups[0].requests) == 1
        assert circuits(gateway.upstreams)[0].state == "closed"


async def test_a_total_outage_is_not_multiplied() -> None:
    """Retries would double the load on backends that are down, and clients' SDKs would double it again."""
    async with scene([refused(b"500 X")], [refused(b"500 X")], attempts=3, streams=Streams()) as (gateway, ups):
        requests = 150
        got = await asyncio.gather(*(ask(gateway) for _ in range(requests)))
        attempts = sum(len(up.requests) for up in ups)
        assert attempts <= requests * 1.2
        assert {status for status, _, _ in got} <= {502, 503}
        later = await ask(gateway)
        assert later[0] == 503
        assert int(later[2]["Retry-After"]) > 20
        assert sum(len(up.requests) for up in ups) == attempts
        assert gateway.upstreams.budget.streams == gateway.upstreams.budget.retries == 0
        assert all(one.active == 0 for one in gateway.upstreams)


async def test_a_spent_budget_tells_clients_not_to_retry() -> None:
    """SDKs would retry at once what we have just stopped retrying."""
    async with scene([refused(b"500 X")], [answer()], backend={"breaker": Breaker(failures=0)}) as (gateway, _):
        gateway.upstreams.budget.retries = 3
        status, _, headers = await ask(gateway)
        assert (status, headers["x-should-retry"]) == (502, "false")
        gateway.upstreams.budget.retries = 0
        assert (await ask(gateway))[0] == 200


async def test_a_breaker_opens_and_closes_again() -> None:
    """A dead backend would cost every request its time; a live one would stay unused."""
    rules = Breaker(failures=2, pause=Duration(0.2), longest=Duration(1))
    script = [refused(b"500 X"), refused(b"500 X"), answer()]
    async with scene(script, backend={"breaker": rules}) as (gateway, ups):
        assert [(await ask(gateway))[0] for _ in range(4)] == [502, 502, 503, 503]
        assert len(ups[0].requests) == 2
        await asyncio.sleep(0.25)
        assert [(await ask(gateway))[0] for _ in range(3)] == [200] * 3
        states = [c["state"] for c in circuits(gateway.upstreams)[0].history]
        assert states == ["open", "half_open", "closed"]


async def test_a_resting_backends_own_words_are_not_for_clients() -> None:
    """What one customer's request made a backend say would be told to all the others."""
    rules = Breaker(failures=1, pause=Duration(30), longest=Duration(30))
    body = {"model": "m", "messages": PROMPT, "stream": True}
    async with scene([refused(b"500 X")], backend={"breaker": rules}) as (gateway, _):
        assert (await ask(gateway))[0] == 502
        async with client(gateway) as session, session.post("/v1/chat/completions", json=body) as got:
            told = (await got.json())["error"]["message"]
        assert got.status == 503
        assert told.endswith("its circuit breaker is open: 'b0' after upstream_error")
        assert circuits(gateway.upstreams)[0].reason.endswith("no")


async def test_a_permit_nobody_used_is_given_back() -> None:
    """A reserve that is never asked would keep its permit, and no other node could try it."""
    rules = Breaker(failures=1, pause=Duration(0.05), longest=Duration(1))
    async with scene([answer()], [refused(b"500 X")], backend={"breaker": rules}) as (gateway, _):
        reserve = gateway.upstreams["b1"].breaker
        reserve.failure(gateway.upstreams.clock(), "x")
        await asyncio.sleep(0.06)
        await ask(gateway)
        assert reserve.allows(gateway.upstreams.clock())  # a fallback again, as a trial
        reserve._permit = gateway.upstreams.clock()
        await ask(gateway)
        assert reserve.allows(gateway.upstreams.clock())


async def test_one_trial_at_a_time() -> None:
    """A backend that has just come back would be met by everybody at once."""
    rules = Breaker(failures=1, pause=Duration(0.1), longest=Duration(1))
    slow: list[Step] = [head(), 0.3, *answer()[1:]]
    async with scene([refused(b"500 X"), slow, answer()], backend={"breaker": rules}) as (gateway, ups):
        await ask(gateway)
        await asyncio.sleep(0.15)
        got = sorted([status for status, _, _ in await asyncio.gather(*(ask(gateway) for _ in range(5)))])
        assert got == [200, 503, 503, 503, 503]
        assert len(ups[0].requests) == 2


async def test_a_hedge_answers_for_a_slow_backend() -> None:
    """One slow backend would be everybody's first-token time; the loser would go on generating."""
    async with scene([broken([], HOLD)], [answer()], hedge=Hedge(after=Duration(0.05)), streams=Streams()) as scened:
        gateway, ups = scened
        assert (await ask(gateway))[1] == "".join(WORDS)
        await asyncio.sleep(0.05)
        assert len(ups[0].closed_at) == 1
        assert all(one.active == 0 for one in gateway.upstreams)


async def test_a_full_backend_is_waited_for() -> None:
    """A burst would be refused although a place is free in a moment; or more would run than the backend can take."""
    slow: list[Step] = [head(), chunk(frame("a")), 0.1, *answer()[1:]]
    limits = {"max_streams": 1, "queue": Queue(size=2, timeout=Duration(5))}
    async with scene([slow], backend=limits) as (gateway, ups):
        got = await asyncio.gather(*(ask(gateway) for _ in range(4)))
        assert sorted(status for status, _, _ in got) == [200, 200, 200, 503]
        refusal = next(headers for status, _, headers in got if status == 503)
        assert refusal["Retry-After"] == "1"
        assert len(ups[0].requests) == 3
        assert gateway.upstreams["b0"].active == gateway.upstreams["b0"].waiting == 0
    async with scene([slow], backend={"max_streams": 1, "queue": Queue(size=9, timeout=Duration(0.02))}) as (
        gateway,
        _,
    ):
        got = await asyncio.gather(*(ask(gateway) for _ in range(2)))
        assert sorted(status for status, _, _ in got) == [200, 503]


async def test_a_full_backend_sends_the_next_stream_elsewhere() -> None:
    """A route with room would refuse."""
    slow: list[Step] = [head(), chunk(frame("a")), 0.2, *answer()[1:]]
    async with scene([slow], [answer()], backend={"max_streams": 1}) as (gateway, ups):
        got = await asyncio.gather(*(ask(gateway) for _ in range(2)))
        assert [status for status, _, _ in got] == [200, 200]
        assert [len(up.requests) for up in ups] == [1, 1]


async def test_places_go_by_priority_and_none_is_lost() -> None:
    """A place given to somebody who left would never be used again."""
    ups = _upstreams(max_streams=1, queue=Queue(size=5, timeout=Duration(5)))
    ups["b"].take()
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        await ups.place(["b"], priority)
        order.append(name)

    tasks = [asyncio.create_task(wait(*one)) for one in (("low", -1), ("first", 0), ("second", 0), ("high", 1))]
    await asyncio.sleep(0)
    assert ups["b"].waiting == 4
    ups["b"].give()
    tasks[3].cancel()  # at the very moment
    await asyncio.gather(tasks[3], return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
        ups["b"].give()
    await asyncio.gather(*tasks[:3])
    assert order == ["first", "second", "low"]
    assert (ups["b"].active, ups["b"].waiting) == (0, 0)


def _upstreams(**backend: Any) -> Upstreams:
    async def claim(_backend: str, _seconds: float) -> bool:
        return True

    return Upstreams({"b": Backend(driver="demo", **backend)}, lambda: 0.0, claim, lambda _: None)


async def test_a_refused_stream_keeps_no_place() -> None:
    """Each refusal by a limit would make the backend look fuller, until nobody is let in."""
    slow: list[Step] = [head(), chunk(frame("a")), 0.3, *answer()[1:]]
    async with scene([slow], backend={"max_streams": 9}, max_streams=1) as (gateway, _):
        got = await asyncio.gather(*(ask(gateway) for _ in range(3)))
        assert sorted(status for status, _, _ in got) == [200, 429, 429]
        assert (gateway.upstreams["b0"].active, gateway.upstreams.budget.streams) == (0, 0)


async def test_who_leaves_the_queue_frees_it() -> None:
    """A client that gave up would be served to nobody, before those who still wait."""
    slow: list[Step] = [head(), chunk(frame("a")), 0.3, *answer()[1:]]
    limits = {"max_streams": 1, "queue": Queue(size=9, timeout=Duration(5))}
    async with scene([slow], backend=limits) as (gateway, ups):
        first = asyncio.create_task(ask(gateway))
        await asyncio.sleep(0.1)
        second, third = asyncio.create_task(ask(gateway)), asyncio.create_task(ask(gateway))
        await asyncio.sleep(0.1)
        second.cancel()
        assert (await first)[0] == (await third)[0] == 200
        assert len(ups[0].requests) == 2
        assert gateway.upstreams["b0"].active == gateway.upstreams["b0"].waiting == 0


def test_a_reload_keeps_what_was_learnt() -> None:
    """Each reload would send everybody to the backend that has just died."""
    ups = _upstreams()
    for n in range(5):
        ups["b"].breaker.failure(n, "x")
    ups.configure({"b": Backend(driver="demo", breaker=Breaker(failures=9)), "c": Backend(driver="demo")})
    assert ups["b"].breaker.state.wire == "open"
    assert ups["b"].breaker.rules.failures == 9
    assert ups.reset("b")
    assert not ups.reset("gone")
    ups["b"].take()
    ups.configure({"c": Backend(driver="demo")})
    ups["b"].give()  # a stream that is still there
    ups.configure({"c": Backend(driver="demo")})
    assert ups.find("b") is None


def event(kind: str, **rest: object) -> bytes:
    return chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **rest})}\n\n".encode())


MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "x", "content": [], "usage": {}}
CLAUDE: list[Step] = [
    head(),
    event("message_start", message=MESSAGE),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in WORDS[:3]),
    event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    b"0\r\n\r\n",
]


async def test_another_kind_of_backend_goes_on_for_an_sdk() -> None:
    """A cloud that is overloaded in mid-answer would end the answer, though a local server has the model's words."""
    async with Upstream(CLAUDE) as cloud, Upstream(answer(WORDS[3:])) as local:
        backends = {
            "cloud": Backend(driver="anthropic", url=cloud.url, api_key=Secret("k")),
            "local": Backend(driver="vllm", url=local.url),
        }
        route = Route(model="*", to=(Target("cloud"), Target("local")), policy="ordered", on_failure="continue")
        config = Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=(route,))
        async with running(config) as gateway:
            url = f"http://127.0.0.1:{gateway.public_port}"
            async with (
                anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as sdk,
                sdk.messages.stream(model="claude-3", messages=PROMPT, max_tokens=99) as stream,  # type: ignore[arg-type]
            ):
                assert "".join([text async for text in stream.text_stream]) == "".join(WORDS)
                whole = await stream.get_final_message()
        assert whole.stop_reason == "end_turn"
        assert json.loads(local.requests[0][1])["messages"][-1]["content"] == "".join(WORDS[:3])
