"""Cancels that meet everything else at every moment: one ending, one receipt, and a backend that was told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from support.inprocess import client, config_for, events, running
from support.upstream import HOLD, Step, Upstream, chunk, head

from config.schema import Config, Streams
from config.values import Duration
from gateway.app import Gateway
from gateway.streams.producer import Producer
from gateway.streams.stream import State

CHAT = "/api/streaming/chat"
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
END = (
    chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    + b"0\r\n\r\n"
)


def token(text: str = "a") -> bytes:
    """One content delta as a chunk of the body."""
    delta = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return chunk(b"data: %s\n\n" % json.dumps(delta).encode())


def slowly(span: float, tokens: int = 4) -> list[Step]:
    """An answer that takes `span` seconds: a silence before the head, the first token, each next one and the end."""
    pause = span / (tokens + 2)
    return [pause, head(), *itertools.chain.from_iterable((pause, token()) for _ in range(tokens)), pause, END]


def without_reuse(config: Config) -> Config:
    """One upstream connection per stream, so that an open one shows a generation that goes on."""
    return replace(config, backends={name: replace(b, keepalive=False) for name, b in config.backends.items()})


def counting(gateway: Gateway) -> Counter[str]:
    """How many receipts each stream got."""
    found: Counter[str] = Counter()
    tell = gateway.hub._finished

    def told(producer: Producer, receipt: Any) -> None:
        found[receipt.stream_id] += 1
        tell(producer, receipt)

    gateway.hub._finished = told
    return found


async def _read(session: aiohttp.ClientSession, name: str) -> list[tuple[str, str, str]]:
    async with session.post(CHAT, json=ASK, headers={"X-Stream-Id": name}) as answer:
        assert answer.status == 200, await answer.text()
        body = b""
        with contextlib.suppress(aiohttp.ClientPayloadError):  # a failed stream's body breaks off on purpose
            async for block in answer.content.iter_any():
                body += block
        return events(body.decode())


async def _delete(session: aiohttp.ClientSession, name: str) -> dict[str, Any]:
    """Cancel, and again while the POST has not arrived yet."""
    for _ in range(400):
        async with session.delete(f"/api/streaming/{name}") as answer:
            if answer.status != 404:
                assert answer.status == 200
                body: dict[str, Any] = await answer.json()
                return body
        await asyncio.sleep(0.005)
    raise AssertionError(f"{name} never was")


async def _race(session: aiohttp.ClientSession, name: str, moment: float) -> str:
    reading = asyncio.create_task(_read(session, name))
    await asyncio.sleep(moment)
    said = await _delete(session, name)
    got = await reading
    assert said["state"] in ("cancelled", "completed")
    assert [event for _, event, _ in got if event in ("done", "error")] == ["done"]
    assert got[-1][1] == "done"
    finish = json.loads(got[-1][2])["finishReason"]
    assert finish == ("cancelled" if said["state"] == "cancelled" else "stop")
    async with session.get(f"/api/streaming/{name}", headers={"Accept": "application/json"}) as answer:
        assert (await answer.json())["receipt"] == said["receipt"]
    return str(said["state"])


@pytest.mark.parametrize(
    ("runs", "span", "at_once"),
    [(300, 0.06, 8), pytest.param(10_000, 0.5, 60, marks=(pytest.mark.soak, pytest.mark.timeout(900)))],
)
async def test_a_delete_at_any_moment_ends_it_once(runs: int, span: float, at_once: int) -> None:
    """A DELETE while connecting, before the head, between tokens or at the end would be lost, or end a stream twice."""
    turn = asyncio.Semaphore(at_once)
    async with (
        Upstream(slowly(span)) as up,
        running(without_reuse(config_for(up.url))) as gateway,
        client(gateway) as session,
    ):
        receipts = counting(gateway)

        async def one(i: int) -> str:
            async with turn:
                return await _race(session, f"r{i}", span * 1.5 * i / runs)

        order = random.sample(range(runs), runs)
        states = Counter(await asyncio.gather(*(one(i) for i in order)))
        assert receipts == Counter(f"r{i}" for i in range(runs))
        assert not len(gateway.hub)
        assert states["cancelled"] > runs * 0.5, states
        assert states["completed"] > 0, states
        for _ in range(100):
            if len(up.closed_at) == up.connections:
                break
            await asyncio.sleep(0.01)
        assert len(up.closed_at) == up.connections  # no generation goes on
        print(f"\n{runs} DELETEs: {dict(states)}, {up.connections} upstream connections, all closed")


async def test_many_deletes_of_one_stream_touch_no_other() -> None:
    """Repeated DELETEs would get different answers, or hit whoever got the pooled connection next."""
    text = [f"{i} " for i in range(60)]
    whole: list[Step] = [head(), *itertools.chain.from_iterable((token(t), 0.02) for t in text), END]
    async with Upstream(whole) as up, running(config_for(up.url)) as gateway, client(gateway) as session:
        neighbours = [asyncio.create_task(_read(session, f"n{i}")) for i in range(5)]
        for i in range(5):
            reading = asyncio.create_task(_read(session, f"v{i}"))
            await _first_token(gateway, f"v{i}")
            answers = await asyncio.gather(*(_delete(session, f"v{i}") for _ in range(100)))
            assert answers[0]["state"] == "cancelled"
            assert all(answer == answers[0] for answer in answers)
            assert (await reading)[-1][1] == "done"
        for got in await asyncio.gather(*neighbours, _read(session, "after")):
            assert "".join(json.loads(data)["content"] for _, event, data in got if event == "token") == "".join(text)
            assert json.loads(got[-1][2])["finishReason"] == "stop"


async def _first_token(gateway: Gateway, name: str) -> Producer:
    while (found := gateway.hub.find(name, "anonymous")) is None or not found.stream.tokens:
        await asyncio.sleep(0.002)
    return found


async def test_of_endings_in_the_same_tick_the_first_wins() -> None:
    """Cancel, finish, timeout and a vanished client at once would bill a stream twice, or tell two things."""
    async with (
        Upstream([head(), token(), HOLD]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        receipts = counting(gateway)
        late = gateway.services.loop.time() + 1000

        async def race(name: str, order: tuple[str, ...]) -> None:
            reading = asyncio.create_task(_read(session, name))
            producer = await _first_token(gateway, name)
            leader = producer._succession._leader
            assert leader is not None
            ways = {
                "cancelled": lambda: gateway.hub.stop(name, "anonymous", "client", "deleted"),
                "completed": lambda: leader.data(b"data: [DONE]\n\n"),
                "timed_out": lambda: gateway.watchdog._judge(producer, late),
                "client_gone": lambda: producer.stop(State.CLIENT_GONE, by="client", reason="gone"),
            }
            for way in order:
                ways[way]()
            got = await reading
            assert producer.stream.receipt is not None
            assert producer.stream.receipt.state == order[0]
            assert sum(event in ("done", "error") for _, event, _ in got) == 1

        orders = list(itertools.permutations(("cancelled", "completed", "timed_out", "client_gone")))
        for start in range(0, len(orders), 8):
            await asyncio.gather(*(race(f"s{start}-{i}", order) for i, order in enumerate(orders[start : start + 8])))
        assert len(receipts) == 24
        assert set(receipts.values()) == {1}


async def test_no_deadline_follows_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock set by an hour (NTP, a resumed laptop) would end all streams at once, or none ever."""
    real = time.time
    shift = itertools.cycle((3600.0, -3600.0, 0.0))
    limits = Streams(total_timeout=Duration(1.0), first_token_timeout=Duration(0.8), keepalive=Duration(0.3))
    talking: list[Step] = [head(), *itertools.chain.from_iterable((token(), 0.05) for _ in range(200))]
    async with (
        Upstream(talking) as up,
        running(config_for(up.url, streams=limits)) as gateway,
        client(gateway) as session,
    ):
        monkeypatch.setattr(time, "time", lambda: real() + next(shift))
        began = time.monotonic()
        async with session.post(CHAT, json=ASK, headers={"X-Stream-Id": "s"}) as answer:
            text = ""
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async for line in answer.content:
                    text += line.decode()
        took = time.monotonic() - began
        assert 0.95 < took < 2.5
        assert text.count("event: token") > 8
        assert '"timed_out"' in text or '"timeout"' in text
        found = await gateway.registry.find("s", "anonymous")
        assert found is not None
        assert found.state == "timed_out"
        assert 900 < found.duration_ms < 2500  # type: ignore[union-attr]
