"""A real server is killed in mid-answer and a server of another make goes on: every client reads the whole text.

All clients ask at once; each is held at its fiftieth word, then the server gets SIGKILL. `make test-real`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")

from support import llama, real_servers
from support.fuse import Fuse
from support.heard import Heard
from support.inprocess import running
from support.plain_clients import CLIENTS
from support.script_text import TEXT, THINK
from support.scripted import hear

from config.schema import Admin, Backend, Config, Route, Server, Target
from gateway.streams.stream import Receipt

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

AT = 50  # tokens of text
CONTINUED = tuple(name for name in CLIENTS if name != "openai_responses")  # its items could not be told apart

SAYS = {  # the text and the thoughts of each kind's own model
    "llamacpp": (TEXT, THINK),
    "mlx": ("\n\n" + TEXT, THINK.lstrip()),
    "transformers": (TEXT, ""),
    "vllm think": ("\n\n" + TEXT, THINK),
}


@dataclass
class Running:
    """A server: how it is configured, and how it is killed."""

    url: str
    backend: Callable[[str], Backend]  # by the URL it is to be asked at
    target: Callable[[str], Target]  # by the backend's name
    kill: Callable[[], None]


@dataclass
class Servers:
    """Those that run, by kind; started when first asked for, and again when they were killed."""

    folder: Path
    found: dict[str, tuple[Any, Running]] = field(default_factory=dict)

    def get(self, kind: str) -> Running:
        if kind not in self.found:
            self.found[kind] = self._llama() if kind == "llamacpp" else self._other(kind)
        return self.found[kind][1]

    def _llama(self) -> tuple[llama.Llama, Running]:
        server = llama.start("text", self.folder / "llama.log")
        run = Running(server.url, lambda url: Backend(driver="llamacpp", url=url), Target, self._killer("llamacpp"))
        return server, run

    def _other(self, kind: str) -> tuple[real_servers.Server, Running]:
        maker, _, model = kind.partition(" ")
        if lacking := real_servers.missing(maker):
            pytest.skip(lacking)
        server = real_servers.start(maker, model or "text", self.folder / f"{kind}.log")
        driver, path, options = real_servers.DRIVERS[maker]

        def backend(url: str) -> Backend:
            return Backend(driver=driver, url=url + path, options=options)

        return server, Running(server.url, backend, lambda name: Target(name, server.model), self._killer(kind))

    def _killer(self, kind: str) -> Callable[[], None]:
        def kill() -> None:
            self.found.pop(kind)[0].kill()

        return kill

    def stop(self) -> None:
        for server, _ in self.found.values():
            server.stop()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("servers"))
    yield made
    made.stop()


@asynccontextmanager
async def doomed(dies: str, lives: str, servers: Servers, streams: int) -> AsyncIterator[tuple[str, list[Receipt]]]:
    """A gateway whose every model is on the first, and then on the second: its base URL, and its receipts."""
    first, second = servers.get(dies), servers.get(lives)
    async with Fuse(first.url, first.kill, AT, streams).lit() as url:
        config = Config(
            server=Server(port=0),
            admin=Admin(port=0),
            backends={"dies": first.backend(url), "lives": second.backend(second.url)},
            routes=(
                Route(model="*", to=(first.target("dies"), second.target("lives")), policy="ordered",
                      on_failure="continue"),
            ),
        )  # fmt: skip
        receipts: list[Receipt] = []
        async with running(config) as gateway:
            yield f"http://127.0.0.1:{gateway.public_port}", receipts
            receipts += [found for _, found in gateway.registry._receipts._items.values()]  # type: ignore[attr-defined]


async def heard_by(base: str, asked: list[tuple[str, bool]]) -> list[Heard]:
    """What each client makes of the same answer, all at once."""
    return await asyncio.gather(*(hear(name, base, stream=stream) for name, stream in asked))


@pytest.mark.parametrize(
    ("dies", "lives"),
    [("llamacpp", "vllm"), ("transformers", "vllm"), ("transformers", "llamacpp"), ("mlx", "llamacpp"),
     ("vllm think", "llamacpp")],
)  # fmt: skip
async def test_another_server_goes_on(servers: Servers, dies: str, lives: str) -> None:
    """Every application would lose its answer with the server, or find words missing or said twice in it."""
    bare = dies == "vllm think"  # without the template it writes its thoughts as text
    names = [name for name in CONTINUED if not (bare and name == "openai_completions")]
    asked = [(name, stream) for name in names for stream in ((True, False) if dies == "llamacpp" else (True,))]
    async with doomed(dies, lives, servers, len(asked)) as (base, receipts):
        heard = await heard_by(base, asked)
    for (name, stream), answer in zip(asked, heard, strict=True):
        text, thoughts = SAYS[dies] if name != "openai_completions" else (TEXT, "")
        assert (name, stream, answer.error, answer.text, answer.reasoning, answer.finish) == (
            name, stream, "", text, thoughts, "stop"
        )  # fmt: skip
    assert len(receipts) == len(asked)
    for receipt in receipts:
        assert [(t.backend, t.kind) for t in receipt.tries] == [("dies", "start")]
        assert AT - 5 < receipt.tries[0].tokens <= AT + 25  # some of thinking before them
        assert receipt.last is not None
        assert (receipt.last.backend, receipt.last.kind, receipt.state) == ("lives", "continue", "completed")
        assert receipt.completion_tokens >= 199  # of both, whichever way the first one counts


@pytest.mark.parametrize("lives", ["transformers", "mlx"])
async def test_what_cannot_go_on_is_not_asked_to(servers: Servers, lives: str) -> None:
    """A server whose chat always begins anew would say the whole text again in mid-answer, mlx a word without the space
    before it; transformers goes on by a prompt."""
    asked = [(name, True) for name in CONTINUED]
    async with doomed("llamacpp", lives, servers, len(asked)) as (base, _):
        heard = await heard_by(base, asked)
    for (name, _), answer in zip(asked, heard, strict=True):
        if (name, lives) == ("openai_completions", "transformers"):
            assert (answer.error, answer.text, answer.finish) == ("", TEXT, "stop")
        else:
            assert (name, bool(answer.error), TEXT.startswith(answer.text)) == (name, True, True)
