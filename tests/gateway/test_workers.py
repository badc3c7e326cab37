"""Several workers of one node: real processes on one port and one real Redis, told and hurt as operators would."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.fleet import CHAT, LEASE, ask, client, get, node, stream, until
from support.gateway import ROOT, Gateway
from support.process import free_port, wait_until
from support.redis_server import BINARY, RedisServer

from config.load import load_text
from config.schema import Config, Server
from gateway.workers import FIRST, LONGEST, SETTLED, Restarts, count_of

needs_redis = pytest.mark.skipif(BINARY is None, reason="no redis-server on this machine")
LONG = "[tokens=2000] [rate=20]"


def config(redis: str, workers: int = 2, drain: str = "2s") -> str:
    return f"""
server: {{port: {{port}}, workers: {workers}, drain_timeout: {drain}}}
registry: {{url: "{redis}", lease: {LEASE:g}s, timeout: 1s}}
backends: {{demo: {{driver: demo}}}}
routes: [{{model: "*", to: demo}}]
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def pair(redis: RedisServer) -> AsyncIterator[Gateway]:
    """A node of two workers, both serving, on an empty Redis."""
    redis.command("FLUSHALL")
    async with node(redis.url, text=config(redis.url)) as gateway:
        await serving(gateway, 2)
        yield gateway


async def serving(gateway: Gateway, count: int, seconds: float = 20) -> None:
    """Wait until so many workers have said that they serve."""
    await asyncio.to_thread(wait_until, lambda: gateway.log.count('"serving"') >= count, seconds, f"{count} serve")


def workers_of(gateway: Gateway) -> set[int]:
    """The process ids of the workers that run now."""
    parent = gateway.process.pid
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def worker_of(entry: dict[str, Any]) -> int:
    """The process id in the node's name of a listed stream."""
    return int(entry["node"].rsplit("-", 2)[1])


async def spread(session: aiohttp.ClientSession, gateway: Gateway, count: int = 24) -> list[aiohttp.ClientResponse]:
    """So many long streams, each on a connection of its own."""
    asked = [session.post(gateway.url + CHAT, json=ask(LONG)) for _ in range(count)]
    answers = list(await asyncio.gather(*asked))
    assert {answer.status for answer in answers} == {200}
    return answers


async def scrape(session: aiohttp.ClientSession, gateway: Gateway) -> str:
    async with session.get(gateway.admin_url + "/metrics") as answer:
        return await answer.text()


def figure(text: str, name: str) -> float:
    """The sum of a figure's samples."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(?:{{| )", line))


def test_a_slot_waits_longer_after_each_death() -> None:
    """Breaks when a worker that dies at once is started again without a pause, or a good one waits for ever."""
    slot = Restarts()
    assert [slot.died(0.1) for _ in range(7)] == [FIRST, 2.0, 4.0, 8.0, 16.0, LONGEST, LONGEST]
    assert slot.died(SETTLED) == FIRST


def test_none_means_one_per_core() -> None:
    """Breaks when `workers: 0` does not use the cores this process may use."""
    assert count_of(Config(server=Server(workers=0))) == len(os.sched_getaffinity(0))
    assert count_of(Config(server=Server(workers=3))) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_need_a_shared_registry(workers: int) -> None:
    """Breaks when workers that cannot see each other's streams are started."""
    found = load_text(f"server: {{workers: {workers}}}", "x.yaml", {})
    assert [c.path for c in found.complaints] == ["server.workers"]
    assert "redis://" in found.complaints[0].suggestion
    shared = load_text(f"server: {{workers: {workers}}}\nregistry: {{url: 'redis://r'}}", "x.yaml", {})
    assert not shared.complaints
    assert [c.path for c in shared.notices] == ["backends"]  # of which there are none


@needs_redis
async def test_connections_are_spread_and_any_worker_answers_for_all(pair: Gateway) -> None:
    """Breaks when one worker gets everything, or a worker knows only its own streams, figures and cancels."""
    async with client() as session:
        answers = await spread(session, pair)
        active = await until(session, pair.admin_url + "/api/streams", lambda body: body["count"] == 24, 3)
        assert {worker_of(entry) for entry in active["streams"]} == workers_of(pair)
        deadline = time.monotonic() + 5
        while figure(text := await scrape(session, pair), "headgate_streams_active") != 24:
            assert time.monotonic() < deadline, text
            await asyncio.sleep(0.1)
        for answer in answers:  # each asked over a new connection: as often as not of the other worker
            async with session.delete(f"{pair.url}/api/streaming/{answer.headers['X-Stream-Id']}") as told:
                said = await told.json()
                assert said.get("state") == "cancelled", said
        for _ in range(4):
            text = await scrape(session, pair)
            assert figure(text, "headgate_streams_total") == 24
            assert figure(text, "headgate_stream_duration_seconds_count") == 24
        await until(session, pair.admin_url + "/api/streams", lambda body: body["count"] == 0, 3)


@needs_redis
async def test_a_killed_worker_is_replaced_and_its_streams_are_lost_honestly(pair: Gateway) -> None:
    """Breaks when a crash takes the other workers' streams, leaves ghosts in list or figures, or a hole in the node."""
    async with client() as session:
        answers = await spread(session, pair)
        await asyncio.sleep(0.5)  # the registry is told at the next tick
        listed = (await get(session, pair.admin_url + "/api/streams"))["streams"]
        victim = worker_of(listed[0])
        lost = {entry["streamId"] for entry in listed if worker_of(entry) == victim}
        assert 0 < len(lost) < 24
        os.kill(victim, signal.SIGKILL)
        await serving(pair, 3)
        assert "worker ended" in pair.log
        assert victim not in workers_of(pair)
        assert len(workers_of(pair)) == 2
        rest = 24 - len(lost)
        await until(session, pair.admin_url + "/api/streams", lambda body: body["count"] == rest, 5 * LEASE)
        for name in lost:
            url = f"{pair.admin_url}/api/streams/{name}"
            await until(session, url, lambda body: body.get("state") == "node_lost", 5 * LEASE)
        assert figure(await scrape(session, pair), "headgate_streams_active") == rest
        for answer in answers:
            answer.close()


@needs_redis
async def test_told_to_stop_all_drain(pair: Gateway) -> None:
    """Breaks when a stop cuts streams that would have ended in time, or a proxy is not told to go elsewhere."""
    async with client() as session:
        short = [session.post(pair.url + CHAT, json=ask("[tokens=30] [rate=30]")) for _ in range(12)]
        answers = await asyncio.gather(*short)
        pair.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        async with session.post(pair.url + CHAT, json=ask()) as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
            assert refused.headers["Connection"].lower() == "close"
        async with session.get(pair.url + "/health/ready") as ready:
            assert (ready.status, (await ready.json())["phase"]) == (503, "draining")
        bodies = [await answer.text() for answer in answers]
        assert all("event: done" in body for body in bodies)
    assert await asyncio.to_thread(pair.process.wait, 10) == 0
    assert pair.log.count('"stopped"') == 2


@needs_redis
async def test_told_twice_all_hurry(redis: RedisServer) -> None:
    """Breaks when a second SIGTERM does not end a long drain, or the streams' ends are not said."""
    async with node(redis.url, text=config(redis.url, drain="5m")) as gateway, client() as session:
        await serving(gateway, 2)
        reading = [asyncio.create_task(read(answer)) for answer in await spread(session, gateway, 8)]
        for _ in range(2):
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
        bodies = await asyncio.gather(*reading)
        assert all("event: error" in body and '"code":"shed"' in body for body in bodies), bodies[0][-400:]
        assert await asyncio.to_thread(gateway.process.wait, 10) == 0


async def read(answer: aiohttp.ClientResponse) -> str:
    """All that came, also of an answer that was broken off."""
    body = b""
    try:
        async for part in answer.content.iter_any():
            body += part
    except aiohttp.ClientPayloadError:
        pass
    return body.decode()


@needs_redis
async def test_the_whole_group_may_be_told(redis: RedisServer) -> None:
    """Breaks when systemd, or Ctrl-C, which tell parent and workers alike, count as a second signal and cut streams."""
    async with node(redis.url, text=config(redis.url, drain="20s")) as gateway, client() as session:
        await serving(gateway, 2)
        async with stream(session, gateway, directives="[tokens=40] [rate=40]") as answer:
            for pid in (*workers_of(gateway), gateway.process.pid):
                os.kill(pid, signal.SIGTERM)
            assert "event: done" in await read(answer)
        assert await asyncio.to_thread(gateway.process.wait, 10) == 0


@needs_redis
async def test_workers_do_not_outlive_their_parent(redis: RedisServer) -> None:
    """Breaks when a killed parent leaves workers that hold the port and that nobody can stop."""
    async with node(redis.url, text=config(redis.url)) as gateway:
        await serving(gateway, 2)
        pids = workers_of(gateway)
        gateway.kill()
        await asyncio.to_thread(wait_until, lambda: not any(map(runs, pids)), 10, "the workers have ended")


def runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@needs_redis
async def test_told_during_the_start(redis: RedisServer, tmp_path: Path) -> None:
    """Breaks when a stop that comes before the workers serve is lost or counts as a crash."""
    process, log = start(tmp_path, config(redis.url), free_port())
    await asyncio.to_thread(wait_until, lambda: b"supervising" in log.read_bytes(), 20, "the parent runs")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 10) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


async def test_told_during_the_start_of_one(tmp_path: Path) -> None:
    """Breaks when a gateway of one worker that is told to stop while it starts is killed instead, without its close."""
    text = "server: {port: {port}}\nbackends: {demo: {driver: demo}}\nregistry: {url: 'redis://192.0.2.1', timeout: 1s}"
    process, log = start(tmp_path, text, free_port())
    await asyncio.to_thread(wait_until, lambda: handles_sigterm(process.pid), 20, "it has taken over SIGTERM")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0, log.read_text()
    assert '"stopped"' in log.read_text()


def handles_sigterm(pid: int) -> bool:
    """Whether a process has a handler of its own, as the kernel sees it."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@needs_redis
async def test_a_reload_reaches_all_workers_and_later_ones(pair: Gateway) -> None:
    """Breaks when workers, or the replacement of one, serve by different configurations."""
    path = pair.file
    path.write_text(path.read_text().replace('model: "*"', "model: only"))
    pair.process.send_signal(signal.SIGHUP)
    done = lambda: pair.log.count("reload.done") >= 2  # noqa: E731
    await asyncio.to_thread(wait_until, done, 10, "both have read the file again")
    os.kill(min(workers_of(pair)), signal.SIGKILL)
    await serving(pair, 3)
    async with client() as session:
        for _ in range(16):
            async with session.post(pair.url + CHAT, json=ask()) as refused:
                assert refused.status == 404


@needs_redis
async def test_a_second_gateway_does_not_slip_in(pair: Gateway, tmp_path: Path) -> None:
    """Breaks when a gateway started twice by mistake shares the port and takes half of the connections."""
    process, log = start(tmp_path, config("redis://127.0.0.1:1/0"), int(pair.url.rsplit(":", 1)[1]))
    assert await asyncio.to_thread(process.wait, 20) == 1
    assert "cannot listen" in log.read_text()


def start(folder: Path, text: str, port: int) -> tuple[subprocess.Popen[bytes], Path]:
    path, log = folder / "gateway.yaml", folder / "log"
    path.write_text(text.replace("{port}", str(port)) + f"\nadmin: {{port: {free_port()}}}\n")
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
    with log.open("wb") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out), log


@needs_redis
async def test_figures_have_the_same_names_as_those_of_one(pair: Gateway, redis: RedisServer) -> None:
    """Breaks when dashboards and alerts depend on how many workers a node has."""
    async with node(redis.url, text=config(redis.url, workers=1)) as alone, client() as session:
        seen = []
        for gateway in (pair, alone):
            async with stream(session, gateway, directives="[tokens=3] [rate=100]") as answer:
                await answer.read()
            async with session.get(gateway.url + "/v1/nothing") as _:
                pass
            await asyncio.sleep(0.1)
            async with stream(session, gateway, directives=LONG):
                seen.append(shape(await scrape(session, gateway)))
        assert seen[0] == seen[1]


def shape(text: str) -> tuple[set[str], set[str]]:
    """The declarations (a family that has no sample yet need not be there), and the names of samples."""
    names = {re.split(r"[{ ]", line, maxsplit=1)[0] for line in text.splitlines() if not line.startswith("#")}
    families = {line for line in text.splitlines() if line.startswith("#")}
    used = {line for line in families if any(name.startswith(line.split()[2]) for name in names)}
    return names, used
