"""Places in a transcript, as entries of its shared copy end there. Pure.

Law: a place that is no end of a block is none: then the copy is begun anew.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.streams.transcript import Transcript


class Mark(Struct, frozen=True, gc=False):
    """A place in a transcript: entries there, blocks and bytes they hold, segments begun."""

    count: int = 0
    block: int = 0
    sent: int = 0
    turns: int = 0
    over: bool = False


def mark_at(transcript: Transcript, count: int, sent: int) -> Mark:
    """Where a log of so many entries and bytes ends. One that ends nowhere in the transcript is begun anew."""
    block, size = transcript.base, transcript.trimmed
    for piece in transcript.blocks:
        if size >= sent:
            break
        size += len(piece)
        block += 1
    if size != sent or count == 0:
        return Mark()
    turns = sum(1 for segment in transcript.segments if segment.first < block)
    return Mark(count, block, sent, turns)


def up_to(blocks: list[bytes], limit: int) -> list[bytes]:
    """As many as fit, but one at least."""
    size = 0
    for i, block in enumerate(blocks):
        size += len(block)
        if size > limit:
            return blocks[: max(1, i)]
    return blocks
