"""Readers come and go: when a stream that nobody reads is given up."""

from __future__ import annotations

import asyncio

import pytest

from config.scalars import parse_on_disconnect
from config.schema import OnDisconnect
from gateway.protocols.base import About
from gateway.protocols.catalog import build
from gateway.streams.collector import collector
from gateway.streams.reader import Reader
from gateway.streams.readership import Readership
from gateway.streams.stream import Identity, State, Stream
from gateway.streams.transcript import Transcript

WHO = Identity("st_a", "o", "openai", "m", "b", "m", "n", 9_000)
SOON = OnDisconnect("grace", parse_on_disconnect("grace 10ms").grace)


class Scene:
    """One stream, its readers, and why it was given up."""

    def __init__(self, policy: OnDisconnect) -> None:
        self.loop = asyncio.get_running_loop()
        self.stream = Stream(WHO, self.loop.time())
        self.transcript = Transcript(1 << 20)
        self.ends: list[str] = []
        self.readership = Readership(self.stream, self.transcript, policy, self.ends.append)

    def reader(self) -> Reader:
        about = About("st_a", "m", "b", 9)
        return collector(self.transcript, build(("openai",))["openai"], about, self.loop)[0]

    def joined(self) -> Reader:
        reader = self.reader()
        self.readership.join(reader)
        return reader


async def test_the_last_to_leave_sets_the_policy_to_work() -> None:
    """Breaks when a stream dies under its other readers, or runs on at somebody's cost with none."""
    scene = Scene(OnDisconnect("cancel"))
    one, two = scene.joined(), scene.joined()
    scene.readership.leave(one, "gone")
    assert (scene.ends, one.done.done()) == ([], True)
    scene.readership.leave(two, "gone")
    assert (scene.ends, scene.readership.readers) == (["gone"], [])


async def test_who_comes_back_in_time_finds_the_stream() -> None:
    """Breaks when a page that reloads loses its answer, or an answer waits for ever for a page that is closed."""
    scene = Scene(SOON)
    scene.readership.leave(scene.joined(), "gone")
    back = scene.joined()
    await asyncio.sleep(0.05)
    assert scene.ends == []
    scene.readership.leave(back, "gone")
    await asyncio.sleep(0.05)
    assert scene.ends == ["gone and did not come back"]


@pytest.mark.parametrize(
    ("policy", "ends"),
    [(OnDisconnect("continue"), []), (OnDisconnect("cancel"), ["lost and did not come back"])],
)
async def test_a_reader_is_expected(policy: OnDisconnect, ends: list[str]) -> None:
    """Breaks when a stream of a lost node dies before its client can return, or outlives a client that never does."""
    scene = Scene(policy)
    scene.readership.expect(0.01, "lost")
    assert scene.ends == []
    await asyncio.sleep(0.05)
    assert scene.ends == ends


async def test_an_ended_stream_waits_for_nobody() -> None:
    """Breaks when a stream that ended is given up once more, which would hold it in memory until then."""
    scene = Scene(SOON)
    one, two = scene.joined(), scene.joined()
    scene.readership.leave(one, "gone")
    scene.readership.expect(0.01, "lost")
    scene.stream.end(State.COMPLETED, scene.loop.time(), by="backend", reason="completed")
    scene.readership.close()
    scene.readership.leave(two, "gone")
    await asyncio.sleep(0.05)
    assert scene.ends == []
