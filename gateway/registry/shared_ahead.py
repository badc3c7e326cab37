"""Streams that survive their node, as they are written ahead: what came is sent, and shown when Redis has it.

Law: readers of a stream see no more of it than is in its log, unless Redis is away. One batch is under way at a time
for all streams, and its answer releases all of them in one go. An idle worker sends at once; the dearer a batch beside
what the worker spends on its streams, the longer until the next one, up to a fixed bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from gateway.registry.redis_client import Away, Link, Op
from gateway.registry.shared_herald import Herald
from gateway.registry.shared_layout import Addition, SharedLayout
from gateway.registry.shared_pace import AheadPace
from gateway.registry.shared_shipment import Shipment
from gateway.registry.shared_wire import wire_of
from gateway.streams.pacer import Pacer

log = structlog.get_logger(__name__)

BLINK = 1.0  # seconds readers wait for a Redis that is away
_AWAY = 0.02  # seconds between two looks while it is
_SOON = 0.002  # seconds Redis's answer takes, about
_STREAMS = 64  # of one script: Redis does nothing else meanwhile
_MOST = 1024  # streams of one batch
_BYTES = 2 * 1024 * 1024  # of one batch, about


class Ahead:
    """`after` is told of each stream that something was heard of; `renew`: seconds between two renewals of a log."""

    def __init__(
        self,
        link: Link,
        layout: SharedLayout,
        after: Callable[[Shipment, float], None],
        *,
        tick: float,
        renew: float,
    ) -> None:
        self._link, self._layout, self._after, self._renew = link, layout, after, renew
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._wire = wire_of(link, self._told, self._lost)
        self._heralds: dict[str, Herald] = {}
        self._ended: set[str] = set()  # of them
        self._due: list[Herald] = []
        self._batch: list[tuple[Herald, int]] = []  # under way: streams, and how many entries of each
        self._armed = False  # a timer runs, or a batch or a connection is under way
        self._waiting = False  # it is a timer, until `_next`
        self._timer: asyncio.Handle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next = 0.0  # when the next batch may go
        self._pace = AheadPace(tick)
        self.entries = 0  # sent since the start

    def __contains__(self, key: str) -> bool:
        return key in self._heralds

    def add(self, ship: Shipment, pacer: Pacer) -> None:
        """A stream begins, or goes on here. Before its first attempt. `pacer`: the worker's own."""
        herald = self._heralds[ship.key] = Herald(ship, pacer, self._layout.keys(ship.key), self._grew)
        ship.producer.veil()
        ship.producer.fed.append(herald)
        herald.push()

    def drop(self, key: str) -> None:
        """Nothing more of it is shipped."""
        self._ended.discard(key)
        herald = self._heralds.pop(key, None)
        if herald is not None:
            herald.rest()
            herald.gone = True

    def hurry(self, key: str) -> None:
        """It has ended: its log is to be completed."""
        herald = self._heralds[key]
        herald.ship.hurry()
        self._ended.add(key)
        herald.push()

    def look(self, now: float) -> None:
        """Now and then: quiet streams have watchers, and logs that expire."""
        for herald in self._heralds.values():
            if now >= herald.ship.look_at:
                herald.push()
        for key in self._ended:
            self._heralds[key].push()

    def close(self) -> None:
        """Nothing more is sent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        self._armed = True
        self._wire.close()

    # -- a batch -------------------------------------------------------------------------------------------------------

    def _grew(self, herald: Herald) -> None:
        self._due.append(herald)
        if not self._armed:
            self._arm(self._next - self._time())
        elif self._waiting and self._time() >= self._next:
            assert self._timer is not None
            self._timer.cancel()  # it is late, and a busy worker would doze before it comes to its timers
            herald.pacer.hurry(_SOON)
            self._arm(0.0)

    def _arm(self, wait: float) -> None:
        self._armed, self._waiting = True, wait > 0 and self._wire.open
        self._timer = self._loop.call_later(wait, self._pump) if wait > 0 else self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send what has come since the last time."""
        self._waiting = False
        if not self._link.healthy:
            self._away()
            return
        if not self._wire.open:
            self._connecting = self._loop.create_task(self._connect())
            return
        now = self._time()
        ops = self._ops(now)
        if ops:
            self._next = now + self._pace.rest(len(self._batch))
            self._batch[0][0].pacer.hurry(_SOON)
            self._wire.send(ops)
        else:
            self._go_on()

    def _ops(self, now: float) -> list[Op]:
        due, self._due = self._due, []
        ops: list[Op] = []
        script: list[tuple[tuple[str, str], Addition]] = []
        most = 1 if self._link.cluster else _STREAMS
        size = streams = 0
        for at, herald in enumerate(due):
            if len(self._batch) >= _MOST or size >= _BYTES:
                self._due = due[at:]
                break
            herald.due = False
            additions = self._additions(herald, now)
            if not additions:
                continue
            for addition in additions:
                script.append((herald.keys, addition))
                size += len(addition[1])
            self._batch.append((herald, len(additions)))
            streams += 1
            if streams % most == 0:
                ops.append(self._layout.appending(script))
                script = []
        if script:
            ops.append(self._layout.appending(script))
        return ops

    def _additions(self, herald: Herald, now: float) -> Sequence[Addition]:
        try:
            plain = None if herald.gone else herald.ship.plain_entry(now)
            return self._of(herald, now) if plain is None else (plain,)
        except Exception:  # of one stream, whose readers go on here: the others wait for their frames too
            log.exception("shared_ahead.failed", stream=herald.ship.key)
            herald.ship.producer.unveil()
            return []

    def _of(self, herald: Herald, now: float) -> list[Addition]:
        ship = herald.ship
        if herald.gone:
            return []
        if ship.over or now < ship.retry_at:
            ship.producer.unveil()  # no room for it there, or its beginning is gone
            return []
        layout = self._layout
        additions = ship.entries(now, layout.life_ms, self._renew, layout.replay_ms)
        if not additions:
            self._after(ship, now)  # it cannot be shared any more
        return additions

    def _told(self, answers: list[Any]) -> None:
        """A script that was refused as a whole (no list) changes nothing: nothing is known."""
        batch, self._batch = self._batch, []
        now, at = self._time(), 0
        said: list[Any] = []
        for answer in answers:
            said += answer if isinstance(answer, list) else [answer]
        if sum([count for _, count in batch]) != len(said):
            self._again(batch)
        else:
            self.entries += len(said)
            for herald, count in batch:
                ship = herald.ship
                try:
                    if count == 1 and not herald.gone and ship.confirmed(said[at]):
                        ship.producer.reveal(ship.at.block, ship.plain)
                    else:
                        self._heard(herald, said[at : at + count], now)
                except Exception:  # of one stream: the others wait for their frames too
                    log.exception("shared_ahead.failed", stream=herald.ship.key)
                at += count
        self._go_on()

    def _heard(self, herald: Herald, answers: list[Any], now: float) -> None:
        ship = herald.ship
        if herald.gone:
            return
        ship.answered(answers, now)
        self._after(ship, now)
        if ship.wants(now) and (ship.at.block != ship.transcript.tip or ship.ended or not ship.at.count):
            herald.push()

    def _go_on(self) -> None:
        self._armed = False
        if self._due:
            self._arm(self._next - self._time())

    # -- Redis is away -------------------------------------------------------------------------------------------------

    def _again(self, batch: list[tuple[Herald, int]]) -> None:
        for herald, _ in batch:
            if not herald.due:
                herald.due = True
                self._due.append(herald)

    def _lost(self) -> None:
        """Whether it was done is seen when it is sent again."""
        batch, self._batch = self._batch, []
        self._again(batch)
        self._arm(_AWAY)

    def _away(self) -> None:
        """Readers here go on. Not at once: a node that was asleep for longer than its lease finds its connections
        broken too, and must hear first whether its streams are still its own."""
        self._wire.close()
        if time.monotonic() - self._link.down_since >= BLINK:
            for herald in list(self._due):
                herald.ship.producer.unveil()
        self._arm(_AWAY)

    async def _connect(self) -> None:
        try:
            await self._wire.connect()
        except Away as error:
            log.debug("shared_ahead.away", error=str(error))
        except Exception:
            log.exception("shared_ahead.connect_failed")
        else:
            self._again([(herald, 0) for herald in self._heralds.values()])  # it may be another server, or empty
        self._arm(_AWAY if not self._wire.open else 0.0)
