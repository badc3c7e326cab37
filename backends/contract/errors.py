"""What can go wrong between a client and a model, in one table. Foreign errors become these at the border, once.

`elsewhere`: may another backend be asked (before the first token)? `counts`: does a breaker count it?
"""

from __future__ import annotations

from enum import Enum


class ErrorCode(Enum):
    """(wire code, HTTP status before the first byte, elsewhere, counts, retryable by the client)"""

    INVALID_REQUEST = ("invalid_request", 400, False, False, False)
    UNAUTHENTICATED = ("unauthenticated", 401, False, False, False)
    FORBIDDEN = ("forbidden", 403, False, False, False)
    NOT_FOUND = ("not_found", 404, False, False, False)
    STREAMING_OFF = ("streaming_disabled", 404, False, False, False)  # by an operator: whole answers may still be had
    BACKGROUND_OFF = ("background_disabled", 404, False, False, False)
    UNKNOWN_MODEL = ("unknown_model", 404, False, False, False)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, False, False, False)
    CONFLICT = ("conflict", 409, False, False, False)
    STREAM_EXPIRED = ("stream_expired", 410, False, False, False)  # it was, and can no longer be read
    CURSOR_EXPIRED = ("cursor_expired", 410, False, False, False)  # its beginning can no longer be read
    CURSOR_AHEAD = ("cursor_ahead", 416, False, False, True)  # the client has more frames than there are
    KEY_REUSED = ("idempotency_key_reused", 422, False, False, False)
    TOO_LARGE = ("too_large", 413, False, False, False)
    UNSUPPORTED_ENCODING = ("unsupported_encoding", 415, False, False, False)
    RATE_LIMITED = ("rate_limited", 429, True, False, True)
    CANCELLED = ("cancelled", 499, False, False, False)
    INTERNAL = ("internal_error", 500, False, False, True)
    UPSTREAM_REFUSED = ("upstream_refused", 502, True, True, False)  # our own key or address was refused there
    UPSTREAM_FAILED = ("upstream_error", 502, True, True, True)
    UPSTREAM_TRUNCATED = ("upstream_truncated", 502, True, True, True)
    EVENT_TOO_LARGE = ("event_too_large", 502, False, True, False)
    TRANSCRIPT_FULL = ("transcript_full", 502, False, False, False)
    OVERLOADED = ("overloaded", 503, True, True, True)
    NO_UPSTREAM = ("no_upstream", 503, False, False, True)
    SHED = ("shed", 503, False, False, True)  # this gateway is full, draining or stopping
    REGISTRY_AWAY = ("registry_away", 503, False, False, True)  # what other nodes know cannot be asked now
    MAINTENANCE = ("maintenance", 503, False, False, True)  # an operator has paused or stopped it
    NODE_LOST = ("node_lost", 503, False, False, True)
    TIMED_OUT = ("timeout", 504, True, True, True)

    def __init__(self, wire: str, status: int, elsewhere: bool, counts: bool, retryable: bool) -> None:
        self.wire = wire
        self.status = status
        self.elsewhere = elsewhere
        self.counts = counts
        self.retryable = retryable


class BackendError(Exception):
    """One failure in our own words.

    `message` is for the caller and never holds a secret; `retry_after` is in seconds; `upstream_status` is the status
    the backend answered with (0: none); `kind` is the backend's own error type and `own_code` its own code (OpenAI's
    `context_length_exceeded`, `insufficient_quota`), kept for clients who know such words.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry_after: float | None = None,
        upstream_status: int = 0,
        kind: str = "",
        own_code: str = "",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.upstream_status = upstream_status
        self.kind = kind
        self.own_code = own_code
        self.param = param
        self.exhausted = False  # the gateway's own retries are spent: the client should not retry at once either

    def become(self, other: BackendError) -> None:
        """Say what `other` says: it turned out to be the better word for what went wrong."""
        self.code, self.message, self.param = other.code, other.message, other.param
        self.upstream_status, self.kind, self.own_code = other.upstream_status, other.kind, other.own_code

    def __repr__(self) -> str:
        return f"BackendError({self.code.wire}, {self.message!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BackendError) and (self.code, self.message) == (other.code, other.message)

    def __hash__(self) -> int:
        return hash((self.code, self.message))
