"""What drivers share when they write requests: headers, JSON bodies, their own options. Pure."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from backends.base import HttpRequest
from config.findings import OptionError
from config.schema import Backend

_Options = TypeVar("_Options")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")
_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """JSON, compact, UTF-8."""
    return _encoder.encode(value)


def post(backend: Backend, path: str, body: dict[str, Any], *own: tuple[str, str], accept: str) -> HttpRequest:
    """A POST of a JSON body. Headers configured in YAML win over the driver's `own`."""
    headers = headers_of(backend, ("content-type", "application/json"), ("accept", accept), *own)
    return HttpRequest("POST", path, headers, encode(body))


def get(backend: Backend, path: str, *own: tuple[str, str]) -> HttpRequest:
    """A GET of JSON."""
    return HttpRequest("GET", path, headers_of(backend, ("accept", "application/json"), *own), b"")


def headers_of(backend: Backend, *own: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Lower-case header names, each once; empty values of `own` are left out."""
    merged = {name: value for name, value in own if value}
    merged.update((name.lower(), secret.reveal()) for name, secret in backend.headers.items())
    return tuple(merged.items())


def bearer(backend: Backend) -> tuple[str, str]:
    """The Authorization header of the configured key; an empty value without one."""
    return ("authorization", f"Bearer {backend.api_key.reveal()}" if backend.api_key else "")


def options(name: str, backend: Backend, kind: type[_Options]) -> _Options:
    """The backend's `options` as the driver's own type. Raises OptionError."""
    try:
        return msgspec.convert(backend.options, kind)
    except msgspec.ValidationError as error:
        raise _option_error(name, backend, kind, str(error)) from None


def _option_error(name: str, backend: Backend, kind: type, text: str) -> OptionError:
    """msgspec's sentence (`... - at `$.a[0]``) with the place apart."""
    said, _, at = text.partition(" - at `$")
    where = at.removesuffix("`")
    unknown = _UNKNOWN.fullmatch(said)
    if unknown is None:
        return OptionError(name, where, said[:1].lower() + said[1:])
    known = getattr(kind, "__struct_fields__", ()) if not where else ()
    message = f"is not an option of driver {backend.driver}" + ("" if known or where else ", which has none")
    return OptionError(name, f"{where}.{unknown[1]}", message, unknown[1], tuple(known))


def drop_none(**fields: Any) -> dict[str, Any]:
    """The fields that were said: None, empty text, empty tuples, lists and mappings are left out; 0 and False stay."""
    return {k: v for k, v in fields.items() if v is not None and v not in ("", (), [], {})}


def arguments_of(text: str) -> dict[str, Any]:
    """Tool arguments as an object; what is not one becomes an empty one (the model's fault, not the client's)."""
    try:
        value = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def named(items: Any, key: str) -> list[str]:
    """The text under `key` of every object of a list."""
    if not isinstance(items, list):
        return []
    return [item[key] for item in items if isinstance(item, dict) and isinstance(item.get(key), str)]


def listing(body: bytes, field: str) -> Any:
    """The list under `field` of a JSON answer; an empty one when the answer is something else."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return data.get(field) if isinstance(data, dict) else []


def gauges(body: bytes, *names: str) -> int:
    """The sum of these figures in a Prometheus exposition, all their labels together. Raises ValueError for none."""
    found = [
        float(line.rpartition(" ")[2])
        for line in body.decode("utf-8", "replace").splitlines()
        if line.partition("{")[0].partition(" ")[0] in names
    ]
    if not found:
        raise ValueError("no load")
    return int(sum(found))
