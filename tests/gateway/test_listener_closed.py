"""A listener that is closed while clients connect: who got through gets an answer."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from gateway.ports import close


async def test_who_has_connected_is_answered() -> None:
    """A proxy whose request is broken off by a node that ends cannot know whether it was begun: its client gets 502."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = runner.addresses[0]
        waiting = [socket.create_connection(address) for _ in range(20)]  # the loop has accepted none of them
        for one in waiting:
            one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await close(runner)
        for one in waiting:
            reader, writer = await asyncio.open_connection(sock=one)
            assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"hello")
            writer.close()
        with socket.socket() as late:
            assert late.connect_ex(address) != 0
        assert list(runner.sites) == []
    finally:
        await runner.cleanup()
