"""What a client must make of a scripted model behind a real server: the same words whichever server and client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from support.answers import client
from support.asks import ASKS
from support.heard import Heard
from support.inprocess import running
from support.plain_clients import CLIENTS
from support.script_text import TOOL_NAME

from config.schema import Admin, Backend, Config, Route, Server, Target

LONG: dict[str, dict[str, Any]] = {
    "anthropic": {"max_tokens": 8_000},  # its clients always say how much they want
    "openai_completions": {"max_tokens": 8_000, "prompt": "Say it.\n"},  # servers give 16 tokens, and no template
}
_ENDLESS: dict[str, dict[str, Any]] = {  # the same length for all: what servers give unasked differs
    **LONG,
    "native": {"maxTokens": 8_000},
    "ndjson": {"maxTokens": 8_000},
    "openai": {"max_tokens": 8_000},
    "openai_responses": {"max_output_tokens": 8_000},
    "ollama": {"options": {"num_predict": 8_000}},
    "ollama_generate": {"options": {"num_predict": 8_000}},
    "google": {"generationConfig": {"maxOutputTokens": 8_000}},
    "google_array": {"generationConfig": {"maxOutputTokens": 8_000}},
}
CALLERS = tuple(name for name in CLIENTS if name not in ("openai_completions", "ollama_generate"))  # know tools


@asynccontextmanager
async def behind(driver: str, url: str, model: str, **options: Any) -> AsyncIterator[str]:
    """A gateway whose every model is this one: its base URL."""
    config = Config(
        server=Server(port=0),
        admin=Admin(port=0),
        backends={"up": Backend(driver=driver, url=url, options=options)},
        routes=(Route(model="*", to=(Target("up", model),)),),
    )
    async with running(config) as gateway:
        yield f"http://127.0.0.1:{gateway.public_port}"


def offering(name: str) -> dict[str, Any]:
    """The fields by which a client offers the scripted model's tool."""
    asks = ASKS["native" if name == "ndjson" else "google" if name == "google_array" else name]
    found: dict[str, Any] = json.loads(json.dumps(asks["tools"]).replace('"weather"', f'"{TOOL_NAME}"'))
    return found


async def hear(name: str, base: str, *, stream: bool, **more: Any) -> Heard:
    """What this client makes of the model's answer."""
    async with client(name, base) as asking:
        return await asking.ask(stream=stream, **{**LONG.get(name, {}), **more})


async def cancel(name: str, base: str, busy: Callable[[bool], object]) -> None:
    """DELETE an endless answer in its middle; `busy(False)` waits until the server is idle, or raises."""
    kind = CLIENTS[name]
    body = {**kind.body(stream=True), **_ENDLESS.get(name, {})}
    async with (
        aiohttp.ClientSession(base, headers=kind.headers) as http,
        http.post(kind.target(stream=True), json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        await answer.content.readany()
        await asyncio.to_thread(busy, True)
        async with http.delete(f"/api/streaming/{answer.headers['X-Stream-Id']}") as deleted:
            assert (deleted.status, (await deleted.json())["state"]) == (200, "cancelled")
        await asyncio.to_thread(busy, False)
