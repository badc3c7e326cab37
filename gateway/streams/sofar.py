"""What was delivered of an answer so far: the fold of a transcript's segments. Pure.

Law: a restarted answer counts from its last restart; a transcript whose beginning was trimmed away says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from backends.base import Driver
from backends.contract.events import Failed
from gateway.protocols.answer import Folding
from gateway.protocols.base import Answer
from gateway.streams.transcript import Segment, Transcript


def pieces(transcript: Transcript) -> Iterator[tuple[Segment, list[bytes]]]:
    """The segments with their blocks. Raises LookupError when the beginning is gone."""
    if transcript.base:
        raise LookupError(0)
    blocks, segments = transcript.blocks, transcript.segments
    ends = [segment.first for segment in segments[1:]] + [len(blocks)]
    for segment, end in zip(segments, ends, strict=False):
        yield segment, blocks[segment.first : end]


def past(transcript: Transcript, count: int) -> list[tuple[Segment, list[bytes]]]:
    """The first `count` segments with their blocks. Raises LookupError when the beginning is gone."""
    return list(pieces(transcript))[:count]


def answer_of(transcript: Transcript) -> Answer | None:
    """The answer so far; None when its beginning is gone."""
    folding = Folding()
    try:
        for segment, blocks in pieces(transcript):
            if segment.restart:
                folding = Folding()
            decoder = segment.driver.decoder()
            for block in blocks:
                folding.feed(decoder.feed(block))
    except LookupError:
        return None
    return folding.answer()


def can_be_cut(answer: Answer | None) -> bool:
    """Whether an answer may be given as far as it came: never with a call that somebody would run half-read, nor when
    it has said its end already."""
    return answer is not None and not answer.tool_calls and answer.finish is None


def segment_so_far(transcript: Transcript) -> Iterator[bytes]:
    """The blocks of the last segment, as far as they are still held."""
    first = transcript.segments[-1].first if transcript.segments else 0
    return iter(transcript.blocks[max(0, first - transcript.base) :])


def broken_at(driver: Driver, said: Iterable[bytes], frames: Sequence[bytes]) -> int:
    """Which of these frames, the next ones after `said`, is the one a decoder fails at; the last one where it fails at
    none (something else than its reading went wrong)."""
    decoder = driver.decoder()
    for block in said:
        decoder.feed(block)
    for i, frame in enumerate(frames):
        if any(isinstance(event, Failed) for event in decoder.feed(frame)):
            return i
    return len(frames) - 1
