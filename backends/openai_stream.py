"""The chat completion stream of every OpenAI-compatible server, decoded. Pure.

Law: `[DONE]` ends the stream, unless an error came first; with `done_marker` False the end of the body after a finish
reason does too, with None only where that chunk gave the usage as well (transformers serve). Reads what OpenAI, vLLM,
llama.cpp, TGI, transformers and mlx really send: `reasoning_content` or `reasoning`, tool ids empty or repeated, chunks
without choices, errors as objects or strings inside a 200.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Decoder
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
)
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.openai_chunk import FINISH, Choice, Tool, citations, decode, logprob_items, usage_of


class OpenAIDecoder(Decoder):
    """One stream of chat completion chunks, choice 0."""

    def __init__(self, secrets: tuple[str, ...] = (), done_marker: bool | None = True) -> None:
        self._secrets = secrets
        self._done_marker = done_marker
        self._started = False
        self._finished = False
        self._counted = False  # the chunk that gave the finish reason gave the usage too
        self._failed = False
        self._slots: dict[int, int] = {}  # the server's index -> ours
        self._ids: list[str] = []  # the id of each of our slots
        self._theirs: list[str] = []  # the id the server gave it
        self._logprobs: list[Any] = []

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
        enough = self._counted if self._done_marker is None else self._finished and not self._done_marker
        if enough and not self._failed:
            self.done = True
        return []

    def _frame(self, name: bytes, data: bytes, out: list[Event]) -> None:
        try:
            chunk = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._fail(out, Failed(unreadable("a chunk")))
            return
        if chunk.error is not None or name == b"error" or chunk.object == "error":
            self._fail(out, Failed(in_stream(chunk.error or msgspec.json.decode(data), self._secrets)))
            return
        if not self._started:
            self._started = True
            out.append(Start(chunk.id or "", chunk.model or ""))
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(choice, out)
        if chunk.usage is not None:
            self._counted = any(choice.index == 0 and choice.finish_reason for choice in chunk.choices or ())
            out.append(usage_of(chunk.usage))

    def _fail(self, out: list[Event], failed: Failed) -> None:
        self._failed = True
        out.append(failed)

    def _choice(self, choice: Choice, out: list[Event]) -> None:
        delta = choice.delta
        if delta is not None:
            reasoning = delta.reasoning_content or delta.reasoning
            if reasoning:
                out.append(ReasoningDelta(reasoning))
            other = reasoning or delta.tool_calls  # some servers tell the log probabilities of these tokens too
            self._text(delta.content or delta.refusal, None if other else choice.logprobs, out)
            if delta.annotations is not None:
                out.extend(citations(delta.annotations))
            for tool in delta.tool_calls or ():
                self._tool(tool, out)
        elif choice.text:
            out.append(TextDelta(choice.text))  # its log probabilities have another shape, which nobody else reads
        if choice.finish_reason:
            self._finished = True
            out.append(Finish(FINISH.get(choice.finish_reason, "stop")))

    def _text(self, text: str | None, logprobs: Any, out: list[Event]) -> None:
        """Log probabilities of tokens that make no whole character yet wait for the text they are of."""
        if logprobs is not None:
            self._logprobs += logprob_items(logprobs)
        if text and self._logprobs:
            out.append(TextDelta(text, self._logprobs))
            self._logprobs = []
        elif text:
            out.append(TextDelta(text))

    def _tool(self, tool: Tool, out: list[Event]) -> None:
        function = tool.function
        if function is None:
            return
        arguments = function.arguments
        if arguments is not None and not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        slot = self._slot(tool, bool(function.name))
        if slot is not None:
            out.append(ToolCallDelta(slot, arguments=arguments or ""))
            return
        slot = self._open(tool)
        out.append(ToolCallDelta(slot, self._ids[slot], function.name or "", arguments or ""))

    def _slot(self, tool: Tool, has_name: bool) -> int | None:
        """The call this delta continues; None: it opens one. Without an index a name opens; with a known index only a
        name under a new id does (servers that number every call 0)."""
        if tool.index is None:
            return len(self._ids) - 1 if self._ids and not has_name else None
        slot = self._slots.get(tool.index)
        if slot is None or (has_name and tool.id and tool.id != self._theirs[slot]):
            return None
        return slot

    def _open(self, tool: Tool) -> int:
        slot, theirs = len(self._ids), tool.id or ""
        given = theirs or f"call_{slot}"
        while given in self._ids:  # a repeated id, or one we would invent twice
            given = f"call_{slot}" if given == theirs else f"{given}_{slot}"
        self._ids.append(given)
        self._theirs.append(theirs)
        if tool.index is not None:
            self._slots[tool.index] = slot
        return slot
