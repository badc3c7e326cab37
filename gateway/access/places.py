"""Places with backends, and their rates, as the registry counts them: of the whole fleet where there is Redis, else of
this worker, which is the whole fleet then.

Law: a lease of a place belongs to its worker's own lease, so that a killed worker's places come back by themselves.
What is to be done while Redis is away is said by `access.on_redis_loss`, as for every limit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from config.schema import Access, Backend
from gateway.access.limits import settlement, without_registry
from gateway.registry.base import Quota, Rate, Registry, Taken
from gateway.streams.stream import Receipt


class BackendPlaces:
    """One per worker."""

    def __init__(self, registry: Registry, access: Callable[[], Access]) -> None:
        self._registry = registry
        self._access = access
        self._numbers = itertools.count(1)

    async def take(self, backend: str, limit: int) -> str:
        """A lease of one of `limit` places; "" when all are taken. Raises LimitReached."""
        lease = f"{self._registry.node}/{next(self._numbers)}"
        taken = await self._take(lease, (Quota(f"backend:{backend}", limit),), ())
        return "" if taken.refused else lease

    def give(self, backend: str, lease: str) -> None:
        """Give it back."""
        self._registry.release(f"backend:{backend}", lease)

    async def spend(self, backend: str, rules: Backend, tokens: int) -> tuple[str, float] | None:
        """Spend of the rates; the limit that refused and seconds until it would not. Raises LimitReached."""
        taken = await self._take("", (), _rates(backend, rules, tokens))
        if not taken.refused:
            return None
        return f"backends.{backend}.{taken.refused.partition(':')[0]}", taken.retry_after

    def finished(self, receipt: Receipt, backends: Mapping[str, Backend], estimated: int) -> None:
        """A stream ended: the tokens that its last attempt took were estimated, and are known now."""
        rules = backends.get(receipt.backend)
        if rules is not None and rules.tpm:
            used = receipt.prompt_tokens + receipt.completion_tokens
            self._registry.charge(settlement(_rates(receipt.backend, rules, estimated)[-1:], used))

    async def _take(self, lease: str, quotas: tuple[Quota, ...], rates: tuple[Rate, ...]) -> Taken:
        alone = self._access().on_redis_loss == "allow"
        taken = await self._registry.take(lease, quotas, rates, alone=alone)
        if not (taken.shared or alone):
            raise without_registry()
        return taken


def _rates(backend: str, rules: Backend, tokens: int) -> tuple[Rate, ...]:
    """Those that are set, that of tokens last."""
    found = (("rpm", rules.rpm, 1), ("tpm", rules.tpm, tokens))
    return tuple(Rate(f"{kind}:backend:{backend}", limit, cost) for kind, limit, cost in found if limit)
