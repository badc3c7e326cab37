"""`make bench-dialects`: what a token costs between any two dialects, beside Passthrough; one table.

In-process, the token path alone: a server's frames go into the producer, one per read, and come out at a reader's
output, each at once (no sockets; with `--mode balanced` those of a window together). Microseconds of CPU per token,
the least of several rounds; the factor is against Passthrough of the server's dialect. Every tenth token holds what
JSON escapes. Exit status 1 when a pair is dearer than the limit.

usage: PYTHONPATH=.:tests dialects.py [--tokens N] [--rounds N] [--mode immediate|balanced] [--only DIALECT,...]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from support.dialect_responses import responses
from support.dialects import Said, Step, chat, completions, messages
from support.dialects_other import contents, generated, lines

from backends.base import HttpRequest
from backends.catalog import build as build_driver
from backends.contract.framing import SseFramer
from backends.exchange import Exchange, Sink
from backends.transport import Transport
from config.schema import Backend, OnDisconnect, Streams
from gateway.protocols.base import About
from gateway.protocols.catalog import build
from gateway.streams.course import Opener
from gateway.streams.pacer import Pacer
from gateway.streams.passthrough import Passthrough
from gateway.streams.plan import Plan
from gateway.streams.producer import Producer
from gateway.streams.reader import Reader
from gateway.streams.stream import Identity, Stream
from gateway.streams.views import make_view

LIMIT = 2.0
URL = "http://127.0.0.1:9"
CLIENTS = ("native", "ndjson", "openai", "openai_completions", "openai_responses", "anthropic", "ollama",
           "ollama_generate", "google", "google_array")  # fmt: skip
# dialect -> (a driver that has it, its options, how its frames are written)
SERVERS: dict[str, tuple[str, dict[str, Any], Callable[[Said], list[bytes]]]] = {
    "openai": ("openai", {}, chat),
    "openai_completions": ("openai", {}, completions),
    "openai_responses": ("openai", {}, responses),
    "anthropic": ("anthropic", {}, messages),
    "ollama": ("ollama", {}, lines),
    "ollama_generate": ("ollama", {}, partial(lines, generate=True)),
    "google": ("google", {}, contents),
    "tgi": ("tgi", {"api": "generate"}, generated),
}


class Nowhere:
    """An output that counts."""

    blocked = False
    size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)

    def close(self, clean: bool) -> None:
        """Nothing to close."""


class Wire(Opener):
    """The network: the measurement is the server."""

    sink: Sink

    async def open(self, request: HttpRequest, sink: Sink) -> Exchange:
        self.sink = sink
        return cast("Exchange", self)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def answer(tokens: int) -> Said:
    """Words as models write them."""
    words = [" the", " quick", "est", " way", " to", " São", " Paulo", ",", " is", '\n"']
    return Said(tuple(Step("text", words[i % 10]) for i in range(tokens)))


async def once(dialect: str, client: str, mode: str, frames: list[bytes], *, bare: bool = False) -> float:
    """Seconds of CPU for these frames. `bare`: as they are, though no client speaks this dialect."""
    loop, wire, page = asyncio.get_running_loop(), Wire(), Nowhere()
    kind, options, _ = SERVERS[dialect]
    driver = build_driver("up", Backend(driver=kind, url=URL, options=options)).speaking(dialect)
    assert driver is not None
    protocol = build(("native", "openai", "anthropic", "ollama", "google"))["openai" if bare else client]
    plan = Plan(driver, HttpRequest("POST", "/", (), b""), Streams(), OnDisconnect("continue"), 3)
    producer = Producer(
        Stream(Identity("st_a", "o", client, "m", "up", "m", "n", 0), loop.time()),
        plan, cast("Transport", wire), lambda _: None,
    )  # fmt: skip
    producer.start()
    await asyncio.sleep(0)
    wire.sink.head(200, {})
    about = About("st_a", "m", "up", 0)
    view = make_view(driver, protocol, about)
    if bare:
        view = Passthrough(protocol, about, False, SseFramer(0).split, lambda _: view)
    page.write(view.start())
    reader = Reader(producer.transcript, view, page, Pacer(loop, mode), polite=True)
    producer.attach(reader)
    data = wire.sink.data
    for frame in frames[:20]:
        data(frame)
    gc.collect()
    began = time.process_time()
    for at in range(20, len(frames), 50):  # the loop turns now and then, for the pacer's window
        for frame in frames[at : at + 50]:
            data(frame)
        await asyncio.sleep(0)
    reader.flush()
    took = time.process_time() - began
    reader.rest()
    assert reader.cursor == producer.transcript.tip
    assert page.size > 10 * len(frames)
    return took


class Pair:
    """One pair's least cost so far."""

    def __init__(self, dialect: str, client: str, options: argparse.Namespace) -> None:
        self._ask = partial(once, dialect, client, options.mode, bare=client == dialect == "tgi")
        self._frames = SERVERS[dialect][2](answer(options.tokens))[: options.tokens + 1]
        self.least = float("inf")

    def again(self) -> None:
        """Measure once more."""
        per_token = asyncio.run(self._ask(self._frames)) / (len(self._frames) - 20) * 1e6
        self.least = min(self.least, per_token)


def main() -> int:
    """Print the table. Rounds go around all pairs of a server, so that a disturbed moment spoils none of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mode", choices=("immediate", "balanced"), default="immediate")
    parser.add_argument("--only", default=",".join(SERVERS), help="server dialects, separated by commas")
    options = parser.parse_args()
    print(f"{'server':19}{'passthrough':>14}" + "".join(f"{name:>19}" for name in CLIENTS))
    dear = 0
    for dialect in options.only.split(","):
        base, pairs = Pair(dialect, dialect, options), [Pair(dialect, client, options) for client in CLIENTS]
        for _ in range(options.rounds):
            for pair in (base, *pairs):
                pair.again()
        factors = [pair.least / base.least for pair in pairs]
        dear += sum(factor > LIMIT for factor in factors)
        cells = [
            f"{pair.least:11.2f} {factor:5.2f}x{'!' if factor > LIMIT else ' '}"
            for pair, factor in zip(pairs, factors, strict=True)
        ]
        print(f"{dialect:19}{base.least:11.2f} µs" + "".join(cells), flush=True)
    print(f"pairs above {LIMIT:g} times Passthrough: {dear}")
    return 1 if dear else 0


if __name__ == "__main__":
    sys.exit(main())
