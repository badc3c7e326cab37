"""Operators look at breakers and routes, and close a breaker by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from support.inprocess import running

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Admin, Backend, Config, Key, Match, Route, Server, Target
from gateway.access.keys import create
from gateway.app import Gateway
from gateway.cli.routes import routes, told

_SECRET, KEY = create("web", "acme")
CONFIG = Config(
    server=Server(port=0),
    admin=Admin(port=0),
    backends={"one": Backend(driver="demo"), "two": Backend(driver="demo")},
    routes=(
        Route(model="gold-*", to=(Target("one"),), match=Match(key=("gold",))),
        Route(model="*", to=(Target("one"), Target("two", "other")), policy="ordered", on_failure="continue"),
    ),
    keys=(Key(id=KEY.id, owner=KEY.owner, hash=KEY.hash),),
)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running(CONFIG) as started:
        yield started


@pytest.fixture
async def admin(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    base = f"http://127.0.0.1:{gateway.admin_port}"
    async with aiohttp.ClientSession(base, headers={"X-Headgate-Admin": "1"}) as session:
        yield session


async def test_breakers_are_shown_and_reset(gateway: Gateway, admin: aiohttp.ClientSession) -> None:
    """Nobody could see why a backend gets no traffic, or end it."""
    error = BackendError(ErrorCode.UPSTREAM_FAILED, "boom")
    for _ in range(5):
        gateway.upstreams["one"].failed(gateway.upstreams.clock(), error, trial=False)
    found = await (await admin.get("/breakers")).json()
    one, two = found["breakers"]
    assert (one["backend"], one["state"], one["failures"], two["state"]) == ("one", "open", 5, "closed")
    assert 29 < one["retryIn"] <= 30
    assert "boom" in one["history"][0]["reason"]
    scrape = await (await admin.get("/metrics")).text()
    assert 'headgate_breaker_state{backend="one"} 2.0' in scrape
    assert (await (await admin.post("/breakers/one/reset")).json())["state"] == "closed"
    assert (await admin.post("/breakers/none/reset")).status == 404


async def test_a_decision_is_explained(gateway: Gateway, admin: aiohttp.ClientSession) -> None:
    """Why a stream went where it went would be guesswork."""
    found = await (await admin.get("/routes/explain?model=gold-1&key=web")).json()
    assert [route["why"] for route in found["routes"]] == ["key is 'web', not gold", "fits"]
    first = found["routes"][1]["candidates"][0]
    assert (first["backend"], first["breaker"], first["active"]) == ("one", "closed", 0)
    lines = told(CONFIG, found["routes"])
    assert "does not fit: key is 'web'" in lines[0]
    assert "breaker closed" in lines[2]
    found = await (await admin.get("/routes/explain?model=gold-1&key=gold")).json()
    assert len(found["routes"]) == 1


async def test_an_explanation_says_what_is_paused(admin: aiohttp.ClientSession) -> None:
    """The explanation would name a backend first that gets no streams, and look as if all were well."""
    await admin.post("/control/pause", json={"backend": "one"}, headers={"X-Headgate-Admin": "1"})
    found = await (await admin.get("/routes/explain?model=m")).json()
    assert [one["paused"] for one in found["routes"][-1]["candidates"]] == [True, False]
    assert "paused by an operator" in told(CONFIG, found["routes"])[2]


def test_the_command_goes_by_the_file_alone(tmp_path: Path) -> None:
    """Before the first start, and in CI, there is no gateway to ask."""
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "admin: {port: 1}\nbackends: {a: {driver: demo}, b: {driver: demo}}\n"
        "routes: [{model: [x, y], to: [a, {backend: b, model: z}], policy: ordered, match: {header: {X-Tier: gold}}}]\n"
    )
    run = CliRunner().invoke(routes, ["explain", "y", "--config", str(file), "--header", "X-Tier=gold"])
    assert run.exit_code == 0, run.output
    assert "1. a: driver demo" in run.output
    assert "2. b: driver demo, its own address, model z" in run.output
    run = CliRunner().invoke(routes, ["explain", "y", "--config", str(file)])
    assert run.exit_code == 1
    assert "header X-Tier is missing" in run.output


async def test_attempts_are_counted(gateway: Gateway, admin: aiohttp.ClientSession) -> None:
    """How often streams are saved, and by whom, could not be told."""
    body = {"prompt": "x [tokens=4] [rate=0] [fail=cut@2]", "model": "m"}
    headers = {"Authorization": f"Bearer {_SECRET}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        answer = await session.post(f"http://127.0.0.1:{gateway.public_port}/api/streaming/generate", json=body)
        page = await answer.text()
    assert json.loads(page.rsplit("data: ", 1)[1])["tokenCount"] == 4
    scrape = await (await admin.get("/metrics")).text()
    assert 'headgate_attempts_total{backend="one",kind="start",outcome="upstream_truncated"} 1.0' in scrape
    assert 'headgate_attempts_total{backend="two",kind="continue",outcome="completed"} 1.0' in scrape
