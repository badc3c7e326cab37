"""Probes: who is away is known before a user finds out, and who is back is tried by nobody's request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from support.inprocess import client, running
from support.upstream import Upstream

from config.schema import Admin, Backend, Breaker, Config, Route, Server, Target
from config.values import Duration
from gateway.app import Gateway
from gateway.edge.planning import world_of
from gateway.routing.probes import Prober

RULES = Breaker(failures=2, pause=Duration(0.1), longest=Duration(0.1))


def said(status: bytes, body: bytes) -> list[Any]:
    return [b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


def config(url: str, policy: Any = "least_busy") -> Config:
    backends = {
        "up": Backend(driver="vllm", url=url, probe=Duration(3600), breaker=RULES),
        "demo": Backend(driver="demo"),
    }
    routes = (Route(model="*", to=(Target("up"), Target("demo")), policy=policy),)
    return Config(server=Server(port=0), admin=Admin(port=0), backends=backends, routes=routes)


def prober(gateway: Gateway) -> Prober:
    return Prober(lambda: gateway.services.config, lambda: world_of(gateway.services))


async def test_probes_open_and_close_a_breaker() -> None:
    """Users would be the probes: each outage would cost some of them their request."""
    scripts = [said(b"503 X", b""), said(b"503 X", b""), said(b"200 OK", b""), said(b"200 OK", b"")]
    async with Upstream(*scripts) as up, running(config(up.url, "ordered")) as gateway:
        breaker, look = gateway.upstreams["up"].breaker, prober(gateway)
        await until(lambda: len(up.requests) >= 1)  # the gateway's own, at its start
        await look.look("up")
        assert breaker.state.wire == "open"
        await look.look("up")
        assert len(up.requests) == 2  # it is left alone
        await asyncio.sleep(0.15)
        await look.look("up")
        assert breaker.state.wire == "half_open"
        await look.look("up")
        assert breaker.state.wire == "closed"


async def test_a_backend_busy_with_others_is_not_asked() -> None:
    """Another gateway's streams would be invisible, and the busiest server get the next one."""
    metrics = b"vllm:num_requests_running 7\nvllm:num_requests_waiting 1\n"
    async with Upstream(said(b"200 OK", metrics)) as up, running(config(up.url)) as gateway:
        await until(lambda: gateway.upstreams["up"].load == 8)
        async with client(gateway) as session:
            answer = await session.post("/api/streaming/chat", json={"prompt": "x [tokens=1]"})
            assert answer.status == 200
        assert {raw.split(b" ")[1] for raw, _ in up.requests} == {b"/health", b"/metrics"}
