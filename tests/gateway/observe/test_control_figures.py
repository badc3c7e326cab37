"""Figures of limits, breakers and operators' settings: what alerts need, of one worker or several, naming nobody."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from support.inprocess import client, config_for, running
from support.operators import operator

from config.schema import Access, Key, Queue
from config.values import Duration
from gateway.access.keys import create
from gateway.observe.metrics import NullMetrics
from gateway.observe.sampled import Copied, Figure, Values

CHAT = "/api/streaming/chat"
LONG = {"model": "demo", "messages": [{"role": "user", "content": "hi [tokens=5000] [rate=100]"}]}


def read(metrics: NullMetrics) -> dict[tuple[str, str], float]:
    """(sample name, its labels as text) -> value."""
    found = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            found[sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))] = sample.value
    return found


async def begin(session: aiohttp.ClientSession, **headers: str) -> aiohttp.ClientResponse:
    answer = await session.post(CHAT, json=LONG, headers=headers)
    assert answer.status == 200, await answer.text()
    return answer


async def test_limits_and_queues() -> None:
    """Nobody would see that a limit refuses customers, or that they wait, until they complain."""
    secret, key = create("web", "acme")
    key = Key(key.id, key.owner, key.hash, max_streams=3, user_streams=2)
    base = config_for(keys=(key,), access=Access(gateway_streams=50, gateway_rpm=6))
    up = replace(base.backends["up"], max_streams=2, queue=Queue(size=5, timeout=Duration(20)))
    config = replace(base, backends={"up": up}, routes=(replace(base.routes[0], max_streams=40),))
    headers = {"Authorization": f"Bearer {secret}", "X-User-Id": "mallory", "X-Workspace-Id": "w"}
    async with running(config) as gateway, client(gateway, **headers) as session:
        held = [await begin(session) for _ in range(2)]
        waiting = asyncio.create_task(begin(session))
        await asyncio.sleep(0.1)
        found = read(gateway.metrics)
        for name in ("max_streams", "user_streams", "routes[*].max_streams", "access.gateway_streams"):
            assert found["headgate_leases", f"limit={name}"] == 2, name
        assert found["headgate_leases", "limit=backends.up.max_streams"] == 2
        assert found["headgate_queue_length", "queue=backends.up.queue"] == 1
        assert found["headgate_queue_length", "queue=access.queue"] == 0
        waiting.cancel()
        for stream in held:
            await session.delete("/api/streaming/" + stream.headers["X-Stream-Id"])
        held = [await begin(session) for _ in range(2)]
        body = {"model": "m", "input": "x"}  # the fifth and sixth request; the next is one too many
        statuses = []
        for _ in range(3):
            async with session.post("/v1/embeddings", json=body) as answer:
                statuses.append((answer.status, answer.headers.get("X-Headgate-Limit", "")))
        assert statuses[-1] == (429, "access.gateway_rpm")
        text = gateway.metrics.render()[0].decode()
        assert read(gateway.metrics)["headgate_limit_refused_total", "limit=access.gateway_rpm"] >= 1
        assert not [word for word in ("mallory", "acme", "web") if word in text]
        for stream in held:
            stream.close()


async def test_breakers_and_control(tmp_path: Path) -> None:
    """An operator's forgotten kill, an open breaker or a file that cannot be read must show on a dashboard."""
    path = tmp_path / "gateway.yaml"
    text = "server: {port: 0}\nadmin: {port: 0}\nbackends: {up: {driver: demo}}\nroutes: [{model: '*', to: up}]\n"
    path.write_text(text)
    async with running(config_for(), str(path)) as gateway, operator(gateway) as at:
        for _ in range(5):
            gateway.upstreams["up"].breaker.failure(gateway.upstreams.clock(), "x")
        gateway.upstreams.budget.refused += 2
        await at.post("/control/kill", {"model": "gpt-*", "reason": "drill"})
        await at.post("/control/pause", {"backend": "up", "for": "0.05s"})
        await at.set(streaming=False, rollout={"percent": 5})
        await at.post("/breakers/up/reset")
        await at.post("/reload")
        path.write_text(text + "bogus: 1\n")
        await at.ask("POST", "/reload")
        await asyncio.sleep(0.1)
        found = read(gateway.metrics)
        expected = {
            ("headgate_breaker_opened_total", "backend=up"): 1,
            ("headgate_breaker_state", "backend=up"): 0,
            ("headgate_retries_refused_total", ""): 2,
            ("headgate_retries_active", ""): 0,
            ("headgate_control_version", ""): 4,
            ("headgate_control_rules", "kind=model,rule=kill"): 1,
            ("headgate_control_switch", "switch=streaming"): 0,
            ("headgate_control_switch", "switch=emergency"): 0,
            ("headgate_rollout_percent", ""): 5,
            ("headgate_control_changes_total", "action=kill"): 1,
            ("headgate_control_changes_total", "action=breaker"): 1,
        }
        assert {name: found.get(name) for name in expected} == expected
        assert ("headgate_control_rules", "kind=backend,rule=pause") not in found  # its time is over
        assert found["headgate_reloads_total", "outcome=ok"] >= 1
        assert found["headgate_reloads_total", "outcome=failed"] >= 1


def test_copies_of_several_workers_follow() -> None:
    """A worker's last lease would stay in the sum for ever, or a counter count what it had counted."""
    now: dict[str, Values] = {"gauge": {("a",): 2.0}, "count": {(): 3.0}}
    registry = CollectorRegistry()
    figures = [
        Figure("g", "", ("limit",), "sum", lambda: now["gauge"]),
        Figure("c", "", (), "count", lambda: now["count"]),
    ]
    copied = Copied(figures, registry)
    copied.copy()
    now = {"gauge": {("b",): 1.0}, "count": {(): 5.0}}
    copied.copy()
    copied.copy()
    assert registry.get_sample_value("g", {"limit": "a"}) == 0
    assert registry.get_sample_value("g", {"limit": "b"}) == 1
    assert registry.get_sample_value("c_total") == 5


def test_two_workers_add_up(tmp_path: Path) -> None:
    """Of several workers one scrape would show one worker's queue, or a version that nobody has."""
    script = """
import sys
from pathlib import Path
from gateway.observe.sampled import Figure
from gateway.observe.shared_metrics import SharedMetrics
metrics = SharedMetrics(Path(sys.argv[1]), int(sys.argv[2]), lambda: False, lambda: 0.0)
n = int(sys.argv[2]) + 1
metrics.watch([
    Figure("headgate_queue_length", "x", ("queue",), "sum", lambda: {("q",): n}),
    Figure("headgate_control_version", "x", (), "state", lambda: {(): n}),
    Figure("headgate_breaker_opened", "x", ("backend",), "count", lambda: {("up",): n}),
])
print(metrics.render()[0].decode())
"""
    for slot in "01":
        done: Any = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), slot],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": "."},
        )
    assert 'headgate_queue_length{queue="q"} 3.0' in done.stdout
    assert "headgate_control_version 2.0" in done.stdout
    assert 'headgate_breaker_opened_total{backend="up"} 3.0' in done.stdout


async def test_switched_off() -> None:
    """Figures nobody wants would still be asked for."""
    config = config_for()
    config = replace(config, observe=replace(config.observe, metrics=False))
    async with running(config) as gateway:
        assert type(gateway.metrics) is NullMetrics
