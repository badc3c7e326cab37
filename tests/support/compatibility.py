"""docs/compatibility.md: what the contract suite found, as tables. `make compatibility` writes it anew.

Law: nothing in it is written by hand. The suite compares each of its cells with what it finds, so the document cannot
promise what does not hold.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import structlog
from support import answers, endings, requests
from support.answers import SERVERS
from support.asks import ASKS, FEATURES
from support.plain_clients import CLIENTS

from backends.base import Driver
from backends.catalog import build
from backends.contract.fit import Feature
from config.schema import Backend

FILE = Path(__file__).parents[2] / "docs" / "compatibility.md"
Cells = dict[tuple[str, str, str, str], str]  # (part, client, row, server) -> outcome

TITLES = {
    "native": "Native, SSE",
    "ndjson": "Native, NDJSON",
    "openai": "OpenAI chat completions",
    "openai_completions": "OpenAI completions",
    "openai_responses": "OpenAI Responses",
    "anthropic": "Anthropic Messages",
    "ollama": "Ollama chat",
    "ollama_generate": "Ollama generate",
    "google": "Google generateContent",
    "google_array": "Google generateContent, JSON array",
}

_HEAD = """# Compatibility

Every client API before every kind of server. Written by `make compatibility` from what the contract suite
(`tests/contract/`) found; do not edit it. The suite runs real SDKs (openai, anthropic, ollama, google-genai) and
plain HTTP against a gateway in front of scripted servers of each kind, and fails when a cell here is not what it finds.

A client whose API the server has too (`Passthrough`) reads the server's own bytes, unknown fields and all. Any other
(`Transcode`) is translated. Where both APIs have a word for a thing, it comes through exactly.
"""

_REQUESTS = """## Requests

What a client can ask for, and what becomes of it:

- `exact`: it arrives at the server in the words of the server's API.
- `dropped`: that server's API has no word for it and the answer stays what was asked for without it. The header
  `X-Headgate-Dropped` names it.
- `refused`: that server's API has no word for it and the answer would mean something else without it. The client gets a
  400 in its own API's shape, and the message names the feature.

What a table does not list cannot be asked for in that API.
"""

_ANSWERS = """## Answers

What a server says, and what the client's SDK makes of it, streamed and whole:

- `exact`: text, reasoning, tool calls with their arguments, finish reason and token counts are those the server sent.
- `server`: this server's API has no word for part of it. What it can say comes through exactly.
- `client`: this client's API has no word for part of it. The rest comes through exactly.
- `refused`: this server's API has no word for what the client wants to be told; it gets a 400 that says so.
"""

_ENDINGS = """## Failures

`seen`: the client's SDK raises, whether it asked for a stream or a whole answer, before every kind of server; statuses
and bodies are those of the client's API. A `DELETE` also makes the server stop at once.
"""

_TABLE = """## Dropped or refused

The one table (`backends/contract/fit.py`) that decides what happens to a feature that a server of this kind cannot
express. It is asked only where requests are translated. `beside`: not by the API such a server is usually asked in, but
by another of its own, which is asked instead where only that one can say all of a request.
"""


def cell(outcome: str) -> str:
    """An outcome as the document says it."""
    return "dropped" if outcome.startswith("dropped: ") else outcome


async def explored(part: str, client: str, server: str) -> dict[str, str]:
    """Outcomes by row of one pair."""
    kinds = {"requests": requests.explore, "answers": answers.explore, "failures": endings.explore}
    return {row: cell(outcome) for row, outcome in (await kinds[part](client, server)).items()}


GOOD = {"exact", "dropped", "refused", "server", "client", "seen"}


def render(cells: Cells) -> str:
    """The whole document."""
    return "\n".join([
        _HEAD, _REQUESTS, *(_pairs(cells, "requests", client, FEATURES) for client in ASKS),
        _ANSWERS, *(_pairs(cells, "answers", client, tuple(answers.ANSWERS)) for client in CLIENTS),
        _ENDINGS, _failures(cells), _TABLE, policies(),
    ])  # fmt: skip


def _line(first: str, rest: list[str]) -> str:
    return "| " + " | ".join([first, *rest]) + " |"


def _ruled(first: str, columns: list[str], rows: list[str]) -> str:
    return "\n".join([_line(first, columns), "|" + "---|" * (len(columns) + 1), *rows, ""])


def _pairs(cells: Cells, part: str, client: str, names: tuple[str, ...]) -> str:
    rows = [
        _line(row, [cells[part, client, row, server] for server in SERVERS])
        for row in names
        if (part, client, row, "openai") in cells
    ]
    return f"### {TITLES[client]}\n\n" + _ruled(part, list(SERVERS), rows)


def _failures(cells: Cells) -> str:
    def all_servers(client: str, way: str) -> str:
        found = {cells["failures", client, way, server] for server in SERVERS}
        return ", ".join(sorted(found))

    rows = [_line(TITLES[client], [all_servers(client, way) for way in endings.WAYS]) for client in CLIENTS]
    return _ruled("client", list(endings.WAYS), rows)


def policies() -> str:
    """Which driver expresses which feature."""
    drivers = {
        name: build(name, Backend(driver=b.driver, url="http://127.0.0.1:9", options=b.options))
        for name, b in SERVERS.items()
    }
    rows = [_line(feature.title, [f"{feature.policy}", *(_says(d, feature) for d in drivers.values())])
            for feature in Feature]  # fmt: skip
    return _ruled("feature", ["otherwise", *drivers], rows)


def _says(driver: Driver, feature: Feature) -> str:
    if feature in driver.expresses:
        return "yes"
    kept_there = feature is Feature.STORED_TURNS  # only its own clients can name what it keeps
    helps = feature.policy == "refuse" and not kept_there and any(feature in d.expresses for d in driver.beside())
    return "beside" if helps else ""


def committed() -> Cells:
    """The cells of the document as it is."""
    names = {title: name for name, title in TITLES.items()}
    cells: Cells = {}
    part = client = ""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            client = names[line[4:]]
        found = [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not found or found[0].startswith("---"):
            continue
        if found[0] in ("requests", "answers", "client", "feature"):
            part, columns = found[0], found[1:]
        elif part in ("requests", "answers"):
            cells |= {(part, client, found[0], server): said for server, said in zip(columns, found[1:], strict=True)}
        elif part == "client":
            ways = zip(columns, found[1:], strict=True)
            cells |= {("failures", names[found[0]], w, server): said for w, said in ways for server in SERVERS}
    return cells


async def explore() -> Cells:
    """Everything; about twenty seconds."""
    cells: Cells = {}
    for part, clients in (("requests", ASKS), ("answers", CLIENTS), ("failures", CLIENTS)):
        for client in clients:
            for server in SERVERS:
                found = await explored(part, client, server)
                cells |= {(part, client, row, server): outcome for row, outcome in found.items()}
    return cells


def main() -> int:
    """Write the document; 1 when the suite found something that must not be."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    cells = asyncio.run(explore())
    wrong = {at: outcome for at, outcome in cells.items() if outcome not in GOOD}
    for at, outcome in wrong.items():
        print(" / ".join(at), "->", outcome[:300], file=sys.stderr)
    if not wrong:
        FILE.write_text(render(cells), encoding="utf-8")
        print(f"{FILE.name}: {len(cells)} cells")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
