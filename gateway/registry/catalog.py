"""Which registry a URL means. Law: this is the only place that knows them all."""

from __future__ import annotations

from config import schema
from gateway.registry.base import Registry
from gateway.registry.memory import MemoryRegistry


def build(config: schema.Registry, node: str) -> Registry:
    """The registry of one worker, `node` its unique name. Raises ValueError for a URL of an unknown kind."""
    if config.url.split(":", 1)[0] == "memory":
        return MemoryRegistry(node, config.replay)
    from gateway.registry.redis import RedisRegistry  # one worker needs no Redis client

    return RedisRegistry(node, config)
