"""Accounting by decoding: the tap of every dialect that has no cheaper one. Pure."""

from __future__ import annotations

from backends.base import Decoder, Tap
from backends.contract.events import Event, Failed, Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from backends.contract.likeness import Likeness


class DecoderTap(Tap):
    """Counts what a decoder says. `chars` are the UTF-8 bytes of text, reasoning and arguments."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.likeness = Likeness()

    def feed(self, block: bytes) -> None:
        events = self._decoder.feed(block)
        self.note(events)
        if len(events) == 1 and self.likeness.tries and not self.done:
            only = events[0]
            if type(only) is TextDelta and only.logprobs is None:
                self.likeness.learn(block, only.text)

    def eof(self) -> None:
        self.note(self._decoder.eof())

    def note(self, events: list[Event]) -> None:
        """Count these events, and see whether the decoder is done."""
        for event in events:
            match event:
                case TextDelta() | ReasoningDelta():
                    if event.text:  # reasoning may come as a signature alone
                        self._content(event.text)
                case ToolCallDelta():
                    self._content(event.arguments)
                case Usage():
                    self.usage = event
                case Finish():
                    self.finish = event.reason
                case Failed():
                    self.failure = event.error
                case _:
                    continue
        self.done = self._decoder.done

    def _content(self, text: str) -> None:
        self.tokens += 1
        self.chars += len(text.encode("utf-8", "replace"))
