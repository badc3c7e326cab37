"""Every request by every kind of client, to every kind of server: what arrived there, or how it was turned away."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from support.answers import before
from support.arrivals import foreign, wanted, within
from support.asks import ASKS
from support.endings import message_of
from support.model_server import ModelServer
from support.plain_clients import CLIENTS

_ADDED = {"model", "stream", "stream_options", "max_tokens"}  # what the gateway may write into a body it passes on


async def explore(client_name: str, kind: str) -> dict[str, str]:
    """The outcome of each thing this client can ask: exact; dropped: its name in X-Headgate-Dropped; refused: 400.
    Anything else says what is wrong."""
    found: dict[str, str] = {}
    async with before(kind) as (server, base), aiohttp.ClientSession(base) as http:
        for feature, patch in ASKS[client_name].items():
            found[feature] = await _outcome(http, server, client_name, kind, feature, patch)
    return found


async def _outcome(
    http: aiohttp.ClientSession, server: ModelServer, client_name: str, kind: str, feature: str, patch: Any
) -> str:
    asking = CLIENTS[client_name]
    body, sent = {**asking.body(stream=True), **patch}, len(server.requests)
    async with http.post(asking.target(stream=True), json=body, headers=asking.headers) as answer:
        said, dropped = await answer.read(), answer.headers.get("X-Headgate-Dropped", "")
    if answer.status == 400:
        message = message_of(client_name, said)
        if len(server.requests) != sent or ("cannot" not in message and "no such tool" not in message):
            return f"400 {message}"
        return "refused"
    if answer.status != 200:
        return f"{answer.status} {said!r}"
    return _arrived(server, client_name, kind, feature, body, dropped)


def _arrived(server: ModelServer, client_name: str, kind: str, feature: str, body: Any, dropped: str) -> str:
    arrived = server.asked
    if server.dialect == client_name:
        same = {name: arrived.get(name) == value for name, value in body.items() if name not in _ADDED}
        if "max_tokens" in body:
            same["max_tokens"] = arrived.get("max_tokens") == body["max_tokens"]
        added = set(arrived) - set(body) - _ADDED
        return "exact" if all(same.values()) and not added and not dropped else f"passed on as {json.dumps(arrived)}"
    strange = foreign(server.dialect, arrived)
    if strange:
        return f"strange names arrived: {strange}"
    part = wanted(kind, feature)
    if dropped:
        return f"dropped: {dropped}"
    if part is None:
        return f"nothing said of its loss: {json.dumps(arrived)}"
    return "exact" if within(part, arrived) else f"arrived as {json.dumps(arrived, ensure_ascii=False)}"
