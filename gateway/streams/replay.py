"""An answer played from memory as if a backend had given it: a cached one, or a fixed message.

Law: to the producer it is an attempt like any other, with a transcript, a tap and an end of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from backends.base import Driver, HttpRequest, Play, Script
from backends.exchange import Exchange, Sink
from backends.openai import Driver as OpenAI
from backends.player import Player
from config.schema import Backend
from gateway.streams.course import Opener

_json = msgspec.json.Encoder().encode
CACHED, MESSAGE = "(cached)", "(message)"  # in the place of a backend's name, in receipts and figures
SPEAKER: Driver = OpenAI(MESSAGE, Backend("openai"))  # reads and writes what `message_frames` makes
PACE = 0.005  # seconds between two frames: faster than any model, slow enough to be watched


class Replay(Opener):
    """What `Leg.transport` is for an answer that needs no network. `frames`: whole ones, in the leg's dialect."""

    def __init__(self, name: str, frames: Iterable[bytes], pace: float = PACE) -> None:
        self._name = name
        self._frames = frames
        self._pace = pace

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        """Begins on the loop's next turn; the request is nobody's."""
        return Player(self._name, Script(200, (), self._steps()), sink, _forget)

    def _steps(self) -> Iterator[Play]:
        for frame in self._frames:
            yield Play(self._pace, frame)
        yield Play(0.0, end="eof")


def message_frames(text: str, model: str, name: str, created: int) -> Iterator[bytes]:
    """A fixed text as a whole answer of the chat completions API; `created` in Unix seconds. Nobody counted tokens."""
    head = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": created, "model": model}
    none = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    first = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    for said in ({"choices": [first]}, {"choices": [last]}, {"choices": [], "usage": none}):
        yield b"data: " + _json({**head, **said}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _forget(player: Player) -> None:
    """Nobody counts the answers that cost nothing."""
