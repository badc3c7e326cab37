"""How a connection to a backend comes about: address, TLS, egress rule, socket options. All its errors are ours.

Connecting covers DNS, TCP and TLS within one timeout. Where `allow_private` is off, names are resolved here, checked,
and the checked
address is the one connected to, so that DNS cannot change its mind in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend

_USER_TIMEOUT_MS = 55_000  # a peer that acknowledges nothing for so long is dead; kernels notice up to 5 s later
_KEEPALIVE = (("TCP_KEEPIDLE", 25), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

P = TypeVar("P", bound=asyncio.Protocol)


class Origin:
    """A backend's base URL, taken apart. Raises ValueError with a sentence when it is not one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected a URL such as https://api.example.com/v1, got a {parts.scheme or 'bare'} one")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("a backend's url holds no user, query or fragment; use api_key or headers")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/")
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = shown if self.port == (443 if self.tls else 80) else f"{shown}:{self.port}"


def tls_context(backend: Backend) -> ssl.SSLContext:
    """The TLS settings of a backend: the system's certificates or `ca_file`, TLS 1.2 at least. Raises ValueError."""
    try:
        context = ssl.create_default_context(cafile=backend.ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"ca_file cannot be read: {error.strerror or 'not a certificate file'}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not backend.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet; addresses that wrap an IPv4 one are judged by that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class Dialer:
    """Connects to one backend. `timeout` is in seconds and covers everything."""

    def __init__(self, name: str, origin: Origin, backend: Backend, timeout: float) -> None:
        self._name = name
        self._origin = origin
        self._allow_private = backend.allow_private
        self._context = tls_context(backend) if origin.tls else None
        self._timeout = timeout

    async def dial(self, factory: Callable[[], P]) -> P:
        """A connected protocol. Raises BackendError UPSTREAM_FAILED or TIMED_OUT."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._connect(factory)
        except TimeoutError as error:
            code, text = ErrorCode.TIMED_OUT, f"did not accept a connection within {self._timeout:g} s"
            raise BackendError(code, f"backend {self._name} {text}") from error
        except (OSError, ssl.CertificateError, UnicodeError) as error:
            raise BackendError(ErrorCode.UPSTREAM_FAILED, f"backend {self._name} {_reason(error)}") from error

    async def _connect(self, factory: Callable[[], P]) -> P:
        if self._allow_private:
            return await self._connect_to(factory, self._origin.host)
        failure: OSError | None = None
        for address in await self._checked():
            try:
                return await self._connect_to(factory, address)
            except OSError as error:
                failure = error
        raise failure or OSError("no address")

    async def _connect_to(self, factory: Callable[[], P], host: str) -> P:
        loop = asyncio.get_running_loop()
        name = self._origin.host if self._context else None
        transport, protocol = await loop.create_connection(
            factory, host, self._origin.port, ssl=self._context, server_hostname=name
        )
        tune(transport)
        return protocol

    async def _checked(self) -> list[str]:
        """The host's addresses; one private address among them spoils them all (DNS rebinding mixes them)."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._origin.host, self._origin.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(is_public(address) for address in addresses):
            text = "has a private address, which allow_private does not permit"
            raise BackendError(ErrorCode.UPSTREAM_FAILED, f"backend {self._name} {text}")
        return addresses


def tune(transport: asyncio.BaseTransport, *, send_buffer: int = 0) -> None:
    """No Nagle, and dead peers noticed within a minute. Options a platform lacks are left out.

    `send_buffer` in bytes bounds what the kernel holds for a peer that does not read; 0 leaves it to the kernel.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    if send_buffer:
        options.append((socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer))
    for level, option, value in options:
        with contextlib.suppress(OSError):  # a peer that is gone already; the first read will say so
            sock.setsockopt(level, option, value)


def _reason(error: Exception) -> str:
    """What went wrong, without quoting the foreign error (its text may hold addresses or worse)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"showed a certificate that is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "could not agree on TLS"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "has a name that does not resolve"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    return "could not be reached"
