"""A bad network: two places, each a thread with a network namespace of its own, and between them a line that delays,
loses, and can be cut without a word. Needs Linux, /dev/net/tun and the right to make namespaces (`possible`).

Packets go through a TUN device at each end and through this process between them; the kernels' TCP is the real one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import fcntl
import os
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Self, TypeVar

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP_RUNNING = 0x41
_PACKET = 65536

T = TypeVar("T")


def _address(name: bytes, address: str) -> bytes:
    return struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address))


def _enter(address: str) -> int:
    """This thread is in a new namespace from now on; the file of its only way out of it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespaces here")
    line = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(line, _TUNSETIFF, struct.pack("16sH22x", b"line", _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, _address(b"line", address))
        fcntl.ioctl(control, _SIOCSIFNETMASK, _address(b"line", "255.255.255.0"))
        for name in (b"line", b"lo"):
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP_RUNNING))
    return line


class Place:
    """One end of the line: coroutines run there, in a loop and a thread of its own, on its own network."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._ready: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self.line = self._ready.result(5)

    def _live(self) -> None:
        try:
            line = _enter(self.address)
        except OSError as error:
            self._ready.set_exception(error)
            return
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._ready.set_result, line)
        self._loop.run_forever()
        self._loop.close()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it comes to there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @asynccontextmanager
    async def within(self, context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Something that lives there."""
        stack = AsyncExitStack()
        entered = await self.run(stack.enter_async_context(context))
        try:
            yield entered
        finally:
            await self.run(stack.aclose())

    def close(self) -> None:
        """Its sockets go with it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        os.close(self.line)


class Line:
    """`async with Line() as line`: `line.near` and `line.far`. `delay` in seconds one way, `loss` a share of packets;
    `down`: nothing comes through any more, and nobody is told."""

    def __init__(self, *, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        self.delay, self.loss, self.down = delay, loss, False
        self.lost = self.passed = 0
        self._chance = random.Random(seed)

    async def __aenter__(self) -> Self:
        self.near, self.far = Place("10.66.0.1"), Place("10.66.0.2")
        loop = asyncio.get_running_loop()
        for a, b in ((self.near, self.far), (self.far, self.near)):
            loop.add_reader(a.line, self._pass(a.line, b.line, loop))
        return self

    def _pass(self, source: int, target: int, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        def ready() -> None:
            packet = os.read(source, _PACKET)
            if self.down or self._chance.random() < self.loss:
                self.lost += 1
                return
            self.passed += 1
            loop.call_later(self.delay, os.write, target, packet)

        return ready

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for place in (self.near, self.far):
            loop.remove_reader(place.line)
        await asyncio.sleep(self.delay + 0.05)  # what is under way is written still
        for place in (self.near, self.far):
            place.close()


def possible() -> bool:
    """Whether such a network can be made here."""
    try:
        Place("10.66.0.9").close()
    except OSError:
        return False
    return True
