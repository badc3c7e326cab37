"""A whole gateway in the test's own event loop, on free ports, in front of whatever upstream the test scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from config.schema import Admin, Backend, Config, Route, Server, Streams, Target
from gateway.app import Gateway


def config_for(url: str = "", *, driver: str = "openai", streams: Streams | None = None, **rest: Any) -> Config:
    """One backend for every model: an OpenAI-compatible server at `url`, or the demo."""
    backend = Backend(driver=driver, url=url) if url else Backend(driver="demo", options={"tokens_per_second": 200})
    return Config(
        server=rest.pop("server", Server(port=0)),
        admin=Admin(port=0),
        streams=streams or Streams(),
        backends={"up": backend},
        routes=(Route(model="*", to=(Target("up"),)),),
        **rest,
    )


@asynccontextmanager
async def running(config: Config, source: str | None = None) -> AsyncIterator[Gateway]:
    """Start, yield, stop whatever still runs. `source`: the file it came from."""
    gateway = Gateway(config, source=source)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.drain(0.0)
        await gateway.close()


@asynccontextmanager
async def client(gateway: Gateway, **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the public listener; every request of its own connection, as different users would have."""
    base = f"http://127.0.0.1:{gateway.public_port}"
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(base, headers=headers, connector=connector) as session:
        yield session


def events(text: str) -> list[tuple[str, str, str]]:
    """(id, event, data) of each SSE event of a body."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("id", ""), fields.get("event", ""), fields["data"]))
    return found
