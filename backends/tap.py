"""Accounting by decoding: the tap of every dialect that has no cheaper one. Of several SSE frames in a block those that
are the last plain one over again (`likeness`) are counted without. Pure."""

from __future__ import annotations

from backends.base import Decoder, Tap
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    OtherChoice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backends.contract.likeness import Likeness


class DecoderTap(Tap):
    """Counts what a decoder says, of all choices. `chars` are the UTF-8 bytes of text, reasoning and arguments."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.likeness = Likeness()

    def feed(self, block: bytes) -> None:
        if block.count(b"\n\n") < 2 or b"\r" in block or not block.endswith(b"\n\n"):
            self._one(block)
            return
        for frame in block[:-2].split(b"\n\n"):
            whole = frame + b"\n\n"
            if self.likeness.text(whole) is None:
                self._one(whole)
                if self.done or self.failure is not None:
                    return
            else:
                self.plain()

    def _one(self, block: bytes) -> None:
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
            if type(event) is TextDelta:
                self._said(event)
                continue
            match event:
                case ReasoningDelta() | ToolCallDelta():
                    self._said(event)
                case OtherChoice(_, TextDelta() | ReasoningDelta() | ToolCallDelta() as said):
                    self._said(said)
                case Usage():
                    self.usage = event
                case Finish():
                    self.finish = event.reason
                case Failed():
                    self.failure = event.error
                case _:
                    continue
        self.done = self._decoder.done

    def _said(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        text = event.arguments if isinstance(event, ToolCallDelta) else event.text
        if not text and isinstance(event, ReasoningDelta):
            return  # a signature alone
        self.tokens += 1
        self.chars += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
