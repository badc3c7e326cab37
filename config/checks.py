"""What holds between the values of gateway.yaml: names that must exist, pairs that must not meet, doors left open.

Law: pure; each check is one small function that tells what it saw, and is silent where its material was complained of.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from config.complaints import did_you_mean
from config.schema import Backend, Config

# a driver's class: raises ValueError when the backend does not suit it
DriverFactory = Callable[[str, Backend], object]

USED_POLICIES = frozenset({"weighted", "ordered", "round_robin", "least_busy"})
_TIMES = ("connect_timeout", "first_token_timeout", "no_progress", "total_timeout", "write_timeout", "keepalive")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REGISTRY_SCHEMES = frozenset({"memory"}) | {
    f"redis{s}{kind}" for s in ("", "s") for kind in ("", "+sentinel", "+cluster")
}


class Finding(NamedTuple):
    """One thing seen: where, what, what to do."""

    path: str
    message: str
    suggestion: str = ""


class Material(NamedTuple):
    """What the checks look at. `named`: the backends the file names, also those that could not be read."""

    config: Config
    named: frozenset[str]
    touched: Callable[[str], bool]  # was something at or below this path complained of already?
    drivers: Mapping[str, DriverFactory] | None


def is_loopback(host: str) -> bool:
    """Whether a listener there can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def findings(seen: Material) -> Iterator[Finding]:
    """Every complaint about a file whose single values are right."""
    for check in (_listeners, _doors, _registry, _limits, _backends, _routes, _keys, _apps):
        yield from check(seen)


def notices(config: Config, given: Callable[[str], bool]) -> Iterator[Finding]:
    """What is accepted and not used by this release. `given`: was something set at this path in the file?"""
    for section in ("store", "apps"):
        if given(section):
            yield Finding(section, "accepted, not used by this release")
    if config.server.workers != 1:
        yield Finding("server.workers", "accepted, not used by this release: one worker runs per process")
    for i, route in enumerate(config.routes):
        if route.policy not in USED_POLICIES:
            yield Finding(f"routes[{i}].policy", f"'{route.policy}' is accepted, not used by this release: weighted is")
        if route.on_failure != "fail":
            message = f"'{route.on_failure}' is accepted, not used by this release: fail is"
            yield Finding(f"routes[{i}].on_failure", message)


def _listeners(seen: Material) -> Iterator[Finding]:
    server, admin = seen.config.server, seen.config.admin
    for path, port in (("server.port", server.port), ("admin.port", admin.port)):
        if not 0 <= port <= 65535:
            yield Finding(path, f"{port} is not a port", "choose one from 1 to 65535 (0: any free one)")
    for path, host in (("server.host", server.host), ("admin.host", admin.host)):
        if not host.strip():
            yield Finding(path, "is empty", "127.0.0.1 for this machine only, 0.0.0.0 for all interfaces")
    if server.port == admin.port != 0 and _overlap(server.host, admin.host):
        yield Finding("admin.port", f"the same as server.port, {server.port}", "give each listener its own port")
    for i, origin in enumerate(server.cors.origins):
        if not _is_origin(origin):
            hint = "write scheme and host: https://app.example.com"
            yield Finding(f"server.cors.origins[{i}]", "is not an origin", hint)


def _overlap(one: str, other: str) -> bool:
    return one == other or bool({one, other} & {"0.0.0.0", "::", ""})


def _is_origin(text: str) -> bool:
    parts = urlsplit(text)
    bare = not (parts.path or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and bare


def _doors(seen: Material) -> Iterator[Finding]:
    config = seen.config
    open_to_all = not config.keys and not config.access.allow_anonymous
    judged = not (seen.touched("keys") or seen.touched("access") or seen.touched("server.host"))
    if judged and open_to_all and not is_loopback(config.server.host):
        yield Finding(
            "server.host",
            f"{config.server.host} can be reached from other machines, and no keys are configured",
            "add one with `headgate keys create`, or set access.allow_anonymous: true if something in front checks",
        )
    admin_judged = not (seen.touched("admin.token") or seen.touched("admin.host"))
    if admin_judged and not config.admin.token and not is_loopback(config.admin.host):
        yield Finding(
            "admin.host",
            f"{config.admin.host} can be reached from other machines, and admin.token is empty",
            'set admin.token: "${HEADGATE_ADMIN_TOKEN}", or listen on 127.0.0.1',
        )


def _registry(seen: Material) -> Iterator[Finding]:
    registry, workers = seen.config.registry, seen.config.server.workers
    scheme = registry.url.partition("://")[0]
    if "://" not in registry.url or scheme not in _REGISTRY_SCHEMES:
        hint = "memory://, or redis://host:6379/0 (also rediss://)"
        yield Finding("registry.url", "is not an address of a registry", hint)
    elif workers > 1 and scheme == "memory":
        yield Finding(
            "server.workers",
            f"{workers} workers cannot share a registry in memory",
            "set registry.url: redis://127.0.0.1:6379/0, or workers: 1",
        )
    if registry.lease <= 0 or registry.timeout <= 0:
        name = "lease" if registry.lease <= 0 else "timeout"
        yield Finding(f"registry.{name}", "must be longer than nothing")


def _limits(seen: Material) -> Iterator[Finding]:
    config = seen.config
    if not 1 <= config.server.workers <= 1024:
        yield Finding("server.workers", f"{config.server.workers} is not a number of workers", "from 1 to 1024")
    if not config.server.protocols:
        yield Finding("server.protocols", "is empty: nothing would be served", "remove the line for all of them")
    for name in _TIMES:
        if getattr(config.streams, name) <= 0:
            yield Finding(f"streams.{name}", "must be longer than nothing")
    for name in ("transcript_cap", "max_event", "max_active"):
        if getattr(config.streams, name) <= 0:
            yield Finding(f"streams.{name}", "must be more than nothing")
    if config.server.max_body <= 0:
        yield Finding("server.max_body", "must be more than nothing")
    for name in ("max_streams", "max_tokens", "max_n"):
        if getattr(config.access, name) < 0:
            yield Finding(f"access.{name}", "must not be negative", "0: no limit")


def _backends(seen: Material) -> Iterator[Finding]:
    for name, backend in seen.config.backends.items():
        path = f"backends.{name}"
        if not _NAME.fullmatch(name):
            yield Finding(path, f"{name!r} is not a name", "letters, digits, '.', '_' and '-', at most 64")
        yield from _url(f"{path}.url", backend.url)
        if backend.max_connections < 0:
            yield Finding(f"{path}.max_connections", "must not be negative", "0: no limit")
        for header, value in backend.headers.items():
            if not header.isascii() or any(c in header + value.reveal() for c in "\r\n\0"):
                yield Finding(f"{path}.headers", "a name or value that no header may have", "one line of text each")
        if seen.drivers is not None:
            yield from _driver(path, name, backend, seen.drivers)


def _url(path: str, url: str) -> Iterator[Finding]:
    """An address of a backend or app. Never shown: it may hold what it should not."""
    if not url:
        return
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        yield Finding(path, "is not an http or https address", "for example http://127.0.0.1:11434")
    elif "@" in parts.netloc:
        yield Finding(path, "holds credentials", "move them to api_key or headers, filled from ${ENV}")
    elif parts.query or parts.fragment or any(c.isspace() for c in url):
        yield Finding(path, "has a query, a fragment or blanks", "give scheme, host and, if need be, a path")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def _driver(path: str, name: str, backend: Backend, drivers: Mapping[str, DriverFactory]) -> Iterator[Finding]:
    factory = drivers.get(backend.driver)
    if factory is None:
        message = f"there is no driver '{backend.driver}'"
        yield Finding(f"{path}.driver", message, did_you_mean(backend.driver, drivers))
        return
    if getattr(factory, "needs_key", False) and not backend.api_key:
        variable = re.sub(r"\W", "_", name).upper() + "_API_KEY"
        yield Finding(f"{path}.api_key", f"'{backend.driver}' needs a key", f'api_key: "${{{variable}}}"')
        return
    try:
        factory(name, backend)
    except ValueError as problem:
        yield Finding(path, str(problem))


def _routes(seen: Material) -> Iterator[Finding]:
    for i, route in enumerate(seen.config.routes):
        path = f"routes[{i}]"
        if not route.model:
            yield Finding(f"{path}.model", "is empty", 'name a model, a glob such as "gpt-*", or "*" for all')
        if not route.to and not seen.touched(f"{path}.to"):
            yield Finding(f"{path}.to", "leads nowhere", "name a backend")
        for j, target in enumerate(route.to):
            at = f"{path}.to[{j}]"
            if target.backend not in seen.named:
                message = f"there is no backend '{target.backend}'"
                hint = did_you_mean(target.backend, seen.named) or "add it to backends"
                yield Finding(f"{at}.backend", message, hint)
            if target.weight < 0:
                yield Finding(f"{at}.weight", "must not be negative", "0: only when the others fail")


def _keys(seen: Material) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for i, key in enumerate(seen.config.keys):
        path = f"keys[{i}]"
        if not _NAME.fullmatch(key.id):
            yield Finding(f"{path}.id", "is not a name", "letters, digits, '.', '_' and '-', at most 64")
        if not key.owner:
            yield Finding(f"{path}.owner", "is empty", "whoever the streams of this key belong to")
        if not _HASH.fullmatch(key.hash):
            hint = "`headgate keys create` prints the entry; the key itself does not belong here"
            yield Finding(f"{path}.hash", "is not sha256: and 64 hexadecimal digits", hint)
        if key.max_streams < 0:
            yield Finding(f"{path}.max_streams", "must not be negative", "0: no limit")
        for what, value in (("id", key.id), ("hash", key.hash)):
            other = first.setdefault(f"{what} {value}", i)
            if other != i:
                yield Finding(f"{path}.{what}", f"the same as that of keys[{other}]", "give each key its own")


def _apps(seen: Material) -> Iterator[Finding]:
    for i, app in enumerate(seen.config.apps):
        path = f"apps[{i}]"
        if not app.path.startswith("/"):
            yield Finding(f"{path}.path", "does not start with '/'")
        yield from _url(f"{path}.url", app.url or "nowhere")
