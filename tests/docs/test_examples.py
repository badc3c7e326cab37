"""What the documentation shows is run: its commands word for word, its configurations through the loader."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from support.gateway import Gateway, start_gateway
from support.inprocess import config_for, running

from backends import catalog
from config.load import load_text
from config.repairs import REPAIRS
from config.schema import (
    Access,
    Admin,
    App,
    Backend,
    Config,
    Key,
    Observe,
    Registry,
    Route,
    Server,
    Store,
    Streams,
    Target,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
ENV = {name: f"made-up-{name.lower()}" for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HEADGATE_ADMIN_TOKEN")}
ENV["WEB_KEY_HASH"] = "sha256:" + "0" * 64
SECTIONS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "server": (Server,),
    "admin": (Admin,),
    "registry": (Registry,),
    "streams": (Streams,),
    "backends": (Backend,),
    "routes": (Route, Target),
    "keys": (Key,),
    "access": (Access,),
    "observe": (Observe,),
    "store": (Store,),
    "apps": (App,),
}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


YAML = [pytest.param(text, id=f"{page.name}-{i}") for page in PAGES for i, text in enumerate(blocks(page, "yaml"))]


@pytest.mark.parametrize("text", YAML)
def test_every_configuration_shown_is_accepted(text: str) -> None:
    """The first thing a reader copies would not start."""
    drivers = {name: catalog.load(name) for name in catalog.names()}
    loaded = load_text(text, "shown", ENV, drivers=drivers)
    assert not loaded.complaints, [str(c) for c in loaded.complaints]
    assert not loaded.notices


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """What `make run` starts, with a demo that does not dawdle."""
    config = """
backends: {demo: {driver: demo, options: {tokens_per_second: 400}}}
routes: [{model: "*", to: demo}]
"""
    started = start_gateway(config)
    yield started
    started.stop()


def here(text: str, gateway: Gateway) -> str:
    """The same at this test's address."""
    assert gateway.url.startswith("http://127.0.0.1:")
    return text.replace("http://127.0.0.1:8080", gateway.url)


def run(*command: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


CURLS = [
    pytest.param(line, id=f"{page.name}-{i}")
    for page in PAGES
    for i, line in enumerate(
        line for block in blocks(page, "sh") for line in re.findall(r"^curl (?:.*\\\n)*.*$", block, re.MULTILINE)
    )
]


def test_there_are_commands_to_run() -> None:
    """A change of the fences would leave the tests below with nothing to do."""
    assert len(CURLS) >= 3
    assert len(YAML) >= 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
@pytest.mark.parametrize("line", CURLS)
def test_every_curl_line_works(gateway: Gateway, line: str) -> None:
    """The first command a reader tries would fail."""
    command = here(line, gateway)
    if "st_…" in command:
        shown = run("curl", "-sN", f"{gateway.url}/api/v1/chat/stream?message=hi")
        named = re.search(r'"streamId":"(st_\w+)"', shown)
        assert named is not None, shown
        command = command.replace("st_…", named[1])
    output = run("bash", "-c", command.replace("curl ", "curl --silent --show-error --fail ", 1))
    assert output.strip()
    if "/chat" in command:
        assert "event: done" in output


PROGRAMS = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, code in enumerate(blocks(page, "python"))
    if code.startswith(("import ", "from "))  # others are a line or two of somebody's program
]


@pytest.mark.parametrize("code", PROGRAMS)
def test_every_program_runs(gateway: Gateway, code: str) -> None:
    """The SDK example would not do what the page says of it."""
    assert run(sys.executable, "-c", here(code, gateway)).strip()


# -- docs/configuration.md against the schema --------------------------------------------------------------------------


def chapters() -> dict[str, str]:
    """The text of each chapter of the configuration page, by the words of its heading."""
    found = re.split(r"^## (.*)$", (ROOT / "docs" / "configuration.md").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def chapter(section: str) -> str:
    """Where a section is described."""
    for heading, text in chapters().items():
        if section in re.findall(r"\w+", heading.split(":")[0]):
            return text
    return chapters()["Accepted for later releases"]


def test_the_page_knows_every_section() -> None:
    """A new section would be in the schema and nowhere else."""
    assert {info.name for info in msgspec.structs.fields(Config)} == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented(section: str) -> None:
    """A setting nobody can read about would be nobody's."""
    spoken = " ".join(re.findall(r"`([^`]+)`", chapter(section)))
    for kind in SECTIONS[section]:
        for info in msgspec.structs.fields(kind):
            assert re.search(rf"\b{info.encode_name}\b", spoken), f"{section}.{info.encode_name}"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_documented_key_exists(section: str) -> None:
    """A reader would set what was renamed long ago, and the gateway refuse to start."""
    known = {info.encode_name for kind in SECTIONS[section] for info in msgspec.structs.fields(kind)}
    known |= set(REPAIRS) if section == "backends" else set()
    for cell in re.findall(r"^\| (`.*?) \|", chapter(section), re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", cell):
            assert name.split(".")[0] in known, f"{section}.{name}"


@pytest.mark.parametrize("driver", catalog.names())
def test_every_option_of_a_driver_is_documented(driver: str) -> None:
    """What a driver can be told would be known to its author only."""
    text = chapter("backends")
    assert f"`{driver}`" in text
    options = getattr(sys.modules[catalog.load(driver).__module__], "Options", None)
    for info in msgspec.structs.fields(options) if options else ():
        assert f"`{info.encode_name}`" in text, f"{driver}: {info.encode_name}"


# -- docs/protocols.md against what is served --------------------------------------------------------------------------


async def test_every_path_served_is_documented() -> None:
    """A path nobody can read about would be nobody's; a renamed one would be looked for in vain."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    async with running(config_for()) as serving:
        runner = serving._runners[0]
        assert isinstance(runner, web.AppRunner)
        paths = {route.resource.canonical for route in runner.app.router.routes() if route.resource is not None}
    missing = sorted(p for p in paths - {"/"} if p not in text and not p.startswith("/{version}/models/{model}:"))
    assert not missing
