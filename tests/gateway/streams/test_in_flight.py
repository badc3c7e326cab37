"""A request under way: asked at once or by a task, closed before, while and after the backend answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from backends.base import HttpRequest
from backends.catalog import build
from backends.contract.errors import BackendError, ErrorCode
from backends.exchange import Exchange, Sink
from config.schema import Backend
from gateway.streams.course import Leg, Opener
from gateway.streams.in_flight import InFlight

DRIVER = build("up", Backend(driver="openai", url="http://x"))
AWAY = BackendError(ErrorCode.UPSTREAM_FAILED, "away")


class Line(Exchange):
    """A connection that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def abort(self) -> None:
        self.done.append("abort")

    def finish(self) -> None:
        self.done.append("finish")


class Network(Opener):
    """Answers when the test says so; `ready`: at once."""

    def __init__(self, *, ready: bool = False) -> None:
        self.line = Line()
        self.ready = ready
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def at_once(self, request: HttpRequest, sink: Sink) -> Exchange | None:
        return self.line if self.ready else None

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        await asyncio.shield(self.answer)
        return self.line


class Ear:
    """A sink that hears of losses."""

    def __init__(self) -> None:
        self.losses: list[BackendError] = []

    def head(self, status: int, headers: Mapping[str, str]) -> None: ...

    def data(self, data: bytes) -> None: ...

    def eof(self) -> None: ...

    def lost(self, error: BackendError) -> None:
        self.losses.append(error)


def asked(network: Network) -> tuple[InFlight, Ear]:
    flight, ear = InFlight(), Ear()
    flight.open(Leg("up", "m", DRIVER, HttpRequest("POST", "/", (), b""), network), ear)
    return flight, ear


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


@contextmanager
def faults() -> Iterator[list[Any]]:
    """What the loop's handler is told."""
    loop, found = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield found
    loop.set_exception_handler(None)


@pytest.mark.parametrize("ready", [True, False])
async def test_a_connection_is_steered_and_given_back(ready: bool) -> None:
    """Breaks when a slow reader cannot hold its backend, or a good connection is thrown away."""
    network = Network(ready=ready)
    flight, _ = asked(network)
    assert flight.pause() == ready
    network.answer.set_result(None)
    await settled()
    assert flight.pause()
    flight.resume()
    flight.close(drain=True)
    flight.close(drain=False)
    flight.resume()
    assert not flight.pause()
    assert network.line.done[-3:] == ["pause", "resume", "finish"]


async def test_no_connection_stays_behind() -> None:
    """Breaks when a stream that is cancelled while its backend is asked leaves a connection open, or hears of it."""
    network = Network()
    flight, ear = asked(network)
    await settled()
    flight.close(drain=False)
    network.answer.set_result(None)
    await settled()
    assert (network.line.done, ear.losses, flight.exchange) == ([], [], None)
    network = Network()
    flight, _ = asked(network)
    await settled()
    network.answer.set_result(None)
    await asyncio.sleep(0)
    flight.close(drain=True)  # the answer is there, and its task has not run yet
    await settled()
    assert flight.exchange is None
    assert "finish" not in network.line.done


async def test_who_cannot_be_asked_is_lost() -> None:
    """Breaks when a client waits for a backend that was never reached, or for a fault of ours that nobody reported."""
    network = Network()
    _, ear = asked(network)
    network.answer.set_exception(AWAY)
    await settled()
    assert ear.losses == [AWAY]
    with faults() as found:
        network = Network()
        flight, ear = asked(network)
        network.answer.set_exception(RuntimeError("ours"))
        await settled()
        assert [error.code for error in ear.losses] == [ErrorCode.INTERNAL]
        del flight, network
        gc.collect()
        assert [str(context["exception"]) for context in found] == ["ours"]
