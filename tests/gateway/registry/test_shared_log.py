"""The shared transcript's writer and reader by themselves: what is sent, what is believed, where it lies in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.redis_server import BINARY, RedisServer
from support.resuming import ASK, CHAT, END, fleet_config, post, read, rest_of, token, two
from support.upstream import HOLD, Upstream, head

from backends.catalog import build
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from config.schema import Backend, Registry
from config.values import Duration
from gateway.protocols.base import Ending
from gateway.registry.shared_layout import LAST_ID, Words, read_terminal, terminal_words
from gateway.registry.shared_log import rest
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
    plan = SimpleNamespace(will=b"", include_usage=True, on_disconnect=SimpleNamespace(action="cancel", grace=0))
    stream = SimpleNamespace(identity=who, state=State.STREAMING)
    ending = Ending("stop", Usage(1, 2), False, 2)
    return SimpleNamespace(
        stream=stream, plan=plan, transcript=transcript, driver=DRIVER, opened=False, readers=[1], ending=lambda: ending
    )


class Log:
    """A log as the script keeps it, in a list; `refuse` what it should answer instead."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Words]] = []

    def ship(self, shipment: Shipment, now: float = 0.0, *, confirmed: bool = True) -> None:
        """One batch; not `confirmed`: its answer is lost."""
        answers: list[Any] = []
        for expected, entry_id, _life, _trim, _epoch, _count, *words in shipment.entries(now, 1000, 1.0, 500):
            if expected == 0:
                self.entries = []
            if expected != len(self.entries):
                answers.append(f"{len(self.entries)} {self.entries[-1][0] if self.entries else ''}".encode())
                continue
            if entry_id:
                self.entries.append((str(entry_id), tuple(words)))
            answers.append(len(self.entries))
        if confirmed:
            shipment.answered(answers, now)

    def page(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """As XRANGE answers."""
        found = []
        for entry_id, words in self.entries:
            raw = [str(w).encode() if isinstance(w, str | int) else w for w in words]
            found.append((entry_id.encode(), dict(zip(raw[::2], raw[1::2], strict=True))))
        return found


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
    log.entries.append((LAST_ID, terminal_words(State.NODE_LOST, 9, one.ending())))
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
    raw = [str(w).encode() if isinstance(w, str | int) else w for w in words]
    state, total, found = read_terminal(dict(zip(raw[::2], raw[1::2], strict=True)))
    assert (state, total, found) == (State.UPSTREAM_ERROR, 123, ending)
    assert found.error is not None
    assert vars(found.error) == vars(error)


def test_the_more_there_is_the_longer_it_rests() -> None:
    """A worker with many streams would spend its time on their copies."""
    assert rest(0.008, 0, 0) == 0.008
    assert 0.03 < rest(0.008, 1, 1) < rest(0.008, 1, 100) <= rest(0.008, 9, 100_000) <= 0.25


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
