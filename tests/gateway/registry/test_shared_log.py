"""The shared transcript's writer and reader by themselves: what is sent, what is believed, where it lies in Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from support.redis_server import BINARY, RedisServer
from support.resuming import ASK, CHAT, END, fleet_config, post, read, rest_of, token, two
from support.upstream import HOLD, Upstream, head

from backends.catalog import build
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from config.schema import Backend, Registry
from config.values import Duration
from gateway.protocols.base import Ending
from gateway.registry.redis_client import Link
from gateway.registry.shared_entry import opened, sealed
from gateway.registry.shared_layout import LAST_ID, SharedLayout, read_terminal, terminal_words
from gateway.registry.shared_log import Shipper
from gateway.registry.shared_pace import Pace
from gateway.registry.shared_shipment import Shipment
from gateway.registry.shared_stream import SharedStream
from gateway.streams.stream import Identity, State, born_ms, new_stream_id
from gateway.streams.transcript import Transcript

DRIVER = build("up", Backend(driver="openai", url="http://x"))
needs_redis = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")


def producer(cap: int = 1 << 20) -> Any:
    """What a shipment asks of a producer."""
    transcript = Transcript(cap)
    transcript.begin(DRIVER)
    who = Identity("x", "o", "native", "m", "up", "m", "node", 1)
    policy = SimpleNamespace(action="cancel", grace=0)
    plan = SimpleNamespace(will=b"", turns=b"", include_usage=True, on_disconnect=policy)
    stream = SimpleNamespace(identity=who, state=State.STREAMING)
    ending = Ending("stop", Usage(1, 2), False, 2)
    return SimpleNamespace(
        stream=stream, plan=plan, transcript=transcript, driver=DRIVER, opened=False, readers=[1], ending=lambda: ending
    )


class Log:
    """A log as the script keeps it, in a list; `refuse` what it should answer instead."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def ship(self, shipment: Shipment, now: float = 0.0, *, confirmed: bool = True) -> None:
        """One batch; not `confirmed`: its answer is lost."""
        answers: list[Any] = []
        for numbers, entry in shipment.entries(now, 1000, 1.0, 500):
            expected = int(numbers.split()[0])
            if expected == 0:
                self.entries = []
            if expected != len(self.entries):
                last = self.entries[-1].split()[0] if self.entries else b""
                answers.append(b"%d %b" % (len(self.entries), last))
                continue
            if entry:
                self.entries.append(entry)
            answers.append(len(self.entries))
        if confirmed:
            shipment.answered(answers, now)

    def page(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """As a reader takes them."""
        return [opened(entry) for entry in self.entries]


def read_all(log: Log, stream: SharedStream | None = None) -> SharedStream:
    stream = stream or SharedStream("x@o", lambda: {"up": DRIVER}, 1 << 20, lambda _: None)
    stream.take(log.page())
    return stream


async def test_nothing_is_shared_before_it_is_settled() -> None:
    """A reader elsewhere would be told a backend that is then not the one that answers."""
    one = producer()
    shipment = Shipment(one)
    assert not shipment.wants(0.0)
    one.opened = True
    assert shipment.wants(0.0)


@pytest.mark.parametrize("lost", [1, 2, 3, 5])
async def test_an_unconfirmed_batch_is_neither_doubled_nor_lost(lost: int) -> None:
    """After each time-out a stream's copy would have tokens twice, or a hole."""
    one, log = producer(), Log()
    shipment = Shipment(one)
    for i in range(12):
        one.transcript.append(b"data: %d\n\n" % i)
        log.ship(shipment, confirmed=i % lost != lost - 1)
    one.stream.state = State.COMPLETED
    for _ in range(4):
        log.ship(shipment)
    assert shipment.over
    stream = read_all(log)
    assert b"".join(stream.transcript.blocks) == b"".join(one.transcript.blocks)
    assert stream.state is State.COMPLETED
    assert stream.ending() == one.ending()


async def test_entries_that_went_missing_are_sent_again() -> None:
    """A failover that lost acknowledged writes would leave a hole that nobody could ever read over."""
    one, log = producer(), Log()
    shipment = Shipment(one)
    for i in range(10):
        one.transcript.append(b"data: %d\n\n" % i)
        log.ship(shipment)
        if i == 3:
            reader = read_all(log)
        if i in (4, 7):
            del log.entries[-2:]
        if i == 8:
            log.entries.clear()
    for _ in range(3):
        log.ship(shipment)
    assert b"".join(read_all(log).transcript.blocks) == b"".join(one.transcript.blocks)
    reader.take([entry for entry in log.page() if entry[0] > b"0-1"])
    assert b"".join(reader.transcript.blocks) == b"".join(one.transcript.blocks)


async def test_a_fenced_stream_writes_no_more() -> None:
    """A node that was given up and comes back would add to an answer that was closed without it."""
    one, log = producer(), Log()
    shipment = Shipment(one)
    one.transcript.append(b"data: 1\n\n")
    log.ship(shipment)
    log.entries.append(sealed(LAST_ID, terminal_words(State.NODE_LOST, 9, one.ending())))
    one.transcript.append(b"data: 2\n\n")
    log.ship(shipment)
    assert shipment.fenced
    assert shipment.over
    assert len(log.entries) == 3


async def test_what_was_trimmed_is_not_shared_as_if_it_were_whole() -> None:
    """An answer longer than the cap would be shared without its beginning."""
    one, log = producer(cap=30), Log()
    shipment = Shipment(one)
    for i in range(10):
        one.transcript.append(b"data: %d\n\n" % i)
    log.ship(shipment)
    assert shipment.dead
    assert log.entries == []


async def test_a_hole_is_never_read_over() -> None:
    """A reader would get an answer with words missing, and no sign of it."""
    one, log = producer(), Log()
    shipment = Shipment(one)
    for i in range(4):
        one.transcript.append(b"data: %d\n\n" % i)
        log.ship(shipment)
    del log.entries[2]
    stream = read_all(log)
    assert stream.failure is not None
    assert stream.failure.code is ErrorCode.CURSOR_EXPIRED
    assert b"".join(stream.transcript.blocks) == b"data: 0\n\n"
    del log.entries[0]
    assert read_all(log).beginning_lost


def test_an_ending_comes_back_as_it_was() -> None:
    """The last frame elsewhere would differ from the owner's: another text, another usage, no time to retry."""
    error = BackendError(ErrorCode.OVERLOADED, "full ☕", retry_after=2.5, upstream_status=529, kind="k", param="p")
    ending = Ending("error", Usage(1, 2, 3, 4, 5), True, 7, error)
    words = terminal_words(State.UPSTREAM_ERROR, 123, ending)
    state, total, found = read_terminal(opened(sealed(LAST_ID, words))[1])
    assert (state, total, found) == (State.UPSTREAM_ERROR, 123, ending)
    assert found.error is not None
    assert vars(found.error) == vars(error)


def test_what_copies_cost_is_small_beside_the_streams() -> None:
    """A worker would spend its time on copies: of a lone stream, or of very many."""
    for streams, busy in ((1, 0.012), (10, 0.07), (50, 0.1), (200, 0.23), (1000, 0.9)):
        pause = Pace(0.008, 10.0, 3.0).rest(11.0, 3.0 + busy, 1, streams)
        assert 0.1 <= pause <= 0.25
        assert (400e-6 + streams * 25e-6) / pause < 0.15 * busy
    assert Pace(0.008, 0.0, 0.0).rest(0.0, 0.0, 0, 0) == 0.1
    assert Pace(0.5, 0.0, 0.0).rest(1.0, 0.1, 9, 1) == 0.5


def test_a_worker_with_little_to_do_sleeps_between_two_looks() -> None:
    """By the event loop's coarse clock it would look many times while it waits for the last millisecond."""
    looks: list[bool] = []

    class Looking(Shipper):
        async def step(self, *, urgent: bool = False) -> tuple[int, int]:
            looks.append(urgent)
            return await super().step(urgent=urgent)

    async def half_a_second() -> None:
        link, layout = Link("redis://127.0.0.1:1/0", 0.1), SharedLayout("x", 60.0, 2.0, cluster=False)
        running = {"x@o": producer()}
        shipper = Looking(link, layout, running, lambda *_: None, tick=0.008, renew=1.0, memory=1 << 20)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(shipper.run(), 0.55)

    uvloop.run(half_a_second())
    assert looks
    assert len(looks) <= 8


def test_an_id_tells_when_it_was_made() -> None:
    """A client that comes back at once, to another node, would be told that its stream never was."""
    assert born_ms(new_stream_id(1_795_260_699_123)) == 1_795_260_699_123
    assert born_ms("st_short") is None
    assert born_ms("st_" + "!" * 32) is None


@pytest.fixture
def cluster() -> Iterator[RedisServer]:
    """A cluster of one."""
    with RedisServer(cluster=True) as server:
        yield server


@needs_redis
async def test_on_a_cluster(cluster: RedisServer) -> None:
    """On a cluster scripts over several slots are refused, and wake-ups would have to reach every node."""
    script = [head(), *(part for i in range(30) for part in (token(f"w{i} "), 0.03)), END, b"0\r\n\r\n"]
    async with Upstream(script) as up, two(fleet_config(up.url, cluster.url)) as (_, at_a, _b, at_b):
        started = [asyncio.create_task(post(at_a, f"x{i}")) for i in range(4)]
        await asyncio.sleep(0.2)
        found = await asyncio.gather(*(read(at_b, f"/api/streaming/x{i}?protocol=native") for i in range(4)))
        assert found == await asyncio.gather(*started)
        assert b"event: done" in found[0]
        assert "spublish" in cluster.command("INFO", "commandstats")


@needs_redis
async def test_keys_come_and_go_with_their_streams() -> None:
    """Redis would fill with what nobody can ask for any more, or forget a running stream."""
    with RedisServer() as redis:
        script = [head(), token("a"), HOLD]
        done = [head(), token("a"), END, b"0\r\n\r\n"]
        async with Upstream(script, done) as up:
            config = fleet_config(up.url, redis.url, registry={"replay": Duration(0.6)}, lease=2.0)
            async with two(config) as (_, at_a, _b, at_b):
                headers = {"X-Stream-Id": "quiet"}
                async with at_a.post(CHAT, json=ASK, headers=headers) as answer:
                    await answer.content.readuntil(b"token")
                    await post(at_a, "done")
                    assert b"event: done" in await read(at_b, "/api/streaming/done?protocol=native")
                    await asyncio.sleep(3.5)
                    keys = redis.command("KEYS", "headgate:log:*")
                    assert "quiet@" in keys
                    assert "done@" not in keys
                    assert 0 < int(redis.command("PTTL", "headgate:log:{quiet@anonymous}")[1:]) <= 4600
                    async with at_a.delete("/api/streaming/quiet"):
                        await rest_of(answer)
                await asyncio.sleep(1.0)
                assert ":log:" not in redis.command("KEYS", "*")
                assert ":watch:" not in redis.command("KEYS", "*")


def test_the_settings() -> None:
    """The defaults an operator counts on would change unnoticed."""
    assert (Registry().share, Registry().tick) == ("auto", 0.008)
