"""What readers of a stream that survives its node see, and when they hear of its end."""

from __future__ import annotations

import asyncio

import pytest

from backends.catalog import build as build_driver
from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend
from gateway.protocols.base import About
from gateway.protocols.catalog import build
from gateway.streams import visibility
from gateway.streams.collector import collector
from gateway.streams.reader import Reader
from gateway.streams.stream import Identity, State, Stream
from gateway.streams.transcript import Transcript
from gateway.streams.visibility import Visibility

DRIVER = build_driver("up", Backend(driver="openai", url="http://x"))
WHO = Identity("st_a", "o", "openai", "m", "b", "m", "n", 9_000, survives=True)
SAID = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


class Scene:
    """One stream behind a veil, and its only reader; it is its own keeper."""

    def __init__(self, cap: int = 1 << 20) -> None:
        self.loop = asyncio.get_running_loop()
        self.moved = False
        self.told: list[str] = []
        self.errors: list[BackendError] = []
        self.stream = Stream(WHO, self.loop.time())
        self.kept = Transcript(cap)
        self.kept.begin(DRIVER)
        self.readers: list[Reader] = []
        self.visibility = Visibility(self.stream, self.kept, self.readers, self)
        about = About("st_a", "m", "b", 9)
        reader, _ = collector(self.visibility.shown, build(("openai",))["openai"], about, self.loop)
        self.readers.append(reader)

    def fell_behind(self, error: BackendError) -> None:
        self.errors.append(error)

    def tell_end(self, reader: Reader) -> None:
        self.told.append("reader")

    def end(self) -> bool:
        """The stream ends, as its producer and the hub end it. Whether that is hidden."""
        self.stream.end(State.COMPLETED, self.loop.time(), by="backend", reason="completed")
        self.visibility.settles(lambda: self.told.append("hub"))
        return self.visibility.hide_end()


async def test_a_reader_sees_what_is_safe() -> None:
    """Breaks when a client is shown words that may die with this node."""
    scene = Scene()
    for _ in range(3):
        scene.kept.append(SAID)
    assert scene.visibility.shown.tip == 0
    scene.visibility.reveal(2)
    assert (scene.visibility.shown.tip, scene.readers[0].cursor) == (2, 2)
    scene.visibility.unveil()
    assert (scene.visibility.shown.tip, scene.visibility.exposed, scene.visibility.veiled) == (3, True, True)
    scene.visibility.reveal(3)
    assert not scene.visibility.exposed


async def test_an_ending_waits_until_it_is_known_to_be_one() -> None:
    """Breaks when a client is told of an end here while its stream goes on on another node, or is told before the
    receipt is made."""
    scene = Scene()
    scene.kept.append(SAID)
    assert scene.end()
    assert scene.told == []
    scene.visibility.reveal(1)
    scene.visibility.unveil()
    scene.visibility.unveil()
    assert scene.told == ["hub", "reader"]
    assert not scene.visibility.veiled
    assert not scene.visibility.outlived()


async def test_a_copy_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when clients wait for the end of their answer for as long as Redis is away."""
    monkeypatch.setattr(visibility, "_UNVEIL", 0.2)
    scene = Scene()
    assert scene.end()
    async with asyncio.timeout(10):
        while not scene.told:
            await asyncio.sleep(0.02)
    assert scene.told == ["hub", "reader"]


async def test_nothing_is_said_of_a_stream_that_moved() -> None:
    """Breaks when readers see blocks or an end of a stream that another node has made otherwise by now."""
    scene = Scene()
    scene.kept.append(SAID)
    assert not scene.visibility.outlived()  # it runs
    scene.end()
    assert scene.visibility.outlived()
    assert scene.moved
    assert scene.told == ["hub", "reader"]
    scene.visibility.reveal(1)
    scene.visibility.unveil()
    assert scene.visibility.shown.tip == 0
    other = Scene()
    other.moved = True
    assert not other.end()
    assert other.told == []


async def test_a_copy_too_far_behind_ends_the_stream() -> None:
    """Breaks when a client is given a hole instead of an error."""
    scene = Scene(cap=len(SAID))
    for _ in range(9):
        scene.kept.append(SAID)
    scene.visibility.reveal(2)
    assert [error.code for error in scene.errors] == [ErrorCode.TRANSCRIPT_FULL]
