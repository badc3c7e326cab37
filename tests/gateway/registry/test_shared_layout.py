"""Shared transcripts as they lie in Redis: what an entry says, what a page is, how much room it takes. A real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.redis_server import BINARY, RedisServer

from gateway.protocols.base import Ending, Usage
from gateway.registry.redis_client import Link, Op
from gateway.registry.shared_entry import opened, sealed
from gateway.registry.shared_layout import (
    LAST,
    PAGE,
    Meta,
    SharedLayout,
    addition,
    entries_of,
    meta_words,
    position,
    terminal_words,
)
from gateway.streams.stream import Identity, State, new_stream_id

needs_redis = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
LAYOUT = SharedLayout("headgate", 600.0, 15.0, cluster=False)
NAME = new_stream_id(1_795_260_699_123)
KEY = f"{NAME}@anonymous"
WHO = Identity(NAME, "anonymous", "openai", "mock-model", "mock", "mock-model", "node-1", 1_795_260_699_123)
FIRST = sealed("0-1", meta_words(Meta(WHO, "mock", "openai")))
END = terminal_words(State.COMPLETED, 0, Ending("stop", Usage(8, 250), False, 250))


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


def data(at: int, text: bytes) -> bytes:
    return sealed(f"{at}-0", ("d", text))


async def ship(link: Link, expected: int, *entries: bytes, sent: int = 0, least: int = 0) -> list[Any]:
    """As a writer that knows of `expected` entries and `sent` bytes; what the script says of each."""
    ends = [sent, *(position(entry.split()[0]) for entry in entries)]
    added = [(KEY, addition(expected + i, ends[i], 60_000, least, 0, entry)) for i, entry in enumerate(entries)]
    answers: list[Any] = (await link.batch([LAYOUT.ship(added)]))[0]
    return answers


async def page(link: Link, after: str) -> list[int]:
    """Where the entries of a page end."""
    return [position(entry_id) for entry_id, _ in entries_of((await link.batch([LAYOUT.read(KEY, after)]))[0])]


@pytest.mark.parametrize(
    "words",
    [
        ("d", b""),
        ("d", b"data: 1\n\ndata: d 2\n\n\xff"),
        ("s", b'[["a","openai"]]', "d", b"\n \n"),
        ("t", "completed", "n", 12, "e", b"{}", "s", b"x"),
    ],
)
def test_an_entry_says_what_was_put_into_it(words: Any) -> None:
    """A frame with a line break or a blank in the wrong place would change what a reader on another node gets."""
    found = [
        (name.encode(), value if isinstance(value, bytes) else str(value).encode()) for name, value in pairs(words)
    ]
    assert opened(sealed("17-2", words)) == (b"17-2", dict(found))


def pairs(words: Any) -> list[tuple[str, Any]]:
    return list(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("entry", [b"", b"gone", b"17-0\nabc", b"17-0 d", b"17-0 sx d\nabc"])
def test_an_entry_nobody_can_read_is_said_to_be_one(entry: bytes) -> None:
    """A damaged copy would end a reader's task instead of its stream, with a 410."""
    with pytest.raises(ValueError, match=r"."):
        opened(entry)


@needs_redis
async def test_pages_go_on_behind_an_id(link: Link) -> None:
    """A reader would miss entries, or be sent them for ever, after the beginning of a long log was trimmed."""
    ends = [10 * (i + 1) for i in range(PAGE * 2 + 9)]
    await ship(link, 0, FIRST, *(data(at, b"0123456789") for at in ends))
    assert await page(link, "") == [0, *ends[: PAGE - 1]]
    assert await page(link, "0-1") == ends[:PAGE]
    for at in (10, 20, 640, 1360):
        assert await page(link, f"{at}-0") == [end for end in ends if end > at][:PAGE]
    assert await page(link, f"{ends[-1]}-0") == []
    assert await page(link, f"{ends[-1] - 15}-0") == ends[-2:]
    (held,) = await ship(link, len(ends) + 1, data(ends[-1] + 10, b"0123456789"), sent=ends[-1], least=1301)
    assert held == len([end for end in ends if end > 1300]) + 1
    assert await page(link, "700-0") == [*(end for end in ends if end > 1300), ends[-1] + 10]
    assert await page(link, f"{ends[-1]}-0") == [ends[-1] + 10]


@needs_redis
async def test_a_batch_goes_on_behind_what_it_trimmed(link: Link) -> None:
    """Beyond its cap a fast stream could add one entry a tick, fall behind, and lose its copy."""
    await ship(link, 0, FIRST, data(10, b"0123456789"), data(20, b"0123456789"))
    assert await ship(link, 3, data(30, b"0123456789"), data(40, b"0123456789"), sent=20, least=15) == [2, 3]
    assert await ship(link, 3, data(50, b"0123456789"), sent=40, least=15) == [4]


@needs_redis
async def test_a_claim_lies_behind_what_was_there(link: Link) -> None:
    """A reader would not learn which node goes on with a stream: the claim has the bytes of the entry before it."""
    await ship(link, 0, FIRST, data(5, b"abcde"))
    assert (await link.batch([LAYOUT.inherit(KEY, "b", 0)]))[0] == 3
    found = entries_of((await link.batch([LAYOUT.read(KEY, "5-0")]))[0])
    assert found == [(b"5-2", {b"c": b"b"})]
    assert entries_of((await link.batch([LAYOUT.read(KEY, "5-2")]))[0]) == []


@needs_redis
async def test_a_batch_that_came_late_leaves_no_hole(link: Link) -> None:
    """A Redis that slept gets what was given up, and then what was sent instead, cut otherwise: readers elsewhere would
    lose the stream for a hole in its copy."""
    await ship(link, 0, FIRST, data(5, b"abcde"), data(9, b"fghi"))
    assert await ship(link, 1, data(9, b"abcdefghi"), data(14, b"jklmn"), data(18, b"opqr")) == [
        b"3 9-0",
        b"3 9-0",
        b"3 9-0",
    ]
    assert await page(link, "") == [0, 5, 9]
    assert await ship(link, 3, data(14, b"jklmn"), sent=9) == [4]


@needs_redis
async def test_nothing_comes_behind_an_ending(link: Link) -> None:
    """A failover that lost an entry, and a node given up: as many entries as expected, but another closed the log."""
    await ship(link, 0, FIRST, data(5, b"abcde"), data(9, b"fghi"))
    await link.client.rpop(LAYOUT.log(KEY))
    assert (await link.batch([LAYOUT.fence(KEY, END)]))[0] == 1
    assert await ship(link, 3, data(12, b"jkl"), sent=9) == [b"3 %d-0" % LAST]
    assert (await link.batch([LAYOUT.fence(KEY, END)]))[0] == 1
    assert await link.client.llen(LAYOUT.log(KEY)) == 3
    assert (await link.batch([LAYOUT.fence("other@o", END)]))[0] == 0


@needs_redis
@pytest.mark.parametrize(("frame", "frames"), [(90, 5), (300, 5), (300, 12), (1000, 10), (4500, 1), (16_000, 1)])
async def test_redis_holds_little_more_than_the_bytes(link: Link, frame: int, frames: int) -> None:
    """A fleet's Redis would need half as much again as its streams say: `frames` of so many bytes each an entry."""
    size, at = frame * frames, 0
    (held,) = await ship(link, 0, FIRST)
    while at < 60_000:
        (held,) = await ship(link, held, data(at + size, b"x" * size), sent=at)
        at += size
    await ship(link, held, sealed(f"{LAST}-0", END), sent=at)
    used = (await link.batch([Op("MEMORY", ("USAGE", LAYOUT.log(KEY), "SAMPLES", "0"))]))[0]
    assert used <= 1.3 * at
