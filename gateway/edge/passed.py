"""Which headers of a backend's answer the client gets to see: an allow-list. Pure.

Law: what is not named here stays here. A backend's cookies, alternative services and proxy instructions are addressed
to the gateway and would be obeyed, or believed, by the client as if they were the gateway's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

RETRY_LIMIT = 3600  # seconds; nobody is told to wait longer
_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit-")
_NAMES = frozenset({"ratelimit", "retry-after", "x-should-retry", "openai-processing-ms"})
_REQUEST_IDS = ("x-request-id", "request-id")  # OpenAI's and most servers'; Anthropic's
_MOST = 40  # headers; the largest provider sends a dozen
_LONGEST = 256  # characters of one value


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream answer (names in lower case) that go on to the client.

    Rate limits and `openai-processing-ms` as they are; its request id as `X-Upstream-Request-Id`; `Retry-After` when it
    is whole seconds, at most 3600. Values that are not printable ASCII of at most 256 characters are left out.
    """
    found: dict[str, str] = {}
    for name, value in headers.items():
        if (name in _NAMES or name.startswith(_PREFIXES)) and len(found) < _MOST and _clean(value):
            found[name] = value
    wait = found.pop("retry-after", "")
    if wait.isdigit():
        found["Retry-After"] = str(min(int(wait[:6]), RETRY_LIMIT))
    for name in _REQUEST_IDS:
        if _clean(headers.get(name, "")):
            found["X-Upstream-Request-Id"] = headers[name]
            break
    return found


def beside(own: Iterable[tuple[str, str]], passed: Mapping[str, str]) -> dict[str, str]:
    """The headers passed on beside those of a refusal of ours: its `Retry-After` is the backend's, which may be longer
    than ours; whether to retry at all is ours to say."""
    said = {name.lower() for name, _ in own} - {"retry-after"}
    return {name: value for name, value in passed.items() if name.lower() not in said}


def _clean(value: str) -> bool:
    return 0 < len(value) <= _LONGEST and value.isascii() and value.isprintable()
