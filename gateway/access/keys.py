"""Who is calling: API keys, their hashes, and whose streams they own. Pure.

Law: a key is never kept, only its SHA-256; every way of sending one goes through `credential`; what is not clearly
allowed is refused. A failed check never ends in an anonymous caller.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping

from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Key, OnDisconnect, Priority
from config.values import glob_matches

PREFIX = "hg_"
ANONYMOUS = "anonymous"
_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
_LONGEST = 512  # a longer credential is nobody's


class Caller(Struct, frozen=True):
    """Who a request is from. `max_streams` 0: no limit of its own; `models` are globs."""

    owner: str
    key_id: str = ""
    max_streams: int = 0
    models: tuple[str, ...] = ("*",)
    on_disconnect: OnDisconnect | None = None
    rpm: int = 0
    tpm: int = 0
    user_streams: int = 0
    user_rpm: int = 0
    user_tpm: int = 0
    workspace_streams: int = 0
    workspace_rpm: int = 0
    workspace_tpm: int = 0
    priority: Priority = "normal"


_ALL = ("*",)
_ANYBODY = Caller(owner=ANONYMOUS)
_SAME = tuple(name for name in Caller.__struct_fields__ if name not in ("owner", "key_id"))  # said by a key as they are


def _caller(key: Key) -> Caller:
    return Caller(owner=key.owner, key_id=key.id, **{name: getattr(key, name) for name in _SAME})


class Keyring:
    """The configured keys. Immutable: a reload makes a new one."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_hash = {_hex(key.hash): key for key in keys}
        self._callers = {digest: _caller(key) for digest, key in self._by_hash.items()}
        self._valid = frozenset((key.id, key.owner) for key in self._by_hash.values() if not key.disabled)

    @property
    def empty(self) -> bool:
        """Whether nobody is asked for a key."""
        return not self._by_hash

    def identify(self, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> Caller:
        """The caller. `headers` may have any case; `query` are the parameters of the address (`query_credential`).

        Raises BackendError UNAUTHENTICATED: no credential, two that differ, an unknown or a disabled one. Without any
        keys configured everybody is `anonymous`, whatever they send (SDKs insist on sending something).
        """
        if self.empty:
            return _ANYBODY
        sent = credential(headers, query_credential(query) if query else None)
        if not sent:
            raise _refused("an API key is required: Authorization: Bearer <key>")
        key = self._find(sent)
        if key is None:
            raise _refused("this API key is not known here")
        if key.disabled:
            raise _refused("this API key has been revoked")
        return self._callers[_hex(key.hash)]

    def valid(self) -> frozenset[tuple[str, str]]:
        """(id, owner) of every key that is not revoked."""
        return self._valid

    def check(self, caller: Caller) -> None:
        """Once more who was identified before, perhaps by an older keyring. Raises BackendError UNAUTHENTICATED when
        the key has been revoked since."""
        if caller.key_id and (caller.key_id, caller.owner) not in self._valid:
            raise _refused("this API key has been revoked")

    def _find(self, sent: str) -> Key | None:
        digest = _digest(sent)
        key = self._by_hash.get(digest)
        # the look-up is by hash, so its timing tells nothing of a key; the comparison keeps that true of the last byte
        return key if key is not None and hmac.compare_digest(_hex(key.hash), digest) else None


def credential(headers: Mapping[str, str], query_token: str | None = None) -> str:
    """The one credential of a request; empty: none. Raises BackendError UNAUTHENTICATED when two differ."""
    sent = [query_token or ""]
    for name, value in headers.items():  # all of them: a header may come twice
        if name.lower() == "authorization":
            sent.append(_bearer(value))
        elif name.lower() in _HEADERS:
            sent.append(value)
    given = {value.strip() for value in sent if value.strip()}
    if len(given) > 1:
        raise _refused("the request carries two different API keys")
    only = next(iter(given), "")
    if len(only) > _LONGEST:
        raise _refused("this API key is not known here")
    return only


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise _refused("only 'Authorization: Bearer <key>' is understood")
    return token


def query_credential(query: Mapping[str, str]) -> str | None:
    """The credential of an address: `?token=` (EventSource cannot send headers) or `?key=` (Google's clients).

    Raises BackendError UNAUTHENTICATED when both are given and differ.
    """
    given = {value for name, value in query.items() if value and name in ("token", "key")}  # all: one may come twice
    if len(given) > 1:
        raise _refused("the request carries two different API keys")
    return next(iter(given), None)


def may_use(caller: Caller, model: str) -> None:
    """Raises BackendError FORBIDDEN when none of the caller's globs fits the model."""
    if caller.models != _ALL and not any(glob_matches(pattern, model) for pattern in caller.models):
        raise BackendError(ErrorCode.FORBIDDEN, f"this API key may not use the model '{model}'")


def create(key_id: str, owner: str, *, max_streams: int = 0) -> tuple[str, Key]:
    """A new key: the secret, to be shown once, and what the configuration keeps of it."""
    body = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    secret = body + _checksum(body)
    return secret, Key(id=key_id, owner=owner, hash=hash_of(secret), max_streams=max_streams)


def well_formed(secret: str) -> bool:
    """Whether a text is a whole key of ours: tells a mistyped or cut key from an unknown one, and finds leaked ones."""
    return secret.startswith(PREFIX) and len(secret) > 52 and _checksum(secret[:-6]) == secret[-6:]


def hash_of(secret: str) -> str:
    """`sha256:<hex>` of a key, as `keys[].hash` holds it."""
    return "sha256:" + _digest(secret)


def _digest(secret: str) -> str:
    # aiohttp hands bytes that are not UTF-8 over as surrogates; they are some text, and nobody's key
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _hex(hash_text: str) -> str:
    return hash_text.removeprefix("sha256:")


def _checksum(body: str) -> str:
    """Six characters over the rest (CRC-32): not a secret, only against slips of the pen."""
    crc = zlib.crc32(body.encode("utf-8", "surrogatepass"))
    return urlsafe_b64encode(crc.to_bytes(4, "big")).decode("ascii").rstrip("=")


def _refused(message: str) -> BackendError:
    return BackendError(ErrorCode.UNAUTHENTICATED, message)
