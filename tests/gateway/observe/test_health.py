"""Health: the judgements, the background probes, and the answers over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace

from gateway.edge.health_handlers import routes
from gateway.observe.health import Health
from gateway.observe.judging import Check, Seen, above, of_backend, overall
from gateway.observe.machine import memory_limit, memory_used
from gateway.registry.memory import MemoryRegistry
from gateway.streams.settle import settle
from gateway.streams.stream import Identity, Receipt, State, Stream, Try

SECRET = "http://10.0.0.7:8000 refused key sk-secret"
Client = TestClient[web.Request, web.Application]


def receipt(state: State, backend: str = "demo") -> Receipt:
    stream = Stream(Identity("st_b", "o", "native", "m", backend, "m", "n", 1), 0.0)
    stream.end(state, 1.0, by="backend", reason="")
    return settle(stream, tap=None, bytes_in=0, now=1, ended_ms=1, prompt_chars=0)


def make(**more: Any) -> Health:
    registry = MemoryRegistry("n")
    return Health(version="1.2", registry=registry.health, active=lambda: 3, backends=["demo", "far"], **more)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
async def client() -> AsyncIterator[tuple[Client, Health]]:
    async def probe(name: str) -> bool | str:
        return True if name == "demo" else SECRET

    health = make(probe=probe)
    app = web.Application()
    app.add_routes(routes(health))
    await health.start()
    await until(lambda: bool(health.report()) and all(c.figures["known"] for c in health.backends().values()))
    async with TestClient(TestServer(app)) as found:
        yield found, health
    await health.stop()


def test_judgements() -> None:
    """Breaks when a threshold is read the wrong way round."""
    assert [above(v, 1, 2) for v in (0.5, 1, 2)] == ["healthy", "degraded", "unhealthy"]
    assert of_backend(Seen()) == "unknown"
    assert of_backend(Seen(probed=True, at=1.0)) == "healthy"
    assert of_backend(Seen(probed=True, failures=5, answered=True, at=1.0)) == "degraded"
    assert of_backend(Seen(probed=True, failures=1)) == "degraded"
    assert of_backend(Seen(probed=True, failures=5)) == of_backend(Seen(probed=False)) == "unhealthy"


def test_one_lost_backend_is_not_the_end() -> None:
    """Breaks when one lost backend of many makes the whole gateway unhealthy, or the loss of all does not."""
    fine, lost = Check("healthy"), Check("unhealthy")
    assert overall({}, {}) == overall({"a": fine}, {"b": fine}) == "healthy"
    assert overall({"a": fine}, {"b": fine, "c": lost}) == "degraded"
    assert overall({"a": fine}, {"b": lost, "c": lost}) == "unhealthy"
    assert overall({"a": lost}, {"b": fine}) == "unhealthy"


def test_streams_tell_of_their_backend() -> None:
    """Breaks when failing streams leave their backend healthy until the next probe, or a success does not clear it."""
    health = make()
    health.finished(receipt(State.UPSTREAM_ERROR))
    assert health.backends()["demo"].status == "degraded"
    for _ in range(4):
        health.finished(receipt(State.UPSTREAM_TRUNCATED))
    assert health.backends()["demo"].status == "unhealthy"
    health.finished(receipt(State.CANCELLED))
    assert health.backends()["demo"].status == "unhealthy"
    health.finished(receipt(State.COMPLETED))
    health.finished(replace(receipt(State.UPSTREAM_ERROR), backend="removed"))
    assert health.backends()["demo"].status == "healthy"


def test_memory_figures_are_real() -> None:
    """Breaks when the resident size or the limit is read in the wrong unit."""
    assert 5_000_000 < memory_used() < memory_limit()


def test_failed_attempts_count_for_their_own_backend() -> None:
    """Breaks when a backend that failed over to another stays well, or is blamed for a client's mistake or patience."""
    health = make()
    tries = (Try("far", "m", "start", "timeout", 0), Try("far", "m", "start", "not needed", 0))
    health.finished(replace(receipt(State.COMPLETED), tries=tries))
    assert health.backends()["far"].figures["failuresInARow"] == 1
    assert health.backends()["demo"].status == "healthy"
    for code, finish in (("invalid_request", "error"), ("timeout", "timeout"), ("cancelled", "cancelled")):
        health.finished(replace(receipt(State.UPSTREAM_ERROR), error_code=code, finish_reason=finish))
    assert health.backends()["demo"].figures["failuresInARow"] == 0
    health.finished(replace(receipt(State.TIMED_OUT), error_code="timeout", finish_reason="error"))
    assert health.backends()["demo"].figures["failuresInARow"] == 1


async def test_asking_never_waits_for_a_probe() -> None:
    """Breaks when a backend that hangs makes health hang, or its silence passes for health."""

    async def hang(_name: str) -> bool:
        await asyncio.sleep(60)
        return True

    health = make(probe=hang, probe_timeout=0.05)
    await health.start()
    began = time.perf_counter()
    assert health.report()["checks"]["backend:demo"]["known"] is False
    assert health.report()["checks"]["backend:demo"]["status"] == "unknown"
    assert time.perf_counter() - began < 0.1
    await until(lambda: health.report()["status"] == "unhealthy")
    assert "no answer within" in str(health.check("backend:demo", public=False))
    assert health.backends()["demo"].figures["failuresInARow"] == 1
    await health.stop()


async def test_a_probe_that_breaks_is_an_answer() -> None:
    """Breaks when an exception in a probe ends the probing, so that the backend never recovers."""
    asked: list[str] = []

    async def probe(name: str) -> bool:
        asked.append(name)
        if len(asked) <= 2:
            raise OSError("no route")
        return True

    health = make(probe=probe, probe_every=0.05)
    await health.start()
    await until(lambda: health.report()["status"] == "unhealthy")
    await until(lambda: health.report()["status"] != "unhealthy" and health.backends()["far"].status == "healthy")
    await health.stop()
    assert len(asked) >= 4


async def test_a_blocked_loop_shows() -> None:
    """Breaks when a worker whose event loop hangs calls itself healthy."""
    health = make()
    await health.start()
    await asyncio.sleep(0.05)
    time.sleep(0.9)
    await until(lambda: health.lag > 0.2)
    assert health.own()["event_loop"].status == "degraded"
    await health.stop()


def test_details_of_the_registry_are_json() -> None:
    """Breaks when operators' tools get the text of a Python object to read."""
    found = make().check("registry", public=False)
    assert found is not None
    assert found["detail"]["backend"] == "memory"


async def test_live_and_ready(client: tuple[Client, Health]) -> None:
    """Breaks when a draining node still asks for new streams, or a lost backend gets the process restarted."""
    http, health = client
    for phase, status in (("starting", 503), ("serving", 200), ("draining", 503)):
        health.phase = phase  # type: ignore[assignment]
        assert (await http.get("/health/ready")).status == status
        live = await http.get("/health")
        assert live.status == 200
        assert set(await live.json()) == {"status", "version", "uptimeSeconds", "activeStreams"}


async def test_details_without_secrets(client: tuple[Client, Health]) -> None:
    """Breaks when a public answer shows an address or a key, or lacks a check."""
    http, _ = client
    texts = ""
    for path in ("/health/detailed", "/api/monitoring/health", "/api/monitoring/health/backend:far",
                 "/api/monitoring/system", "/health"):  # fmt: skip
        texts += await (await http.get(path)).text()
    assert "10.0.0.7" not in texts
    assert "sk-secret" not in texts
    report = await (await http.get("/health/detailed")).json()
    assert set(report["checks"]) == {"registry", "event_loop", "memory", "cpu", "disk", "backend:demo", "backend:far"}
    assert report["checks"]["backend:far"]["status"] == "unhealthy"
    assert report["status"] != "healthy"


async def test_one_check(client: tuple[Client, Health]) -> None:
    """Breaks when a single check cannot be asked for, or an unknown one answers as if it existed."""
    http, _ = client
    assert (await (await http.get("/api/monitoring/health/memory")).json())["usedBytes"] > 0
    assert (await http.get("/api/monitoring/health/backend:far")).status == 503
    assert (await http.get("/api/monitoring/health/nothing")).status == 404


async def test_streaming_health(client: tuple[Client, Health]) -> None:
    """Breaks when a frontend's check of streaming gets no JSON, or an EventSource gets no event."""
    http, _ = client
    for path in ("/health/stream", "/api/v1/health/stream"):
        value = await (await http.get(path)).json()
        assert value["streaming"] is True
        assert value["activeStreams"] == 3
    answer = await http.get("/health/stream", headers={"Accept": "text/event-stream"})
    text = await answer.text()
    assert answer.content_type == "text/event-stream"
    assert "event: health\ndata: {" in text
    assert text.endswith("\n\n")
