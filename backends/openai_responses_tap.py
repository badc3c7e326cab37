"""Accounting of a Responses stream. Pure."""

from __future__ import annotations

from backends.base import Decoder
from backends.contract.events import Event, Start
from backends.tap import DecoderTap


class ResponsesTap(DecoderTap):
    """Counts text deltas by scanning bytes, once it is known that no block is like another; every block that holds
    anything else goes to the decoder.

    Law: scanned counts equal decoded ones. The names searched for cannot occur inside JSON text, where their quotes are
    escaped. `chars` grows only where something is decoded. `answer_id` is the backend's own id of the answer.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.answer_id = ""

    def feed(self, block: bytes) -> None:
        if self.likeness.tries:  # a server that numbers its events never repeats one: see the scan
            super().feed(block)
            return
        deltas = block.count(b'"type":"response.output_text.delta"')
        if (
            deltas
            and deltas == block.count(b"\n\n")
            and deltas == block.count(b'"delta":"')
            and b'"delta":""' not in block
            and not self.done
            and self.failure is None
        ):
            self.tokens += deltas
        else:
            super().feed(block)

    def note(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Start):
                self.answer_id = event.id
        super().note(events)
