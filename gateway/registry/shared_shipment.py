"""How far one running stream's shared copy is, and what is to be appended next. Pure; the clock is an argument.

Law: what was accepted is known by count and by bytes, never guessed: an answer that is not as expected says what is
there, and the rest is sent again from there. Nothing is sent before it is settled who answers.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gateway.registry.shared_entry import Words, sealed
from gateway.registry.shared_layout import (
    FIRST,
    LAST,
    Addition,
    Meta,
    addition,
    epoch_of,
    meta_words,
    position,
    terminal_words,
    turns_of,
)
from gateway.registry.shared_mark import Mark, mark_at, up_to
from gateway.streams.names import stream_key
from gateway.streams.producer import Producer
from gateway.streams.veil import Blocks

ENTRY = 8000  # bytes of an entry, about: with what is around it, a page of a list in Redis
_ENTRIES = 16  # of one stream in one go
_BLOCKS = 256  # of one entry
_FEW = 16  # blocks of a plain entry
LOOK = 1.0  # seconds after which a quiet stream nobody reads here is looked at: whether it is read elsewhere
_SELDOM = 4.0  # the same, for one that is read here


class Shipment:
    """One stream, from `at` on. `over`: nothing more will be sent. `dead`: why it has no shared copy any more."""

    __slots__ = (
        "_marks",
        "_plain_until",
        "_renew_at",
        "_told",
        "at",
        "dead",
        "elsewhere",
        "epoch",
        "fenced",
        "key",
        "look_at",
        "plain",
        "producer",
        "retry_at",
        "transcript",
        "unwatched_since",
        "watched",
    )

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
        self.elsewhere = False  # a reader stands for those on other nodes
        self.unwatched_since: float | None = None
        self.retry_at = 0.0
        self.look_at = 0.0  # when to ask for watchers
        self._renew_at = 0.0
        self._plain_until = 0.0  # nothing is due before but what the backend says
        self._told = False  # the terminal entry was sent at least once
        self._marks: list[Mark] = []
        self.plain: Blocks | None = None  # under way, where that is all

    @property
    def over(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self.at.over or self.fenced or bool(self.dead)

    @property
    def ended(self) -> bool:
        """Whether its stream is over."""
        return self.producer.stream.state.terminal

    def wants(self, now: float) -> bool:
        """Whether anything may be sent or asked now; `look_at` and `at.block` tell most of it without this call."""
        return now >= self.retry_at and not self.over and self._settled()

    def _settled(self) -> bool:
        """Whether it can no longer change who answers, as the stream's first frames say it."""
        return self.at.count > 0 or self.producer.opened or self.transcript.total > 0 or self.ended

    def entries(self, now: float, life: int, renew: float, last_life: int) -> list[Addition]:
        """What to append now. `life`: ms a running log lives from now, renewed every `renew` seconds; `last_life`: an
        ended one. To be followed by `answered`."""
        self._marks, self.plain = [], None
        transcript, mark = self.transcript, self.at
        total = transcript.total
        if transcript.base > mark.block:
            self.dead = "its beginning was lost before it was shared"
            return []
        renewed = life if now >= self._renew_at else 0
        found: list[Addition] = []
        if mark.count == 0:
            found.append(self._add(mark, life, sealed(FIRST, self._meta())))
            mark = self._marked(Mark(1))
        while mark.sent < total and len(found) < _ENTRIES:
            entry, after = self._next(mark)
            found.append(self._add(mark, renewed, entry))
            mark = self._marked(after)
        if mark.sent == total and self.ended:
            found.append(self._add(mark, last_life, sealed(f"{LAST}-{self.epoch}", self._terminal(mark))))
            self._marked(Mark(mark.count + 1, mark.block, mark.sent, mark.turns, over=True))
            self._told = True
        if not found:
            found.append(self._add(mark, renewed))
            self._marks.append(mark)
        if renewed:
            self._renew_at = now + renew
        if now + LOOK / 2 >= self.look_at:  # not each time: that looks at much that is in no cache
            self.look_at = now + self._patience()
        self._plain_until = min(self._renew_at, self.look_at - LOOK / 2)
        return found

    def hurry(self) -> None:
        """It has more to say than what came: `entries` is to be asked next."""
        self.look_at = self._plain_until = 0.0

    def plain_entry(self, now: float) -> Addition | None:
        """The same, for nearly all of what is written ahead of a stream that runs: one entry of a few blocks and
        nothing else. None: `entries` is to say it."""
        mark, transcript = self.at, self.transcript
        count, turns = mark.count, mark.turns
        if now >= self._plain_until or not count or turns != len(transcript.segments) or transcript.trimmed:
            return None
        said = transcript.said(mark.block, _FEW)
        if said is None:
            return None
        around, texts = said
        data = around.whole(texts[0]) if len(texts) == 1 else b"".join(map(around.whole, texts))
        if len(data) > ENTRY:
            return None
        sent = mark.sent + len(data)
        self._marks = [Mark(count + 1, mark.block + len(texts), sent, turns)]
        self.plain = Blocks(mark.block, data, texts, around)
        return f"{count} {mark.sent} 0 0 {self.epoch}", b"%d-%d d\n%b" % (sent, self.epoch, data)

    def _patience(self) -> float:
        """How long a watcher may go unnoticed: not for longer than it takes to give the stream up."""
        producer, policy = self.producer, self.producer.plan.on_disconnect
        if not producer.readers:
            return LOOK
        if policy.action == "grace":
            return max(0.3, min(_SELDOM, policy.grace / 3))
        return _SELDOM if policy.action == "continue" else _SELDOM / 2

    def _add(self, mark: Mark, life: int, entry: bytes = b"") -> Addition:
        # what was claimed keeps its beginning: a count that shrinks could look like another writer's
        least = self.transcript.trimmed + 1 if self.transcript.trimmed and not self.epoch else 0
        return addition(mark.count, mark.sent, life, least, self.epoch, entry)

    def _marked(self, mark: Mark) -> Mark:
        self._marks.append(mark)
        return mark

    def _meta(self) -> Words:
        producer = self.producer
        driver = producer.driver
        said = Meta(producer.stream.identity, driver.name, driver.dialect, producer.plan.include_usage)
        return meta_words(said, producer.plan.will, producer.plan.turns)

    def _next(self, mark: Mark) -> tuple[bytes, Mark]:
        """Blocks of one segment, up to an entry's size."""
        transcript = self.transcript
        segments, most, turns = transcript.segments, _BLOCKS, mark.turns
        while turns < len(segments) and segments[turns].first <= mark.block:
            turns += 1
        if turns < len(segments):
            most = min(most, segments[turns].first - mark.block)
        blocks = transcript.since(mark.block, most)
        size = sum(map(len, blocks))
        if size > ENTRY and len(blocks) > 1:
            blocks = up_to(blocks, ENTRY)
            size = sum(map(len, blocks))
        after = Mark(mark.count + 1, mark.block + len(blocks), mark.sent + size, turns)
        begun = turns_of(segments[mark.turns : turns]) if turns != mark.turns else b""
        names = f" s{len(begun)} d" if begun else " d"
        return b"".join((f"{after.sent}-{self.epoch}{names}\n".encode(), begun, *blocks)), after

    def _terminal(self, mark: Mark) -> Words:
        producer = self.producer
        left = self.transcript.segments[mark.turns :]
        return terminal_words(producer.stream.state, mark.sent, producer.ending(), turns_of(left) if left else b"")

    def confirmed(self, answer: Any) -> bool:
        """Whether a plain entry was taken and nobody watches: all that is to be known then is noted."""
        if self.plain is None or self.watched or self.elsewhere or self._marks[0].count != answer:
            return False
        self.at = self._marks[0]
        return True

    def answered(self, answers: list[Any], now: float) -> None:
        """What the script said of the entries, in order."""
        for mark, answer in zip(self._marks, answers, strict=False):
            if isinstance(answer, int):
                there = abs(answer)
                self.at = mark if mark.count == there else replace(mark, count=there)
                self._seen(answer < 0, now)
                continue
            self.plain = None
            self._unexpected(answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer), now)
            return

    def _seen(self, watched: bool, now: float) -> None:
        self.watched = watched
        self.unwatched_since = None if watched else (self.unwatched_since or now)

    def _unexpected(self, answer: str, now: float) -> None:
        """The log is not as it was left: go back to what is there, or begin it anew."""
        self._plain_until = 0.0
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
        self.at = mark_at(self.transcript, int(count), int(tail.partition("-")[0] or 0))
