"""Who goes on with streams of a node that is gone, when others die, leave or are about to do the same. A real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from support.redis_server import BINARY, RedisServer
from support.registry_nodes import Node
from support.registry_nodes import entry as entry_of

from backends.catalog import build
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import Usage
from backends.contract.request import ChatRequest, Message
from config.schema import Backend
from gateway.protocols.base import Ending
from gateway.registry.inheriting import Heirs, Legacy
from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_layout import Layout
from gateway.registry.shared_layout import Meta, SharedLayout, addition, meta_words, sealed, terminal_words
from gateway.registry.shared_stream import SharedStream
from gateway.streams.legacy import Will, will_words
from gateway.streams.stream import Identity, State

pytestmark = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
DRIVER = build("up", Backend(driver="openai", url="http://x"))
WHO = Identity("x", "o", "native", "m", "up", "m", "a", 1, survives=True)
WILL = will_words(Will(ChatRequest("m", (Message("user", "hi"),)), "native", "openai", "grace", 30.0, "*"))
SHARED = SharedLayout("t", 60.0, 2.0, cluster=False)
LAYOUT = Layout("t", 60.0, 5.0, 10.0)
KEY = "x@o"
DATA = 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
ENTRY = entry_of("x", "o", survives=True)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[Link]:
    """A connection to a Redis that knows of one stream, on node `a`, which has no lease."""
    server.command("FLUSHALL")
    made = Link(server.url, 1.0)
    made.recovered()
    first = sealed("0-1", meta_words(Meta(WHO, "up", "openai"), WILL))
    second = sealed(f"{len(DATA)}-0", ("d", DATA))
    entries = [(KEY, addition(i, 0, 60_000, 0, 0, words)) for i, words in enumerate((first, second))]
    await made.batch([SHARED.ship(entries), LAYOUT.register("a", [ENTRY])])
    yield made
    await made.close()


class Heir(Heirs):
    """One node: `living`: the others with a lease; `taken`: what it goes on with."""

    def __init__(self, link: Link, name: str = "c", living: set[str] | None = None) -> None:
        self.taken: list[Legacy] = []
        self.link = link
        alive = set() if living is None else living
        runs: Callable[[str], bool] = lambda key: any(legacy.stream.key == key for legacy in self.taken)  # noqa: E731
        super().__init__(
            name,
            link,
            LAYOUT,
            SHARED,
            lambda: {"up": DRIVER},
            1 << 20,
            lambda: frozenset(alive),
            runs,
            self._note,
            lambda _node: None,
        )
        self.pushed: list[Op] = []
        self.accept = self._take

    def _note(self, op: Op) -> None:
        self.pushed.append(op)

    def _take(self, legacy: Legacy) -> bool:
        self.taken.append(legacy)
        return True


async def claims(link: Link) -> int:
    """How often the stream was claimed, at this moment."""
    stream = SharedStream(KEY, lambda: {"up": DRIVER}, 1 << 20, lambda _: None)
    heir = Heir(link)
    return len((await heir._read(stream)).claimed)


async def test_an_heir_that_died_before_its_list_had_it(link: Link) -> None:
    """A stream would leave every list when the node that claimed it dies in the same moment, and end as lost."""
    await link.batch([SHARED.inherit(KEY, "b", 0)])
    living = {"b"}
    heir = Heir(link, living=living)
    assert await heir.inherit("a", [ENTRY]) == []
    assert (heir.taken, heir.pushed) == ([], [])  # b is there, and will tell
    living.clear()
    assert await heir.inherit("a", [ENTRY]) == []
    assert [legacy.stream.epoch for legacy in heir.taken] == [3]
    assert heir.pushed == [heir.left("a", KEY)]  # behind its registration here


async def test_what_another_has_in_its_list_is_left_alone(link: Link) -> None:
    """Two nodes would go on with a stream, because the first one's word of it had not reached the list yet."""
    await link.batch([LAYOUT.register("b", [ENTRY])])
    heir = Heir(link, living={"b"})
    assert await heir.inherit("a", [ENTRY]) == []
    assert (heir.taken, heir.pushed, await claims(link)) == ([], [], 0)


async def test_two_looks_at_one_stream(link: Link) -> None:
    """A node that finds a stream in two lists at once would claim it from itself."""
    await link.batch([LAYOUT.register("b", [ENTRY])])
    heir = Heir(link)
    assert await asyncio.gather(heir.inherit("a", [ENTRY]), heir.inherit("b", [ENTRY])) == [[], []]
    assert (len(heir.taken), await claims(link)) == (1, 1)


async def test_who_leaves_takes_nothing_over(link: Link) -> None:
    """A node that drains would go on with streams only to hand them over again; alone it must take them anyway."""
    living = {"b"}
    heir = Heir(link, living=living)
    heir.leaving = True
    assert await heir.inherit("a", [ENTRY]) == []
    assert (heir.taken, await claims(link)) == ([], 0)
    living.clear()
    await heir.inherit("a", [ENTRY])
    assert len(heir.taken) == 1


async def test_an_end_between_claim_and_opening(link: Link) -> None:
    """A node that ends just after its claim would bury the stream, and the next one find it ended."""
    heir = Heir(link)
    read = heir._read

    async def ends(stream: SharedStream) -> SharedStream:
        found = await read(stream)
        if stream.carrier:
            heir.accept = None
        return found

    heir._read = ends  # type: ignore[method-assign]
    assert await heir.inherit("a", [ENTRY]) == []
    assert (heir.taken, heir.pushed, await claims(link)) == ([], [], 1)
    after = Heir(link, "d")
    await after.inherit("a", [ENTRY])
    assert [legacy.stream.epoch for legacy in after.taken] == [3]


async def test_what_has_ended_elsewhere_is_not_buried(link: Link) -> None:
    """A stream that another node went on with and ended would get a second receipt, which calls it lost."""
    words = terminal_words(State.COMPLETED, len(DATA), Ending("stop", Usage(), False, 1))
    await link.batch([SHARED.inherit(KEY, "b", 0), SHARED.fence(KEY, words)])
    heir = Heir(link)
    assert await heir.inherit("a", [ENTRY]) == []
    assert (heir.taken, heir.pushed) == ([], [heir.left("a", KEY)])


@pytest.mark.parametrize("heir_too", [False, True])
async def test_what_had_ended_in_its_log_is_not_called_lost(link: Link, heir_too: bool) -> None:
    """A node that dies between an answer's last entry and its receipt would have the fleet count an answer as lost
    that its readers, and all who come later, have whole; or as whole one that was cut."""
    if heir_too:
        await link.batch([SHARED.inherit(KEY, "a", 0)])
    said = Ending("length", Usage(prompt=3, completion=7), False, 6)
    await link.batch([SHARED.fence(KEY, terminal_words(State.COMPLETED, len(DATA), said))])
    heir = Heir(link)
    (receipt,) = await heir.inherit("a", [ENTRY])
    assert (receipt.stream_id, receipt.state, receipt.finish_reason) == ("x", "completed", "length")
    assert (receipt.token_count, receipt.prompt_tokens, receipt.completion_tokens) == (6, 3, 7)
    assert (receipt.usage_estimated, receipt.error_code, receipt.ended_at > 0) == (False, "", True)
    assert heir.taken == []


async def test_what_nobody_can_go_on_with_is_lost(link: Link) -> None:
    """A stream whose log was closed as lost, or is gone, would get no receipt, or one that calls it whole."""
    error = BackendError(ErrorCode.NODE_LOST, "gone")
    words = terminal_words(State.NODE_LOST, len(DATA), Ending("error", Usage(), True, 1, error))
    await link.batch([SHARED.fence(KEY, words)])
    (closed,) = await Heir(link).inherit("a", [ENTRY])
    await link.batch([SHARED.erase(KEY)])
    (gone,) = await Heir(link).inherit("a", [ENTRY])
    assert [(r.state, r.error_code) for r in (closed, gone)] == [("node_lost", "node_lost")] * 2


async def test_a_stream_no_list_names(link: Link) -> None:
    """A node that dies before the fleet has heard of a stream would take it along, though it was written ahead."""
    await link.batch([Op("DEL", (LAYOUT.node_key("streams", "a"),))])
    stream = SharedStream(KEY, lambda: {"up": DRIVER}, 1 << 20, lambda _: None)
    await Heir(link)._read(stream)
    assert not await Heir(link, living={"a"}).adopt(stream)
    heir = Heir(link)
    assert await heir.adopt(stream)
    assert [legacy.entry.stream_id for legacy in heir.taken] == ["x"]
    assert not await Heir(link, "d", {"c"}).adopt(stream)


async def test_a_farewell_is_heeded_at_once(server: RedisServer) -> None:
    """Streams of a node that was told to stop would wait for a third of a lease, or for a whole one at a node that is
    younger than that, while their clients see nothing."""
    server.command("FLUSHALL")
    asked: list[tuple[str, list[str]]] = []

    class Asked:
        async def inherit(self, node: str, entries: list[object]) -> list[object]:
            asked.append((node, [getattr(one, "stream_id", "") for one in entries]))
            return []

    began = time.monotonic()
    async with Node("young", server.url, lease=60.0) as young:
        young.registry.fleet.reaper.heirs = Asked()  # type: ignore[assignment]
        async with Node("old", server.url, lease=60.0) as old:
            running = entry_of("x", node="old", survives=True)
            old.registry.opened(running)
            old.registry.moved(running)
        while not asked:
            assert time.monotonic() - began < 20
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(0.05)
    assert asked[0] == ("old", ["x"])


async def test_what_was_handed_over_is_not_judged(server: RedisServer) -> None:
    """A node that drains would write receipts of the streams it has just handed over, as lost: all of them would be."""
    server.command("FLUSHALL")
    async with Node("a", server.url, lease=1.0) as node:
        registry = node.registry
        running = entry_of("x", node="a", survives=True)
        registry.opened(running)
        await registry.fleet.flush()
        registry.moved(running)
        registry.fleet.reaper.moved("x@acme")
        await registry.fleet.reaper.tidy(registry.fleet.epoch, lambda: True)
        assert (await registry.find("x", "acme")) == running
        registry.fleet.reaper._moved.clear()
        await registry.fleet.reaper.tidy(registry.fleet.epoch, lambda: True)
        assert getattr(await registry.find("x", "acme"), "state", "") == "node_lost"
