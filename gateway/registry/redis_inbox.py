"""The cancels other nodes asked of this one, and of nodes whose streams it goes on with.

Law: a wish is done first and struck off after, so none is lost in between. A wish for a stream that was left to an heir
waits for the heir, who looks where it was put: into the inbox of the node that had the stream then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container

import msgspec

from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_healing import healed
from gateway.registry.redis_layout import Layout

LIFE = 60.0  # seconds after which a wish that nobody fetched is forgotten


class Inbox:
    """`runs` tells whether a stream, by its key, runs here; `stop` ends one (key, by whom, why)."""

    def __init__(
        self, node: str, link: Link, layout: Layout, runs: Callable[[str], bool], stop: Callable[[str, str, str], None]
    ) -> None:
        self._node, self._link, self._layout, self._runs, self._stop = node, link, layout, runs, stop
        self._lost: dict[str, float] = {}  # nodes this one inherits from, and until when it looks after their wishes

    def heir(self, node: str) -> None:
        """This node takes over streams of another."""
        self._lost[node] = time.monotonic() + LIFE

    async def read(self, left: Container[str]) -> None:
        """Do what is wished. `left`: streams of this node that wait for their heir. Raises Away."""
        now = time.monotonic()
        self._lost = {node: until for node, until in self._lost.items() if until > now}
        keys = [self._layout.node_key("inbox", node) for node in (self._node, *self._lost)]
        answers = await healed(self._link, self._layout, [Op("HGETALL", (key,)) for key in keys])
        done = {
            key: self._do(raw, left if i == 0 else None) for i, (key, raw) in enumerate(zip(keys, answers, strict=True))
        }
        ops = [Op("HDEL", (key,), tuple(names)) for key, names in done.items() if names]
        if ops:
            await healed(self._link, self._layout, ops)

    def _do(self, raw: object, left: Container[str] | None) -> list[bytes]:
        """Which wishes of an inbox are settled: `left` is None where it is another's."""
        wishes = raw if isinstance(raw, dict) else _paired(raw)
        settled = []
        for name, words in wishes.items():
            key = name.decode("utf-8", "replace")
            if self._runs(key):
                wish = _wish(words)
                if wish:
                    self._stop(key, wish.get("by", "client"), wish.get("reason", ""))
            elif left is None or key in left:
                continue
            settled.append(name)
        return settled


def _paired(raw: object) -> dict[bytes, bytes]:
    return dict(zip(raw[::2], raw[1::2], strict=True)) if isinstance(raw, list) else {}


def _wish(raw: bytes) -> dict[str, str]:
    try:
        return msgspec.json.decode(raw, type=dict[str, str])
    except msgspec.MsgspecError:
        return {}
