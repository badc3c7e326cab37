"""The items of a Responses stream while they are told: what each is called, holds, and says when it is done. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.events import ToolCallDelta
from gateway.protocols import openai_responses_object as words
from gateway.protocols.base import ToolCallWhole

_Said = dict[str, Any]


class Item:
    """One item of the output. `place` says in every event which one is meant."""

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.place: _Said = {"item_id": name, "output_index": index}
        self.pieces: list[str] = []
        self.open = True
        self.status = ""  # once it is done

    @property
    def text(self) -> str:
        """All that was said of it."""
        return "".join(self.pieces)

    def begun(self) -> _Said:
        """The item as it is added: empty."""
        raise NotImplementedError

    def whole(self, status: str) -> _Said:
        """The item as it stands; the status it was done with wins."""
        raise NotImplementedError

    def last_words(self) -> list[tuple[str, _Said]]:
        """(event, fields) that come before it is done."""
        raise NotImplementedError


class Text(Item):
    """A message of the assistant with one text in it."""

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name, index)
        self.annotations: list[Any] = []
        self.logprobs: list[Any] = []
        kind = b"response.output_text.delta"
        head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind, kind)
        place = b',"item_id":"%b","output_index":%d,"content_index":0,"delta":' % (name.encode(), index)
        # The token's frame, made but for its number, text and logprobs. A name holds no per cent sign.
        self.delta = head + b"%d" + place + b'%b,"logprobs":%b}\n\n'

    def add(self, text: str, logprobs: Any) -> None:
        """More of the text."""
        self.pieces.append(text)
        if isinstance(logprobs, list):
            self.logprobs += logprobs

    def begun(self) -> _Said:
        return words.message_item(self.name, "in_progress", [])

    def whole(self, status: str) -> _Said:
        return words.message_item(self.name, self.status or status, [self._part()])

    def last_words(self) -> list[tuple[str, _Said]]:
        text = {"content_index": 0, "text": self.text, "logprobs": self.logprobs}
        part = {"content_index": 0, "part": self._part()}
        return [("response.output_text.done", text), ("response.content_part.done", part)]

    def _part(self) -> _Said:
        return words.text_part(self.text, self.annotations, self.logprobs)


class Reasoning(Item):
    """A reasoning item: a summary of one paragraph, an encrypted form (`sealed`), or both."""

    sealed = ""

    def begun(self) -> _Said:
        return words.reasoning_item(self.name, "in_progress")

    def whole(self, status: str) -> _Said:
        return words.reasoning_item(self.name, self.status or status, self.text, self.sealed)

    def last_words(self) -> list[tuple[str, _Said]]:
        text = self.text
        if not text:
            return []
        part = {"summary_index": 0, "part": words.summary_part(text)}
        return [
            ("response.reasoning_summary_text.done", {"summary_index": 0, "text": text}),
            ("response.reasoning_summary_part.done", part),
        ]


class Call(Item):
    """A function call."""

    def __init__(self, name: str, index: int, first: ToolCallDelta) -> None:
        super().__init__(name, index)
        self._call_id = first.id
        self._function = first.name

    def complete(self) -> bool:
        """Whether the arguments so far are a whole object: no beginning of one is."""
        try:
            return isinstance(msgspec.json.decode(self.text), dict)
        except (msgspec.DecodeError, RecursionError):
            return False

    def begun(self) -> _Said:
        return words.call_item(self.name, "in_progress", self._call(""))

    def whole(self, status: str) -> _Said:
        return words.call_item(self.name, self.status or status, self._call(self.text))

    def last_words(self) -> list[tuple[str, _Said]]:
        return [("response.function_call_arguments.done", {"arguments": self.text, "name": self._function})]

    def _call(self, arguments: str) -> ToolCallWhole:
        return ToolCallWhole(self.index, self._call_id, self._function, arguments)
