"""How a backend's own errors become ours, in tables. Pure: an HTTP date is measured against the answer's Date.

Law: no message leaves here longer than 500 characters, with control characters, or with a secret of ours in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from backends.contract.errors import BackendError, ErrorCode

MESSAGE_LIMIT = 500  # characters of a backend's message that are kept
RETRY_AFTER_LIMIT = 120.0  # seconds; nobody is told to wait longer

# Status of an answer that is not 200 -> our code. Others: by class, see `code_of_status`.
BY_STATUS: dict[int, ErrorCode] = {
    400: ErrorCode.INVALID_REQUEST,
    401: ErrorCode.UPSTREAM_REFUSED,
    402: ErrorCode.UPSTREAM_REFUSED,
    403: ErrorCode.UPSTREAM_REFUSED,
    404: ErrorCode.INVALID_REQUEST,
    405: ErrorCode.UPSTREAM_REFUSED,
    407: ErrorCode.UPSTREAM_REFUSED,
    408: ErrorCode.TIMED_OUT,
    413: ErrorCode.TOO_LARGE,
    422: ErrorCode.INVALID_REQUEST,
    424: ErrorCode.UPSTREAM_FAILED,
    429: ErrorCode.RATE_LIMITED,
    498: ErrorCode.OVERLOADED,
    503: ErrorCode.OVERLOADED,
    504: ErrorCode.TIMED_OUT,
    529: ErrorCode.OVERLOADED,
}

# A backend's own error type (lower case), for errors inside a stream that carry no status -> our code.
BY_KIND: dict[str, ErrorCode] = {
    "overloaded_error": ErrorCode.OVERLOADED,
    "overloaded": ErrorCode.OVERLOADED,
    "unavailable": ErrorCode.OVERLOADED,
    "rate_limit_error": ErrorCode.RATE_LIMITED,
    "rate_limit_exceeded": ErrorCode.RATE_LIMITED,
    "resource_exhausted": ErrorCode.RATE_LIMITED,
    "invalid_request_error": ErrorCode.INVALID_REQUEST,
    "badrequesterror": ErrorCode.INVALID_REQUEST,
    "invalid_argument": ErrorCode.INVALID_REQUEST,
    "validation": ErrorCode.INVALID_REQUEST,
    "authentication_error": ErrorCode.UPSTREAM_REFUSED,
    "permission_error": ErrorCode.UPSTREAM_REFUSED,
    "permission_denied": ErrorCode.UPSTREAM_REFUSED,
    "unauthenticated": ErrorCode.UPSTREAM_REFUSED,
    "timeout_error": ErrorCode.TIMED_OUT,
    "deadline_exceeded": ErrorCode.TIMED_OUT,
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_SECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


class Said(msgspec.Struct, frozen=True):
    """What an error body says, as far as it can be read."""

    message: str = ""
    kind: str = ""
    code: str = ""
    status: int = 0
    param: str | None = None
    retry_after: float | None = None


def code_of_status(status: int) -> ErrorCode:
    """Our code for a status that is not 200."""
    known = BY_STATUS.get(status)
    if known is not None:
        return known
    return ErrorCode.INVALID_REQUEST if 400 <= status < 500 else ErrorCode.UPSTREAM_FAILED


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """A backend's message fit for a caller: secrets starred, control characters to spaces, at most 500 characters."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _CONTROL.sub(" ", text).strip()[:MESSAGE_LIMIT]


def refused(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()) -> BackendError:
    """The error of an answer whose status is not 200. `headers` in lower case."""
    said = read_body(body)
    code = code_of_status(status)
    if status == 404:
        code = _not_found(said)
    if code is ErrorCode.UPSTREAM_REFUSED:  # providers repeat parts of the key in these
        message = f"the backend refused this gateway's credentials or address (HTTP {status})"
    else:
        message = clean(said.message, secrets) or f"the backend answered HTTP {status}"
    waits = code in (ErrorCode.RATE_LIMITED, ErrorCode.OVERLOADED)
    return BackendError(
        code,
        message,
        retry_after=(retry_after(headers) if _has_retry(headers) else said.retry_after) if waits else None,
        upstream_status=status,
        kind=clean(said.kind, secrets),
        own_code=clean(said.code, secrets),
        param=said.param,
    )


def in_stream(error: Any, secrets: Iterable[str] = ()) -> BackendError:
    """The error of an error object inside a stream that had begun with 200 (a dict, a string, or whatever came)."""
    said = read_error(error)
    code = BY_KIND.get(said.kind.lower())
    if code is None:
        code = code_of_status(said.status) if 400 <= said.status < 600 else ErrorCode.UPSTREAM_FAILED
    message = clean(said.message, secrets) or "the backend reported an error inside its stream"
    if code is ErrorCode.UPSTREAM_REFUSED:
        message = "the backend refused this gateway's credentials inside its stream"
    return BackendError(
        code,
        message,
        retry_after=said.retry_after,
        kind=clean(said.kind, secrets),
        own_code=clean(said.code, secrets),
        param=said.param,
    )


def unreadable(what: str) -> BackendError:
    """The error of a frame that is not what its dialect promises."""
    return BackendError(ErrorCode.UPSTREAM_FAILED, f"the backend sent {what} that cannot be read")


def read_body(body: bytes) -> Said:
    """What an error body says; HTML, empty and foreign bodies say nothing."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _plain(body)
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return Said(message=data) if isinstance(data, str) else Said()
    if isinstance(data.get("error"), str):
        return Said(message=data["error"], kind=_text(data.get("error_type")))
    return read_error(data.get("error") or data)


def read_error(error: Any) -> Said:
    """What an error object says: OpenAI, Anthropic, Google, Ollama, TGI, FastAPI and plain strings."""
    if isinstance(error, str):
        return Said(message=error)
    if not isinstance(error, dict):
        return Said()
    code, kind = error.get("code"), error.get("type") or error.get("error_type") or error.get("status")
    number = error.get("http_status_code", code)
    return Said(
        message=_text(error.get("message")) or _detail(error.get("detail")),
        kind=_text(kind) or _text(code),
        code=_text(code),
        status=number if isinstance(number, int) else 0,
        param=_text(error.get("param")) or None,
        retry_after=_retry_info(error.get("details")),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or an HTTP date, RFC 9110 10.2.3): 0 to 120;
    None when there is none, or it is negative, past or garbage."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(milliseconds):
        return min(float(milliseconds) / 1000, RETRY_AFTER_LIMIT)
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_LIMIT)
    try:
        wait = (parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(wait, RETRY_AFTER_LIMIT) if wait > 0 else None


def _has_retry(headers: Mapping[str, str]) -> bool:
    return "retry-after" in headers or "retry-after-ms" in headers


def _not_found(said: Said) -> ErrorCode:
    if "model" in said.message.lower() or "model" in said.kind.lower():
        return ErrorCode.UNKNOWN_MODEL
    return ErrorCode.NOT_FOUND if said.message else ErrorCode.UPSTREAM_REFUSED


def _plain(body: bytes) -> Said:
    text = body.decode("utf-8", "replace").strip()
    return Said() if text.startswith("<") or "<html" in text[:500].lower() else Said(message=text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _detail(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_text(item.get("msg")) for item in value if isinstance(item, dict))
    return _text(value)


def _retry_info(details: Any) -> float | None:
    for item in details if isinstance(details, list) else ():
        delay = _text(item.get("retryDelay")) if isinstance(item, dict) else ""
        if delay.endswith("s") and _SECONDS.fullmatch(delay[:-1]):
            return min(float(delay[:-1]), RETRY_AFTER_LIMIT)
    return None
