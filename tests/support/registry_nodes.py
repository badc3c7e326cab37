"""Nodes with streams for registry tests: what the gateway would attach, in a few lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from config import schema
from config.values import Duration
from gateway.registry.base import Entry
from gateway.registry.catalog import build
from gateway.registry.redis import RedisRegistry
from gateway.streams.stream import Receipt


def entry(stream_id: str, owner: str = "acme", node: str = "a", **more: Any) -> Entry:
    """A running stream that began now."""
    fields: dict[str, Any] = {
        "state": "streaming", "model": "m", "backend": "demo", "protocol": "native", "user_id": "", "workspace_id": "",
        "conversation_id": "", "started_at": int(time.time() * 1000), "token_count": 7,
    }  # fmt: skip
    return Entry(stream_id=stream_id, owner=owner, node=node, **(fields | more))


def receipt(of: Entry, state: str = "completed", **more: Any) -> Receipt:
    """How that stream ended: 7 tokens, first after 100 ms, all after 1100 ms."""
    fields: dict[str, Any] = {
        "ended_by": "backend", "reason": "", "ended_at": of.started_at + 1100, "first_token_ms": 100.0,
        "duration_ms": 1100.0, "token_count": of.token_count, "finish_reason": "stop", "prompt_tokens": 3,
        "completion_tokens": of.token_count, "reasoning_tokens": 0, "cached_tokens": 0, "usage_estimated": False,
        "bytes_in": 10, "average_gap_ms": None, "max_gap_ms": None, "tokens_per_second": None, "attempts": 1,
    }  # fmt: skip
    shared = {name: getattr(of, name) for name in (
        "stream_id", "protocol", "model", "backend", "upstream_model", "owner", "user_id", "workspace_id",
        "conversation_id", "node", "started_at",
    )}  # fmt: skip
    return Receipt(state=state, **(shared | fields | more))


class Node:
    """A RedisRegistry and the streams of its gateway."""

    def __init__(self, name: str, url: str, lease: float = 1.0, replay: float = 60.0) -> None:
        config = schema.Registry(url=url, lease=Duration(lease), replay=Duration(replay))
        registry = build(config, name)
        assert isinstance(registry, RedisRegistry)
        self.registry = registry
        self.streams: dict[str, Entry] = {}
        self.stopped: list[tuple[str, str, str]] = []
        registry.attach(lambda: list(self.streams.values()), self.end_by_registry)

    async def __aenter__(self) -> Node:
        await self.registry.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.registry.stop()

    def open(self, stream_id: str, owner: str = "acme", **more: Any) -> Entry:
        """Start a stream here."""
        made = entry(stream_id, owner, self.registry.node, **more)
        self.streams[stream_id] = made
        self.registry.opened(made)
        return made

    def close(self, stream_id: str, state: str = "completed") -> Receipt:
        """End one here."""
        done = receipt(self.streams.pop(stream_id), state)
        self.registry.closed(done, "")
        return done

    def end_by_registry(self, stream_id: str, owner: str, by: str, reason: str) -> Receipt | None:
        """What the gateway does when the registry wants a stream stopped."""
        self.stopped.append((stream_id, by, reason))
        state = "node_lost" if reason == "node_lost" else "cancelled"
        return self.close(stream_id, state) if stream_id in self.streams else None

    def freeze(self) -> asyncio.Task[None]:
        """Stop housekeeping abruptly, as a killed or stopped process would. Returns the dead loop."""
        loop = self.registry._loop
        assert loop is not None
        loop.cancel()
        return loop

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self.registry._loop = asyncio.create_task(self.registry.fleet.run())


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    """Whether `condition` (plain or async) came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return True
        await asyncio.sleep(0.03)
    return False
