"""Runtime control of a real gateway: what operators set holds for new streams, and running ones are left alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.inprocess import client, config_for, running
from support.operators import operator

from config.schema import Access, Admin, Config, Key
from config.values import Duration
from gateway.access.keys import create

CHAT = "/api/streaming/chat"


def ask(text: str = "hi [tokens=5]", **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **more}


LONG = ask("hi [tokens=5000] [rate=100]")


async def begin(session: aiohttp.ClientSession, path: str = CHAT, **more: Any) -> aiohttp.ClientResponse:
    """A running stream, at its first frames."""
    answer = await session.post(path, json=LONG | more)
    assert answer.status == 200, await answer.text()
    await answer.content.readuntil(b"\n\n")
    return answer


async def refused(session: aiohttp.ClientSession, **headers: str) -> tuple[int, str]:
    """Status of a short request, and the error's code."""
    async with session.post(CHAT, json=ask(), headers=headers) as answer:
        found = await answer.json(content_type=None) if answer.status >= 400 else {}
        return answer.status, found.get("error", {}).get("code", "")


async def test_streaming_off_is_a_404_or_the_whole_answer() -> None:
    """A client that falls back to whole answers needs a clear 404, or the answer itself, never a broken stream."""
    async with running(config_for()) as gateway, client(gateway) as session, operator(gateway) as admin:
        before = await begin(session)
        await admin.set(streaming=False)
        assert await refused(session) == (404, "streaming_disabled")
        async with session.post("/v1/chat/completions", json=ask(stream=False)) as whole:
            assert (whole.status, (await whole.json())["object"]) == (200, "chat.completion")
        async with session.post("/v1/chat/completions", json=ask(stream=True)) as off:
            assert (off.status, (await off.json())["error"]["code"]) == (404, "streaming_disabled")
        await admin.set(rollout={"off": "whole"})
        async with session.post("/v1/chat/completions", json=ask(stream=True)) as whole:
            assert (whole.status, (await whole.json())["object"]) == (200, "chat.completion")
        await admin.set(routes={"*": True})  # this route apart from the rest
        async with session.post("/v1/chat/completions", json=ask(stream=True)) as again:
            assert again.content_type == "text/event-stream"
            await again.read()
        assert len(gateway.hub) == 1
        assert await before.content.readuntil(b"\n\n")
        before.close()


async def test_a_rollout_lets_the_same_users_in_each_time() -> None:
    """A user who is in today and out tomorrow would see the feature come and go."""
    async with running(config_for()) as gateway, client(gateway) as session, operator(gateway) as admin:
        await admin.set(rollout={"percent": 40})
        users = [f"u{i}" for i in range(40)]
        rounds = [[(await refused(session, **{"X-User-Id": user}))[0] for user in users] for _ in range(2)]
        assert rounds[0] == rounds[1]
        assert 5 < rounds[0].count(200) < 30


async def test_background_off() -> None:
    """Nobody may leave a stream running behind when that is switched off."""
    async with running(config_for()) as gateway, client(gateway) as session, operator(gateway) as admin:
        await admin.set(background=False)
        answer = await begin(session)
        answer.close()
        for _ in range(100):
            if not len(gateway.hub):
                break
            await asyncio.sleep(0.02)
        assert not len(gateway.hub)
        body = {"model": "demo", "input": "hi", "background": True}
        async with session.post("/v1/responses", json=body) as off:
            assert (off.status, (await off.json())["error"]["code"]) == (404, "background_disabled")


async def test_a_gateway_that_closes_leaves_the_log_as_it_was() -> None:
    """The next gateway of the process would take an operator's debug mode for its own setting."""
    import logging

    before = logging.getLogger("headgate").level
    async with running(config_for()) as gateway, operator(gateway) as admin:
        await admin.set(debug=True)
        assert logging.getLogger("headgate").level == logging.DEBUG
    assert logging.getLogger("headgate").level == before


async def test_mode_debug_and_running_streams() -> None:
    """A change of pace must not cost a running stream a byte."""
    import logging

    async with running(config_for()) as gateway, client(gateway) as session, operator(gateway) as admin:
        async with session.post(CHAT, json=ask("hi [tokens=60] [rate=100]")) as answer:
            for mode in ("battery_saver", "immediate", "high_performance", None):
                await admin.set(mode=mode, debug=mode == "immediate")
                assert logging.getLogger("headgate").isEnabledFor(logging.DEBUG) is (mode == "immediate")
                await asyncio.sleep(0.05)
            text = await answer.text()
        assert text.count("event: token") == 60
        assert text.count("event: done") == 1
        assert (await admin.ask("PATCH", "/control", {"mode": "fast"}))[0] == 400


def _keys() -> tuple[dict[str, str], tuple[Key, ...]]:
    made = {name: create(name, name) for name in ("vip", "plain")}
    keys = tuple(Key(k.id, k.owner, k.hash, priority="high" if k.id == "vip" else "normal") for _, k in made.values())
    return {name: secret for name, (secret, _) in made.items()}, keys


async def test_emergency_serves_only_high_priority() -> None:
    """In an emergency the few that matter most must still get through, and all others an answer that says when."""
    secrets, keys = _keys()
    async with running(config_for(keys=keys)) as gateway, client(gateway) as session, operator(gateway) as admin:
        await admin.post("/control/emergency", {"on": True})
        vip = {"Authorization": f"Bearer {secrets['vip']}"}
        plain = {"Authorization": f"Bearer {secrets['plain']}"}
        assert await refused(session, **plain) == (503, "maintenance")
        assert (await refused(session, **vip))[0] == 200
        await admin.post("/control/emergency", {"on": False})
        assert (await refused(session, **plain))[0] == 200


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"backend": "up"}, 503),
        ({"model": "de*"}, 503),
        ({"route": "*"}, 503),
        ({"owner": "plain"}, 403),
        ({"key": "plain"}, 403),
        ({"user": "u1"}, 403),
        ({"all": True}, 503),
    ],
)
async def test_a_kill_ends_what_it_names(wish: dict[str, Any], status: int) -> None:
    """A kill that misses lets the harm go on; one that hits too much is an outage."""
    secrets, keys = _keys()
    who = {"Authorization": f"Bearer {secrets['plain']}", "X-User-Id": "u1"}
    other = {"Authorization": f"Bearer {secrets['vip']}", "X-User-Id": "u2"}
    async with running(config_for(keys=keys)) as gateway, client(gateway) as session, operator(gateway) as admin:
        first = await session.post(CHAT, json=LONG, headers=who)
        second = await session.post(CHAT, json=LONG, headers=other)
        made = await admin.post("/control/kill", {**wish, "reason": "spam", "for": "1m"})
        text = await asyncio.wait_for(first.text(), 5)
        assert '"finishReason":"cancelled"' in text.replace(" ", "")
        found = await gateway.registry.find(first.headers["X-Stream-Id"], None)
        assert (found.state, found.ended_by) == ("cancelled", "operator")  # type: ignore[union-attr]
        assert made["rule"]["id"] in found.reason  # type: ignore[union-attr]
        assert "spam" in found.reason  # type: ignore[union-attr]
        assert len(gateway.hub) == (0 if status == 503 else 1)
        assert (await refused(session, **who))[0] == status
        assert (await refused(session, **other))[0] == (503 if status == 503 else 200)
        assert (await admin.ask("DELETE", f"/control/kill/{made['rule']['id']}"))[0] == 200
        assert (await refused(session, **who))[0] == 200
        assert (await admin.ask("DELETE", f"/control/kill/{made['rule']['id']}"))[0] == 404
        second.close()


async def test_who_waits_is_killed_too() -> None:
    """A request that waits for a place while the kill comes would start right after it, and run."""
    access = Access(max_streams=1, queue=Duration(5))
    async with running(config_for(access=access)) as gateway, client(gateway) as session, operator(gateway) as admin:
        await begin(session)
        waiting = asyncio.create_task(refused(session))
        while not gateway.services.limiter.waiting:
            await asyncio.sleep(0.01)
        await admin.post("/control/kill", {"all": True})
        assert await asyncio.wait_for(waiting, 5) == (503, "maintenance")
        assert gateway.services.limiter.tickets == {}
        assert gateway.registry.leases == {}  # type: ignore[attr-defined]


async def test_pause_keeps_running_streams() -> None:
    """Maintenance must wait for what runs and send new streams away with a time to come back."""
    async with running(config_for()) as gateway, client(gateway) as session, operator(gateway) as admin:
        before = await begin(session)
        await admin.post("/control/pause", {"backend": "up", "for": "90s", "reason": "upgrade"})
        async with session.post(CHAT, json=ask()) as answer:
            assert answer.status == 503
            assert 80 <= int(answer.headers["Retry-After"]) <= 90
            assert "upgrade" in (await answer.json())["error"]["message"]
        assert await before.content.readuntil(b"\n\n")
        assert len(gateway.hub) == 1
        before.close()
        await admin.post("/control/resume", {"backend": "up"})
        assert (await refused(session))[0] == 200
        assert (await admin.ask("POST", "/control/resume", {"backend": "up"}))[0] == 404


async def test_everything_is_audited_and_reset() -> None:
    """Who switched what off, and when, is the first question after an incident."""
    async with running(config_for()) as gateway, operator(gateway) as admin:
        await admin.ask("PATCH", "/control", {"debug": True}, **{"X-Headgate-Operator": "ann"})
        await admin.post("/control/kill", {"model": "x-*"})
        reset = await admin.post("/control/reset")
        assert (reset["debug"], reset["killed"], reset["version"]) == (False, [], 3)
        changes = (await admin.get("/control/audit"))["changes"]
        assert [c["action"] for c in changes] == ["set", "kill", "reset"]
        assert changes[0]["by"].startswith("ann (")
        assert (changes[0]["before"], changes[0]["after"]) == ({"debug": False}, {"debug": True})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/control", {"streeming": False}),
        ("PATCH", "/control", {"streaming": "no"}),
        ("PATCH", "/control", {"rollout": {"percent": 101}}),
        ("PATCH", "/control", {"rollout": {"percents": 1}}),
        ("PATCH", "/control", {"version": 9}),
        ("PATCH", "/control", []),
        ("POST", "/control/kill", {}),
        ("POST", "/control/kill", {"all": True, "model": "x"}),
        ("POST", "/control/kill", {"model": "x", "for": "soon"}),
        ("POST", "/control/kill", {"model": ["x"]}),
        ("POST", "/control/kill", {"backend": "upp"}),
        ("POST", "/control/kill", {"route": "gpt-*"}),
        ("POST", "/control/kill", {"key": "nobody"}),
        ("POST", "/control/pause", {"backend": "upp"}),
        ("PATCH", "/control", {"routes": {"gpt-*": False}}),
        ("POST", "/control/pause", {"owner": "x"}),
        ("POST", "/control/emergency", {"on": "yes"}),
    ],
)
async def test_a_wrong_wish_changes_nothing(method: str, path: str, body: Any) -> None:
    """A slip of the pen in an emergency must be told, not half obeyed."""
    async with running(config_for()) as gateway, operator(gateway) as admin:
        status, found = await admin.ask(method, path, body)
        assert (status, found["error"]["code"]) == (400, "invalid_request")
        assert found["error"]["message"]
        assert found["error"]["requestId"].startswith("req_")
        assert (await admin.get("/control"))["version"] == 0


async def test_a_name_that_is_near_is_suggested() -> None:
    """Who stops the wrong backend at three at night must not think it done."""
    async with running(config_for()) as gateway, operator(gateway) as admin:
        _, found = await admin.ask("POST", "/control/kill", {"backend": "upp"})
        assert found["error"]["message"] == "there is no backend 'upp' (did you mean 'up'?)"
        assert (await admin.ask("PATCH", "/control", {"routes": {"gone": None}}))[0] == 200
        assert (await admin.ask("POST", "/control/kill", {"model": "whatever"}))[0] == 200
        status, found = await admin.ask("DELETE", "/control/kill/nothing")
        assert (status, found["error"]["requestId"][:4]) == (404, "req_")


async def test_a_page_cannot_change_anything() -> None:
    """A page in the operator's browser could else switch everything off on loopback."""
    async with running(config_for()) as gateway, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{gateway.admin_port}"
        for method, path in (("PATCH", "/control"), ("POST", "/control/kill"), ("POST", "/reload")):
            async with session.request(method, base + path, json={"all": True}) as answer:
                assert answer.status == 403
            headers = {"X-Headgate-Admin": "1", "Host": "evil.example"}
            async with session.request(method, base + path, json={"all": True}, headers=headers) as answer:
                assert answer.status == 421
        async with session.get(base + "/control") as answer:
            assert answer.status == 200


async def test_settings_survive_a_restart(tmp_path: Path) -> None:
    """A killed model that comes back with the next restart was not killed."""
    config: Config = config_for()
    path = tmp_path / "data" / "control.json"
    config = type(config)(
        server=config.server, admin=Admin(port=0, state=str(path)), backends=config.backends, routes=config.routes
    )
    async with running(config) as gateway, operator(gateway) as admin:
        await admin.post("/control/kill", {"model": "gone-*"})
        await admin.set(mode="battery_saver")
    lines = (path.parent / "control.json.audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["kill", "set"]
    async with running(config) as gateway, operator(gateway) as admin:
        found = await admin.get("/control")
        assert (found["killed"][0]["match"], found["mode"]) == ("gone-*", "battery_saver")
        assert len((await admin.get("/control/audit"))["changes"]) == 2
    path.write_text("{broken")
    async with running(config) as gateway, operator(gateway) as admin:
        assert (await admin.get("/control"))["killed"] == []


async def test_a_rollout_is_taken_back_by_itself() -> None:
    """A rollout that fails at night must not go on failing until morning."""
    async with running(config_for()) as gateway, client(gateway) as session, operator(gateway) as admin:
        await admin.set(rollout={"percent": 99.9, "minimum": 20, "error_rate": 0.1})
        for i in range(25):
            text = "hi [fail=3]" if i % 2 else "hi [tokens=2]"
            async with session.post(CHAT, json=ask(text), headers={"X-User-Id": f"u{i}"}) as answer:
                await answer.read()
        for _ in range(100):
            found = await admin.get("/control")
            if found["rollout"]["percent"] == 0:
                break
            await asyncio.sleep(0.05)
        assert found["rollout"]["percent"] == 0
        last = (await admin.get("/control/audit"))["changes"][-1]
        assert "automatic rollback: error rate" in last["by"]
