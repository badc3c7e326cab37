"""What a worker is asked about its limits, breakers and operators' settings when somebody looks at its figures.

Law: no label names a client: no keys, owners, users or workspaces. Nothing here is asked more often than once a second.
"""

from __future__ import annotations

from collections import Counter

from gateway.access.limits import name_of
from gateway.control.flags import current
from gateway.edge.services import Services
from gateway.observe.sampled import Figure, Values

_SWITCHES = ("streaming", "background", "debug", "emergency")


def figures_of(services: Services) -> list[Figure]:
    """All of them, for `Metrics.watch`."""
    asked = _Asked(services)
    return [
        Figure("headgate_leases", "Places that running streams hold, by limit.", ("limit",), "sum", asked.leases),
        Figure("headgate_queue_length", "Requests that wait for a place.", ("queue",), "sum", asked.queues),
        Figure("headgate_breaker_opened", "Times a breaker opened.", ("backend",), "count", asked.opened),
        Figure("headgate_retries_active", "Streams on a second attempt.", (), "sum", asked.retries),
        Figure("headgate_retries_refused", "Retries the budget had no room for.", (), "count", asked.retries_refused),
        Figure("headgate_control_version", "Version of the operators' settings.", (), "state", asked.version),
        Figure("headgate_control_switch", "1: switched on.", ("switch",), "state", asked.switches),
        Figure(
            "headgate_control_rules",
            "Kills and pauses in force, by what they match.",
            ("rule", "kind"),
            "state",
            asked.rules,
        ),
        Figure("headgate_rollout_percent", "Part of the users that may stream.", (), "state", asked.rollout),
    ]


class _Asked:
    """The answers."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def leases(self) -> Values:
        """By limit; those of backends are the fleet's places."""
        services = self._services
        found = Counter(name_of(scope) for ticket in services.limiter.tickets.values() for scope in ticket.scopes)
        for upstream in services.upstreams:
            if upstream.backend.max_streams:
                found[f"backends.{upstream.name}.max_streams"] = len(upstream.leases)
        return {(name,): count for name, count in found.items()}

    def queues(self) -> Values:
        """By queue, as gateway.yaml calls it."""
        services = self._services
        found = {f"backends.{one.name}.queue": one.waiting for one in services.upstreams if one.backend.queue.size}
        return {(name,): count for name, count in {"access.queue": services.limiter.waiting, **found}.items()}

    def opened(self) -> Values:
        """By backend, from the start."""
        return {(one.name,): one.breaker.opened for one in self._services.upstreams}

    def retries(self) -> Values:
        """Now."""
        return {(): self._services.upstreams.budget.retries}

    def retries_refused(self) -> Values:
        """From the start."""
        return {(): self._services.upstreams.budget.refused}

    def version(self) -> Values:
        """Of what is in force here."""
        return {(): self._services.control.state.version}

    def switches(self) -> Values:
        """Those that are on or off."""
        state = self._services.control.state
        return {(name,): float(getattr(state, name)) for name in _SWITCHES}

    def rules(self) -> Values:
        """Those whose time is not over."""
        control = self._services.control
        state = current(control.state, control.now)
        kinds = [("kill", rule.kind) for rule in state.killed] + [("pause", one.kind) for one in state.paused]
        return {kind: kinds.count(kind) for kind in kinds}

    def rollout(self) -> Values:
        """0 to 100."""
        return {(): self._services.control.state.rollout.percent}
