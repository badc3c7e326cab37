"""Every kind of answer, by every kind of server, to every kind of client: what must come through, and what did.

Law: a loss is allowed only where the server's API or the client's API has no word for the thing; the two tables below
say which, nothing else does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from support.asks import ASKS
from support.clients import Client
from support.dialects import Said, Step
from support.heard import Heard, meant
from support.inprocess import running
from support.model_server import HELLO, ModelServer
from support.plain_clients import CLIENTS

from config.schema import Admin, Backend, Breaker, Config, Route, Server, Target

SERVERS: dict[str, Backend] = {
    "openai": Backend(driver="openai"),
    "vllm": Backend(driver="vllm"),
    "llamacpp": Backend(driver="llamacpp"),
    "tgi": Backend(driver="tgi"),
    "tgi generate": Backend(driver="tgi", options={"api": "generate"}),
    "anthropic": Backend(driver="anthropic"),
    "google": Backend(driver="google"),
    "ollama": Backend(driver="ollama"),
}

CITY, TIME = '{"city":"Paris ☕"}', '{"zone":"CET","at":[1,2]}'
_ONE = (Step("call", id="call_1", name="weather"), Step("args", CITY[:7]), Step("args", CITY[7:]))
_TWO = (Step("call", index=1, id="call_2", name="clock"), Step("args", TIME[:5], 1), Step("args", TIME[5:], 1))
_MIXED = (_ONE[0], _TWO[0], _ONE[1], _TWO[1], _ONE[2], _TWO[2])
_STRANGE = ("é–☕", '𝄞"\\', "\n\t", "data: [DONE]\n\n", "</think>", "{")

ANSWERS: dict[str, Said] = {
    "text": HELLO,
    "text of any characters": Said(tuple(Step("text", text) for text in _STRANGE)),
    "reasoning": Said((Step("think", "Let me"), Step("think", " see ☕"), *HELLO.steps)),
    "one tool call": Said(_ONE, "tool_calls"),
    "text, then a tool call": Said((*HELLO.steps, *_ONE), "tool_calls"),
    "parallel tool calls": Said((*_ONE, *_TWO), "tool_calls"),
    "interleaved tool calls": Said(_MIXED, "tool_calls"),
    "usage: cached and reasoning tokens": Said(HELLO.steps, usage=(19, 7, 2, 4)),
    "two choices": Said(HELLO.steps, others=(Said((Step("text", "Ho"), Step("text", " é☕"), _ONE[0]), "length"),)),
    "log probabilities": Said(tuple(replace(step, logprobs=True) for step in HELLO.steps)),
    "finish: length": Said(HELLO.steps, "length"),
    "finish: content filter": Said(HELLO.steps, "content_filter"),
}

# What must be asked for to be told.
_ASKED = {"two choices": "n", "log probabilities": "logprobs"}

# What an API has no word for: thinking, calls, finish reasons, counts (2: reasoning tokens, 3: cached ones).
_LACKS: dict[str, tuple[bool, bool, tuple[str, ...], tuple[int, ...]]] = {
    "openai_completions": (True, True, ("tool_calls",), ()),
    "ollama": (False, False, ("content_filter",), (2, 3)),
    "ollama_generate": (False, True, ("content_filter", "tool_calls"), (2, 3)),
    "tgi": (True, True, ("tool_calls", "content_filter"), (2, 3)),
}


def told_in(heard: Heard, api: str) -> Heard:
    """What is left of an answer in an API."""
    thinks, calls, finishes, counts = _LACKS.get(api, (False, False, (), ()))
    return replace(
        heard,
        reasoning="" if thinks else heard.reasoning,
        calls=[] if calls else heard.calls,
        ids=[] if calls else heard.ids,
        finish="stop" if heard.finish in finishes else heard.finish,
        usage=tuple(0 if i in counts else n for i, n in enumerate(heard.usage)),
    )


def outcome(heard: Heard, said: Said, server_api: str, client_api: str) -> str:
    """exact; server or client: its API has no word for part of it; refused: the server was not asked, for it has no
    word for what the client wants of it. Anything else says what is wrong."""
    whole = meant(said)
    by_server = told_in(whole, server_api)
    expected = told_in(by_server, client_api)
    if heard.error:
        if "400" in heard.error and "cannot do" in heard.error:
            return "refused"
        return f"raised {heard.error}"
    counts = zip(heard.usage, expected.usage, strict=True)
    if any(mine is not None and mine != theirs for mine, theirs in counts):
        return f"usage {heard.usage}, not {expected.usage}"
    for name in ("text", "reasoning", "calls", "finish", "logprobs", "others"):
        if getattr(heard, name) != getattr(expected, name):
            return f"{name} {getattr(heard, name)!r}, not {getattr(expected, name)!r}"
    if any(heard.ids) and heard.ids != expected.ids:
        return f"ids {heard.ids}, not {expected.ids}"
    return "exact" if expected == whole else "client" if by_server == whole else "server"


@asynccontextmanager
async def before(kind: str) -> AsyncIterator[tuple[ModelServer, str]]:
    """A server of this kind behind a gateway: the server, and the gateway's base URL."""
    async with ModelServer(kind) as server:
        url = server.url + ("/v1" if kind == "openai" else "")
        backend = replace_url(SERVERS[kind], url)
        config = Config(server=Server(port=0), admin=Admin(port=0), backends={"up": backend},
                        routes=(Route(model="*", to=(Target("up"),)),))  # fmt: skip
        async with running(config) as gateway:
            yield server, f"http://127.0.0.1:{gateway.public_port}"


def replace_url(backend: Backend, url: str) -> Backend:
    """The same backend elsewhere, asked however often it failed."""
    return Backend(driver=backend.driver, url=url, options=backend.options, breaker=Breaker(failures=0))


@asynccontextmanager
async def client(name: str, base: str) -> AsyncIterator[Client]:
    """A client, closed at the end."""
    made = CLIENTS[name](base)
    try:
        yield made
    finally:
        await made.close()


async def explore(client_name: str, kind: str) -> dict[str, str]:
    """The outcome of every answer for this pair; a streamed and a whole answer must agree."""
    found: dict[str, str] = {}
    async with before(kind) as (server, base), client(client_name, base) as asking:
        for name, said in ANSWERS.items():
            more = ASKS.get(client_name.removesuffix("_array"), {}).get(_ASKED.get(name, ""))
            if name in _ASKED and more is None:
                continue  # this client cannot ask for it
            server.answer = said
            outcomes = []
            for stream in (True, False):
                heard = await asking.ask(stream=stream, **(more or {}))
                outcomes.append(outcome(heard, said, server.dialect, client_name))
            found[name] = outcomes[0] if outcomes[0] == outcomes[1] else " / whole: ".join(outcomes)
    return found
