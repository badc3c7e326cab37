"""Hot reload of a real gateway: another configuration at once, running streams as they were, a wrong file no harm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.gateway import start_gateway
from support.inprocess import client, running
from support.operators import Operator, operator

from config.load import load
from gateway.access.keys import create
from gateway.app import Gateway

CHAT = "/api/streaming/chat"

TEXT = """
server: {port: 0}
admin: {port: 0}
backends:
  a: {driver: demo}
  b: {driver: demo}
routes:
  - {model: one, to: a}
  - {model: "*", to: b}
"""


def ask(tokens: int = 3, rate: int = 1000, model: str = "one") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"hi [tokens={tokens}] [rate={rate}]"}]}


@asynccontextmanager
async def served(folder: Path, text: str = TEXT) -> AsyncIterator[tuple[Gateway, Path, Operator]]:
    """A gateway started from a file."""
    path = folder / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    async with running(load(path), source=str(path)) as gateway, operator(gateway) as admin:
        yield gateway, path, admin


async def test_a_hundred_reloads_and_no_stream_notices(tmp_path: Path) -> None:
    """A reload that loses a byte of a running stream would be avoided, and so useless."""
    async with served(tmp_path) as (gateway, path, admin), client(gateway) as session:

        async def one(i: int) -> str:
            async with session.post(CHAT, json=ask(100, 60, "one" if i % 2 else "x")) as answer:
                assert answer.status == 200
                return await answer.text()

        streams = [asyncio.create_task(one(i)) for i in range(30)]
        await asyncio.sleep(0.2)
        for n in range(100):
            renamed = TEXT.replace("b: {driver: demo}", f"b{n}: {{driver: demo, models: [m{n}]}}")
            path.write_text(renamed.replace("to: b", f"to: b{n}") if n % 3 else TEXT)  # the watcher sees each of them
            if n % 4 == 0:
                assert not (await admin.post("/reload"))["complaints"]
            if n % 10 == 0:
                streams.append(asyncio.create_task(one(n)))
        await admin.post("/reload")
        for text in await asyncio.gather(*streams):
            assert text.count("event: token") == 100
            assert text.count("event: done") == 1
        assert gateway.reloader.config == load(path)


async def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    """The last good configuration must stay whatever an editor writes, and the error must lead to the line."""
    async with served(tmp_path) as (gateway, path, admin), client(gateway) as session:
        for broken, line in (
            ("backends: {a: {driver: nonsense}}\n", 1),
            (TEXT + "streams: {total_timeout: soon}\n", 10),
            (TEXT + "  x: [\n", 10),
            (TEXT + "registry: {url: '${NOT_SET_ANYWHERE}'}\n", 10),
            ("a: &a [*a, *a]\n", 1),
            ("", 0),
        ):
            before = gateway.services.config
            path.write_text(broken)
            status, found = await admin.ask("POST", "/reload")
            if not broken:
                assert status in (200, 422)
                continue
            assert status == 422
            assert any(c["line"] == line for c in found["complaints"]), found["complaints"]
            assert f":{line}: " in found["error"]["message"]
            assert gateway.services.config is before
            async with session.post(CHAT, json=ask()) as answer:
                assert answer.status == 200


async def test_the_file_is_watched(tmp_path: Path) -> None:
    """Whoever edits the file expects it to hold; a new file put in its place (editors, Kubernetes) counts too."""
    async with served(tmp_path) as (gateway, path, _admin), client(gateway) as session:
        for n, put in enumerate(("write", "rename")):
            text = TEXT.replace("model: one", f"model: new{n}")
            if put == "write":
                path.write_text(text)
            else:
                (tmp_path / "other").write_text(text)
                os.replace(tmp_path / "other", path)
            for _ in range(250):
                if gateway.services.config.routes[0].model == f"new{n}":
                    break
                await asyncio.sleep(0.02)
            assert gateway.services.config.routes[0].model == f"new{n}"
        async with session.post(CHAT, json=ask(model="new1")) as answer:
            assert answer.status == 200
        path.write_text("backends: {")
        for _ in range(250):
            if gateway.reloader.last is not None and gateway.reloader.last.complaints:
                break
            await asyncio.sleep(0.02)
        assert gateway.reloader.last is not None
        assert gateway.reloader.last.complaints
        assert gateway.services.config.routes[0].model == "new1"


async def test_half_a_file_is_not_taken(tmp_path: Path) -> None:
    """An editor that is slow, or a disk that is full, must not leave a gateway without its keys or backends."""
    _secret, key = create("web", "acme")
    whole = TEXT + f"keys:\n  - {{id: web, owner: acme, hash: '{key.hash}'}}\n"
    async with served(tmp_path, whole) as (gateway, path, _admin):
        for _ in range(3):
            with path.open("w") as file:
                for part in (TEXT, whole[len(TEXT) :]):
                    await asyncio.sleep(0.06)
                    file.write(part)
                    file.flush()
            await asyncio.sleep(0.1)
        path.write_text("")
        await asyncio.sleep(0.6)
        assert gateway.services.config.keys
        assert gateway.reloader.last is None or gateway.reloader.last.changes == ()


async def test_a_revoked_key_loses_its_streams(tmp_path: Path) -> None:
    """A stolen key must not go on reading until its stream's end."""
    made = [create(name, name) for name in ("thief", "owner")]
    entries = "keys:\n" + "".join(f"  - {{id: {k.id}, owner: {k.owner}, hash: '{k.hash}'}}\n" for _, k in made)
    async with served(tmp_path, TEXT + entries) as (gateway, path, admin), client(gateway) as session:
        answers = []
        for secret, _key in made:
            header = {"Authorization": f"Bearer {secret}"}
            answers.append(await session.post(CHAT, json=ask(5000, 100), headers=header))
        path.write_text((TEXT + entries).replace("{id: thief", "{disabled: true, id: thief"))
        changes = (await admin.post("/reload"))["changes"]
        assert changes == [{"path": "keys[thief].disabled", "before": "False", "after": "True", "restart": False}]
        text = await asyncio.wait_for(answers[0].text(), 5)
        assert "cancelled" in text
        found = await gateway.registry.find(answers[0].headers["X-Stream-Id"], "thief")
        assert "revoked" in found.reason  # type: ignore[union-attr]
        assert len(gateway.hub) == 1
        async with session.post(CHAT, json=ask(), headers={"Authorization": f"Bearer {made[0][0]}"}) as answer:
            assert answer.status == 401
        answers[1].close()


async def test_what_cannot_change_waits_for_a_restart(tmp_path: Path) -> None:
    """A setting that is taken up by half of the gateway is worse than one that waits."""
    async with served(tmp_path) as (gateway, path, admin), client(gateway) as session:
        path.write_text(TEXT.replace("server: {port: 0}", "server: {port: 9, cors: {origins: ['https://x.example']}}"))
        found = await admin.post("/reload")
        assert [(c["path"], c["restart"]) for c in found["changes"]] == [
            ("server.port", True),
            ("server.cors.origins", False),
        ]
        assert found["applied"]
        async with session.post(CHAT, json=ask(), headers={"Origin": "https://x.example"}) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "https://x.example"
        shown = await admin.get("/config")
        assert [c["path"] for c in shown["pending"]] == ["server.port"]
        assert (await admin.post("/reload"))["changes"] == []


async def test_connections_are_kept_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that closes every connection makes all users pay for it; one that keeps all of them leaks."""
    monkeypatch.setattr("gateway.edge.changing._PATIENCE", 0.1)
    async with served(tmp_path) as (gateway, path, admin), client(gateway) as session:
        kept, gone = gateway.services.transports["a"], gateway.services.transports["b"]
        running_there = await session.post(CHAT, json=ask(60, 60, "x"))
        path.write_text(TEXT.replace("  b: {driver: demo}", "  b: {driver: demo, models: [x]}"))
        await admin.post("/reload")
        assert gateway.services.transports["a"] is kept
        assert gateway.services.transports["b"] is not gone
        assert (await running_there.text()).count("event: done") == 1
        for _ in range(100):
            if not gateway.changing._leaving:
                break
            await asyncio.sleep(0.05)
        assert not gateway.changing._leaving


async def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """The operators' pages and the log are read by more people than may know the keys."""
    backend = '{driver: openai, url: "http://127.0.0.1:9", api_key: sk-very-secret-1, headers: {X-A: hush-hush-1}}'
    with_key = TEXT.replace("  b: {driver: demo}", f"  b: {backend}")
    async with served(tmp_path, with_key) as (_gateway, path, admin):
        path.write_text(with_key.replace("secret-1", "secret-2").replace("hush-1", "hush-2"))
        said = str(await admin.post("/reload")) + str(await admin.get("/config"))
        assert "backends.b.api_key" in said
        assert "backends.b.headers.X-A" in said
        assert "very-secret" not in said
        assert "hush" not in said


async def test_without_a_file_there_is_nothing_to_reload(tmp_path: Path) -> None:
    """The demo has no file: a reload must say so."""
    path = tmp_path / "g.yaml"
    path.write_text(TEXT)
    async with running(load(path)) as gateway, operator(gateway) as admin:
        assert (await admin.ask("POST", "/reload"))[0] == 422


async def test_sighup(tmp_path: Path) -> None:
    """`systemctl reload` sends SIGHUP; unhandled it would end the gateway."""
    text = "backends: {demo: {driver: demo}}\nroutes: [{model: '*', to: demo}]\n"
    gateway = await asyncio.to_thread(start_gateway, text)
    try:
        import signal

        gateway.process.send_signal(signal.SIGHUP)
        for _ in range(250):
            if "reload.done" in gateway.log:
                break
            await asyncio.sleep(0.02)
        assert "reload.done" in gateway.log
        assert "SIGHUP" in gateway.log
        assert gateway.healthy()
    finally:
        await asyncio.to_thread(gateway.stop)
