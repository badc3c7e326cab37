"""One choice of a stream of OpenAI's two completion APIs: what its chunks say, as events. Pure.

Law: tool calls are numbered in order of appearance, each with an id of its own, whatever indices and ids the server
gives them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.events import Event, Finish, OtherChoice, ReasoningDelta, TextDelta, ToolCallDelta
from backends.openai_chunk import FINISH, Choice, Function, Tool, citations, logprob_items, spoken, text_logprob_items

_FUNCTION = -1  # stands for the index `function_call` lacks


class ChoiceReader:
    """One choice. `finished`: it has told its finish reason."""

    def __init__(self) -> None:
        self.finished = False
        self._slots: dict[int, int] = {}  # the server's index -> ours
        self._ids: list[str] = []  # the id of each of our slots
        self._theirs: list[str] = []  # the id the server gave it
        self._logprobs: list[Any] = []

    def read(self, choice: Choice, out: list[Event]) -> None:
        """The events of its part of a chunk."""
        delta = choice.delta
        if delta is not None:
            text, thought = (delta.content, "") if type(delta.content) is str else spoken(delta.content)
            reasoning = delta.reasoning_content or delta.reasoning or thought
            if reasoning:
                out.append(ReasoningDelta(reasoning))
            if choice.logprobs is not None and not (reasoning or delta.tool_calls):  # some tell those of these too
                self._logprobs += logprob_items(choice.logprobs)
            self._text(text or delta.refusal, out)
            if delta.annotations is not None:
                out.extend(citations(delta.annotations))
            for tool in delta.tool_calls or ():
                self._tool(tool, out)
            if delta.function_call is not None:
                self._function(delta.function_call, out)
        else:
            if choice.logprobs is not None:
                self._logprobs += text_logprob_items(choice.logprobs)
            self._text(choice.text, out)
        if choice.finish_reason:
            self.finished = True
            out.append(Finish(FINISH.get(choice.finish_reason, "stop")))

    def _text(self, text: str | None, out: list[Event]) -> None:
        """Log probabilities of tokens that make no whole character yet wait for the text they are of."""
        if text and self._logprobs:
            out.append(TextDelta(text, self._logprobs))
            self._logprobs = []
        elif text:
            out.append(TextDelta(text))

    def _function(self, said: Any, out: list[Event]) -> None:
        """`function_call`: one call, which has neither index nor id."""
        name, arguments = (said.get("name"), said.get("arguments")) if isinstance(said, dict) else (None, None)
        name = name if isinstance(name, str) else None
        if name or arguments:
            self._tool(Tool(_FUNCTION, function=Function(name, arguments)), out)

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


class OtherChoices:
    """The choices of a stream beside the first, by their number; most streams have none."""

    def __init__(self) -> None:
        self._readers: dict[int, ChoiceReader] = {}

    @property
    def finished(self) -> bool:
        """Whether all that began have finished."""
        return all(reader.finished for reader in self._readers.values())

    def read(self, choice: Choice, out: list[Event]) -> None:
        """The events of its part of a chunk, each as one of that choice."""
        reader = self._readers.get(choice.index)
        if reader is None:
            reader = self._readers[choice.index] = ChoiceReader()
        said: list[Any] = []
        reader.read(choice, said)
        out.extend(OtherChoice(choice.index, event) for event in said)
