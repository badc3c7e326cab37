"""An operator of an in-process gateway: requests to its admin listener, as `headgate control` sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from gateway.app import Gateway


class Operator:
    """`get`, `post`, ... answer (status, JSON)."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        async with self._session.request(method, path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        status, found = await self.ask("GET", path)
        assert status == 200, found
        return found

    async def post(self, path: str, body: Any = None) -> Any:
        """The JSON of a POST that must succeed."""
        status, found = await self.ask("POST", path, body)
        assert status == 200, found
        return found

    async def set(self, **fields: Any) -> Any:
        """Change settings; must succeed."""
        status, found = await self.ask("PATCH", "/control", fields)
        assert status == 200, found
        return found


@asynccontextmanager
async def operator(gateway: Gateway) -> AsyncIterator[Operator]:
    """Of a gateway on loopback without a token."""
    base = f"http://127.0.0.1:{gateway.admin_port}"
    async with aiohttp.ClientSession(base, headers={"X-Headgate-Admin": "1"}) as session:
        yield Operator(session)
