"""The end of a stream: who is told of it, and in which order.

Law: everybody is told once, here and nowhere else; all of it is synchronous and none of it waits. A stream that another
node goes on with has not ended: it leaves this one without a receipt.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.access.places import BackendPlaces
from gateway.edge.services import Services
from gateway.observe.health import Health
from gateway.observe.logging import get_logger
from gateway.routing.course import Routed
from gateway.streams.names import stream_key
from gateway.streams.producer import Producer
from gateway.streams.stream import Receipt


class Ended:
    """Told by the hub. `services` and `health` are asked for at each end: both are made after the hub."""

    def __init__(
        self, places: BackendPlaces, services: Callable[[], Services], health: Callable[[], Health | None]
    ) -> None:
        self._places = places
        self._services = services
        self._health = health
        self._log = get_logger()

    def __call__(self, producer: Producer, receipt: Receipt) -> None:
        """Give back what the stream held, and hand its receipt on."""
        course = producer.plan.course
        if isinstance(course, Routed):
            course.close()
        if producer.moved:
            self._moved(producer, receipt)
        else:
            self._gone(producer, receipt)

    def _gone(self, producer: Producer, receipt: Receipt) -> None:
        services, course = self._services(), producer.plan.course
        if isinstance(course, Routed):
            self._places.finished(receipt, services.config.backends, course.ask.tokens)
        remembered, now = producer.plan.remembered, services.upstreams.clock()
        services.answers.offer(remembered, producer.stream, producer.transcript, now)
        services.control.finished(receipt, services.limiter.finished(receipt))
        services.registry.closed(receipt, producer.stream.identity.key_id)
        services.sharing.ended(producer)
        services.metrics.finished(receipt)
        health = self._health()
        if health is not None:
            health.finished(receipt)
        if not services.registry.logs(receipt):
            services.access_log.finished(receipt)

    def _moved(self, producer: Producer, receipt: Receipt) -> None:
        """What it holds is held by the node that goes on with it."""
        services, who = self._services(), producer.stream.identity
        services.limiter.moved(stream_key(who.id, who.owner))
        services.registry.moved(producer.stream.entry())
        services.sharing.moved(producer)
        services.metrics.finished(receipt)
        self._log.info("stream.moved", stream=who.id)
