"""What holds between the values of gateway.yaml: names that must exist, pairs that must not meet, doors left open.

Law: pure; each check is one small function that tells what it saw, and is silent where its material was complained of.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import get_args
from urllib.parse import urlsplit

from config.backend_checks import NAME, backends, keyless, url
from config.complaints import did_you_mean
from config.findings import Finding, Material
from config.registry_checks import mortal, registry
from config.route_checks import hidden_routes, routing
from config.schema import ProtocolFamily

_TIMES = ("connect_timeout", "first_token_timeout", "no_progress", "total_timeout", "write_timeout", "keepalive")
_COUNTS = (  # of keys, and of access for the rest
    *("max_streams", "rpm", "tpm", "user_streams", "user_rpm", "user_tpm"),
    *("workspace_streams", "workspace_rpm", "workspace_tpm"),
)
_GATEWAY = ("gateway_streams", "gateway_rpm", "gateway_tpm")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_FAMILIES: tuple[str, ...] = get_args(ProtocolFamily)
_PAGES = (  # schemes of origins; behind http(s) those of extensions, and of shells around pages
    *("http", "https", "chrome-extension", "moz-extension", "safari-web-extension"),
    *("app", "capacitor", "ionic", "tauri", "vscode-webview"),
)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")


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
    for check in (_listeners, _prefixes, _doors, registry, _limits, backends, _routes, routing, _keys, _apps):
        yield from check(seen)


def notices(seen: Material) -> Iterator[Finding]:
    """What is accepted, and does less than somebody may think."""
    for section in ("store", "apps"):
        if seen.given(section):
            yield Finding(section, "accepted, not used by this release")
    if not seen.config.backends:
        text = "none: every request will be refused"
        yield Finding("backends", text, "add one, such as `demo: {driver: demo}`, and a route to it")
    yield from keyless(seen)
    yield from hidden_routes(seen)
    yield from mortal(seen)
    for i, key in enumerate(seen.config.keys):
        if seen.blank(f"keys[{i}].hash"):
            yield Finding(f"keys[{i}]", f"'{key.id}' is off: its hash is empty", "set the variable of its hash")


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
            hint = "write scheme and host: https://app.example.com ('null', quoted: pages of no origin, such as files)"
            yield Finding(f"server.cors.origins[{i}]", "is not an origin", hint)


def _overlap(one: str, other: str) -> bool:
    return one == other or bool({one, other} & {"0.0.0.0", "::", ""})


def _is_origin(text: str) -> bool:
    """What a browser sends as Origin, or an extension of one, or an application that is made of pages."""
    parts = urlsplit(text)
    bare = not (parts.path or parts.query or parts.fragment)
    return text == "null" or (parts.scheme in _PAGES and bool(parts.netloc) and bare)


def _prefixes(seen: Material) -> Iterator[Finding]:
    for family, prefix in seen.config.server.prefixes.items():
        if family not in _FAMILIES:
            yield Finding(f"server.prefixes.{family}", "is not a protocol family", did_you_mean(family, _FAMILIES))
        if not _PREFIX.fullmatch(prefix):
            hint = f"such as /{family}: letters, digits, '.', '_', '~' and '-' between slashes"
            yield Finding(f"server.prefixes.{family}", "is not the beginning of a path", hint)


def _doors(seen: Material) -> Iterator[Finding]:
    config = seen.config
    keys = [key for i, key in enumerate(config.keys) if not seen.blank(f"keys[{i}].hash")]
    open_to_all = not keys and not config.access.allow_anonymous
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


def _limits(seen: Material) -> Iterator[Finding]:
    config = seen.config
    if not 0 <= config.server.workers <= 1024:
        text = f"{config.server.workers} is not a number of workers"
        yield Finding("server.workers", text, "from 1 to 1024, or 0 for one per core")
    if not config.server.protocols:
        yield Finding("server.protocols", "is empty: nothing would be served", "remove the line for all of them")
    for name in _TIMES:
        if getattr(config.streams, name) <= 0:
            yield Finding(f"streams.{name}", "must be longer than nothing")
    for name in ("transcript_cap", "max_event", "max_active", "max_readers"):
        if getattr(config.streams, name) <= 0:
            yield Finding(f"streams.{name}", "must be more than nothing")
    for name in ("max_body", "max_connections", "header_timeout", "body_timeout"):
        if getattr(config.server, name) <= 0:
            yield Finding(f"server.{name}", "must be more than nothing")
    for name in (*_COUNTS, "max_tokens", "max_n", "queue_size", "max_prompt", *_GATEWAY):
        if getattr(config.access, name) < 0:
            yield Finding(f"access.{name}", "must not be negative", "0: no limit")


def _routes(seen: Material) -> Iterator[Finding]:
    for i, route in enumerate(seen.config.routes):
        path = f"routes[{i}]"
        if not route.model:
            yield Finding(f"{path}.model", "is empty", 'name a model, a glob such as "gpt-*", or "*" for all')
        if not route.to and not seen.touched(f"{path}.to"):
            yield Finding(f"{path}.to", "leads nowhere", "name a backend")
        for limit in ("max_streams", "rpm", "tpm"):
            if getattr(route, limit) < 0:
                yield Finding(f"{path}.{limit}", "must not be negative", "0: no limit")
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
        if not NAME.fullmatch(key.id):
            yield Finding(f"{path}.id", "is not a name", "letters, digits, '.', '_' and '-', at most 64")
        if not key.owner:
            yield Finding(f"{path}.owner", "is empty", "whoever the streams of this key belong to")
        blank = seen.blank(f"{path}.hash")
        if not blank and not _HASH.fullmatch(key.hash):
            hint = "`headgate keys create` prints the entry; the key itself does not belong here"
            yield Finding(f"{path}.hash", "is not sha256: and 64 hexadecimal digits", hint)
        for name in _COUNTS:
            if getattr(key, name) < 0:
                yield Finding(f"{path}.{name}", "must not be negative", "0: no limit")
        for what, value in (("id", key.id), ("hash", key.hash)):
            other = first.setdefault(f"{what} {value}", i)
            if other != i and value:
                yield Finding(f"{path}.{what}", f"the same as that of keys[{other}]", "give each key its own")


def _apps(seen: Material) -> Iterator[Finding]:
    for i, app in enumerate(seen.config.apps):
        path = f"apps[{i}]"
        if not app.path.startswith("/"):
            yield Finding(f"{path}.path", "does not start with '/'")
        yield from url(f"{path}.url", app.url or "nowhere")
