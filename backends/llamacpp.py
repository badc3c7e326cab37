"""llama.cpp's server (protocol source: llama-server, 2026). Two traits of its own:

it drops the connection after each finished stream while promising keep-alive, so connections are not reused; and a
forwarded `X-Conversation-Id` would make generation outlive a cancel, so that header is never sent.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from backends.base import HttpRequest
from backends.openai import LocalDriver


class Driver(LocalDriver):
    """`url: http://host:8080`."""

    keepalive: ClassVar[bool] = False

    def _post(self, path: str, body: dict[str, Any]) -> HttpRequest:
        request = super()._post(path, body)
        kept = tuple(header for header in request.headers if header[0] != "x-conversation-id")
        return msgspec.structs.replace(request, headers=kept)
