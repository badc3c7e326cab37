"""What must hold for each backend: its address, its key, its headers, and what its own driver says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, urlsplit

from config.complaints import did_you_mean
from config.findings import DriverFactory, Finding, Material, OptionError
from config.repairs import REPAIRS
from config.route_checks import traffic
from config.schema import Backend

_STRAY = "is there a line break behind it where it comes from?"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_NO_TEXT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_KEY = re.compile(r"[\x21-\x7e]*")
_CREDENTIAL = re.compile(r"(?i)auth|key|token|cookie")  # in a header's name


def backends(seen: Material) -> Iterator[Finding]:
    """Every backend of the file."""
    for name, backend in seen.config.backends.items():
        path = f"backends.{name}"
        if not NAME.fullmatch(name):
            yield Finding(path, f"{name!r} is not a name", "letters, digits, '.', '_' and '-', at most 64")
        yield from url(f"{path}.url", backend.url)
        yield from traffic(path, backend)
        for repair in backend.repairs:
            if repair not in REPAIRS:
                yield Finding(f"{path}.repairs.{repair}", "is not a repair", did_you_mean(repair, REPAIRS))
        for limit in ("max_connections", "max_streams", "rpm", "tpm"):
            if getattr(backend, limit) < 0:
                yield Finding(f"{path}.{limit}", "must not be negative", "0: no limit")
        for header, value in backend.headers.items():
            if _TOKEN.fullmatch(header) is None or _NO_TEXT.search(value.reveal()) is not None:
                yield Finding(f"{path}.headers", "a name or value that no header may have", "one line of text each")
        if _KEY.fullmatch(backend.api_key.reveal()) is None:
            yield Finding(f"{path}.api_key", "holds a blank, a line break or another character that no key has", _STRAY)
        if seen.drivers is not None:
            yield from _driver(path, name, backend, seen, seen.drivers)


def url(path: str, address: str) -> Iterator[Finding]:
    """An address of a backend or app. Never shown: it may hold what it should not."""
    if not address:
        return
    parts = _split(address)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        yield Finding(path, "is not an http or https address", "for example http://127.0.0.1:11434")
    elif "@" in parts.netloc:
        yield Finding(path, "holds credentials", "move them to api_key or headers, filled from ${ENV}")
    elif parts.query or parts.fragment or any(c.isspace() for c in address):
        yield Finding(path, "has a query, a fragment or blanks", "give scheme, host and, if need be, a path")


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def _driver(
    path: str, name: str, backend: Backend, seen: Material, drivers: Mapping[str, DriverFactory]
) -> Iterator[Finding]:
    factory = drivers.get(backend.driver)
    if factory is None:
        yield Finding(f"{path}.driver", f"there is no driver '{backend.driver}'", did_you_mean(backend.driver, drivers))
        return
    if lacks_key(factory, backend) and not seen.blank(f"{path}.api_key"):
        variable = f"{re.sub(r'[^A-Za-z0-9]', '_', backend.driver).upper()}_API_KEY"
        hint = f'set {variable} and write api_key: "${{{variable}}}"'
        yield Finding(f"{path}.api_key", f"driver {backend.driver} needs an api_key", hint)
    try:
        factory(name, backend)
    except OptionError as problem:
        yield Finding(f"{path}.options{problem.where}", problem.message, did_you_mean(problem.name, problem.known))
    except ValueError as problem:
        yield Finding(path, str(problem).removeprefix(path).removeprefix(":").lstrip())


def lacks_key(factory: DriverFactory, backend: Backend) -> bool:
    """Whether its provider would refuse every request: its driver's own address, and nothing that says who asks.
    Elsewhere (a proxy, a test) nobody knows what is needed."""
    if not getattr(factory, "needs_key", False) or backend.api_key:
        return False
    if any(_CREDENTIAL.search(header) and value for header, value in backend.headers.items()):
        return False
    home = _split(str(getattr(factory, "default_url", "")))
    there = _split(backend.url)
    return not backend.url or bool(home and there and home.hostname == there.hostname)


def keyless(seen: Material) -> Iterator[Finding]:
    """Backends whose key the environment leaves empty where the file allows it."""
    for name, backend in seen.config.backends.items():
        factory = (seen.drivers or {}).get(backend.driver)
        if factory is not None and seen.blank(f"backends.{name}.api_key") and lacks_key(factory, backend):
            text = "is empty: what is sent there will be refused"
            yield Finding(f"backends.{name}.api_key", text, "set its variable, or remove the backend and its routes")
