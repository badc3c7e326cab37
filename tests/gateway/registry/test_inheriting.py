"""Claims of streams whose node is gone: who wins, and what becomes of what the old owner still sends. A real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from support.redis_server import BINARY, RedisServer

from backends.catalog import build
from config.schema import Backend
from gateway.registry.elsewhere import Elsewhere
from gateway.registry.redis_client import Link
from gateway.registry.redis_layout import Layout
from gateway.registry.shared_entry import sealed
from gateway.registry.shared_layout import (
    LAST,
    Addition,
    Meta,
    SharedLayout,
    addition,
    epoch_of,
    meta_words,
    position,
)
from gateway.streams.alike import UNLIKE
from gateway.streams.legacy import tries_of
from gateway.streams.reader import Reader
from gateway.streams.release import released
from gateway.streams.stream import Identity
from gateway.streams.transcript import Transcript
from gateway.streams.veil import Blocks, Veil

needs_redis = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
DRIVER = build("up", Backend(driver="openai", url="http://x"))
WHO = Identity("x", "o", "native", "m", "up", "m", "a", 1, survives=True)
SHARED = SharedLayout("t", 60.0, 2.0, cluster=False)
KEY = "x@o"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[Link]:
    """A connection to an empty Redis."""
    server.command("FLUSHALL")
    made = Link(server.url, 1.0)
    made.recovered()
    yield made
    await made.close()


def entry(expected: int, sent: int, entry_id: str, *words: str | bytes, epoch: int = 0) -> Addition:
    """One entry as a writer sends it, who knows of so many entries, bytes and claims."""
    return addition(expected, sent, 60_000, 0, epoch, sealed(entry_id, words))


async def ship(link: Link, *entries: Addition) -> list[Any]:
    answers: list[Any] = (await link.batch([SHARED.ship([(KEY, added) for added in entries])]))[0]
    return answers


async def begun(link: Link) -> None:
    first = meta_words(Meta(WHO, "up", "openai"), b"{}")
    assert await ship(link, entry(0, 0, "0-1", *first), entry(1, 0, "5-0", "d", "abcde")) == [1, 2]


@needs_redis
async def test_exactly_one_of_many_claims(link: Link) -> None:
    """Two survivors would both go on with a stream, and its client read two answers in one."""
    await begun(link)
    found = await asyncio.gather(*(link.batch([SHARED.inherit(KEY, f"n{i}", 0)]) for i in range(20)))
    assert sorted(answer[0] for answer in found) == [0] * 19 + [3]
    assert (await link.batch([SHARED.inherit(KEY, "late", 2)]))[0] == 4


@needs_redis
@pytest.mark.parametrize("expected", [0, 1, 2, 3])
async def test_the_old_owner_writes_no_more(link: Link, expected: int) -> None:
    """A node that wakes up would add to an answer another one goes on with, or begin its copy anew, whatever it knows
    of what had arrived."""
    await begun(link)
    assert (await link.batch([SHARED.inherit(KEY, "b", 0)]))[0] == 3
    assert await ship(link, entry(3, 5, "9-2", "d", "fghi", epoch=2)) == [4]
    answer = (await ship(link, entry(expected, 9, "0-1" if not expected else "12-0", "d", "zzz")))[0]
    assert answer == b"4 9-2"
    assert epoch_of(answer.split()[1]) == 2
    assert await ship(link, entry(4, 9, f"{LAST}-2", "t", "completed", epoch=2)) == [5]
    assert await ship(link, entry(0, 0, "0-1", "m", "?")) == [b"5 %d-2" % LAST]
    assert (await link.batch([SHARED.inherit(KEY, "c", 2)]))[0] == 0


@needs_redis
async def test_a_node_with_a_lease_is_not_deposed(link: Link) -> None:
    """A node that came back in time would lose streams it carries."""
    layout = Layout("t", 60.0, 5.0, 10.0)
    await link.batch(layout.beat("a", "e1"))
    assert (await link.batch([layout.depose("a")]))[0] == 0
    await link.batch([layout.release("none", "x")])
    assert (await link.batch([layout.depose("nobody")]))[0] == 1


def test_ids_say_how_often_it_was_claimed() -> None:
    """The first entry would look like a claim, or a claim like data."""
    assert [epoch_of(text) for text in ("0-1", "17-0", "17-2", b"0-3")] == [0, 0, 2, 3]
    assert position("17-2") == 17


def test_nothing_is_shown_before_it_is_safe() -> None:
    """A client would be shown words that die with the node, and read others in their place."""
    kept = Transcript(1 << 20)
    veil = Veil(kept)
    kept.begin(DRIVER)
    for i in range(6):
        if i == 4:
            kept.begin(DRIVER)
        kept.append(b"%d" % i)
    assert not veil.lift(0)
    assert veil.lift(3)
    assert list(veil.shown.blocks) == [b"0", b"1", b"2"]
    assert not veil.lift(3)
    assert veil.lift(100)
    assert list(veil.shown.blocks) == list(kept.blocks)
    assert veil.shown.segments == kept.segments
    small = Transcript(3)
    small.begin(DRIVER)
    for i in range(9):
        small.append(b"%d" % i)
    behind = Veil(small)
    assert behind.shown.total >= small.trimmed  # a reader that rests asks, in the midst of everybody's batch
    with pytest.raises(LookupError):
        behind.lift(4)


def test_the_attempts_of_lost_nodes() -> None:
    """A receipt would not say where a stream had been, or blame a backend for the node."""
    empty = Transcript(100)
    assert [(t.kind, t.outcome, t.tokens) for t in tries_of(empty, [0], WHO)] == [("start", "node_lost", 0)]
    said = Transcript(1000)
    for text, restart in (("a", False), ("b", False), ("c", True)):
        said.begin(DRIVER, restart=restart)
        said.append(b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode())
    found = [(t.kind, t.outcome, t.tokens) for t in tries_of(said, [2, 3], WHO)]
    assert found == [("start", "failed", 1), ("continue", "node_lost", 1), ("restart", "node_lost", 1)]


async def test_a_frame_is_shown_once_it_is_safe_by_whichever_road() -> None:
    """Where nobody but other nodes' readers read a stream, or somebody is behind, frames would be lost or doubled."""
    kept = Transcript(1 << 20)
    veil = Veil(kept)
    kept.begin(DRIVER)
    kept.append(b"0")
    kept.append(b"1")
    one = Blocks(0, b"0", ["0"], UNLIKE)
    assert not released(veil, one, [cast(Reader, Elsewhere())])
    assert not released(veil, one, [])
    assert veil.shown.tip == 0
    assert not veil.follows(one)  # nothing of its segment is shown yet
    assert veil.lift(1)
    assert not veil.follows(one)
    assert veil.follows(Blocks(1, b"1", ["1"], UNLIKE))
    assert veil.shown.blocks == [b"0", b"1"]
    assert (veil.shown.total, veil.shown.size, veil.shown.base) == (2, 2, 0)
    kept.append(b"23")
    assert (veil.shown.tip, veil.shown.total) == (2, 2)
    assert veil.shown.since(1, 9) == [b"1"]
