"""Which addresses of a registry can be used. Pure; the address is never shown, because it may hold a password.

Protocol source: the URLs of redis-py, and ours for Sentinels (`redis+sentinel://a:26379,b:26379/service/0`) and
clusters (`redis+cluster://a:6379,b:6379`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from config.complaints import did_you_mean
from config.findings import Finding, Material

_KINDS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_SCHEMES = ("memory", *_KINDS)
_COMMON = frozenset({"db", "client_name", "username", "password"})
_TLS = {
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
}
_PATH = "registry.url"
SHORTEST_LEASE = 0.5  # seconds; nodes with a shorter one would be taken for lost whenever they are busy
_ENCODE = "write '/', '#', '?' and '@' of a password as %2F, %23, %3F and %40"


def registry(seen: Material) -> Iterator[Finding]:
    """The address, and whether it and its lease suit the rest."""
    settings, workers = seen.config.registry, seen.config.server.workers
    scheme, mark, rest = settings.url.partition("://")
    wrong = _wrong(scheme, rest) if mark else Finding(_PATH, "is not an address of a registry", _hint())
    if wrong is not None:
        yield wrong
    elif workers != 1 and scheme == "memory":
        text = f"{workers or 'several'} workers cannot share a registry in memory"
        yield Finding("server.workers", text, "set registry.url: redis://127.0.0.1:6379/0, or workers: 1")
    for name in ("lease", "timeout", "tick"):
        if getattr(settings, name) <= 0:
            yield Finding(f"registry.{name}", "must be longer than nothing")
    if 0 < settings.lease < SHORTEST_LEASE:
        text = "is too short: a node that is busy would be taken for lost"
        yield Finding("registry.lease", text, "500ms is the least; 15s is usual")


def mortal(seen: Material) -> Iterator[Finding]:
    """Routes whose streams are to survive their node, with nobody there to go on with them."""
    settings = seen.config.registry
    if settings.url.partition("://")[0] != "memory" and settings.share != "off":
        return
    for i, route in enumerate(seen.config.routes):
        if route.survive:
            text = "does nothing without a registry that several nodes share"
            yield Finding(f"routes[{i}].survive", text, "set registry.url: redis://h:6379/0 and registry.share: auto")


def _hint() -> str:
    return "memory://, or redis://host:6379/0 (also rediss://)"


def _wrong(scheme: str, rest: str) -> Finding | None:
    """The first thing that is wrong with an address, read from left to right."""
    if scheme not in _SCHEMES:
        hint = did_you_mean(scheme, _SCHEMES) if re.fullmatch(r"[a-z+]{1,20}", scheme) else _hint()
        return Finding(_PATH, "is not an address of a registry: its scheme is unknown", hint)
    if scheme == "memory":
        return Finding(_PATH, "memory:// takes nothing behind it") if rest.strip("/") else None
    if "#" in rest or any(c.isspace() for c in rest):
        return Finding(_PATH, "holds a '#' or blanks", _ENCODE)
    where, _, query = rest.partition("?")
    authority, _, path = where.partition("/")
    hosts = authority.rpartition("@")[2]
    wrong = _place(path) if scheme == "unix" else _hosts(hosts, several="+" in scheme)
    return wrong or _database(scheme, path) or _query(scheme, query)


def _place(path: str) -> Finding | None:
    return None if path else Finding(_PATH, "names no socket", "for example unix:///run/redis/redis.sock")


def _hosts(text: str, *, several: bool) -> Finding | None:
    for one in text.split(",") if several else [text]:
        try:
            parts = urlsplit("//" + one)
            host, port = parts.hostname, parts.port
        except ValueError:
            return Finding(_PATH, "its port is not one from 1 to 65535", _ENCODE)
        if not host:
            return Finding(_PATH, "names no host", "for example redis://127.0.0.1:6379/0")
        if port == 0:
            return Finding(_PATH, "its port is not one from 1 to 65535")
        if "," in host:
            return Finding(_PATH, "names several hosts", "redis+sentinel:// or redis+cluster:// take several")
    return None


def _database(scheme: str, path: str) -> Finding | None:
    if scheme == "unix":
        return None
    if scheme.endswith("+cluster"):
        text = "a cluster has no numbered databases"
        return Finding(_PATH, text, "leave out what follows the hosts") if path.strip("/") else None
    service, _, number = path.partition("/") if scheme.endswith("+sentinel") else ("any", "", path)
    if not service:
        return Finding(_PATH, "names no service", "for example redis+sentinel://host:26379/mymaster")
    if number and not re.fullmatch(r"\d{1,4}", number):
        return Finding(_PATH, "its database is not a number", "for example redis://127.0.0.1:6379/0")
    return None


def _query(scheme: str, query: str) -> Finding | None:
    known: dict[str, tuple[str, ...]] = {} if "+" in scheme else dict.fromkeys(sorted(_COMMON), ())
    known |= _TLS if scheme == "rediss" else {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            shown = f"'{name}' " if name.isidentifier() else "something in its query "
            return Finding(_PATH, shown + "is not a parameter of such an address", did_you_mean(name, known))
        if name == "db" and not re.fullmatch(r"\d{1,4}", value):
            return Finding(_PATH, "its database is not a number")
        if known[name] and value.lower() not in known[name]:
            return Finding(_PATH, f"its {name} is not one of {', '.join(known[name])}")
    return None
