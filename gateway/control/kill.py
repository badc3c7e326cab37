"""The kill switch on running streams: which ones a rule is about, and their end.

Law: a killed stream ends as any cancelled one does, by the operator, and its receipt names the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gateway.access.limiter import Ticket
from gateway.control.flags import Rule, Subject, hits
from gateway.streams.hub import Hub
from gateway.streams.names import stream_key
from gateway.streams.producer import Producer
from gateway.streams.stream import State


def subject_of(producer: Producer, tickets: Mapping[str, Ticket]) -> Subject:
    """A running stream as rules look at it. What answers it now may be another backend than the first."""
    who = producer.stream.identity
    segments = producer.transcript.segments
    now = {segments[-1].driver.name} if segments else set()
    ticket = tickets.get(stream_key(who.id, who.owner))
    return Subject(
        backends=tuple(now | {who.backend}),
        models=(who.model, who.upstream_model),
        route=ticket.route if ticket else "",
        key=who.key_id,
        owner=who.owner,
        user=who.user_id,
    )


def kill(hub: Hub, tickets: Mapping[str, Ticket], rules: Iterable[Rule]) -> int:
    """End every running stream that a rule is about. Returns how many."""
    rules, ended = tuple(rules), 0
    for producer in hub if rules else ():
        rule = next((rule for rule in rules if hits(rule, subject_of(producer, tickets))), None)
        if rule is not None:
            ended += stop(producer, f"killed by rule {rule.id}" + (f": {rule.reason}" if rule.reason else ""))
    return ended


def end_where(hub: Hub, wanted: Callable[[Producer], bool], reason: str) -> int:
    """End the running streams a predicate picks out. Returns how many."""
    return sum(stop(producer, reason) for producer in hub if wanted(producer))


def stop(producer: Producer, reason: str) -> bool:
    """End one; False when it had ended already."""
    return producer.stop(State.CANCELLED, by="operator", reason=reason, finish="cancelled")
