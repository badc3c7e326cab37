"""What becomes of a stream when its last reader leaves: `cancel`, `grace 30s` (or `grace=30s`), `continue`. Pure."""

from __future__ import annotations

from config.schema import OnDisconnect
from config.values import Duration


def parse_on_disconnect(text: str) -> OnDisconnect:
    """Raises ValueError with a sentence that says what is accepted."""
    word, _, rest = text.strip().replace("=", " ", 1).partition(" ")
    if word == "grace":
        return OnDisconnect("grace", Duration.parse(rest.strip() or "30s"))
    if rest.strip() == "" and word == "cancel":
        return OnDisconnect("cancel")
    if rest.strip() == "" and word == "continue":
        return OnDisconnect("continue")
    raise ValueError(f"expected cancel, continue or grace=30s, got {text[:60]!r}")


def choose(request: OnDisconnect | None, route: OnDisconnect | None, default: OnDisconnect | None, protocol: str) -> OnDisconnect:
    """The most particular word counts: the request's, the route's, the configuration's, the protocol's."""
    return request or route or default or parse_on_disconnect(protocol)
