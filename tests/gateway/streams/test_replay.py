"""Answers played from memory: what a fixed message looks like, and how fast frames come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from backends.base import HttpRequest
from backends.contract.errors import BackendError
from gateway.protocols.answer import fold
from gateway.registry.shared_layout import driver_of
from gateway.streams.replay import MESSAGE, SPEAKER, Replay, message_frames

NOTHING = HttpRequest("POST", "", (), b"")


class Heard:
    """What comes out of an exchange, and when."""

    def __init__(self) -> None:
        self.status = 0
        self.pieces: list[bytes] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status

    def data(self, data: bytes) -> None:
        self.pieces.append(data)

    def eof(self) -> None:
        self.over.set_result(None)

    def lost(self, error: BackendError) -> None:
        self.over.set_exception(error)


def test_a_message_is_a_whole_answer() -> None:
    """The message would arrive as a broken answer, or without the fields SDKs insist on."""
    frames = list(message_frames('Say "hi" ☕\n', "m", "x1", 7))
    decoder = SPEAKER.decoder()
    answer = fold(event for frame in frames for event in decoder.feed(frame))
    assert (answer.text, answer.finish, decoder.done) == ('Say "hi" ☕\n', "stop", True)
    heads = [json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-1]]
    assert {(head["id"], head["created"], head["model"]) for head in heads} == {("chatcmpl-x1", 7, "m")}


def test_every_node_can_read_a_message() -> None:
    """A stream that was answered by a message could not be resumed on another node: no backend is called so."""
    assert driver_of({}, MESSAGE, "openai") is SPEAKER


async def test_frames_come_one_by_one() -> None:
    """An answer of a thousand tokens would come in one burst that no client is made for."""
    frames = [b"data: %d\n\n" % n for n in range(5)]
    heard = Heard()
    await Replay("(cached)", frames, pace=0.01).open(NOTHING, heard)
    await asyncio.wait_for(heard.over, 5)
    assert (heard.status, heard.pieces) == (200, frames)


async def test_a_replay_can_be_stopped() -> None:
    """A client that left would be played to the end."""
    heard = Heard()
    exchange = await Replay("(cached)", [b"data: 1\n\n"] * 100, pace=0.01).open(NOTHING, heard)
    while not heard.pieces:
        await asyncio.sleep(0.005)
    exchange.abort()
    some = len(heard.pieces)
    await asyncio.sleep(0.05)
    assert (len(heard.pieces), heard.over.done()) == (some, False)
