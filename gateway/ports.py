"""The addresses of a node whose workers share them: bound before they start, so that ports are known and nobody else's.

Law: what is held here is never listened on; the kernel gives connections only to the workers that do. Who has connected
before a listener is closed gets an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from aiohttp import web
from msgspec.structs import replace

from config.schema import Config


def hold(config: Config) -> tuple[Config, list[socket.socket]]:
    """Both addresses bound for the workers, without listening: ports are known, and nobody else's. Raises OSError."""
    with blaming("server", config.server.host, config.server.port):
        public, port = _hold(config.server.host, config.server.port)
    with blaming("admin", config.admin.host, config.admin.port):
        admin, admin_port = _hold(config.admin.host, config.admin.port)
    return _at(config, port, admin_port), public + admin


async def close(runner: web.AppRunner) -> None:
    """Listen no more; connections stay. Those the system has made and nobody has accepted yet are accepted: it would
    break them off, in the midst of their requests."""
    loop, late = asyncio.get_running_loop(), list[socket.socket]()
    assert runner.server is not None
    for site in list(runner.sites):
        listening = getattr(site._server, "sockets", ())
        held = [socket.fromfd(one.fileno(), one.family, one.type) for one in listening]
        await site.stop()
        for one in held:
            late += _waiting(one)
            one.close()
    for one in late:
        await loop.connect_accepted_socket(runner.server, one)


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    listener.setblocking(False)
    with contextlib.suppress(OSError):  # nobody is left
        while True:
            accepted = listener.accept()[0]
            accepted.setblocking(False)
            yield accepted


@contextlib.contextmanager
def blaming(section: str, host: str, port: int) -> Iterator[None]:
    """An address that cannot be had is told with the setting it came from. Raises OSError."""
    try:
        yield
    except OSError as error:
        setting = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise OSError(error.errno, f"{section}.{setting}: {host}:{port}: {why}") from error


def _at(config: Config, port: int, admin_port: int) -> Config:
    return replace(config, server=replace(config.server, port=port), admin=replace(config.admin, port=admin_port))


def _hold(host: str, port: int) -> tuple[list[socket.socket], int]:
    held = []
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        wanted = (address[0], port, *address[2:])
        # Alone first: a second gateway must not slip in beside this one and take half of its connections.
        with _socket(family, kind, protocol) as probe:
            probe.bind(wanted)
        ours = _socket(family, kind, protocol)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ours.bind(wanted)
        port = ours.getsockname()[1]
        held.append(ours)
    return held, port


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
