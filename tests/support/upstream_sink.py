"""What the tests of the transport share: a sink that remembers, a driver that only has an address."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from backends.base import Decoder, Driver, HttpRequest, Script, Tap
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest
from config.schema import Backend


class Recorder:
    """A sink. `calls` is the order of callbacks; `ended` is set by the last one."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.parts: list[bytes] = []
        self.calls: list[str] = []
        self.error: BackendError | None = None
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers
        self._call("head")

    def data(self, data: bytes) -> None:
        self.parts.append(data)
        self._call("data")

    def eof(self) -> None:
        self._call("eof")
        self.ended.set()

    def lost(self, error: BackendError) -> None:
        self.error = error
        self._call("lost")
        self.ended.set()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.changed.set()

    async def end(self) -> str:
        """The last callback's name."""
        await asyncio.wait_for(self.ended.wait(), 5)
        assert self.calls.count("eof") + self.calls.count("lost") == 1
        return self.calls[-1]

    async def until(self, size: int) -> None:
        """Until so many bytes of body came."""
        async with asyncio.timeout(5):
            while sum(map(len, self.parts)) < size:
                self.changed.clear()
                await self.changed.wait()

    @property
    def code(self) -> ErrorCode | None:
        return self.error.code if self.error else None


class PlainDriver(Driver):
    """Speaks no dialect: the transport needs only its address, and its script when it has one."""

    dialect = "none"
    played: Script | None = None

    def prepare(self, request: ChatRequest) -> HttpRequest:
        raise NotImplementedError

    def decoder(self) -> Decoder:
        raise NotImplementedError

    def tap(self) -> Tap:
        raise NotImplementedError

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        raise NotImplementedError

    def script(self, request: HttpRequest) -> Script | None:
        return self.played


def driver(url: str, **settings: object) -> PlainDriver:
    """A driver for this URL with these settings of gateway.yaml."""
    return PlainDriver("up", Backend(driver="plain", url=url, **settings))  # type: ignore[arg-type]


def post(path: str = "/v1/chat", *headers: tuple[str, str], body: bytes = b"{}") -> HttpRequest:
    """A request."""
    return HttpRequest("POST", path, headers, body)
