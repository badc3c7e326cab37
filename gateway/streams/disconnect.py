"""What becomes of a stream when its last reader leaves: `cancel`, `grace 30s` (or `grace=30s`), `continue`. Pure."""

from __future__ import annotations

from functools import lru_cache

from config.scalars import parse_on_disconnect
from config.schema import OnDisconnect


def choose(
    request: OnDisconnect | None, route: OnDisconnect | None, default: OnDisconnect | None, protocol: str
) -> OnDisconnect:
    """The most particular word counts: the request's, the route's, the configuration's, the protocol's."""
    return request or route or default or _of(protocol)


_of = lru_cache(16)(parse_on_disconnect)  # of protocols there are few
