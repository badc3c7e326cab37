"""Which protocol family a request belongs to, by its raw target and headers: whose words an error is said in. Pure.

Law: this table alone decides; it looks at nothing but the path, `server.prefixes` and two header names, so that it also
works for requests that no route takes and for bodies nobody read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

NATIVE = "native"
_GOOGLE = re.compile(
    r"/v1(?:alpha|beta)\d*(?:/|\Z)"
    r"|/v1/.+:(?:generateContent|streamGenerateContent|countTokens|embedContent|batchEmbedContents)\Z"
)
_OLLAMA = re.compile(
    r"/api/(?:chat|generate|tags|show|ps|version|embed|embeddings|pull|push|create|copy|delete|blobs/.*)\Z"
)
_ANTHROPIC = re.compile(r"/v1/messages(?:/|\Z)")
_OURS = re.compile(r"/v1/(?:streams?|conversations)(?:/|\Z)")

_Headers = Mapping[str, str]


def _is_google(path: str, headers: _Headers) -> bool:
    return _GOOGLE.match(path) is not None or (path.startswith("/v1/") and "x-goog-api-key" in headers)


def _is_anthropic(path: str, headers: _Headers) -> bool:
    return _ANTHROPIC.match(path) is not None or (path.startswith("/v1/") and "anthropic-version" in headers)


def _is_ollama(path: str, _headers: _Headers) -> bool:
    return _OLLAMA.match(path) is not None


def _is_openai(path: str, _headers: _Headers) -> bool:
    return path.startswith("/v1/")


# In this order: OpenAI has all of /v1/ that nobody else claims.
_TABLE: tuple[tuple[str, Callable[[str, _Headers], bool]], ...] = (
    ("google", _is_google),
    ("anthropic", _is_anthropic),
    ("ollama", _is_ollama),
    ("openai", _is_openai),
)


def family_of(target: str, headers: _Headers, prefixes: Mapping[Any, str]) -> str:
    """The family of a raw request target: a name of `server.protocols`, "native" for what is nobody else's.

    `headers`: any case (a case-insensitive mapping); `prefixes`: `server.prefixes`, family -> what stands before its
    paths. What stands below a family's own prefix and is no known path of any is that family's.
    """
    path = target.split("?", 1)[0]
    for family, claims in _TABLE:
        rest = _below(path, prefix_of(prefixes, family))
        if rest is not None and not _OURS.match(rest) and claims(rest, headers):
            return family
    return next((family for family in prefixes if _own(path, prefix_of(prefixes, family))), NATIVE)


def prefix_of(prefixes: Mapping[Any, str], family: str) -> str:
    """What goes before every path of a family; "" for none."""
    return prefixes.get(family, "").rstrip("/")


def _below(path: str, prefix: str) -> str | None:
    return path[len(prefix) :] if path.startswith(prefix + "/") else None


def _own(path: str, prefix: str) -> bool:
    return bool(prefix) and _below(path, prefix) is not None
