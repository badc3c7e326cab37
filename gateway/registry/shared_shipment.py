"""How far one running stream's shared copy is, and what is to be appended next. Pure; the clock is an argument.

Law: what was accepted is known by count and by bytes, never guessed: an answer that is not as expected says what is
there, and the rest is sent again from there. Nothing is sent before it is settled who answers.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from gateway.registry.shared_layout import (
    FIRST,
    LAST,
    Meta,
    Words,
    epoch_of,
    meta_words,
    position,
    terminal_words,
    turns_of,
)
from gateway.streams.names import stream_key
from gateway.streams.producer import Producer

ENTRY = 16 * 1024  # bytes after which an entry is closed
_ENTRIES = 8  # of one stream in one go
_BLOCKS = 256  # of one entry
LOOK = 1.0  # seconds after which a quiet stream nobody reads here is looked at: whether it is read elsewhere
_SELDOM = 4.0  # the same, for one that is read here


class Mark(Struct, frozen=True):
    """A place in a transcript: entries there, blocks and bytes they hold, segments begun."""

    count: int = 0
    block: int = 0
    sent: int = 0
    turns: int = 0
    over: bool = False


class Shipment:
    """One stream, from `at` on. `over`: nothing more will be sent. `dead`: why it has no shared copy any more."""

    def __init__(self, producer: Producer, at: Mark = Mark(), epoch: int = 0) -> None:  # noqa: B008 - a frozen nothing
        who = producer.stream.identity
        self.key = stream_key(who.id, who.owner)
        self.producer = producer
        self.transcript = producer.transcript
        self.at = at
        self.epoch = epoch  # how often the stream was claimed by another node
        self.dead = ""
        self.fenced = False
        self.watched = False
        self.unwatched_since: float | None = None
        self.retry_at = 0.0
        self.look_at = 0.0  # when to ask for watchers
        self._renew_at = 0.0
        self._told = False  # the terminal entry was sent at least once
        self._marks: list[Mark] = []

    @property
    def over(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self.at.over or self.fenced or bool(self.dead)

    @property
    def ended(self) -> bool:
        """Whether its stream is over."""
        return self.producer.stream.state.terminal

    def wants(self, now: float) -> bool:
        """Whether anything may be sent or asked now; `look_at` and `at.sent` tell most of it without this call."""
        return now >= self.retry_at and not self.over and self._settled()

    def _settled(self) -> bool:
        """Whether it can no longer change who answers, as the stream's first frames say it."""
        return self.at.count > 0 or self.producer.opened or self.transcript.total > 0 or self.ended

    def entries(self, now: float, life: int, renew: float, last_life: int) -> list[Words]:
        """What to append now, as the script's words. `life`: ms a running log lives from now, renewed every `renew`
        seconds; `last_life`: an ended one. To be followed by `answered`."""
        self._marks = []
        if self.transcript.base > self.at.block:
            self.dead = "its beginning was lost before it was shared"
            return []
        found: list[Words] = []
        mark = self.at
        renewed = now >= self._renew_at
        if mark.count == 0:
            found.append(self._entry(FIRST, life, self._meta()))
            mark = self._marked(Mark(1))
        while mark.sent < self.transcript.total and len(found) < _ENTRIES:
            words, mark = self._next(mark)
            found.append(self._entry(f"{mark.sent}-{self.epoch}", life if renewed else 0, words))
            self._marked(mark)
        if self.ended and mark.sent == self.transcript.total:
            found.append(self._entry(f"{LAST}-{self.epoch}", last_life, self._terminal(mark)))
            self._marked(Mark(mark.count + 1, mark.block, mark.sent, mark.turns, over=True))
            self._told = True
        if not found:
            found.append((mark.count, "", life if renewed else 0, "", self.epoch, 0))
            self._marks.append(mark)
        if renewed:
            self._renew_at = now + renew
        self.look_at = now + self._patience()
        return found

    def _patience(self) -> float:
        """How long a watcher may go unnoticed: not for longer than it takes to give the stream up."""
        producer, policy = self.producer, self.producer.plan.on_disconnect
        if not producer.readers:
            return LOOK
        if policy.action == "grace":
            return max(0.3, min(_SELDOM, policy.grace / 3))
        return _SELDOM if policy.action == "continue" else _SELDOM / 2

    def _entry(self, entry_id: str, life: int, words: Words) -> Words:
        expected = self._marks[-1].count if self._marks else self.at.count
        # what was claimed keeps its beginning: a count that shrinks could look like another writer's
        trim = str(self.transcript.trimmed + 1) if self.transcript.trimmed and not self.epoch else ""
        return expected, entry_id, life, trim, self.epoch, len(words), *words

    def _marked(self, mark: Mark) -> Mark:
        self._marks.append(mark)
        return mark

    def _meta(self) -> Words:
        producer = self.producer
        driver = producer.driver
        said = Meta(producer.stream.identity, driver.name, driver.dialect, producer.plan.include_usage)
        return meta_words(said, producer.plan.will)

    def _next(self, mark: Mark) -> tuple[Words, Mark]:
        """Blocks of one segment, up to an entry's size."""
        transcript = self.transcript
        segments, most, turns = transcript.segments, _BLOCKS, mark.turns
        while turns < len(segments) and segments[turns].first <= mark.block:
            turns += 1
        if turns < len(segments):
            most = min(most, segments[turns].first - mark.block)
        blocks = transcript.since(mark.block, most)
        if len(blocks) > 1:
            blocks = _up_to(blocks, ENTRY)
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        after = Mark(mark.count + 1, mark.block + len(blocks), mark.sent + len(data), turns)
        if turns == mark.turns:
            return ("d", data), after
        return ("d", data, "s", turns_of(segments[mark.turns : turns])), after

    def _terminal(self, mark: Mark) -> Words:
        producer = self.producer
        left = self.transcript.segments[mark.turns :]
        return terminal_words(producer.stream.state, mark.sent, producer.ending(), turns_of(left) if left else b"")

    def answered(self, answers: list[Any], now: float) -> None:
        """What the script said of the entries, in order."""
        for mark, answer in zip(self._marks, answers, strict=False):
            if isinstance(answer, int):
                self.at = Mark(abs(answer), mark.block, mark.sent, mark.turns, mark.over)
                self._seen(answer < 0, now)
                continue
            self._unexpected(answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer), now)
            return

    def _seen(self, watched: bool, now: float) -> None:
        self.watched = watched
        self.unwatched_since = None if watched else (self.unwatched_since or now)

    def _unexpected(self, answer: str, now: float) -> None:
        """The log is not as it was left: go back to what is there, or begin it anew."""
        count, _, tail = answer.partition(" ")
        if not count.isdigit():
            if answer.startswith("WRONGTYPE") or "equal or smaller" in answer:
                self.at = Mark()  # something else is there, or was
            else:
                self.retry_at = now + LOOK  # no room, which may pass
            return
        if tail and epoch_of(tail) > self.epoch:
            self.fenced = True  # another node claimed it, and goes on with it
            return
        if tail and position(tail) >= LAST:
            self.fenced = not self._told
            self.at = Mark(int(count), self.at.block, self.at.sent, self.at.turns, over=True)
            return
        self.at = self._mark_at(int(count), int(tail.partition("-")[0] or 0))

    def _mark_at(self, count: int, sent: int) -> Mark:
        """Where a log of so many entries and bytes ends. One that ends nowhere in the transcript is begun anew."""
        transcript = self.transcript
        size, block = transcript.trimmed, transcript.base
        for piece in transcript.blocks:
            if size >= sent:
                break
            size += len(piece)
            block += 1
        if size != sent or count == 0:
            return Mark()
        turns = sum(1 for segment in transcript.segments if segment.first < block)
        return Mark(count, block, sent, turns)


def _up_to(blocks: list[bytes], limit: int) -> list[bytes]:
    size = 0
    for i, block in enumerate(blocks):
        size += len(block)
        if size >= limit:
            return blocks[: i + 1]
    return blocks
