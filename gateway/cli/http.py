"""The commands' way to a running gateway: one JSON request, its errors in words."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import click
from msgspec import Struct

TIMEOUT = 10.0  # seconds of one request


class Unreachable(click.ClickException):
    """The gateway refused or could not be asked; exit code 1."""


class Remote(Struct, frozen=True):
    """Where the gateway is, and the key to show it."""

    url: str
    key: str

    def ask(self, method: str, path: str, body: Any = None, extra: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status and decoded JSON; `body` is sent as JSON. Raises Unreachable when there is no answer."""
        headers = {"Accept": "application/json", **(extra or {})}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            # `remote` let only http and https through
            request = urllib.request.Request(self.url + path, data, method=method, headers=headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as answer:
            return answer.code, _json(answer.read())
        except ValueError:
            raise Unreachable(f"{self.url} is not the address of a gateway") from None
        except OSError as problem:
            raise Unreachable(f"no gateway at {self.url}: {getattr(problem, 'reason', problem)}") from None

    def need(self, method: str, path: str) -> Any:
        """As `ask`, where everything but a success is a failure."""
        status, answer = self.ask(method, path)
        if status >= 300:
            raise Unreachable(error_text(status, answer))
        return answer


def error_text(status: int, answer: Any) -> str:
    """The message of an error answer, in any of the protocols' shapes."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f"{message or 'refused'} (HTTP {status})"


def remote(url: str, key: str) -> Remote:
    """A Remote from the options; a trailing slash or `/v1` is forgiven. Raises click.UsageError."""
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url must begin with http:// or https://: {url}")
    return Remote(url.rstrip("/").removesuffix("/v1"), key)


url_option = click.option(
    "--url", envvar="HEADGATE_URL", default="http://127.0.0.1:8080", show_default=True, help="The gateway."
)
key_option = click.option("--key", envvar="HEADGATE_KEY", default="", help="An API key.")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
