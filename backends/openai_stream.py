"""The chat completion stream of every OpenAI-compatible server: decoder and tap. Pure.

Law: `[DONE]` ends the stream, unless an error came first; with `done_marker` False the end of the body after a finish
reason does too. Reads what OpenAI, vLLM, llama.cpp, TGI, transformers and mlx really send: `reasoning_content` or
`reasoning`, tool ids empty or repeated, chunks without choices, errors as objects or strings inside a 200.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Decoder
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.likeness import Likeness
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.tap import DecoderTap

FINISH: dict[str, FinishReason] = {  # what is not here means stop
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None  # text; some servers send the object itself


class _Tool(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Tool] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    object: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class OpenAIDecoder(Decoder):
    """One stream of chat completion chunks, choice 0."""

    def __init__(self, secrets: tuple[str, ...] = (), done_marker: bool = True) -> None:
        self._secrets = secrets
        self._done_marker = done_marker
        self._started = False
        self._finished = False
        self._failed = False
        self._slots: dict[int, int] = {}  # the server's index -> ours
        self._ids: list[str] = []  # the id of each of our slots
        self._theirs: list[str] = []  # the id the server gave it

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
        if self._finished and not self._done_marker and not self._failed:
            self.done = True
        return []

    def _frame(self, name: bytes, data: bytes, out: list[Event]) -> None:
        try:
            chunk = _decode(data)
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
            out.append(_usage(chunk.usage))

    def _fail(self, out: list[Event], failed: Failed) -> None:
        self._failed = True
        out.append(failed)

    def _choice(self, choice: _Choice, out: list[Event]) -> None:
        delta = choice.delta
        if delta is not None:
            reasoning = delta.reasoning_content or delta.reasoning
            if reasoning:
                out.append(ReasoningDelta(reasoning))
            text = delta.content or delta.refusal
            if text:
                out.append(TextDelta(text))
            for tool in delta.tool_calls or ():
                self._tool(tool, out)
        if choice.finish_reason:
            self._finished = True
            out.append(Finish(FINISH.get(choice.finish_reason, "stop")))

    def _tool(self, tool: _Tool, out: list[Event]) -> None:
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

    def _slot(self, tool: _Tool, has_name: bool) -> int | None:
        """The call this delta continues; None: it opens one. Without an index a name opens; with a known index only a
        name under a new id does (servers that number every call 0)."""
        if tool.index is None:
            return len(self._ids) - 1 if self._ids and not has_name else None
        slot = self._slots.get(tool.index)
        if slot is None or (has_name and tool.id and tool.id != self._theirs[slot]):
            return None
        return slot

    def _open(self, tool: _Tool) -> int:
        slot, theirs = len(self._ids), tool.id or ""
        given = theirs or f"call_{slot}"
        while given in self._ids:  # a repeated id, or one we would invent twice
            given = f"call_{slot}" if given == theirs else f"{given}_{slot}"
        self._ids.append(given)
        self._theirs.append(theirs)
        if tool.index is not None:
            self._slots[tool.index] = slot
        return slot


class OpenAITap(DecoderTap):
    """Counts content by scanning bytes; about a microsecond for a block of one chunk.

    Law: scanned counts equal decoded ones. A block is only scanned when it is written compactly and says nothing but
    content; every other block goes to the decoder. The names searched for cannot occur inside JSON text, where their
    quotes are escaped. `chars` stays 0: it is not cheaply known here.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self._likeness = Likeness()

    def feed(self, block: bytes) -> None:
        if self._likeness.same(block) and not self.done and self.failure is None:
            self.tokens += 1
            return
        if (
            b'"finish_reason":"' in block
            or b'"error"' in block
            or b'"usage":{' in block
            or b"[DONE]" in block
            or b'"choices":[' not in block
            or self.done
            or self.failure is not None
        ):
            self._read(block)
            return
        tokens = block.count(b'"content":"') - block.count(b'"content":""')
        if tokens == 1 and b'"reason' not in block and b'"function' not in block:
            self._likeness.learn(block)
        if b'"reason' in block:
            tokens += _filled(block, b'"reasoning_content":"') or _filled(block, b'"reasoning":"')
        if b'"function":{' in block:
            tokens += block.count(b'"function":{')
        if tokens:
            self.tokens += tokens
        else:
            self._read(block)

    def _read(self, block: bytes) -> None:
        self.note(self._decoder.feed(block))

    def _content(self, text: str) -> None:
        self.tokens += 1


def _filled(block: bytes, key: bytes) -> int:
    return block.count(key) - block.count(key + b'"')


def _usage(usage: _Usage) -> Usage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt=usage.prompt_tokens or 0,
        completion=usage.completion_tokens or 0,
        reasoning=(completion.reasoning_tokens or 0) if completion else 0,
        cached=(prompt.cached_tokens or 0) if prompt else 0,
    )
