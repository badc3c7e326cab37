"""The chat completion stream of every OpenAI-compatible server, decoded. Pure.

Law: `[DONE]` ends the stream, unless an error came first; with `done_marker` False the end of the body after a finish
reason does too, with None only where that chunk gave the usage as well (transformers serve). Reads what OpenAI, vLLM,
llama.cpp, TGI, transformers and mlx really send: `reasoning_content` or `reasoning`, tool ids empty or repeated, chunks
without choices, errors as objects or strings inside a 200.
"""

from __future__ import annotations

import msgspec

from backends.base import Decoder
from backends.contract.events import Event, Failed, Start
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.openai_choice import ChoiceReader, OtherChoices
from backends.openai_chunk import decode, usage_of


class OpenAIDecoder(Decoder):
    """One stream of chat completion chunks."""

    def __init__(self, secrets: tuple[str, ...] = (), done_marker: bool | None = True) -> None:
        self._secrets = secrets
        self._done_marker = done_marker
        self._started = False
        self._counted = False  # the chunk that gave the (last) finish reason gave the usage too
        self._failed = False
        self._first = ChoiceReader()
        self._others = OtherChoices()

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for name, data in sse_events(block):
            if self.done or self._failed:
                break
            if data == b"[DONE]" or data.strip() == b"[DONE]":
                self.done = True
            else:
                self._frame(name, data, out)
        return out

    def eof(self) -> list[Event]:
        finished = self._first.finished and self._others.finished
        enough = self._counted if self._done_marker is None else not self._done_marker
        self.done = self.done or (finished and enough and not self._failed)
        return []

    def _frame(self, name: bytes, data: bytes, out: list[Event]) -> None:
        try:
            chunk = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._fail(out, Failed(unreadable("a chunk")))
            return
        if chunk.error is not None or name == b"error" or chunk.object == "error":
            error = chunk.error or msgspec.json.decode(data)
            if isinstance(error, str) and chunk.error_type is not None:
                error = {"message": error, "type": chunk.error_type}
            self._fail(out, Failed(in_stream(error, self._secrets)))
            return
        if not self._started:
            self._started = True
            out.append(Start(*(said if isinstance(said, str) else "" for said in (chunk.id, chunk.model))))
        for choice in chunk.choices or ():
            (self._first if choice.index == 0 else self._others).read(choice, out)
        if chunk.usage is not None:
            self._counted = any(choice.finish_reason for choice in chunk.choices or ())
            out.append(usage_of(chunk.usage))

    def _fail(self, out: list[Event], failed: Failed) -> None:
        self._failed = True
        out.append(failed)
