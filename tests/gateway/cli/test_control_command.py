"""`headgate control` and `headgate check --diff` against a real gateway and real files."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result
from support.inprocess import config_for, running

from config.schema import Admin
from config.values import Secret
from gateway.__main__ import cli


async def run(url: str, *words: str) -> Result:
    """One command, from a thread: it waits for its answer."""
    return await asyncio.to_thread(CliRunner().invoke, cli, ["control", "--admin", url, "--as", "ann", *words])


async def test_every_command() -> None:
    """An operator in a hurry has nothing but these."""
    async with running(config_for()) as gateway:
        url = f"http://127.0.0.1:{gateway.admin_port}"
        control = gateway.services.control
        for words, said in (
            ("flags streaming=off mode=battery_saver route:*=on", "route *: streaming on"),
            ("flags mode=none route:*=none", "mode: as configured"),
            ("rollout 12.5 --off whole --salt spring", "rollout: 12.5 % of users (salt spring), the others get whole"),
            ("pause --backend up --for 5m --reason upgrade", "paused: backend up (upgrade), by ann"),
            ("resume --backend up", "streaming: off"),
            ("emergency on", "emergency: on"),
            ("kill --user u1 --reason spam", "undo: headgate control unkill kill_"),
            ("show", "killed: kill_"),
            ("reset", "streaming: on"),
            ("kill --all --for 1h", "all * is killed"),
            ("close-breaker up", "the breaker of up is closed"),
        ):
            found = await run(url, *words.split())
            assert (found.exit_code, said in found.output) == (0, True), found.output
        rule = control.state.killed[0]
        assert (await run(url, "unkill", rule.id)).exit_code == 0
        assert control.state.killed == ()
        changes = [json.loads(line) for line in (await run(url, "audit")).output.splitlines()]
        assert len(changes) == 11
        assert all(change["by"].startswith("ann (") for change in changes)
        assert json.loads((await run(url, "show", "--json")).output)["version"] == 11


async def test_refusals_are_said() -> None:
    """A command that failed must not look as if it had worked."""
    async with running(config_for()) as gateway:
        url = f"http://127.0.0.1:{gateway.admin_port}"
        for words in (
            "unkill nobody",
            "kill",
            "kill --all --user u",
            "resume --backend up",
            "close-breaker nobody",
            "reload",
        ):
            found = await run(url, *words.split())
            assert found.exit_code == 1, words
            assert "HTTP 4" in found.output
        assert "HTTP 4" in (await run(url, "flags", "speed=1")).output
        assert (await run(url, "flags", "debug")).exit_code == 2
        assert gateway.services.control.state.version == 0
    assert (await run("http://127.0.0.1:1", "show")).exit_code == 1


async def test_the_token_is_needed_and_enough() -> None:
    """With a token set, nobody without it may even look."""
    base = config_for()
    admin = Admin(port=0, token=Secret("right"))
    config = type(base)(server=base.server, admin=admin, backends=base.backends, routes=base.routes)
    async with running(config) as gateway:
        url = f"http://127.0.0.1:{gateway.admin_port}"
        assert "HTTP 401" in (await run(url, "show")).output
        assert (await run(url, "--token", "right", "emergency", "on")).exit_code == 0
        assert gateway.services.control.state.emergency


async def test_the_gateway_may_be_named_after_the_command() -> None:
    """Every other command takes its address and credential there."""
    base = config_for()
    admin = Admin(port=0, token=Secret("right"))
    config = type(base)(server=base.server, admin=admin, backends=base.backends, routes=base.routes)
    async with running(config) as gateway:
        where = ["--admin", f"http://127.0.0.1:{gateway.admin_port}", "--token", "right"]
        for words in (["show", *where], ["kill", "--user", "u", *where], ["flags", "streaming=off", *where]):
            found = await asyncio.to_thread(CliRunner().invoke, cli, ["control", *words])
            assert found.exit_code == 0, found.output
        assert not gateway.services.control.state.streaming
        for words in (["--url", *where[1:]], where):
            found = await asyncio.to_thread(CliRunner().invoke, cli, ["routes", "explain", "x", *words])
            assert (found.exit_code, "taken, by" in found.output) == (0, True), found.output
            assert "no running gateway" not in found.output
        found = await asyncio.to_thread(CliRunner().invoke, cli, ["routes", "explain", "x", *where[:2]])
        assert (found.exit_code, "HTTP 401" in found.output) == (1, True)


def test_check_diff(tmp_path: Path) -> None:
    """What a reload will do should be known before it is done."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    text = "backends: {demo: {driver: demo}}\nserver: {port: 8080}\n"
    old.write_text(text)
    new.write_text(text.replace("8080", "8090") + "streams: {no_progress: 10s}\n")
    found = CliRunner().invoke(cli, ["check", "--diff", str(old), str(new)])
    assert found.exit_code == 0
    assert "server.port: 8080 -> 8090 (needs a restart)" in found.output
    assert "streams.no_progress: 30 -> 10" in found.output
    new.write_text("backends: {demo: {driver: nonsense}}\n")
    assert CliRunner().invoke(cli, ["check", "--diff", str(old), str(new)]).exit_code == 1
