"""Who counts as there, by a clock of the test's."""

from __future__ import annotations

from gateway.registry.living import Living
from gateway.registry.redis_layout import REMEMBER_MS, Layout

LAYOUT = Layout("t", 60.0, 5.0, 10.0)


def test_a_late_heartbeat_is_no_death() -> None:
    """A busy node that has just claimed a stream would lose it at once to another one, which asks a backend again."""
    living = Living(LAYOUT.holds, 2.0)
    assert living.seen({"b": 4000, "c": -2}, 10.0) == {"b"}
    assert living.seen({"b": -2, "c": -2}, 11.9) == {"b"}
    assert living.seen({"b": -2, "c": -2}, 12.0) == frozenset()
    assert living.seen({"b": 5000, "c": 1}, 13.0) == {"b", "c"}


def test_a_farewell_is_one_at_once() -> None:
    """What a node that has ended gave up would lie about until it could have been lost."""
    living = Living(LAYOUT.holds, 2.0)
    assert living.seen({"b": 4000}, 10.0) == {"b"}
    assert living.seen({"b": REMEMBER_MS}, 10.1) == frozenset()


def test_who_slept_sees_nobody_it_does_not_see() -> None:
    """Nodes of long ago would keep it from going on with their streams."""
    living = Living(LAYOUT.holds, 2.0)
    living.seen({"b": 4000}, 10.0)
    assert living.seen({}, 50.0) == frozenset()
