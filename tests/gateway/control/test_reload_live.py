"""What is remembered of callers, routes and limits is forgotten with a reload: seen on one connection that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.inprocess import running
from support.operators import Operator, operator

from config.load import load
from gateway.access.keys import create
from gateway.app import Gateway
from gateway.streams.stream import State

_SECRET, _KEY = create("web", "acme")
_OTHER_SECRET, _OTHER = create("other", "beta")
TEXT = f"""
server: {{port: 0}}
admin: {{port: 0}}
backends:
  a: {{driver: demo}}
  b: {{driver: demo}}
routes:
  - {{model: one, to: a}}
  - {{model: "*", to: b}}
keys:
  - {{id: web, owner: acme, hash: '{_KEY.hash}'}}
  - {{id: other, owner: beta, hash: '{_OTHER.hash}'}}
"""


class Kept:
    """One connection, which must not be closed: status, headers and body of answers by turns."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, secret: str = _SECRET, model: str = "one", tokens: int = 2) -> tuple[int, str, str]:
        """Status, X-Stream-Id, body."""
        head, body = request(secret, model, tokens)
        self._writer.write(head + body)
        return await self.answer()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, str, str]:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)).decode()
        fields = {n.lower(): v for n, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
        if "content-length" in fields:
            body = await self._reader.readexactly(int(fields["content-length"]))
        else:
            body = b""
            while size := int(await self._reader.readline(), 16):
                body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        return int(head.split(" ")[1]), fields.get("x-stream-id", ""), body.decode()


def request(secret: str, model: str = "one", tokens: int = 2, rate: int = 1000) -> tuple[bytes, bytes]:
    """Its head and its body. A native answer ends properly also where its key is revoked meanwhile."""
    said = f"hi [tokens={tokens}] [rate={rate}]"
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": said}]}).encode()
    head = f"POST /api/streaming/chat HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {secret}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body


@asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[Kept]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.public_port)
    try:
        yield Kept(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def served(folder: Path, text: str = TEXT) -> AsyncIterator[tuple[Gateway, Path, Operator]]:
    path = folder / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    async with running(load(path), source=str(path)) as gateway, operator(gateway) as admin:
        yield gateway, path, admin


async def until(fits: Callable[[], Awaitable[bool]]) -> None:
    """The file is watched: a second is promised, and a busy machine is given some more."""
    async with asyncio.timeout(10):
        while not await fits():
            await asyncio.sleep(0.05)


async def test_a_kept_connection_sees_each_reload(tmp_path: Path) -> None:
    """A caller, a route or a limit that is remembered beyond a reload stays in force for who keeps his connection."""
    async with served(tmp_path) as (gateway, path, _admin), connected(gateway) as kept:

        async def backend(model: str = "one") -> str:
            status, stream_id, _ = await kept.ask(model=model)
            found = await gateway.registry.find(stream_id, "acme")
            assert status == 200
            assert found is not None
            return found.backend

        async def refused(secret: str = _SECRET) -> bool:
            return (await kept.ask(secret))[0] in (401, 403, 429)

        assert [await backend(), await backend("x"), await backend()] == ["a", "b", "a"]
        path.write_text(TEXT.replace("to: a", "to: b"))

        async def moved() -> bool:
            return await backend() == "b"

        await until(moved)
        path.write_text(TEXT.replace("id: web,", "id: web, rpm: 1,"))
        await until(refused)
        assert not await refused(_OTHER_SECRET)
        path.write_text(TEXT.replace("id: web,", "id: web, models: ['x*'],"))

        async def forbidden() -> bool:
            return (await kept.ask())[0] == 403

        await until(forbidden)
        assert (await kept.ask(model="x"))[0] == 200
        path.write_text(TEXT.replace("id: web,", "id: web, disabled: true,"))

        async def revoked() -> bool:
            return (await kept.ask(model="x"))[0] == 401

        await until(revoked)
        assert (await kept.ask(_OTHER_SECRET))[0] == 200
        path.write_text(TEXT)

        async def back() -> bool:
            return (await kept.ask())[0] == 200

        await until(back)


async def test_a_key_revoked_while_its_body_comes_starts_nothing(tmp_path: Path) -> None:
    """Who holds back the last byte of a body would have a stream with a key that is revoked since long."""
    async with served(tmp_path) as (gateway, path, admin), connected(gateway) as kept:
        head, body = request(_SECRET)
        kept.send(head + body[:-1])
        await asyncio.sleep(0.1)
        path.write_text(TEXT.replace("id: web,", "id: web, disabled: true,"))
        assert (await admin.post("/reload"))["applied"]
        kept.send(body[-1:])
        assert (await kept.answer())[0] == 401


QUEUED = TEXT.replace("b: {driver: demo}", "b: {driver: demo, max_streams: 1, queue: {size: 5, timeout: 5s}}")
LIMITED = TEXT.replace("keys:", "access: {max_streams: 1, queue: 5s}\nkeys:")


@pytest.mark.parametrize("text", [QUEUED, LIMITED], ids=["a backend's place", "a limit"])
@pytest.mark.parametrize("how", ["revoked", "killed"])
async def test_who_waits_for_a_place_is_looked_at_once_more(tmp_path: Path, text: str, how: str) -> None:
    """A request that waits while its key is revoked, or its model killed, would start right after it, and run."""
    async with (
        served(tmp_path, text) as (gateway, path, admin),
        connected(gateway) as first,
        connected(gateway) as second,
    ):
        first.send(b"".join(request(_OTHER_SECRET if text == QUEUED else _SECRET, "x", 500, 100)))
        await _true(lambda: len(gateway.hub) == 1)
        second.send(b"".join(request(_SECRET, "x2")))
        await asyncio.sleep(0.1)
        assert len(gateway.hub) == 1
        if how == "revoked":
            path.write_text(text.replace("id: web,", "id: web, disabled: true,"))
            assert (await admin.post("/reload"))["applied"]
        else:
            await admin.post("/control/kill", {"model": "x2"})
        for producer in list(gateway.hub):
            producer.stop(State.CANCELLED, by="client", reason="")
        status, _, said = await second.answer()
        assert status in (401, 403, 429, 503), said
        await _true(lambda: not gateway.services.limiter.tickets)
        assert all(one.active == 0 for one in (gateway.services.upstreams["a"], gateway.services.upstreams["b"]))


async def _true(fits: Callable[[], Any]) -> None:
    async def asked() -> bool:
        return bool(fits())

    await until(asked)
