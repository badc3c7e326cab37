"""What a web page may ask of a gateway that asks nobody for a key. Pure.

Law: without keys the address is the only lock, and a page can send requests to any address: under a name of its own
that it lets point here (DNS rebinding), or straight across sites, with a body that needs no preflight. So the Host must
be a name that no page can own, and a page that changes something or starts a stream must be one of this gateway, of
this machine or of `server.cors.origins`. Programs send neither Origin nor Sec-Fetch-Site and never notice. Sources:
RFC 6761 (localhost), ICANN's reservation of .internal (2024), Fetch Metadata Request Headers (Sec-Fetch-Site).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from config.schema import Server

HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ORIGIN = re.compile(rf"(https?)://({HOST.pattern})")
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_NOBODYS = ("localhost", "internal")  # nobody can register a name below these
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_REBOUND = (
    "this gateway has no keys and does not answer under this host name, which a web page could have made point here; "
    "call it as localhost or by its address, or add the name to server.hosts"
)
_FOREIGN = (
    "this gateway has no keys, and web pages of other origins may not start or change anything here; "
    "add the page's origin to server.cors.origins, or configure keys"
)


def lured(server: Server, host: str | None, origins: Sequence[str], site: str, *, changes: bool) -> str:
    """Why a request is refused that a page may have made its visitor's browser send; "" when it is not.

    `host`: the Host header, None when absent; `origins`: every Origin header; `site`: Sec-Fetch-Site, "" when absent;
    `changes`: it changes something, or starts a stream. Names are judged here while `server.hosts` lists none.
    """
    if host is not None and not server.hosts and not unowned(host):
        return _REBOUND
    if not changes:
        return ""
    if origins:
        return "" if all(_welcome(origin, host, server.cors.origins) for origin in origins) else _FOREIGN
    return _FOREIGN if site == "cross-site" else ""


def host_name(host: str) -> str:
    """The name or address in a Host header, lower case, without port and brackets; "" when it is neither."""
    found = HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else ""


@lru_cache(64)
def is_host(host: str) -> bool:
    """Whether a Host header's text is a name or an address, with a port or without."""
    return HOST.fullmatch(host) is not None


@lru_cache(64)
def unowned(host: str) -> bool:
    """Whether a Host header's name is one that no page can make point here: an address, a name without a dot, or one
    below `localhost` or `internal`."""
    name = host_name(host)
    if not name or _address(name) is not None:
        return bool(name)
    return not {".", ":"} & set(name) or any(_below(name, parent) for parent in _NOBODYS)


def own(origin: str, host: str) -> bool:
    """Whether an Origin is that of the Host it was sent to. A proxy may have ended TLS: the scheme says nothing."""
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None:
        return False
    port = _DEFAULT_PORT[found[1]]
    return found[2].removesuffix(port) == host.lower().removesuffix(port)


def _welcome(origin: str, host: str | None, listed: Sequence[str]) -> bool:
    return origin in listed or _loopback(origin) or (host is not None and own(origin, host))


def _loopback(origin: str) -> bool:
    """Whether an origin is a page this machine serves itself."""
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None:
        return False
    name = host_name(found[2])
    address = _address(name)
    return address.is_loopback if address is not None else _below(name, "localhost")


def _below(name: str, parent: str) -> bool:
    """Whether a name is this one, or below it; either may be written with the dot of the root."""
    name = name.removesuffix(".")
    return name == parent or name.endswith("." + parent)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
