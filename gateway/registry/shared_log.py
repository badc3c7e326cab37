"""The writer of shared transcripts: one per worker, one tick for all its streams.

Law: never on the token path: it looks at what has grown, sends it in one batch, and takes no more than a small part of
what the worker spends on its streams, however many there are: the dearer a batch beside that, the longer the pause.
What is read elsewhere just now, and what has ended, does not wait for it. A batch that failed is never repeated
blindly: the script says what had arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import structlog

from gateway.registry.elsewhere import Elsewhere
from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.redis_packed import packed_batch
from gateway.registry.shared_ahead import Ahead
from gateway.registry.shared_layout import MOST_ASKED, Addition, SharedLayout
from gateway.registry.shared_pace import Pace
from gateway.registry.shared_shipment import Shipment
from gateway.streams.names import split_key, stream_key
from gateway.streams.pacer import Pacer
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader

log = structlog.get_logger(__name__)

Stop = Callable[[str, str, str, str], object]
Script = list[tuple[Shipment, list[Addition]]]  # streams, and the entries to append to each
IDLE = 0.1  # seconds between two looks while nothing runs
_STREAMS = 64  # of one script: Redis does nothing else meanwhile
_TOGETHER = 16  # scripts of one batch
_BYTES = 2 * 1024 * 1024  # of one batch, about
GONE_AFTER = 3.0  # seconds without a watch until nobody reads elsewhere


class Shipper:
    """`running`: this worker's streams by key; `stop` ends one of them; `memory`: bytes of ended streams that wait for
    Redis."""

    def __init__(
        self,
        link: Link,
        layout: SharedLayout,
        running: Mapping[str, Producer],
        stop: Stop,
        *,
        tick: float,
        renew: float,
        memory: int,
    ) -> None:
        self._link, self._layout, self._running, self._stop = link, layout, running, stop
        self._tick, self._renew, self._memory = tick, renew, memory
        self._time = asyncio.get_running_loop().time
        self._ships: dict[str, Shipment] = {}
        self._ending: dict[str, Shipment] = {}
        self._elsewhere: dict[str, Reader] = {}
        self._ahead = Ahead(link, layout, self._after, tick=tick, renew=renew)
        self._closing: dict[str, Shipment] = {}  # ended ones of those that are written ahead
        self._urgent = asyncio.Event()
        self._all_at = 0.0  # when all streams are looked at again
        self._pace = Pace(tick, self._time(), time.thread_time())
        self.forget: Callable[[str, str], object] = lambda stream_id, owner: None  # what is kept here of an ended one
        self.entries = 0  # sent since the start
        self.dropped = 0  # ended streams given up because Redis was away for too long

    @property
    def behind(self) -> int:
        """Ended streams whose copy is not complete."""
        return len(self._ending) + len(self._closing)

    async def run(self) -> None:
        """The loop; ends by being cancelled."""
        while True:
            try:
                now = self._time()
                if now >= self._all_at:
                    batches, entries = await self.step()
                    self._all_at = now + self._pace.rest(self._time(), time.thread_time(), batches, entries)
                else:
                    await self.step(urgent=True)
            except Away as error:
                log.debug("shared_log.away", error=str(error))
            except Exception:
                log.exception("shared_log.step_failed")
                await asyncio.sleep(1.0)
            await self._turn()

    async def _turn(self) -> None:
        """Until something is to be done: a tick later where it is urgent, or will be; else when all streams are due."""
        if not self._running and not self._ending:
            self._all_at = self._time() + IDLE
        left = self._all_at - self._time()
        if left > 0 and not (self._ending or any(key not in self._ahead for key in self._elsewhere)):
            self._urgent.clear()
            try:
                async with asyncio.timeout(left):
                    await self._urgent.wait()
            except TimeoutError:
                self._all_at = 0.0  # by a clock that counts in milliseconds it may not be time yet
                return
        await asyncio.sleep(self._tick)

    def ahead(self, producer: Producer, pacer: Pacer, ship: Shipment | None = None) -> None:
        """A stream that survives this node begins here, or goes on here (`ship`: from where)."""
        who = producer.stream.identity
        key = stream_key(who.id, who.owner)
        self._ships[key] = new = ship or Shipment(producer)
        self._ahead.add(new, pacer)
        if ship is not None:
            producer.reveal(ship.at.block)

    def moved(self, producer: Producer) -> None:
        """Another node goes on with it."""
        key = stream_key(producer.stream.identity.id, producer.stream.identity.owner)
        self._ahead.drop(key)
        for held in (self._ships, self._closing, self._elsewhere):
            held.pop(key, None)

    def ended(self, producer: Producer) -> None:
        """A stream of this worker is over: its copy is to be completed."""
        who = producer.stream.identity
        key = stream_key(who.id, who.owner)
        ship = self._ships.pop(key, None)
        if ship is None or ship.producer is not producer:
            ship = Shipment(producer)
        self._elsewhere.pop(key, None)
        if ship.over:
            self._ahead.drop(key)
            producer.unveil()
        elif key in self._ahead:
            self._closing[key] = ship
            self._ahead.hurry(key)
        else:
            self._ending[key] = ship
            self._urgent.set()
        self._bound()

    def _bound(self) -> None:
        """Ended streams that wait for Redis take no more than their memory."""
        if self.behind <= _STREAMS:
            return
        held = sum(s.transcript.size for s in [*self._ending.values(), *self._closing.values()])
        while held > self._memory:
            waiting = self._ending or self._closing
            oldest = next(iter(waiting))
            held -= waiting.pop(oldest).transcript.size
            self._ahead.drop(oldest)
            self.dropped += 1

    async def flush(self, seconds: float) -> None:
        """Complete the copies of ended streams, for so long at most."""
        deadline = self._time() + seconds
        while self.behind and self._time() < deadline:
            with contextlib.suppress(Away):
                if (await self.step())[0]:
                    continue
            await asyncio.sleep(0.05)  # nothing could be sent: Redis is away, or has no room now
        self._ahead.close()

    async def step(self, *, urgent: bool = False) -> tuple[int, int]:
        """Send what is new; `urgent`: only of streams that are read elsewhere, or have ended. Returns batches and
        entries sent. Raises Away."""
        now, batches, entries = self._time(), 0, 0
        if not self._link.healthy:
            return 0, 0
        if not urgent:
            self._ahead.look(now)
        for due in self._chunks([ship for ship in self._due(now, urgent) if ship.wants(now)]):
            scripts = self._scripts(due, now)
            if scripts:
                answers = await packed_batch(self._link, [self._op(script) for script in scripts])
                for script, answer in zip(scripts, answers, strict=True):
                    self._told(script, answer)
                batches += 1
                entries += sum(len(additions) for script in scripts for _, additions in script)
        self.entries += entries
        return batches, entries

    def _due(self, now: float, urgent: bool) -> list[Shipment]:
        """What has grown, was not looked at for some time, or is over. Walks all streams: every look counts here."""
        ships = self._ships
        if urgent:
            read = [ships[key] for key in self._elsewhere if key not in self._ahead]
            grown = [ship for ship in read if ship.at.block != ship.transcript.tip or not ship.at.count]
            return [*grown, *self._ending.values()]
        found: list[Shipment] = []
        for key, producer in self._running.items():
            if key in self._ahead:
                continue
            ship = ships.get(key)
            if ship is None:
                ship = ships[key] = Shipment(producer)
            if ship.at.block != ship.transcript.tip or now >= ship.look_at:
                found.append(ship)
        return [*found, *self._ending.values()]

    @staticmethod
    def _chunks(ships: list[Shipment]) -> Iterator[list[Shipment]]:
        chunk: list[Shipment] = []
        size = 0
        for ship in ships:
            chunk.append(ship)
            size += min(_BYTES, ship.transcript.total - ship.at.sent)
            size += 0 if ship.at.count else min(MOST_ASKED, len(ship.producer.plan.turns))
            if len(chunk) >= _STREAMS * _TOGETHER or size >= _BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _scripts(self, due: list[Shipment], now: float) -> list[Script]:
        """What is to be sent, by script; on a cluster a stream has one of its own, since it has its slot."""
        most = 1 if self._link.cluster else _STREAMS
        layout, found = self._layout, []
        script: Script = []
        for ship in due:
            additions = ship.entries(now, layout.life_ms, self._renew, layout.replay_ms)
            if additions:
                script.append((ship, additions))
            else:
                self._after(ship, now)  # it cannot be shared any more
            if len(script) >= most:
                found.append(script)
                script = []
        return [*found, script] if script else found

    def _op(self, script: Script) -> Op:
        return self._layout.ship([(ship.key, added) for ship, additions in script for added in additions])

    def _told(self, script: Script, answer: object) -> None:
        """A script that was refused as a whole (no list) changes nothing: nothing is known."""
        if not isinstance(answer, list):
            return
        now, at = self._time(), 0
        for ship, additions in script:
            ship.answered(answer[at : at + len(additions)], now)
            at += len(additions)
            self._after(ship, now)

    def _after(self, ship: Shipment, now: float) -> None:
        if ship.over:
            self._over(ship)
            return
        ship.producer.reveal(ship.at.block, ship.plain)
        if (ship.watched or ship.elsewhere) and self._ships.get(ship.key) is ship:
            self._watched(ship, now)

    def _over(self, ship: Shipment) -> None:
        ship.producer.reveal(ship.at.block)
        if not ship.fenced:
            ship.producer.unveil()  # all of it is there, or nothing more ever will be
        elif ship.fenced and ship.producer.outlived():
            self.forget(*split_key(ship.key))  # who asks here is told what the fleet has
        for waiting in (self._ending, self._closing):
            if waiting.get(ship.key) is ship:
                del waiting[ship.key]
                self._ahead.drop(ship.key)
                return
        if ship.fenced:
            log.warning("shared_log.fenced", stream=ship.key)
            stream_id, owner = split_key(ship.key)
            self._stop(stream_id, owner, "gateway", "node_lost")

    def _watched(self, ship: Shipment, now: float) -> None:
        """Readers on other nodes are readers: the disconnect policy waits for them too."""
        reader = self._elsewhere.get(ship.key)
        if ship.watched and reader is None:
            reader = self._elsewhere[ship.key] = cast(Reader, Elsewhere())
            ship.elsewhere = True
            ship.producer.attach(reader)
        elif reader is not None and not ship.watched and now - (ship.unwatched_since or now) >= GONE_AFTER:
            del self._elsewhere[ship.key]
            ship.elsewhere = False
            ship.producer.detach(reader)
