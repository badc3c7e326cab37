"""What aiohttp answers by itself (malformed HTTP, an unhandled exception), said in our words instead.

Such an answer is JSON and closes the connection. What a client sent wrongly is no error of ours and is not logged: a
broken header may hold a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from backends.contract.errors import BackendError, ErrorCode

Refuse = Callable[[web.BaseRequest, BackendError], web.Response]


class Connection(web.RequestHandler):
    """One client connection."""

    __slots__ = ("_refuse",)

    def __init__(self, server: web.Server, refuse: Refuse, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._refuse = refuse

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Refuse in JSON. Raises ConnectionError when an answer has begun: it can only be broken off."""
        if status >= 500:
            self.log_exception("unhandled error", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        answer = self._refuse(request, _error(status, message or ""))
        answer.force_close()
        return answer


def _error(status: int, message: str) -> BackendError:
    if status >= 500:
        return BackendError(ErrorCode.INTERNAL, "the gateway failed; its log says more")
    what = message.strip().split("\n", 1)[0].split(":", 1)[0][:100]  # what follows is the client's own bytes
    return BackendError(ErrorCode.INVALID_REQUEST, f"not a well-formed HTTP/1.1 request: {what}")


class PublicServer(web.Server):
    """Makes a `Connection` for each client; otherwise the server it is made from."""

    def __init__(self, like: web.Server, handler: Callable[[Any], Any], refuse: Refuse) -> None:
        super().__init__(
            handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            loop=like._loop,
            **like._kwargs,
        )
        self._refuse = refuse

    def __call__(self) -> Connection:
        return Connection(self, self._refuse, loop=self._loop, **self._kwargs)
